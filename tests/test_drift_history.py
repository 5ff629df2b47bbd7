"""Drift in the ledger: a dark night, references, nights that say nothing, killed runs."""

import json
import os
import resource
import shutil
from collections.abc import Callable
from datetime import UTC
from functools import partial
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest

from admodels.foundation.arrays import Records
from admodels.foundation.files import sha256_of
from admodels.images import decode
from admodels.nights import calibrate
from admodels.nights.calibrations import ensure_calibration
from admodels.nights.drift import history
from admodels.nights.drift.records import RUNS_BACK, records_before
from admodels.nights.rejudge import rejudge
from admodels.scoring import engine
from admodels.scoring.appearances import APPEARANCES, records
from admodels.scoring.engine import LineImages, Model, score_line
from admodels.scoring.journal import Journal
from admodels.scoring.ledger import open_ledger
from admodels.scoring.stopping import Stop
from tests import cards, plants, tiny

MODEL = Path("models/draem/stripes")
FIRST_IMAGE = 1_700_000_000  # seconds; one image a minute


@pytest.fixture(autouse=True)
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A line, and a bundle that knows what its 30 calibration images look like."""
    cards.save_draem(tmp_path / MODEL, calibration=30, reference=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def draw(folder: Path, count: int, seed: int, light: Callable[[int], float] = lambda _: 1) -> None:
    for at, pixels in enumerate(tiny.stripes(count, seed).transpose(0, 2, 3, 1)):
        path = folder / f"{at:04d}.png"
        decode.write_png(path, np.rint(pixels * light(at)).astype(np.uint8))
        os.utime(path, (FIRST_IMAGE + 60 * at,) * 2)


def night(name: str = "press") -> tuple[int, dict[str, object], dict[str, object]]:
    """Exit code, the line's report, and what was kept of its drift."""
    summary = plants.night({name: plants.line(name)})
    path = Path(f"ledger/drift/{name}/{summary['run']}.json")
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return summary["exit_code"], summary["lines"][name], kept


def trusted() -> dict[str, bool]:
    return pd.read_parquet("ledger/verdicts").set_index("path")["trusted"].to_dict()


@pytest.mark.slow
def test_a_dark_night_is_reported_and_its_rows_are_not_trusted() -> None:
    draw(Path("press/monday"), 30, seed=3)
    code, report, kept = night()
    assert (code, report["drift"], report["told"], kept["hint"]) == (0, "", [], "")
    assert kept["reference"] == "30 images of the bundle"
    assert kept["statistics"]["brightness"]["alarm"] == ""
    draw(Path("press/tuesday"), 30, seed=4, light=lambda _: 0.6)
    code, report, kept = night()
    assert code == 5
    assert "% darker" in report["drift"]
    assert (report["told"], kept["hint"]) == ([f"drift: {report['drift']}"], report["drift"])
    assert (kept["line"], kept["run"], kept["images"], kept["trusted"]) == (
        *("press", "000002", 30, False),
    )
    brightness = kept["statistics"]["brightness"]
    assert brightness["night"] == pytest.approx(0.6 * brightness["reference"], rel=0.1)
    assert (brightness["alarm"], brightness["since"], brightness["past"]) == (
        "calibration",
        None,
        None,
    )
    assert all(value == path.startswith("monday") for path, value in trusted().items())
    with open_ledger(Path("ledger")) as ledger:  # and so it stays with another budget
        assert rejudge(ledger, "press", 0.5, why="a test").rows == 60
    everything = pd.read_parquet("ledger/verdicts")
    assert sorted(everything.query("judgement == 2")["trusted"]) == [False] * 30 + [True] * 30


