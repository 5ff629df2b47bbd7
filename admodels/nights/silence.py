"""Silence is an alarm: a line that used to have images and has none, judged when a night is closed.

The rule compares a night with the last nights of the same weekday. `expect:` of a line in
plant.yaml overrides it; `rhythm_fault` says which lines have no rhythm that the rule could know.
benchmarks/years.py shows what it alarms in simulated years, and why a few images are none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import dropwhile, pairwise, takewhile
from statistics import median, quantiles

from admodels.nights.calendar import DAY
from admodels.nights.expect import WEEKDAYS, Expect

REFERENCES = 4  # nights of the same weekday
WITH_IMAGES = 3  # of these, at least, had images where a night should have some
FEWER = 10  # a night with fewer than a tenth of their median is silent
USUAL = 28  # nights, of which the usual number of images is taken
IN_A_ROW = 3  # nights without images, while a weekday has too few references
DIP = 0.6  # of the usual number: a night below it is unlike the others, silent or not
RHYTHM = timedelta(weeks=13)
SILENCES, DIPS = 2, 3  # in that time: it is the rhythm of the line, and no accident
NEW = timedelta(weeks=REFERENCES)  # a line younger than this is watched by nights in a row
EVERYTHING = Expect()


@dataclass(frozen=True)
class LineNight:
    """A closed night of a line that had a look; `day` is the calendar day of the night."""

    day: date
    images: int
    late: int = 0  # images of the look that closed the night before late: perhaps of this night
    silence: str = ""  # the alarm, if any
    paused: bool = False


def alarm(
    history: Sequence[LineNight],
    tonight: LineNight,
    expect: Expect | None,
    had_images: bool = False,
) -> str:
    """Why `tonight` is an alarm, in words such as `no images for 3 nights`; empty if it is none.

    `history` are the closed nights of the line before, the oldest first. `had_images`: the line
    had some before its first night, in a ledger of an older version.
    """
    expect = expect or EVERYTHING
    if tonight.paused or not _counts(tonight, expect):
        return ""
    if expect.images:
        least, most = expect.images
        is_as_expected = least <= tonight.images <= most
        return "" if is_as_expected else f"{tonight.images} images; {least} to {most} are expected"
    past = [night for night in history if _counts(night, expect) and not night.paused]
    references = _references(past, tonight.day.weekday())
    if len(references) < REFERENCES:
        return _alarm_of_new_line(past, tonight, had_images)
    usual, images = median(references), tonight.images + tonight.late
    if _with_images(past, references) < WITH_IMAGES or images * FEWER >= usual:
        return ""
    weekday = WEEKDAYS[tonight.day.weekday()]
    return f"{images or 'no'} images; the last {REFERENCES} {weekday} had {usual:g} (median)"


def _counts(night: LineNight, expect: Expect) -> bool:
    """Whether images are to be expected on the day of the night at all."""
    return night.day not in expect.but and night.day.weekday() in expect.weekdays


def _references(past: Sequence[LineNight], weekday: int) -> list[int]:
    """The images of the last nights of a weekday that were not silent, the newest first."""
    return [
        night.images
        for night in reversed(past)
        if night.day.weekday() == weekday and not night.silence
    ][:REFERENCES]


def _with_images(past: Sequence[LineNight], references: Sequence[int]) -> int:
    """How many of `references` had images: a tenth, at least, of a usual night with images.

    A look that closes a night finds the first images of the next one, on a free day too.
    """
    usual = _usual_of_any_day(past[-USUAL:])
    return sum(images > 0 and images * FEWER >= usual for images in references)


def _alarm_of_new_line(past: Sequence[LineNight], tonight: LineNight, had_images: bool) -> str:
    if tonight.images + tonight.late:
        return ""
    if not had_images and not any(night.images for night in past):
        return "no images, and it never had any"
    row = 1 + sum(1 for _ in takewhile(lambda night: not night.images, reversed(past)))
    return f"no images for {row} nights" if row >= IN_A_ROW else ""


def rhythm_fault(history: Sequence[LineNight], expect: Expect | None) -> str:
    """Why the rule cannot watch a line with these nights; empty if it can."""
    expect = expect or EVERYTHING
    past = [night for night in history if _counts(night, expect) and not night.paused]
    if expect.images or not past:
        return ""
    silent, low = _interruptions([n for n in past if past[-1].day - n.day < RHYTHM])
    if silent >= SILENCES or low >= DIPS:
        weeks = RHYTHM // timedelta(weeks=1)
        return f"hardly any images {max(silent, low)} times in {weeks} weeks, and then images again"
    counts = [_with_images(past, _references(past, weekday)) for weekday in range(7)]
    if past[-1].day - past[0].day >= NEW - DAY and max(counts) < WITH_IMAGES:
        return f"images on no day of the week in {WITH_IMAGES} of {REFERENCES} weeks"
    return ""


def _interruptions(past: Sequence[LineNight]) -> tuple[int, int]:
    """How often images came again: after a silent night, and after one with hardly any."""
    usual = [_usual(past, weekday) for weekday in range(7)]
    least = {night.day: DIP * usual[night.day.weekday()] for night in past}
    known = dropwhile(lambda night: not night.images, past)
    nights = [n for n in known if n.images or n.silence or least[n.day]]
    is_low = [bool(n.silence) or n.images + n.late < least[n.day] for n in nights]
    silent = sum(bool(a.silence) and b.images > 0 and not b.silence for a, b in pairwise(nights))
    return silent, sum(a and not b for a, b in pairwise(is_low))


def _usual(past: Sequence[LineNight], weekday: int) -> float:
    """The images of a weekday in three of four weeks; 0 for one that hardly ever has any."""
    nights = [n.images for n in past if n.day.weekday() == weekday and not n.silence]
    usual = quantiles(nights, n=4)[2] if len(nights) > 1 else 0.0
    return usual if usual * FEWER >= _usual_of_any_day(past) else 0.0


def _usual_of_any_day(past: Sequence[LineNight]) -> float:
    return median([night.images for night in past if night.images] or [0])
