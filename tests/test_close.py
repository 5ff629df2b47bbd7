"""Nights that are closed: which look closes which night, what its record says, and silence."""

import json
import os
import signal
from datetime import date
from pathlib import Path

import pytest

from admodels.cli import doctor
from admodels.foundation.errors import StorageError
from admodels.nights import run as nights
from admodels.nights.alerts import Outcome, message
from admodels.nights.close import (
    NightRecord,
    line_nights,
    open_runs,
    read_records,
    unwatched_lines,
    write_records,
)
from admodels.nights.history import NightSummary
from admodels.nights.plant import read_plant
from admodels.nights.run import Options, nightly
from admodels.scoring.engine import LineImages, Model, score_line
from admodels.scoring.ledger import open_ledger
from admodels.scoring.stopping import Stop
from tests.plants import Clock, at, line, write_plant
from tests.test_nightly import draw, plant

__all__ = ["plant"]
LEDGER = Path("ledger")
BUNDLE = Path("models/draem/stripes")
LINES = {"press": line("press"), "weld": line("weld")}


def look(when: str, **changes: object) -> dict[str, object]:
    """A look at this time (UTC); the plant of two lines ends its days at six."""
    write_plant(Path(), {name: {**block, **changes} for name, block in LINES.items()})
    return nightly(Path(), Options(0.0, clock=Clock(when)))


def short(record: NightRecord) -> tuple[str, list[str], dict[str, int]]:
    images = {name: line.images for name, line in record.lines.items()}
    return record.night.isoformat(), [run.lstrip("0") for run in record.runs], images


def closed() -> list[tuple[str, list[str], dict[str, int]]]:
    return [short(record) for record in read_records(LEDGER)]


@pytest.mark.slow
def test_the_first_look_after_the_end_closes_the_night_with_all_its_looks(plant: Path) -> None:
    first = look("2026-05-04 06:05")
    assert (first["night"], first["closes"]) == ("2026-05-04", True)
    draw(plant / "press/day", 2, seed=8)
    by_day = look("2026-05-04 15:00")
    assert (by_day["night"], by_day["closes"]) == ("2026-05-05", False)
    draw(plant / "press/evening", 3, seed=9)
    assert look("2026-05-04 22:00")["lines"]["press"]["images"] == 3
    draw(plant / "press/dawn", 1, seed=10)
    last = look("2026-05-05 06:05")
    assert (last["night"], last["closes"]) == ("2026-05-05", True)
    press = last["lines"]["press"]  # its page is that of the night
    assert press["runs"] == ["000002", "000003", "000004"]
    assert (press["images"], press["new_images"]) == (6, 1)
    assert sum(press["statuses"].values()) == 6
    assert closed() == [
        ("2026-05-04", ["1"], {"press": 6, "weld": 6}),
        ("2026-05-05", ["2", "3", "4"], {"press": 6, "weld": 0}),
    ]
    by_hand = look("2026-05-05 08:00")
    assert (by_hand["night"], by_hand["closes"]) == ("2026-05-06", False)
    assert by_hand["lines"]["press"]["images"] == 0
    journal = Path("ledger/journal.jsonl").read_text(encoding="utf-8")
    assert journal.count('"nights/2026-05-05.json"') == 1


@pytest.mark.slow
def test_days_without_a_look_are_unknown_and_an_open_night_is_closed_late(plant: Path) -> None:
    look("2026-05-04 06:05")
    draw(plant / "press/day", 2, seed=8)
    look("2026-05-04 15:00")
    draw(plant / "press/later", 3, seed=9)
    assert look("2026-05-09 15:00")["lines"]["press"]["images"] == 3
    assert closed()[1:] == [
        ("2026-05-05", ["2"], {"press": 2, "weld": 0}),
        ("2026-05-09", ["3"], {"press": 3, "weld": 0}),
    ]
    late = [record.lines["press"].late for record in read_records(LEDGER)]
    assert late == [0, 0, 3]


@pytest.mark.slow
def test_a_look_that_dies_before_the_record_leaves_the_night_open(plant, monkeypatch) -> None:
    look("2026-05-04 06:05")
    draw(plant / "press/day", 2, seed=8)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(nights, "write_records", die)
        with pytest.raises(KeyboardInterrupt):
            look("2026-05-05 06:05")
    assert len(closed()) == 1
    again = look("2026-05-05 07:05")
    assert (again["night"], again["closes"]) == ("2026-05-05", True)
    assert again["lines"]["press"]["images"] == 2
    assert closed()[1] == ("2026-05-05", ["2", "3"], {"press": 2, "weld": 0})