@pytest.mark.slow
def test_a_light_that_fails_in_the_night_is_dated() -> None:
    draw(Path("press"), 60, seed=3, light=lambda at: 1.0 if at < 30 else 0.6)
    code, report, kept = night()
    since = pd.Timestamp(kept["statistics"]["brightness"]["since"])
    assert code == 5
    assert abs(since.timestamp() - FIRST_IMAGE - 30 * 60) <= 60
    assert f"% darker since {since:%Y-%m-%d %H:%M} (UTC)" in report["drift"]
    assert (since.tzinfo, kept["timezone"]) == (UTC, "UTC")


@pytest.mark.slow
def test_times_are_said_in_the_zone_that_is_asked_for() -> None:
    draw(Path("press"), 60, seed=3, light=lambda at: 1.0 if at < 30 else 0.6)
    scored_alone()
    with open_ledger(Path("ledger"), "000001") as ledger:
        model = Model.at(MODEL)
        calibration = ensure_calibration(ledger, "press", model)
        zone = ZoneInfo("Asia/Kolkata")
        record = history.judge_runs(ledger, "press", model, calibration, zone)
    since = pd.Timestamp(record["statistics"]["brightness"]["since"]).tz_convert(zone)
    assert f"% darker since {since:%Y-%m-%d %H:%M} (Asia/Kolkata)" in record["hint"]
    assert record["timezone"] == "Asia/Kolkata"


@pytest.mark.slow
def test_refused_images_are_left_out_of_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    darker_rules = tiny.CONTRACT.model_copy(update={"brightness": (0, 250)})
    monkeypatch.setattr(tiny, "CONTRACT", darker_rules)
    shutil.rmtree(MODEL)
    cards.save_draem(MODEL, calibration=30, reference=True)
    draw(Path("press"), 9, seed=3, light=lambda _: 0.6)
    for number in range(3):
        white = np.full((tiny.PX, tiny.PX + number, 3), 255, np.uint8)
        decode.write_png(Path("press") / f"white{number}.png", white)
    code, report, kept = night()
    assert (code, report["statuses"]) == (5, {"overexposed": 3, "scored": 9})
    assert (kept["images"], kept["compared"]) == (12, 9)
    assert "% darker" in kept["hint"]
    assert "lighting or exposure" in kept["hint"]


@pytest.mark.slow
def test_a_frozen_camera_is_named_though_nothing_else_can_be_compared() -> None:
    draw(Path("press"), 1, seed=3)
    for minute in range(1, 12):
        path = Path("press") / f"{minute:04d}.png"
        path.write_bytes((Path("press") / "0000.png").read_bytes())
        os.utime(path, (FIRST_IMAGE + 60 * minute,) * 2)
    code, report, kept = night()
    assert (code, kept["trusted"], kept["statistics"]) == (5, False, {})
    assert kept["repeats"] == {"files": 12, "images": 12, "contents": 1, "since": None}
    assert "frozen camera" in report["drift"]
    assert kept["not_judged"].startswith("1 image is too few to compare with 30 images")
    assert kept["not_judged"].endswith("12 were seen, refused and repeated ones are left out")
    assert "frozen camera" in Path("ledger/pages/000001.html").read_text(encoding="utf-8")
    assert not any(trusted().values())


@pytest.mark.slow
def test_a_line_s_own_images_are_its_reference_once_it_has_them() -> None:
    draw(Path("approved"), 30, seed=7, light=lambda _: 0.6)
    draw(Path("press"), 30, seed=4, light=lambda _: 0.6)
    with open_ledger(Path("ledger")) as ledger:
        model = Model.at(MODEL)
        calibrate.calibrate(ledger, "press", model, Path("approved"), Path("none"), Stop())
    code, _, kept = night()
    assert (code, kept["reference"], kept["trusted"]) == (0, "30 images of the line", True)
    assert kept["statistics"]["brightness"]["alarm"] == ""


