"""`nightly --every`: one night of many looks, which holds no lock between them."""

import json
import os
import shutil
import signal
import time
from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pytest

from admodels.nights import every
from admodels.nights.calendar import utc_now
from admodels.nights.close import read_records
from admodels.nights.every import look_every
from admodels.nights.history import NightSummary, dead_man, last
from admodels.nights.plant import read_plant
from admodels.nights.run import Options
from admodels.scoring.ledger import read_ledger
from admodels.scoring.locks import is_at_work, run_lock
from tests.plants import Clock, at, close_night_before, line, write_plant
from tests.test_nightly import command, draw, ended, plant, run, table, written

__all__ = ["plant"]
LEDGER = Path("ledger")


def looks(
    monkeypatch: pytest.MonkeyPatch, *between: object, clock: Clock | None = None
) -> list[dict[str, object]]:
    """Run until each of `between` was called, each after one look; what was published."""
    published: list[dict[str, object]] = []
    todo = iter(between)

    def pause(*_: object) -> None:
        assert not is_at_work(LEDGER)
        work = next(todo, None)
        os.kill(os.getpid(), signal.SIGTERM) if work is None else work()

    monkeypatch.setattr(every, "pause", pause)
    plant = write_plant(Path(), {"press": line("press")})
    if not clock:
        close_night_before(plant, utc_now())
    options = Options(0.0, clock=clock or utc_now)
    end = look_every(Path(), options, 60, published.append)
    return [*published, end]


def images(summary: dict[str, object]) -> tuple[object, object]:
    return summary["run"], summary["lines"]["press"]["images"]


@pytest.mark.slow
def test_files_are_scored_as_they_arrive_and_nothing_is_said_twice(
    plant: Path, monkeypatch
) -> None:
    def arrive() -> None:
        draw(plant / "press/later", 1, seed=9)

    *published, end = looks(monkeypatch, lambda: None, arrive, lambda: None)
    assert [images(summary) for summary in published] == [("000001", 6), ("000001", 7)]
    assert (end["run"], end["exit_code"], end["whole"]) == ("000001", 143, False)
    assert len(table("scores")) == 7
    assert len(list(LEDGER.glob("scores/*/*/*.parquet"))) == 1
    again = run({"press": line("press")})["lines"]["press"]  # on a page at last
    assert (again["runs"], again["images"]) == (["000001", "000002"], 7)


@pytest.mark.slow
def test_a_night_of_looks_ends_after_a_day_with_its_page(plant: Path, monkeypatch) -> None:
    clock = Clock("2026-05-04 12:00")

    def arrive() -> None:
        clock.now = at("2026-05-04 18:00")
        draw(plant / "press/next", 2, seed=8)

    def day_is_over() -> None:
        clock.now = at("2026-05-05 06:01")
        draw(plant / "press/last", 1, seed=7)

    *published, _ = looks(monkeypatch, arrive, day_is_over, clock=clock)
    shown = [(*images(summary), summary["night"], summary["closes"]) for summary in published]
    assert shown == [
        ("000001", 6, "2026-05-04", True),  # what was there before
        ("000002", 2, "2026-05-05", False),
        ("000002", 3, "2026-05-05", True),
    ]
    assert Path("ledger/pages/000002.html").is_file()
    assert NightSummary.of(Path("ledger/runs/000002.json").read_bytes()).whole
    assert last(LEDGER).run == "000003"
    assert {record.night: record.runs for record in read_records(LEDGER)} == {
        date(2026, 5, 4): ["000001"],
        date(2026, 5, 5): ["000002"],
    }


@pytest.mark.slow
def test_a_run_by_hand_between_two_looks_reports_its_rows_once(plant: Path, monkeypatch) -> None:
    by_hand: list[dict[str, object]] = []

    def hand() -> None:
        draw(plant / "press/hand", 2, seed=7)
        by_hand.append(run({"press": line("press")}))
        draw(plant / "press/after", 1, seed=8)

    *published, _ = looks(monkeypatch, hand, lambda: None)
    assert by_hand[0]["lines"]["press"]["runs"] == ["000001", "000002"]
    assert images(by_hand[0]) == ("000002", 8)
    assert [images(summary) for summary in published] == [("000001", 6), ("000003", 1)]
    assert published[-1]["lines"]["press"]["runs"] == ["000003"]
    assert len(table("scores")) == 9


