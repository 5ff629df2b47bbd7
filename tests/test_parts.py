"""Views of one part are judged together, once, with m fixed; none is fine with a view missing."""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from admodels.foundation.errors import ConfigurationError, StorageError
from admodels.inference.conformal import images_missing, images_needed, p_values, part_p_value
from admodels.nights import readiness
from admodels.nights.calendar import NightOfLook
from admodels.nights.close import NightRecord, write_records
from admodels.nights.export import parts_of, sentences
from admodels.nights.judge_parts import judge_all_parts
from admodels.nights.page.parts import read_parts
from admodels.nights.parts import judgements, kinds_of_parts, part_judgements
from admodels.nights.plant import Plant, read_plant
from admodels.nights.prune import old_parts, prune_parts
from admodels.nights.report import PartsReport, Reports
from admodels.pages.catalogue import english
from admodels.scoring.engine import LineImages, Model, score_line
from admodels.scoring.integrity import Check, check
from admodels.scoring.ledger import Ledger, open_ledger
from admodels.scoring.stopping import Stop
from tests import plants
from tests.cards import card, judge, make_bundle, save_draem

PART = r"(?P<lot>.+)/(?P<part_id>[^_/]+)_(?P<station>\w+?)(\.\d+)?\.png"
FIRST = date(2026, 12, 1)
CALIBRATION = [50.0, 60, 70, 80, 90, 100, 110, 120, 130]  # a score of 135 has p = 0.1
ALPHA = 0.2


@dataclass
class Factory:
    """A plant of lines that score brightness, whose nights a test lives through."""

    folder: Path
    plant: Plant
    calibration: list[float]

    def shoot(self, path: str, level: int, second: int = 0) -> None:
        """An image of this brightness, of that second of the day; below 0 a broken file."""
        target = card(self.folder / path, max(level, 0))
        if level < 0:
            target.write_bytes(b"broken")
        moment = datetime(2026, 12, 1, tzinfo=UTC).timestamp() + second
        os.utime(target, (moment, moment))

    def look(
        self, night: date = FIRST, *, closes: bool = False, checks: bool = False
    ) -> dict[str, PartsReport]:
        """Score and judge what is new; close the night."""
        with self.ledger() as ledger:
            model, reports = Model.of(make_bundle(self.calibration)), Reports()
            for name in self.plant.lines:
                names = self.plant.part_names(name)
                source = LineImages(name, self.plant.inbox(name), part_names=names)
                score_line(ledger, source, model, Stop())
                judge(ledger, name, model, self.plant.lines[name].alpha)
                reports.news.add(name)
            tonight = NightOfLook(night, closes, clock_is_back=False)
            checked = check(ledger) if checks else Check()
            judge_all_parts(ledger, self.plant, tonight, checked, reports)
            codes = {name: {"exit_code": 0} for name in self.plant.lines}
            ledger.finish(summary(ledger.run, night) | {"lines": codes})
            if closes:
                now = datetime.now(UTC)
                record = NightRecord(night=night, closed=now, runs=[ledger.run], lines={})
                write_records(ledger, [record])
            return reports.parts

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        with open_ledger(self.plant.ledger) as ledger:
            yield ledger

    def said(self, night: date = FIRST, name: str = "door") -> dict[str, dict[str, Any]]:
        """The last judgement of a night on each part, by lot/part_id."""
        with self.ledger() as ledger:
            rows = part_judgements(ledger, name, night.isoformat()).to_pylist()
        return {f"{row['lot']}/{row['part_id']}": row for row in rows}

    def files(self) -> dict[str, str]:
        paths = (self.plant.ledger / "parts").rglob("*.parquet")
        return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def summary(run: str, night: date) -> dict[str, object]:
    ended = datetime.combine(night, datetime.min.time(), UTC).isoformat()
    numbers = {"run": run, "exit_code": 0, "started": ended, "seconds": 0.0}
    return {**numbers, "host": "h", "whole": True, "night": night.isoformat()}


def factory(
    folder: Path, *views: str, calibration: list[float] = CALIBRATION, **more: object
) -> Factory:
    lines = {
        name: plants.line(folder / name, alpha=ALPHA, part=PART, captured={"from": "file"})
        for name in ("top", "side", "back")
    }
    for name in lines:
        (folder / name).mkdir()
    content: dict[str, Any] = {"parts": {"door": {"views": list(views)}}} | more
    return Factory(folder, plants.write_plant(folder / "plant", lines, **content), calibration)


