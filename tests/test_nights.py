"""What the ledger says of its nights: the dead-man check."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from admodels.foundation.errors import ConfigurationError, StorageError
from admodels.nights.history import age_of, dead_man, last
from admodels.nights.page.content import read_runs
from admodels.scoring.locks import run_lock

DAY = timedelta(hours=24)


def ended(ledger: Path, run: str, ago: timedelta, code: int = 0, **more: object) -> None:
    """A night that ended `ago` after an hour of work, as `Ledger.finish` keeps it."""
    started = datetime.now(UTC) - ago - timedelta(hours=1)
    told = {"run": run, "exit_code": code, "started": started.isoformat(), "seconds": 3600.0}
    (ledger / "runs").mkdir(parents=True, exist_ok=True)
    text = json.dumps({**told, "host": "here", "unclaimed": 0, "lines": {}, **more})
    (ledger / "runs" / f"{run}.json").write_text(text, encoding="utf-8")


def begun(ledger: Path, run: str) -> None:
    """A night that has written a part, and named a process that is alive: us."""
    (ledger / "scores/press" / run).mkdir(parents=True, exist_ok=True)
    lock = f"{os.getpid()} on {os.uname().nodename}"
    (ledger / "lock").write_text(lock, encoding="utf-8")


@pytest.mark.parametrize(
    ("hours", "code", "is_well", "words"),
    [
        (23, 0, True, "night 000007 ended 23.0 h ago with exit code 0"),
        (25, 0, False, "night 000007 ended 25.0 h ago with exit code 0: too long ago"),
        (1, 5, True, "exit code 5"),
        (1, 143, False, "with exit code 143: it was stopped before its end"),
        (-0.05, 0, True, "exit code 0"),
        (-3, 0, False, "night 000007 ended in the future: a clock is or was wrong"),
    ],
)
def test_a_night_must_have_ended_within_the_age(
    tmp_path: Path, hours: float, code: int, is_well: bool, words: str
) -> None:
    ended(tmp_path, "000006", timedelta(hours=2))
    ended(tmp_path, "000007", timedelta(hours=hours), code)
    found = dead_man(tmp_path, DAY)
    assert found[0] is is_well
    assert words in found[1]


def test_the_last_night_is_the_last_by_number_whatever_the_clock_said(tmp_path: Path) -> None:
    ended(tmp_path, "999999", timedelta(hours=1))
    ended(tmp_path, "1000000", timedelta(hours=40))
    assert last(tmp_path).run == "1000000"
    assert [night.run for night in read_runs(tmp_path)] == ["1000000", "999999"]
    assert [night.run for night in read_runs(tmp_path, "999999")] == ["999999"]
    assert not dead_man(tmp_path, DAY)[0]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"run": "0000'])
def test_a_damaged_summary_of_a_night_is_left_out_and_said(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for run in ("000001", "000002", "000003"):
        ended(tmp_path, run, timedelta(hours=1))
    (tmp_path / "runs/000002.json").write_text(text, encoding="utf-8")
    assert [night.run for night in read_runs(tmp_path)] == ["000003", "000001"]
    assert "run 000002 is left out" in caplog.text
    with pytest.raises(StorageError, match="run 000002 is damaged"):
        read_runs(tmp_path, "000002")
    (tmp_path / "runs/000003.json").write_text(text, encoding="utf-8")
    assert [night.run for night in read_runs(tmp_path)] == ["000001"]
    (tmp_path / "runs/000001.json").write_text(text, encoding="utf-8")
    with pytest.raises(StorageError, match="run 000003 is damaged"):
        read_runs(tmp_path)


def test_no_night_at_all_is_an_alarm(tmp_path: Path) -> None:
    assert dead_man(tmp_path / "none", DAY)[0] is False
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/000001.json").write_text("{", encoding="utf-8")
    assert "no night has come to its end" in dead_man(tmp_path, DAY)[1]


def test_a_killed_night_is_an_alarm_until_the_next_one_ends(tmp_path: Path) -> None:
    ended(tmp_path, "000001", timedelta(hours=1))
    begun(tmp_path, "000002")
    assert dead_man(tmp_path, DAY) == (False, "night 000002 was killed before its end")
    ended(tmp_path, "000003", timedelta(hours=0))
    assert dead_man(tmp_path, DAY)[0] is True


def test_a_night_at_work_is_no_killed_one_whatever_the_lock_says_of_its_process(
    tmp_path: Path,
) -> None:
    ended(tmp_path, "000001", timedelta(hours=1))
    begun(tmp_path, "000002")
    with run_lock(tmp_path):
        for text in ("1 on another host", "4194305 on here", ""):
            (tmp_path / "lock").write_text(text, encoding="utf-8")
            assert dead_man(tmp_path, DAY)[0] is True
        assert "too long ago" in dead_man(tmp_path, timedelta(minutes=30))[1]
    (tmp_path / "lock").write_text(f"{os.getpid()} on {os.uname().nodename}", encoding="utf-8")
    assert dead_man(tmp_path, DAY) == (False, "night 000002 was killed before its end")


def test_a_stopped_night_is_no_alarm_while_another_is_at_work(tmp_path: Path) -> None:
    for at, (code, whole) in enumerate(((143, False), (0, False))):
        ended(tmp_path, f"{at:06d}", timedelta(hours=1), code, whole=whole)
        (tmp_path / "lock").unlink(missing_ok=True)
        assert "was stopped before its end" in dead_man(tmp_path, DAY)[1]
        begun(tmp_path, f"{at:06d}")
        assert dead_man(tmp_path, DAY)[0] is False
        with run_lock(tmp_path):
            assert dead_man(tmp_path, DAY)[0] is True
    ended(tmp_path, "000002", timedelta(hours=1), 74, whole=False, page_faults=["no room"])
    assert dead_man(tmp_path, DAY)[0] is True  # told by its code


@pytest.mark.parametrize("text", ["", "26", "h", "-1h", "1.5h", "26 h", "26H", "999999d"])
def test_an_age_in_other_words_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="not a duration"):
        age_of(text)
    assert (age_of("26h"), age_of("90m"), age_of("2d")) == (
        timedelta(hours=26),
        timedelta(minutes=90),
        timedelta(days=2),
    )