@pytest.mark.slow
def test_a_night_that_says_nothing_of_drift_says_why() -> None:
    draw(Path("press"), 3, seed=3)
    code, report, kept = night()
    assert (code, kept["trusted"], kept["statistics"]) == (0, True, {})
    assert report["drift_not_judged"] == kept["not_judged"]
    assert kept["not_judged"].startswith("3 images are too few to compare with 30 images")
    assert night()[2] == {}  # nothing new
    cards.save_draem(MODEL)  # as bundles were before
    draw(Path("weld"), 30, seed=3, light=lambda _: 0.6)
    code, report, _ = night("weld")
    assert (code, report["drift"]) == (0, "")
    assert report["drift_not_judged"].startswith("the bundle does not know")


@pytest.mark.slow
def test_past_nights_count_if_they_were_trusted_and_had_the_same_reference() -> None:
    home = Path("ledger/drift/press")
    home.mkdir(parents=True)
    draw(Path("press"), 30, seed=3)
    _, _, kept = night()
    for at in range(2, 80):
        of_another = {"reference_id": "other"} if at % 3 == 0 else {}
        brightness = {"brightness": {"night": float(at), "effect": 0.5}}
        record = kept | {"statistics": brightness, "trusted": at % 4 != 0} | of_another
        (home / f"{at:06d}.json").write_text(json.dumps(record), encoding="utf-8")
    (home / "000059.json").write_text("", encoding="utf-8")  # damaged: left out
    past = history._past(home, "000060", kept["reference_id"])["brightness"]
    assert [median for median, _ in past] == [
        night_of(kept),
        *(at for at in range(2, 59) if at % 3 and at % 4),
    ]
    assert past[1] == (2.0, 0.5)


def test_only_the_last_runs_are_looked_through_for_past_nights(tmp_path: Path) -> None:
    record = {"images": 1, "trusted": True, "statistics": {}}
    for number in (1, 2, 5, 7):
        text = json.dumps(record | {"run": number})
        (tmp_path / f"{number:06d}.json").write_text(text, encoding="utf-8")
    assert [kept["run"] for kept in records_before(tmp_path, "000007")] == [5, 2, 1]
    last = f"{RUNS_BACK + 2:06d}"  # of which run 1 is too far away
    assert [kept["run"] for kept in records_before(tmp_path, last)] == [7, 5, 2]


def night_of(kept: dict[str, object]) -> float:
    return kept["statistics"]["brightness"]["night"]


def scored_alone(*, compacted: bool = False) -> None:
    """A run that dies before it looks at drift."""
    with open_ledger(Path("ledger")) as ledger:
        score_line(ledger, LineImages("press", Path("press")), Model.at(MODEL), Stop())
        if compacted:
            ledger.compact("press")


@pytest.mark.slow
def test_a_run_that_was_killed_is_judged_by_the_next() -> None:
    draw(Path("press"), 30, seed=4, light=lambda _: 0.6)
    scored_alone()
    code, _, kept = night()
    assert (code, kept) == (5, {})  # no news of its own
    assert not any(trusted().values())
    assert list(Path("ledger/drift/press").glob("*")) == [Path("ledger/drift/press/000001.json")]


@pytest.mark.slow
def test_drift_of_a_killed_run_is_reported_though_the_rest_of_its_night_was_well() -> None:
    draw(Path("press/monday"), 30, seed=4, light=lambda _: 0.6)
    scored_alone()
    draw(Path("press/tuesday"), 30, seed=5)
    code, report, kept = night()
    assert (code, kept["trusted"], report["images"]) == (5, True, 60)
    assert "% darker" in report["drift"]
    assert "% darker" in Path("ledger/pages/000002.html").read_text(encoding="utf-8")
    assert sorted(trusted().values()) == [False] * 30 + [True] * 30