@pytest.fixture
def doors(tmp_path: Path) -> Factory:
    return factory(tmp_path, "top", "side")


def brief(said: dict[str, Any]) -> tuple[object, ...]:
    return said["views_seen"], said["p_value"], said["is_anomalous"], said["judgement"]


def test_the_p_value_of_a_part_is_that_of_a_loop_over_its_views(tmp_path: Path) -> None:
    doors, rng = factory(tmp_path, "top", "side", "back", calibration=CALIBRATION * 2), 5
    levels = np.random.default_rng(rng).integers(20, 150, (8, 3))
    for number, row in enumerate(levels):
        for line, level in zip(("top", "side", "back"), row, strict=True):
            doors.shoot(f"{line}/L7/{number}_x.png", int(level))
    doors.look()
    for number, row in enumerate(levels):
        p = [(1 + sum(c >= level for c in CALIBRATION * 2)) / 19 for level in row]
        expected = (3, pytest.approx(min(1, 3 * min(p))), 3 * min(p) <= ALPHA, 1)
        assert brief(doors.said()[f"L7/{number}"]) == expected


def test_a_part_waits_for_its_views_until_the_night_closes(doors: Factory) -> None:
    for line in ("top", "side"):
        doors.shoot(f"{line}/L7/1_x.png", 60)
    doors.shoot("top/L7/2_x.png", 140)
    doors.shoot("top/L7/3_x.png", 60)
    assert doors.look()["door"].parts == 1
    before = doors.files()
    assert doors.look()["door"].parts == 1  # nothing is new
    assert doors.files() == before
    report = doors.look(closes=True)["door"]
    counts = report.parts, report.flagged, report.undecided, report.incomplete
    assert counts == (3, 1, 1, 2)
    said = doors.said()
    assert brief(said["L7/1"]) == (2, 1.0, False, 1)
    assert brief(said["L7/2"]) == (1, 0.2, True, 1)  # m stays 2: 2 x 0.1
    assert brief(said["L7/3"])[2:] == (None, 1)
    assert (said["L7/3"]["why"], said["L7/3"]["reason"]) == ("the night closed", "no image of side")
    assert before.items() <= doors.files().items()


def test_a_late_view_over_midnight_is_another_judgement_and_the_first_stands(
    doors: Factory,
) -> None:
    doors.shoot("top/L7/1_x.png", 60)
    doors.look(closes=True)
    before = doors.files()
    doors.shoot("side/L7/1_x.png", 140)
    doors.look(FIRST + timedelta(days=1))
    assert brief(doors.said()["L7/1"]) == (1, 1.0, None, 1)
    late = doors.said(FIRST + timedelta(days=1))["L7/1"]
    assert (*brief(late), late["why"]) == (2, 0.2, True, 2, "a view came late")
    assert [image["view"] for image in late["images"]] == ["top", "side"]
    assert before.items() <= doors.files().items()
    with doors.ledger() as ledger:
        (last,) = parts_of(ledger, "L7", lambda _: True).to_pylist()
    assert last["judgement"] == 2


def test_a_view_of_weeks_later_is_another_part(doors: Factory) -> None:
    doors.shoot("top/L7/1_x.png", 60)
    doors.look(closes=True)
    doors.shoot("side/L7/1_x.png", 140)
    doors.look(FIRST + timedelta(days=8), closes=True)
    assert brief(doors.said(FIRST + timedelta(days=8))["L7/1"]) == (1, 0.2, True, 1)
    with doors.ledger() as ledger:
        assert len(parts_of(ledger, "L7", lambda _: True)) == 2


def test_the_last_of_several_images_of_a_view_counts_and_not_the_smallest_p_value(
    doors: Factory,
) -> None:
    doors.shoot("top/L7/1_x.2.png", 140, second=10)
    doors.shoot("top/L7/1_x.1.png", 60, second=20)
    doors.shoot("side/L7/1_x.png", 60)
    doors.look()
    assert brief(doors.said()["L7/1"]) == (2, 1.0, False, 1)
    before = doors.files()
    doors.look()
    assert doors.files() == before
    doors.shoot("top/L7/1_x.0.png", 140, second=5)  # of a later run, though its clock is behind
    doors.look()
    again = doors.said()["L7/1"]
    assert (*brief(again), again["why"]) == (2, 0.2, True, 2, "a view came again")


