"""Faults of the files of a line are alarms: no images, no match, files that nobody finishes."""

import os
import time
from pathlib import Path

import pytest

from admodels.images import decode
from admodels.nights import intake
from admodels.nights.report import LineReport
from admodels.nights.run import Options
from admodels.scoring.discover import is_match
from tests import cards, plants, tiny

DAY = 24 * 3600


@pytest.fixture(autouse=True)
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A line with two images."""
    cards.save_draem(tmp_path / "models" / "draem" / "stripes")
    for number, pixels in enumerate(tiny.stripes(2, seed=3)):
        decode.write_png(tmp_path / "press" / f"{number}.png", pixels.transpose(1, 2, 0))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def night(*, settle_seconds: float = 0.0, **changes: object) -> tuple[int, list[str]]:
    """Exit code and alarms of one night of the line."""
    lines = {"press": plants.line("press", **changes)}
    summary = plants.night(lines, options=Options(settle_seconds))
    return summary["exit_code"], summary["lines"]["press"]["told"]


def write(name: str, age: float = 0.0) -> None:
    path = Path("press") / name
    path.write_bytes(name.encode())
    os.utime(path, (time.time() - age,) * 2)


@pytest.mark.slow
def test_a_line_whose_new_files_are_mostly_no_images_alarms() -> None:
    for number in range(2):
        write(f"{number}.json")
    assert night() == (0, [])  # half of the files are images
    for number in range(3):
        write(f"{number}.tiff2")
    write("4.png")
    code, (alarm,) = night()
    assert code == 5
    assert alarm.startswith("4 of 4 new files have no score (3 not_an_image, 1 undecodable): ")
    assert night() == (0, [])  # nothing is new


def test_two_files_are_too_few_to_say_that_most_are_no_images() -> None:
    assert list(intake.no_images({"not_an_image": 2})) == []
    assert list(intake.no_images({"scored": 2, "not_an_image": 2})) == []
    assert len(list(intake.no_images({"scored": 1, "empty": 2}))) == 1


@pytest.mark.slow
def test_a_pattern_that_matches_nothing_while_files_are_there_alarms() -> None:
    code, alarms = night(pattern="*.jpg")
    assert code == 5
    assert alarms[:1] == [  # before the line's silence
        "`*.jpg` matches no file, and no line takes the 2 files that are there: correct the "
        "`pattern` of the line"
    ]
    code, alarms = night(pattern="*.PNG", ignore_case=False)
    assert (code, alarms[0][:25]) == (5, "`*.PNG` matches no file, ")
    assert night(pattern="*.PNG") == (0, [])


@pytest.mark.slow
def test_a_line_without_verdicts_alarms_until_that_is_meant() -> None:
    for _ in range(2):  # also when nothing is new
        code, alarms = night(alpha=0.04)
        assert code == 5
        assert alarms == [
            "no verdicts: 15 more normal images are needed to promise an alpha of 0.04. Calibrate "
            "with more (`admodels calibrate press FOLDER`), raise alpha, or write "
            "`verdicts: none` for the line"
        ]
    assert night(alpha=0.04, verdicts="none") == (0, [])


@pytest.mark.slow
def test_files_that_another_line_takes_are_no_fault_of_a_pattern() -> None:
    patterns = {"press": "*.png", "weld": "weld*"}
    lines = {n: plants.line("press", pattern=pattern) for n, pattern in patterns.items()}
    alarms = [alarm for report in plants.night(lines)["lines"].values() for alarm in report["told"]]
    assert not any("matches no file" in alarm for alarm in alarms)


@pytest.mark.slow
def test_files_that_nobody_finishes_alarm_after_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    write("2.png.part", age=2 * DAY)
    time.sleep(0.2)  # the images are settled then
    assert night(settle_seconds=0.1) == (0, [])  # it came just now, with an old time
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 2 * DAY)
    code, alarms = night(settle_seconds=0.1)
    assert code == 5
    assert alarms == [
        "1 file waits for more than a day to be complete, such as `2.png.part`: finish the copy, "
        "delete what is left of it, or name it under `exclude`"
    ]


def test_an_alarm_of_the_files_comes_and_goes_with_the_looks_of_a_night() -> None:
    judged = LineReport(messages=["drift"], exit_code=5)
    assert judged.with_files_of(LineReport(intake=["stuck"])).content()["told"] == [
        *("stuck", "drift")
    ]
    quiet = LineReport().with_files_of(LineReport(intake=["stuck"]))
    assert quiet.exit_code == 5
    assert quiet.with_files_of(LineReport()).exit_code == 0


@pytest.mark.parametrize(
    ("path", "pattern", "matches"),
    [
        ("Cam1/a.PNG", "cam1/*.png", (True, False)),
        ("cam1/b/a.png", "cam1/*.png", (True, True)),
        ("STRASSE/ä.png", "strasse/Ä*", (True, False)),
        ("a\nb.png", "*.png", (True, True)),
        ("a.png.part", "*.png", (False, False)),
        ("a.png", None, (True, True)),
    ],
)
def test_a_pattern_ignores_case_unless_told(
    path: str, pattern: str | None, matches: tuple[bool, bool]
) -> None:
    assert (is_match(path, pattern), is_match(path, pattern, ignore_case=False)) == matches