@pytest.mark.slow
def test_a_look_that_is_stopped_closes_nothing(plant: Path, monkeypatch) -> None:
    judge = nights.judge_look

    def stop(*words: object) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        return judge(*words)

    with monkeypatch.context() as broken:
        broken.setattr(nights, "judge_look", stop)
        assert (look("2026-05-04 06:05")["exit_code"], closed()) == (143, [])
    assert look("2026-05-04 06:06")["closes"]
    assert closed() == [("2026-05-04", ["1", "2"], {"press": 6, "weld": 6})]


@pytest.mark.slow
def test_a_clock_that_was_set_back_never_writes_into_a_closed_night(plant: Path) -> None:
    look("2026-05-04 06:05")
    back = look("2026-05-04 03:00")
    assert (back["night"], back["closes"], back["exit_code"]) == ("2026-05-05", False, 5)
    assert back["ledger"] == [
        "the clock says a night that is closed; this look counts for the night 2026-05-05. Correct "
        "the clock of this machine; if it is right, it ran ahead before, or `timezone` or "
        "`day_ends` in plant.yaml was changed: nothing is to be done"
    ]
    assert len(closed()) == 1
    record = read_records(LEDGER)[0]
    with open_ledger(LEDGER) as ledger, pytest.raises(StorageError, match="closed already"):
        write_records(ledger, [record])


@pytest.mark.slow
def test_a_look_years_before_the_last_one_is_said_to_be(plant: Path, caplog) -> None:
    look("2026-05-04 06:05")
    assert "correct the clock" not in caplog.text
    assert look("2020-01-01 00:05")["night"] == "2019-12-31"
    assert "the last look was at 2026-05-04 06:05 UTC, later than now" in caplog.text


@pytest.mark.slow
def test_a_damaged_record_is_named_and_its_night_is_not_closed_again(plant: Path) -> None:
    look("2026-05-04 06:05")
    path = Path("ledger/nights/2026-05-04.json")
    before = path.read_bytes()
    path.write_bytes(b"")
    damaged = look("2026-05-05 06:05")
    assert (damaged["exit_code"], damaged["closes"]) == (74, True)
    assert "nights/2026-05-04.json" in damaged["ledger"][0]
    assert closed() == [("2026-05-05", ["2"], {"press": 0, "weld": 0})]
    path.write_bytes(before)
    assert look("2026-05-05 08:00")["exit_code"] == 0


def lived(images: list[int], name: str = "press") -> None:
    """Records of a line's nights, the last of which ended on Sunday, 3 May 2026."""
    records = [
        NightRecord(
            night=date.fromordinal(date(2026, 5, 3).toordinal() - back),
            closed=at("2026-05-03 06:05"),
            runs=[],
            lines={name: {"images": count, "files": count}},
        )
        for back, count in enumerate(reversed(images))
    ]
    with open_ledger(LEDGER) as ledger:
        write_records(ledger, records[::-1])


@pytest.mark.slow
def test_silence_is_an_alarm_of_the_summary_the_page_and_the_record(plant: Path) -> None:
    lived([500] * 28)
    summary = look("2026-05-04 06:05")  # 6 images
    text = (
        "silent in the night 2026-05-04: 6 images; the last 4 sun had 500 (median); where that is "
        "meant: `admodels line pause press --until DATE`"
    )
    assert summary["exit_code"] == 5
    assert summary["lines"]["press"]["told"] == [text]
    assert summary["lines"]["weld"]["exit_code"] == 0
    assert read_records(LEDGER)[-1].lines["press"].silence.startswith("6 images;")
    page = Path("ledger/pages/000001.html").read_text(encoding="utf-8")
    assert "silent in the night 2026-05-04: 6 images" in page
    _, alert = message(Outcome(5, NightSummary.of(json.dumps(summary))), "host", "")
    assert "- press: exit code 5, 6 images, 0 unreadable" in alert
    assert "silent in the night 2026-05-04: 6 images" in alert
    assert look("2026-05-04 07:05")["exit_code"] == 0  # once, when the night is closed


@pytest.mark.slow
def test_a_pause_and_an_expectation_are_heard(plant: Path) -> None:
    lived([500] * 28)
    assert look("2026-05-04 06:05", paused_until="2026-05-04")["exit_code"] == 0
    assert read_records(LEDGER)[-1].lines["press"].paused
    # The night of 5 May is the day of 4 May: the pause is over, 4 May is a holiday.
    holiday = {"except": ["2026-05-04"]}
    assert look("2026-05-05 06:05", paused_until="2026-05-04", expect=holiday)["exit_code"] == 0
    assert look("2026-05-06 06:05", paused_until="2026-05-04", expect=holiday)["exit_code"] == 5