def test_a_part_with_an_unreadable_view_is_flagged_or_undecided_but_never_fine(
    doors: Factory,
) -> None:
    levels = {"1": (60, -1), "2": (140, -1), "3": (-1, -1)}
    for part, (top, side) in levels.items():
        doors.shoot(f"top/L7/{part}_x.png", top)
        doors.shoot(f"side/L7/{part}_x.png", side)
    doors.look()
    said = doors.said()
    assert {part: brief(said[f"L7/{part}"]) for part in levels} == {
        "1": (1, 1.0, None, 1),
        "2": (1, 0.2, True, 1),
        "3": (0, None, None, 1),
    }
    assert said["L7/1"]["reason"] == "the last image of side has no score: undecodable"
    assert not said["L7/3"]["trusted"]
    doors.shoot("side/L7/1_x.0.png", 60)
    doors.look()
    assert brief(doors.said()["L7/1"]) == (2, 1.0, False, 2)
    doors.shoot("side/L7/1_x.1.png", -1)  # what was seen before does not answer for it
    doors.look()
    assert brief(doors.said()["L7/1"]) == (2, 1.0, None, 3)


def test_a_calibration_of_fewer_than_m_over_alpha_images_is_an_alarm_and_decides_nothing(
    tmp_path: Path,
) -> None:
    doors = factory(tmp_path, "top", "side", calibration=CALIBRATION[:8])
    for line in ("top", "side"):
        doors.shoot(f"{line}/L7/1_x.png", 200)
    report = doors.look()["door"]
    said = doors.said()["L7/1"]
    assert (said["p_value"], said["is_anomalous"]) == (pytest.approx(2 / 9), None)
    assert said["reason"] == "top lacks 1 normal images; side lacks 1 normal images"
    assert report.exit_code == 5
    assert "top flags no part: 1 more normal images are needed, 9 in all" in report.messages[0]


def test_lots_are_kept_apart_whatever_letters_they_have(doors: Factory) -> None:
    lots = ("Los 7/a", "Los 7", "Großlos \u65e5\u672c", "=1")
    for number, lot in enumerate(lots):
        doors.shoot(f"top/{lot}/1_x.png", 140 if number == 1 else 60)
        doors.shoot(f"side/{lot}/1_x.png", 60)
    doors.look()
    assert [key for key, said in doors.said().items() if said["is_anomalous"]] == ["Los 7/1"]
    with doors.ledger() as ledger:
        (text,) = sentences(parts_of(ledger, "Los 7", lambda _: True))
    assert text == (
        "door: part 1 of lot Los 7: part flagged, 2 of 2 views, p 0.2; "
        "view flagged: top/Los 7/1_x.png"
    )


def test_views_may_be_patterns_of_one_line_and_two_kinds_may_share_it(tmp_path: Path) -> None:
    parts = {
        "door": {"views": ["top/*_left*", "top/*_right*"]},
        "frame": {"views": ["top/*_left*", "side"], "alpha": 0.9},
    }
    doors = factory(tmp_path, parts=parts)
    for name, level in {"left": 60, "right": 140, "middle": 140}.items():
        doors.shoot(f"top/L7/1_{name}.png", level)
    doors.shoot("side/L7/1_x.png", 125)
    reports = doors.look()
    assert brief(doors.said()["L7/1"]) == (2, 0.2, True, 1)
    assert brief(doors.said(name="frame")["L7/1"]) == (2, 0.4, True, 1)
    (text,) = reports["door"].messages
    assert "1 images are in no view, such as `top/L7/1_middle.png`" in text
    with doors.ledger() as ledger:
        assert kinds_of_parts(ledger) == ["door", "frame"]


def test_damage_is_a_fault_of_the_parts_and_not_of_a_line_of_that_name(tmp_path: Path) -> None:
    doors = factory(tmp_path, parts={"top": {"views": ["top"]}})
    doors.shoot("top/L7/1_x.png", 60)
    doors.look()
    (path,) = map(Path, doors.files())
    changed = pq.read_table(path)
    pq.write_table(changed.set_column(8, "p_value", pa.array([0.5])).cast(changed.schema), path)
    doors.shoot("top/L7/2_x.png", 60)
    report = doors.look(checks=True)["top"]
    assert (report.exit_code, report.parts) == (74, 0)
    with doors.ledger() as ledger:
        result = check(ledger)
        result.refuse(ledger.folder, "top")
        with pytest.raises(StorageError, match="was changed since"):
            result.refuse(ledger.folder, "top", parts=True)