@pytest.mark.slow
def test_no_look_is_taken_while_another_run_is_at_work(plant: Path, monkeypatch) -> None:
    locks = [run_lock(LEDGER)]

    def other_begins() -> None:
        locks[0].__enter__()
        monkeypatch.setattr(every, "pause", other_ends)
        draw(plant / "press/later", 1, seed=9)

    def other_ends(*_: object) -> None:
        assert is_at_work(LEDGER)
        locks[0].__exit__(None, None, None)
        monkeypatch.setattr(every, "pause", lambda *_: os.kill(os.getpid(), signal.SIGTERM))

    *published, _ = looks(monkeypatch, other_begins)
    assert [images(summary) for summary in published] == [("000001", 6), ("000001", 7)]


def test_other_commands_have_their_turn_between_two_looks(plant: Path, monkeypatch) -> None:
    (plant / "said.csv").write_text("line,path,verdict\npress,0001.png,fine\n", encoding="utf-8")

    def mark() -> None:
        from admodels.nights import marks

        with read_ledger(LEDGER) as ledger:
            assert marks.append(ledger, plant / "said.csv", ["press"]) == {"press": 1}

    looks(monkeypatch, mark)
    assert (LEDGER / "marks.jsonl").is_file()


def test_the_dead_man_asks_for_the_last_look(plant: Path, monkeypatch) -> None:
    def ask() -> None:
        assert dead_man(LEDGER, timedelta(minutes=10))[0]
        long_ago = time.time() - 7 * 60
        os.utime(LEDGER / "lock", (long_ago, long_ago))
        assert dead_man(LEDGER, timedelta(minutes=10))[0]
        summary = Path("ledger/runs/000001.json")
        content = json.loads(summary.read_bytes())
        summary.write_text(json.dumps(content | {"started": "2026-01-01T00:00:00+00:00"}))
        assert dead_man(LEDGER, timedelta(minutes=10))[0]
        os.utime(LEDGER / "lock", (long_ago - 600, long_ago - 600))
        assert "stopped before its end" in dead_man(LEDGER, timedelta(days=900))[1]

    looks(monkeypatch, ask)
    assert "stopped before its end" in dead_man(LEDGER, timedelta(minutes=10))[1]


@pytest.mark.slow
def test_the_command_looks_again_until_a_signal(plant: Path) -> None:
    written(plant, press={"folder": "press", "alpha": 0.2})
    close_night_before(read_plant(plant), utc_now())
    process = command(plant, "nightly", "--every", "1s")
    assert json.loads(process.stdout.readline())["lines"]["press"]["images"] == 6
    shutil.copyfile(plant / "weld/0000.png", plant / "press/arrived.png")
    assert json.loads(process.stdout.readline())["lines"]["press"]["images"] == 7
    process.send_signal(signal.SIGTERM)
    code, _, stderr = ended(process)
    assert code == 143, stderr
    assert len(pd.read_parquet("ledger/scores")) == 7
    kept = json.loads(Path("ledger/runs/000001.json").read_text(encoding="utf-8"))
    assert (kept["exit_code"], kept["lines"]["press"]["images"]) == (143, 7)


@pytest.mark.slow
def test_each_look_has_the_lines_of_its_plant_and_a_broken_file_leaves_them_as_they_were(
    plant: Path, monkeypatch
) -> None:
    def add_a_line() -> None:
        write_plant(Path(), {"press": line("press"), "weld": line("weld", alpha=0.1)})

    def break_the_file() -> None:
        Path("plant.yaml").write_text("lines: [", encoding="utf-8")
        draw(plant / "weld/later", 1, seed=9)

    *published, end = looks(monkeypatch, add_a_line, break_the_file)
    assert [list(summary["lines"]) for summary in published] == [
        ["press"],
        ["press", "weld"],
        ["press", "weld"],
    ]
    assert [summary["lines"]["weld"]["images"] for summary in (*published[1:], end)] == [6, 7, 7]