@pytest.mark.slow
def test_lines_that_are_all_silent_are_one_alarm(plant: Path) -> None:
    look("2026-05-04 06:05")
    assert look("2026-05-05 06:05")["exit_code"] == 0
    assert look("2026-05-06 06:05")["exit_code"] == 0
    third = look("2026-05-07 06:05")
    assert third["silence"] == [
        "all lines were silent in the night 2026-05-07: hardly any images on 2"
    ]
    assert (third["exit_code"], third["lines"]["press"]["told"]) == (5, [])
    assert NightSummary.of(json.dumps(third)).silence == third["silence"]
    draw(plant / "press/more", 1, seed=8)
    fourth = look("2026-05-08 06:05")
    assert (fourth["silence"], len(fourth["lines"]["weld"]["told"])) == ([], 1)


@pytest.mark.slow
def test_a_line_that_failed_all_night_had_no_look(plant: Path) -> None:
    look("2026-05-04 06:05")
    (plant / "weld").rename(plant / "moved")
    failed = look("2026-05-05 06:05")
    assert failed["lines"]["weld"]["exit_code"] == 2
    assert closed()[1] == ("2026-05-05", ["2"], {"press": 0})


def test_files_that_are_no_records_and_summaries_of_no_night_are_left_out(plant: Path) -> None:
    lived([5])
    for name in ("2026-13-01", "._2026-05-02", "2026-05-03 (copy)"):
        (LEDGER / "nights" / f"{name}.json").write_bytes(b"{}")
    assert [night for night, *_ in closed()] == ["2026-05-03"]
    summary = {"run": "000001", "exit_code": 0, "started": "2026-05-04T06:05:00+00:00"}
    summary |= {"seconds": 1, "host": "h", "lines": {}}
    for change, is_summary in [({}, True), ({"timezone": "Europe/Berlio"}, False)]:
        assert bool(NightSummary.of(json.dumps(summary | change))) is is_summary
    there = NightSummary.of(json.dumps(summary | {"timezone": "Asia/Kathmandu"}))
    assert there.started_text == "2026-05-04 11:50 Asia/Kathmandu"
    assert "2026-05-04 11:50 Asia/Kathmandu" in message(Outcome(0, there), "h", "")[1]
    (LEDGER / "runs").mkdir()
    text = json.dumps(summary | {"night": "2026-13-01"})
    (LEDGER / "runs/000001.json").write_text(text, encoding="utf-8")
    with open_ledger(LEDGER) as ledger:
        assert open_runs(ledger, date(2026, 5, 4), []) == {date(2026, 5, 4): [ledger.run]}


def test_lines_without_a_rhythm_are_named(plant: Path) -> None:
    lived([100 * (n % 14 < 5) for n in range(84)])
    plant = write_plant(Path(), LINES)
    assert list(unwatched_lines(LEDGER, plant)) == ["press"]
    (text,) = doctor.lines_without_rhythm(Path())
    assert text.startswith("press: silence cannot be told from its rhythm (hardly any images")
    expects = {"press": line("press", expect={"images": [0, 200]})}
    write_plant(Path(), expects)
    assert unwatched_lines(LEDGER, read_plant(Path())) == {}


@pytest.mark.slow
def test_a_night_keeps_its_day_when_day_ends_is_changed(plant: Path) -> None:
    look("2026-05-04 06:05")
    assert '"day": "2026-05-03"' in Path("ledger/nights/2026-05-04.json").read_text("utf-8")
    later = write_plant(Path(), LINES, day_ends="22:00")
    (night,) = line_nights(read_records(LEDGER), "press", later.calendar)
    assert night.day == date(2026, 5, 3)


@pytest.mark.slow
def test_a_night_that_a_clock_ahead_closed_hides_no_line_without_a_rhythm(plant: Path) -> None:
    lived([100 * (n % 14 < 5) for n in range(84)])
    look("2027-05-04 06:05")
    look("2026-05-04 06:05")
    assert list(unwatched_lines(LEDGER, read_plant(Path()))) == ["press"]


@pytest.mark.slow
def test_a_line_of_an_older_ledger_is_not_said_to_have_had_no_images(plant: Path) -> None:
    with open_ledger(LEDGER) as ledger:  # a version without nights
        score_line(ledger, LineImages("press", plant / "press"), Model.at(BUNDLE), Stop())
        summary = {"run": ledger.run, "exit_code": 0, "host": "here", "whole": True, "seconds": 1}
        summary["started"] = "2026-05-01T01:30:00+00:00"
        ledger.finish(summary | {"lines": {"press": {"exit_code": 0, "images": 6}}})
    (plant / "weld").rename(plant / "away")
    (plant / "weld").mkdir()
    lines = look("2026-05-04 06:05")["lines"]
    assert [lines[name]["images"] for name in ("press", "weld")] == [0, 0]
    assert not any("silent" in text for text in lines["press"]["told"])
    assert "it never had any" in lines["weld"]["told"][0]