@pytest.mark.slow
def test_judgements_on_parts_are_merged_checked_and_pruned(doors: Factory) -> None:
    for part in (1, 2, 3):
        doors.shoot(f"top/L7/{part}_x.png", 60)
        doors.shoot(f"side/L7/{part}_x.png", 140)
        doors.look()
    with doors.ledger() as ledger:
        before = judgements(ledger, "door", lambda _: True)
        ledger.merge_judgements("door", FIRST.isoformat(), kind="parts")
        assert len(doors.files()) == 1
        assert judgements(ledger, "door", lambda _: True).equals(before)
        assert (check(ledger).faults, check(ledger).notes) == ({}, [])
        assert list(old_parts(ledger, datetime(2026, 11, 30, tzinfo=UTC))) == []
        (old,) = old_parts(ledger, datetime(2027, 1, 1, tzinfo=UTC))
        assert re.fullmatch(r"parts door 2026-12-01: judgements, 0\.\d MiB", str(old))
        prune_parts(ledger, old)
        assert (check(ledger).faults, check(ledger).notes) == ({}, [])
        assert len(part_judgements(ledger, "door", FIRST.isoformat())) == 0


LINE = plants.line("in")
NAMED = LINE | {"part": PART}


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ({"lines": {"top": LINE | {"part": r"(?P<lot>.+)\.png"}}}, "no group is named part_id"),
        ({"lines": {"top": LINE | {"part": r"(?P<part_id>.+"}}}, "no regular expression"),
        ({"lines": {"top": LINE | {"part": r"(?P<part>.+)"}}}, "a group is named `part`"),
        ({"lines": {"top": LINE | {"captured": {"from": "clock"}}}}, "captured"),
        ({"lines": {"top": LINE | {"captured": {"from": "name"}}}}, "year, month and day"),
        ({"lines": {"top": LINE | {"part": r"(?P<hour>\d\d)_(?P<part_id>.)"}}}, "from: name"),
        (
            {"lines": {"top": LINE | {"captured": {"from": "exif", "timezone": "CET+1/x"}}}},
            "no time zone of this name",
        ),
        ({"lines": {"top": NAMED}, "parts": {"door": {"views": []}}}, "views"),
        ({"lines": {"top": NAMED}, "parts": {"door": {"views": ["side"]}}}, "`side`, which is no"),
        ({"lines": {"top": LINE}, "parts": {"door": {"views": ["top"]}}}, "`top` needs `part`"),
        ({"lines": {"top": NAMED}, "parts": {"door": {"views": ["top", "top"]}}}, "every image of"),
        (
            {"lines": {"top": NAMED}, "parts": {"door": {"views": ["top", "top/*x"]}}},
            "an earlier view takes every image of `top/*x`",
        ),
        ({"lines": {"top": NAMED}, "parts": {"a b": {"views": ["top"]}}}, "no valid name"),
    ],
)
def test_parts_that_could_never_be_judged_are_refused(
    tmp_path: Path, content: dict[str, Any], fault: str
) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        plants.write_plant(tmp_path, content.pop("lines"), **content)
    assert fault in str(refusal.value)


def test_the_budget_of_a_part_is_the_smallest_of_its_lines_or_its_own(tmp_path: Path) -> None:
    lines = {"a": plants.line("in", part=PART), "b": plants.line("in", part=PART, alpha=0.02)}
    views = {"views": ["a", "b"]}
    plants.write_plant(tmp_path, lines, parts={"x": views, "y": views | {"alpha": 0.3}})
    plant = read_plant(tmp_path)
    assert [plant.alpha_of_parts(name) for name in ("x", "y")] == [0.02, 0.3]


@pytest.mark.parametrize("views", [1, 2, 3, 7])
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.3])
def test_m_over_alpha_minus_one_images_are_needed_and_suffice(views: int, alpha: float) -> None:
    needed = images_needed(alpha, views)
    assert needed == pytest.approx(views / alpha - 1, abs=1)
    assert part_p_value([1.0] * (views - 1) + [1 / (needed + 1)], views) <= alpha
    assert part_p_value(1 / needed, views) > alpha
    assert images_missing(needed - 1, alpha, views) == 1


