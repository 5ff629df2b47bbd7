"""What is said of a line that drifts: causes, frozen cameras, times, and what is not known."""

from dataclasses import replace
from datetime import UTC
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from admodels.images.describe import CELLS
from admodels.nights.drift.hints import hint
from admodels.nights.drift.repeats import Repeats, repeats
from admodels.nights.drift.statistics import TURNS, Comparison, Past, turn

BERLIN = ZoneInfo("Europe/Berlin")
MINUTE = 60 * 10**9


def compare(night: float, reference: float, **more: object) -> Comparison:
    return replace(Comparison(night, reference, 5.0, 0.0, alarm="calibration"), **more)


def unchanged(level: float = 1.0, p_value: float = 0.5) -> Comparison:
    return Comparison(level, level, 0.1, p_value)


def spot(share: float, **more: object) -> Comparison:
    return compare(9, 0, place=(0.1, 0.9), share=share, **more)


DARK = compare(60, 100, since="2026-11-26T01:14:09+00:00")
SINCE = "since 2026-11-26 02:14 (Europe/Berlin)"
SCORES = {"anomaly_score": compare(0.5, 0.25)}
LIGHT = "Likely cause: lighting or exposure."
NOISY = compare(8, 1, effect=7.0)


@pytest.mark.parametrize(
    ("alarms", "words"),
    [
        ({"brightness": DARK}, f"The images are 40 % darker {SINCE}. {LIGHT}"),
        (
            {"brightness": DARK, "sharpness": unchanged()},
            f"The images are 40 % darker {SINCE} and as sharp as before. {LIGHT}",
        ),
        (
            {"brightness": DARK, "sharpness": unchanged(p_value=0.001)},
            f"The images are 40 % darker {SINCE}. {LIGHT}",
        ),
        (
            {"sharpness": compare(1, 4), "noise": compare(1, 2)},
            "The images are 75 % less sharp. Likely cause: focus, a veil on",
        ),
        (
            {"noise": NOISY, "sharpness": compare(4, 1)},
            "The images have more noise by a factor of 8.0. Likely cause: noise of the sensor",
        ),
        (
            {"shift_x": compare(20, 0), "spot": spot(0.4)},
            "The images stand 20 px to the right. Likely cause: the camera or a fixture moved.",
        ),
        (
            {"shift_x": compare(-4, 0), "spot": spot(0.05)},
            "The images have another contrast 10 % from the left and 90 % from the top. "
            "Likely cause: dirt on the lens, or something new there.",
        ),
        (
            {"noise": compare(1, 3, effect=-11.0), "sharpness": compare(4, 3), "spot": spot(0.01)},
            "The images have 67 % less noise. Likely cause: smoothing or compression",
        ),
        (
            {"noise": compare(1, 3, effect=-2.0), "spot": spot(0.01)},
            "The images have another contrast 10 % from the left and 90 % from the top. Likely "
            "cause: dirt on the lens, or something new there. The images have 67 % less noise.",
        ),
        (
            {"red": compare(1.2, 1), "blue": compare(0.8, 1)},
            "The images are 20 % redder. Likely cause: the white balance",
        ),
        (
            {"red": unchanged(1.0002), "blue": compare(1.0, 1.03)},
            "The images have no colour any more. Likely cause: the camera now gives grey images.",
        ),
        (
            {"red": compare(1.2, 1.0), "blue": unchanged(1.0)},
            "The images are 20 % redder. Likely cause: the white balance",
        ),
        (
            {"brightness": DARK, "shift_y": compare(-7, 0)},
            f"The images are 40 % darker {SINCE}. {LIGHT} The images stand 7 px up. Likely cause: ",
        ),
        (
            {n: compare(30, 1) for n in ("contrast", "noise", "sharpness")} | {"spot": spot(0.7)},
            "The images have more contrast by a factor of 30, have more noise by a factor of 30 "
            "and are sharper by a factor of 30. Likely cause: another product or another view.",
        ),
        (
            {n: compare(3, 1) for n in ("brightness", "contrast", "noise")} | {"spot": spot(0.7)},
            "The images are brighter by a factor of 3.0, have more contrast by a factor of 3.0 "
            "and have more noise by a factor of 3.0. Likely cause: another product or another "
            "view, or a much stronger or weaker light.",
        ),
        (
            {n: compare(3, 1) for n in ("shift_x", "contrast", "noise")}
            | {"spot": spot(0.7, turned="turned by 180 degrees")},
            "The images are turned by 180 degrees. Likely cause: the camera was mounted or set",
        ),
        (
            {"resolution": compare(450, 900), "sharpness": compare(2, 1), "noise": NOISY},
            "The images have 50 % fewer pixels a side. Likely cause: another resolution",
        ),
        (
            {"brightness": compare(90, 89, alarm="past nights", past=Past(20, 100.0, 0.0))},
            "The images are 10 % darker. Likely",
        ),
        ({"brightness": compare(60, 100, alarm="")}, ""),
    ],
)
def test_a_hint_names_the_change_and_its_cause(alarms: dict[str, Comparison], words: str) -> None:
    said = hint(alarms, None, BERLIN)
    assert said.startswith(words)
    assert bool(said) == bool(words)


