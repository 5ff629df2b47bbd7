"""Silence: a twin of the rule on random histories, then the cases that a plant knows."""

from collections.abc import Sequence
from datetime import date, timedelta
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from admodels.nights.expect import Expect
from admodels.nights.silence import LineNight, alarm, rhythm_fault

MONDAY = date(2026, 1, 5)
NONE = Expect()


def expect(**words: object) -> Expect:
    return Expect.model_validate(words, strict=False)


def play(
    images: Sequence[int], rule: Expect = NONE, paused: Sequence[int] = ()
) -> tuple[list[LineNight], list[int]]:
    """The nights from a Monday on, each judged in its turn, and the numbers of the silent ones."""
    nights: list[LineNight] = []
    for number, count in enumerate(images):
        night = LineNight(MONDAY + timedelta(days=number), count, paused=number in paused)
        text = alarm(nights, night, rule)
        nights.append(LineNight(night.day, count, silence=text, paused=night.paused))
    return nights, [number for number, night in enumerate(nights) if night.silence]


def twin(nights: list[LineNight], tonight: LineNight) -> bool:
    """The rule again, over a table of days; only weeks and days of it are looked up."""
    past = {n.day: n for n in nights if not n.paused}
    if tonight.paused:
        return False
    same, day = [], tonight.day
    while day > MONDAY and len(same) < 4:
        day -= timedelta(days=7)
        if day in past and not past[day].silence:
            same.append(past[day].images)
    if len(same) == 4:
        last = [n.images for n in list(past.values())[-28:] if n.images > 0]
        enough = [n for n in same if n and n >= (median(last) if last else 0) / 10]
        middle = sum(sorted(same)[1:3]) / 2
        return len(enough) > 2 and tonight.images < middle / 10
    if tonight.images:
        return False
    row = [n.images for n in past.values()]
    return not any(row) or row[-2:] == [0, 0]


COUNTS = st.sampled_from([0, 0, 1, 9, 10, 11, 100, 100, 100, 110])


@settings(max_examples=50, deadline=None)
@given(st.lists(COUNTS, min_size=20, max_size=60), st.sets(st.integers(0, 59), max_size=6))
def test_the_rule_is_that_of_its_twin(images: list[int], paused: set[int]) -> None:
    nights, silent = play(images, paused=sorted(paused))
    expected = [n for n, night in enumerate(nights) if twin(nights[:n], night)]
    assert silent == expected


@settings(max_examples=30, deadline=None)
@given(st.integers(28, 60), st.integers(1, 40), st.sampled_from([7, 5]))
def test_a_dead_camera_is_alarmed_every_night_until_images_come(
    start: int, length: int, days: int
) -> None:
    images = [100 * (number % 7 < days) for number in range(start + length + 7)]
    dead = [n for n in range(start, start + length) if images[n]]
    for number in dead:
        images[number] = 0
    assert play(images)[1] == dead


@given(st.integers(1, 27))
def test_in_the_first_weeks_silence_is_alarmed_at_the_third_night(start: int) -> None:
    silent = play([100] * start + [0] * 20)[1]
    assert silent[0] <= start + 2
    assert silent == list(range(silent[0], start + 20))
    weekend = play([100 * (n % 7 < 5) for n in range(28)])[1]
    assert weekend == []


def test_a_line_that_never_had_images_is_alarmed_at_once() -> None:
    nights, silent = play([0, 0, 5, 0, 0])
    assert silent == [0, 1]
    assert nights[0].silence == "no images, and it never had any"


@pytest.mark.parametrize(("count", "is_silent"), [(9, True), (10, False), (0, True)])
def test_fewer_than_a_tenth_of_the_median_is_silence(count: int, is_silent: bool) -> None:
    assert play([*[90, 100] * 14, count])[1] == [28] * (is_silent and median([90, 100] * 2) > 0)


def test_a_night_of_exactly_a_tenth_is_not_silent() -> None:
    nights, silent = play([100] * 28 + [9, 10])
    assert silent == [28]
    assert nights[28].silence == "9 images; the last 4 mon had 100 (median)"


def test_a_holiday_is_neither_alarmed_nor_compared_with() -> None:
    days = [MONDAY + timedelta(weeks=week) for week in range(4, 8)]
    rule = expect(**{"except": days})
    images = [0 if n in (28, 35, 42, 49) else 100 for n in range(56)]
    assert play([*images, 0], rule)[1] == [56]
    assert play([*images, 0])[1] == [28, 35, 42, 49, 56]


def test_a_pause_is_no_alarm_and_leaves_the_rule_as_it_was() -> None:
    images = [100] * 28 + [0] * 40
    assert play(images, paused=range(28, 60))[1] == list(range(60, 68))


def test_expected_numbers_and_days_take_the_place_of_the_rule() -> None:
    rule = expect(images=(20, 200), days="mon-fri", **{"except": [MONDAY]})
    images = [0, 19, 20, 200, 201, 0, 500]
    nights, silent = play(images, rule)
    assert silent == [1, 4]
    assert nights[4].silence == "201 images; 20 to 200 are expected"


def test_a_few_images_on_a_free_day_are_not_expected_again() -> None:
    """The look that closes a Sunday at 6:05 finds what Monday's first shift makes from 6:00 on."""
    week = [300, 300, 300, 300, 300, 0, 4]
    assert play(week * 8 + [300, 300, 300, 300, 300, 0, 0])[1] == []
    assert play(week * 8 + [0])[1] == [56]


def test_images_that_a_late_look_took_into_the_night_before_count() -> None:
    nights, _ = play([300] * 35)
    tonight = nights[-1].day + timedelta(days=1)
    assert alarm(nights, LineNight(tonight, 10), None)
    assert not alarm(nights, LineNight(tonight, 10, late=290), None)
    new = [*nights[:2], *play([0, 0])[0]]
    assert alarm(new, LineNight(tonight, 0), None) == "no images for 3 nights"
    assert not alarm(new, LineNight(tonight, 0, late=1), None)


@pytest.mark.parametrize(
    ("days", "weekdays"),
    [("mon-fri", {0, 1, 2, 3, 4}), ("sat-mon", {5, 6, 0}), ("mon,wed-thu", {0, 2, 3})],
)
def test_days_are_spans_of_the_week(days: str, weekdays: set[int]) -> None:
    assert expect(days=days).weekdays == weekdays


@pytest.mark.parametrize("words", [{"images": (2, 1)}, {"images": (-1, 1)}, {"days": "mon-"}])
def test_an_expectation_that_means_nothing_is_refused(words: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        expect(**words)


REGULAR = [100 * (number % 7 < 5) for number in range(91)]


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (REGULAR, ""),
        (REGULAR[:20], ""),
        (REGULAR[:49] + [0] * 14 + REGULAR[63:], ""),  # a camera that was dead for two weeks
        ([100 * (n % 7 < 5 and n // 7 % 2) for n in range(91)], "hardly any images"),
        ([100 * (n % 7 < 5 and n // 7 % 2 == 0) for n in range(28)], "images on no day"),
        ([100 * (n * 7 % 10 < 7) for n in range(91)], "hardly any images"),
        ([30 + 100 * (n % 7 < 2) * (n % 4) for n in range(91)], "hardly any images"),
        ([5 * (n == 3) for n in range(60)], "images on no day of the week"),
    ],
)
def test_a_line_without_a_weekly_rhythm_is_named(images: list[int], words: str) -> None:
    text = rhythm_fault(play(images)[0], None)
    assert text.startswith(words)
    assert bool(text) == bool(words)
    assert rhythm_fault(play(images)[0], expect(images=(0, 500))) == ""
