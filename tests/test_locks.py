"""Two locks: one look at a time, a moment for each write, and none to read."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from admodels.cli import app
from admodels.foundation.errors import BusyError
from admodels.nights import marks
from admodels.nights.calibrations import Calibration, keep_calibration
from admodels.nights.rejudge import rejudge
from admodels.scoring import engine, locks
from admodels.scoring.engine import LineImages, Model, score_line
from admodels.scoring.ledger import open_ledger, read_ledger
from admodels.scoring.locks import commit_lock, is_at_work, run_lock
from admodels.scoring.stopping import Stop
from tests.cards import card, judge, make_bundle

ROOT = Path(__file__).parents[1]


@contextmanager
def other_process(lock: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds a lock of the ledger."""
    code = (
        "import sys, time; from pathlib import Path\n"
        f"from admodels.scoring.locks import {lock}\n"
        f"with {lock}(Path({str(folder)!r})):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert other.stdout
    assert other.stdout.readline() == b"held\n"
    try:
        yield other
    finally:
        other.kill()
        other.communicate()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for at in range(6):
        card(tmp_path / "in" / f"{at}.png", 50 + at)
    with open_ledger(tmp_path / "ledger") as ledger:
        model = Model.of(make_bundle())
        score_line(ledger, LineImages("press", tmp_path / "in"), model, Stop())
        judge(ledger, "press", model)
    return tmp_path


def say(place: Path) -> None:
    (place / "said.csv").write_text("line,path,verdict\npress,1.png,fine\n", encoding="utf-8")
    with read_ledger(place / "ledger") as ledger:
        assert marks.append(ledger, place / "said.csv", ["press"]) == {"press": 1}


@pytest.mark.slow
def test_a_look_refuses_only_a_second_look(place: Path) -> None:
    with other_process("run_lock", place / "ledger") as other:
        assert is_at_work(place / "ledger")
        with (
            pytest.raises(BusyError, match=f"process {other.pid} on "),
            open_ledger(place / "ledger"),
        ):
            pass
        say(place)
        with read_ledger(place / "ledger") as ledger:
            assert rejudge(ledger, "press", 0.5).flagged == 0
            assert rejudge(ledger, "press", 0.5, why="a try").rows == 6
            own = Calibration(origin="line", scores=(1.0,))
            keep_calibration(ledger, "press", ("m", "c"), own, why="a try")
    assert not is_at_work(place / "ledger")


@pytest.mark.slow
def test_a_write_waits_for_another_and_reading_does_not(place: Path) -> None:
    with commit_lock(place / "ledger"):
        writer = threading.Thread(target=say, args=(place,))
        writer.start()
        with read_ledger(place / "ledger") as ledger:
            assert sum(len(group) for _, group in ledger.groups("press")) == 6
        writer.join(0.5)
        assert writer.is_alive()
        assert not (place / "ledger/marks.jsonl").exists()
    writer.join(10)
    assert (place / "ledger/marks.jsonl").is_file()


def test_a_write_that_cannot_have_its_turn_ends_with_75(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "COMMIT_SECONDS", 0.1)
    with commit_lock(place / "ledger"), pytest.raises(BusyError) as refusal:
        say(place)
    assert refusal.value.exit_code == 75


@pytest.mark.slow
def test_asking_whether_a_run_is_at_work_never_refuses_one(place: Path) -> None:
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            is_at_work(place / "ledger")

    asking = [threading.Thread(target=ask) for _ in range(3)]
    taken = 0
    for thread in asking:
        thread.start()
    try:
        for _ in range(30):
            with run_lock(place / "ledger"):
                taken += 1
    finally:
        stop.set()
        for thread in asking:
            thread.join()
    assert taken == 30


def test_what_a_reader_meant_to_read_may_be_merged_meanwhile(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "ROWS_PER_PART", 2)
    for at in range(4):
        card(place / "in" / f"late{at}.png", 90 + at)
    with open_ledger(place / "ledger") as ledger:
        score_line(ledger, LineImages("press", place / "in"), Model.of(make_bundle()), Stop())
        with read_ledger(place / "ledger") as reader:
            groups = reader.groups("press")
            next(groups)
            ledger.compact("press")
            with pytest.raises(BusyError, match="merges the parts"):
                list(groups)
            assert sum(len(group) for _, group in reader.groups("press")) == 10


@pytest.mark.slow
def test_a_reader_of_a_ledger_without_an_index_makes_it(place: Path) -> None:
    (place / "ledger/index.sqlite").unlink()
    say(place)
    assert (place / "ledger/index.sqlite").is_file()
    (place / "ledger/index.sqlite").write_bytes(b"no database" * 100)
    say(place)
    (place / "ledger/index.sqlite").unlink()
    with run_lock(place / "ledger"), pytest.raises(BusyError):
        say(place)


def test_a_lock_is_free_when_its_process_is_dead(place: Path) -> None:
    with other_process("run_lock", place / "ledger") as other:
        other.kill()
        other.wait()
        start = time.monotonic()
        with open_ledger(place / "ledger"):
            assert time.monotonic() - start < 5


@pytest.mark.slow
def test_doctor_verifies_a_ledger_that_is_named(place: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(ROOT)

    def doctor(folder: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["admodels", "doctor", "--ledger", str(place / folder)])
        with pytest.raises(SystemExit) as end:
            app.main()
        return int(end.value.code or 0), capsys.readouterr().out

    code, out = doctor("ledger")
    assert (code, "6 files and 0 marks verified, 0 damaged" in out) == (0, True)
    (place / "ledger/scores/press/000001/0001 (copy).parquet").write_bytes(b"x")
    assert doctor("ledger")[0] == 5
    with (place / "ledger/scores/press/000001/0001.parquet").open("r+b") as file:
        file.write(b"x")
    code, out = doctor("ledger")
    assert (code, "scores/press/000001/0001.parquet: a file" in out) == (74, True)
    assert doctor("none")[0] == 2
    assert not (place / "none").exists()