def test_a_resolution_or_a_turn_explains_all_that_it_changes() -> None:
    smaller = {"resolution": compare(450, 900), "sharpness": compare(2, 1), "noise": NOISY}
    assert hint(smaller, None, UTC).count("Likely cause") == 1
    turned = {"shift_x": compare(9, 0), "spot": spot(0.4, turned="mirrored, left for right")}
    assert hint(turned, None, UTC).count("Likely cause") == 1


def test_scores_alone_are_defects_only_where_no_other_statistic_has_a_small_p() -> None:
    said = hint(SCORES | {"brightness": unchanged(), "noise": unchanged()}, None, UTC)
    assert said == (
        "The scores are higher (median 0.5, not 0.25). No other statistic that could be compared "
        "changed. Likely cause: most images show defects, or the images changed in a way that no "
        "statistic measures."
    )
    dark, faint = Comparison(60, 100, -3.0, 2e-5), Comparison(1.004, 1.0, 0.1, 0.009)
    said = hint(SCORES | {"noise": faint, "brightness": dark}, None, UTC)
    assert said == (
        "The scores are higher (median 0.5, not 0.25). The images may be the cause: they are "
        "40 % darker and have 0.4 % more noise, which is too little or too uncertain for an alarm "
        "of its own."
    )
    of_past = Comparison(99, 100, -0.1, 0.5, past=Past(20, 130.0, 1e-4))
    assert "1 % darker" in hint(SCORES | {"brightness": of_past}, None, UTC)


def test_scores_that_are_lower_are_no_defects() -> None:
    said = hint({"anomaly_score": compare(0.1, 0.25)}, None, UTC)
    assert "The scores are lower (median 0.1, not 0.25)." in said
    assert "defects" not in said


def test_a_camera_that_repeats_one_picture_is_named_and_dated() -> None:
    contents = [*map(str, range(12)), *["3"] * 8]
    frozen = repeats(contents, np.arange(20) * MINUTE)
    assert frozen == Repeats(9, 20, 1, "1970-01-01T00:12:00+00:00")
    assert hint({}, frozen, BERLIN) == (
        "9 of 20 images hold the same bytes under new names since 1970-01-01 01:12 "
        "(Europe/Berlin). Likely cause: a frozen camera, or a program that stores its images "
        "again and again."
    )
    assert hint({"brightness": DARK}, frozen, BERLIN).endswith(f"darker {SINCE}. {LIGHT}")


def test_the_order_of_time_counts_and_not_that_of_names() -> None:
    contents = [*["3"] * 8, *map(str, range(12))]
    assert repeats(contents, np.roll(np.arange(20), 8) * MINUTE) == Repeats(
        9, 20, 1, "1970-01-01T00:12:00+00:00"
    )


@pytest.mark.parametrize(("pictures", "words"), [(1, "the same bytes"), (2, "only 2 contents")])
def test_a_camera_that_repeats_from_the_start_has_no_time(pictures: int, words: str) -> None:
    contents = [str(number % pictures) for number in range(30)]
    frozen = repeats(contents, np.arange(30) * MINUTE)
    assert frozen == Repeats(30, 30, pictures, None)
    assert hint({}, frozen, UTC).startswith(f"30 of 30 images hold {words} under new names. ")


@pytest.mark.parametrize(
    "contents",
    [
        [],
        ["a"],
        ["a"] * 4,
        [*map(str, range(30))] * 2,  # a folder was copied
        [*map(str, range(100)), *["missed"] * 10],  # a picture that stands for a missed one
    ],
)
def test_copies_and_stand_ins_are_no_frozen_camera(contents: list[str]) -> None:
    assert repeats(contents, np.arange(len(contents)) * MINUTE) is None


@pytest.mark.parametrize("name", TURNS)
def test_a_turn_is_known_by_its_cells(name: str) -> None:
    rng = np.random.default_rng(8)
    reference, noise = rng.normal(size=(2, CELLS, CELLS))
    night = TURNS[name](reference) + 0.2 * noise
    assert turn(night.ravel(), reference.ravel()) == name
    assert turn((reference + 0.2 * noise).ravel(), reference.ravel()) == ""
    dirty = reference.copy()
    dirty[4:7, 4:7] += 5
    assert turn(dirty.ravel(), reference.ravel()) == ""
    assert turn(np.zeros(CELLS**2), np.zeros(CELLS**2)) == ""  # a surface without structure