@pytest.mark.slow
@pytest.mark.parametrize("more", [0, 5])
def test_another_model_does_not_take_back_the_alarm_of_a_night_that_was_stopped(
    plant: Path, more: int
) -> None:
    draw(Path("press/monday"), 30, seed=4, light=lambda _: 0.6)
    assert night()[0] == 5
    summary, kept = Path("ledger/runs/000001.json"), Path("ledger/drift/press/000001.json")
    content = json.loads(summary.read_text(encoding="utf-8"))
    summary.write_text(json.dumps(content | {"whole": False}), encoding="utf-8")
    record = json.loads(kept.read_text(encoding="utf-8"))  # and then a few more came, unjudged
    kept.write_text(json.dumps(record | {"images": 30 - more}), encoding="utf-8")
    shutil.rmtree(plant / MODEL)
    changes = {"reconstructive_width": 16}
    cards.save_draem(plant / MODEL, calibration=30, reference=True, **changes)
    shutil.rmtree("press/monday")
    draw(Path("press/tuesday"), 30, seed=5)
    code, report, tuesday = night()
    assert (code, report["runs"], tuesday["trusted"]) == (5, ["000001", "000002"], True)
    assert "% darker" in report["drift"]
    assert json.loads(kept.read_text(encoding="utf-8")) == record
    assert trusted() == {path: path.startswith("tuesday") for path in trusted()}


def side_table() -> Records:
    count, table = history._images(Path("ledger/appearance/press/000001"), Model.at(MODEL))
    assert count == len(table)
    return records(table.sort_by("path"))


def taken() -> tuple[int, list[str]]:
    count, some = history._images(Path("ledger/appearance/press/000001"), Model.at(MODEL))
    assert some.schema.equals(APPEARANCES)
    return count, some["path"].to_pylist()


def test_the_side_table_has_what_was_seen_of_every_image_once(monkeypatch) -> None:
    draw(Path("press"), 10, seed=4)
    (Path("press") / "bad.png").write_bytes(b"bad")
    monkeypatch.setattr(engine, "ROWS_PER_PART", 4)
    scored_alone()
    assert len(list(Path("ledger/appearance").rglob("*.parquet"))) == 3
    monkeypatch.setattr(history, "IMAGES_AT_MOST", 4)  # taken evenly, across the parts
    assert taken() == (10, [f"{at:04d}.png" for at in (0, 3, 6, 9)])
    monkeypatch.setattr(history, "IMAGES_AT_MOST", 2000)
    expected = cards.appearances(tiny.stripes(10, seed=4).transpose(0, 2, 3, 1))
    assert np.array_equal(side_table(), expected)
    # A kill between the two files of a part leaves the first: it is nothing, and goes away.
    stray = Path("ledger/appearance/press/000001/0004.parquet")
    stray.write_bytes(Path("ledger/appearance/press/000001/0001.parquet").read_bytes())
    names = [f"{table}/press/000001/0004.parquet" for table in ("appearance", "scores")]
    Journal(Path("ledger")).append("write", dict.fromkeys(names, sha256_of(stray)))
    scored_alone(compacted=True)
    assert len(list(Path("ledger/appearance").rglob("*.parquet"))) == 1
    assert np.array_equal(side_table(), expected)
    monkeypatch.setattr(history, "IMAGES_AT_MOST", 4)
    assert taken() == (10, [f"{at:04d}.png" for at in (0, 3, 6, 9)])


@pytest.mark.slow
def test_a_night_of_more_parts_than_files_may_be_open_or_images_are_taken_is_judged(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(engine, "SECONDS_PER_PART", 0.0)  # every image a part of its own
    monkeypatch.setattr(history, "IMAGES_AT_MOST", 40)  # so that of some parts none is taken
    draw(Path("press"), 80, seed=3)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    request.addfinalizer(partial(resource.setrlimit, resource.RLIMIT_NOFILE, limits))
    at_most = len(list(Path("/proc/self/fd").iterdir())) + 40
    resource.setrlimit(resource.RLIMIT_NOFILE, (at_most, limits[1]))
    code, _, kept = night()
    assert (code, kept["images"], kept["not_judged"]) == (0, 80, "")