DEPENDENT = {
    "independent": lambda rng, shape: rng.normal(size=shape),
    "the same": lambda rng, shape: np.repeat(rng.normal(size=(*shape[:-1], 1)), shape[-1], -1),
    "shared": lambda rng, shape: rng.normal(size=shape) + 2 * rng.normal(size=(*shape[:-1], 1)),
    "one at a time": lambda rng, shape: rng.permuted(
        np.concatenate([rng.normal(9, 1, (*shape[:-1], 1)), rng.normal(size=shape)[..., 1:]], -1),
        axis=-1,
    ),
}


@pytest.mark.parametrize("kind", DEPENDENT)
def test_at_most_alpha_of_normal_parts_are_flagged_however_their_views_depend(kind: str) -> None:
    """Each repeat has calibration images of its own; the views of a part are drawn together."""
    repeats, parts, views, n, alpha = 400, 40, 3, 99, 0.1
    rng, draw = np.random.default_rng(22), DEPENDENT[kind]
    rates, naive = [], []
    for _ in range(repeats):
        calibration, scores = draw(rng, (n, views)), draw(rng, (parts, views))
        p = np.stack([p_values(scores[:, v], calibration[:, v]) for v in range(views)], 1)
        rates.append(np.mean([part_p_value(row, views) <= alpha for row in p]))
        naive.append(np.mean(p.min(axis=1) <= alpha))
    error = np.std(rates) / np.sqrt(repeats)
    assert np.mean(rates) <= alpha + 3 * error
    if kind != "the same":
        assert np.mean(naive) > alpha + 3 * error  # without m the promise would be broken
    if kind == "one at a time":
        assert np.mean(rates) > 0.8 * alpha  # nearly no slack is left


@pytest.mark.slow
def test_the_check_names_the_lines_that_can_flag_no_part(tmp_path: Path) -> None:
    save_draem(tmp_path / "models/draem/stripes", calibration=9)
    (tmp_path / "in").mkdir()
    lines = {name: plants.line(tmp_path / "in", part=PART) for name in ("top", "side")}
    parts = {"door": {"views": ["top", "side"]}, "many": {"views": ["top/a*", "top/b*", "side"]}}
    plant = plants.write_plant(tmp_path / "plant", lines, tmp_path / "models", parts=parts)
    texts = [text for text in readiness.warnings(plant) if text.startswith("parts ")]
    assert [text.partition(":")[0] for text in texts] == ["parts many", "parts many"]
    assert "side flags no part: 5 more normal images are needed for 3 views" in texts[1]


def test_of_two_scores_of_one_image_in_a_run_that_of_the_later_model_counts(
    doors: Factory,
) -> None:
    for line in ("top", "side"):
        doors.shoot(f"{line}/L7/1_x.png", 60)
    models = ("z" * 16, "m" * 16)
    with doors.ledger() as ledger:
        for model, calibration in zip(models, (CALIBRATION, [10.0] * 9), strict=True):
            bundle = replace(make_bundle(calibration), model_fingerprint=model)
            for name in ("top", "side"):
                names = doors.plant.part_names(name)
                source = LineImages(name, doors.plant.inbox(name), part_names=names)
                score_line(ledger, source, Model.of(bundle), Stop())
                judge(ledger, name, Model.of(bundle), ALPHA)
        tonight, reports = NightOfLook(FIRST, False, clock_is_back=False), Reports()
        judge_all_parts(ledger, doors.plant, tonight, Check(), reports)
    said = doors.said()["L7/1"]
    assert {image["model_fingerprint"] for image in said["images"]} == {"m" * 16}
    assert brief(said) == (2, 0.2, True, 1)


def test_the_page_names_the_parts_that_are_not_known_to_be_fine(doors: Factory) -> None:
    for part, side in {"1": -1, "2": 60}.items():
        doors.shoot(f"top/<7>/{part}_x.png", 60)
        doors.shoot(f"side/<7>/{part}_x.png", side)
    doors.look()
    with doors.ledger() as ledger:
        table = read_parts(ledger, FIRST.isoformat(), english())
    (row,) = table.without_verdict
    assert (row.name, row.verdict) == ("Part 1, lot <7>", "part without a verdict, 1 of 2 views")
    assert row.why == "the last image of side has no score: undecodable"
    assert table.flagged == 0
