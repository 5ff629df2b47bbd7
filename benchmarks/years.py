"""Is silence alarmed, and nothing else? Simulated years of plants, by the rule and the calendar.

    python -m benchmarks.years [--repeats 8] [--years 2]

Lines of many rhythms make images at instants. Looks come by timers, by hand, every ten minutes, and
not at all while the machine is off, six times a year. Each look belongs to a night as `Calendar`
says, each closed night is judged as `silence` says; no image is scored. Each line lives its years
twice: as it is, and with planted silences of 1 to 30 days. Holidays and a summer break stand in
`except`. An alarm is false where no planted silence is behind it. `named` are nights on which
`admodels doctor` says that the rule cannot watch the line; the first four weeks of a line, which
the rule watches by nights in a row, are counted apart.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from itertools import groupby
from zoneinfo import ZoneInfo

import numpy as np

from admodels.nights import silence
from admodels.nights.calendar import DAY, Calendar
from admodels.nights.expect import Expect
from admodels.nights.silence import LineNight

START = date(2025, 1, 6)  # a Monday
ORIGIN = datetime.combine(START - DAY, time(0), UTC).timestamp()
HOLIDAYS = ("01-01", "05-01", "10-03", "12-24", "12-25", "12-26", "12-31")
SUMMER = (date(2025, 8, 4), 14)  # a break of so many days
SILENCES = (1, 2, 3, 5, 7, 10, 14, 17, 21, 30)  # days
OFF_PER_YEAR, OFF_HOURS = 6, 12  # the machine, on average
DAY_SECONDS, LATE = 86_400, 4 * 3600
ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe")
LOOKS = ("hourly", "once", "every", "once and by hand", "by hand")
# Of each rhythm: the hours in which images are made, the working days, lots a day if it has lots.
RHYTHMS: dict[str, tuple[tuple[int, int], int, tuple[float, float] | None]] = {
    "7 days": ((0, 24), 7, None),
    "5 days": ((6, 22), 5, None),
    "one shift": ((6, 14), 5, None),
    "4 days": ((6, 22), 4, None),
    "alternating weeks": ((6, 22), 5, None),
    "small lots": ((7, 18), 5, (0.5, 6.0)),
    "rare lots": ((7, 18), 5, (0.2, 0.2)),
}
Seconds = np.ndarray  # since ORIGIN, sorted


@dataclass
class Tally:
    """What the nights of one rhythm came to."""

    nights: int = 0
    named: int = 0
    false: int = 0  # alarms after the first weeks, while doctor called the line watched
    false_of_named: int = 0
    false_of_new: int = 0
    dead: int = 0  # nights without images that should have had some, of lines not named
    deferred: int = 0  # of these, without an alarm as the look before came late and saw images
    missed: int = 0  # of these, without an alarm otherwise
    late: int = 0  # in the first weeks: three nights without images, and no alarm
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Night:
    """A closed night: which of the looks were its own, and how late the last one came."""

    night: date
    first: int
    last: int
    seconds_late: float


def free_days(years: int) -> set[date]:
    days = {date.fromisoformat(f"{START.year + n}-{day}") for n in range(years) for day in HOLIDAYS}
    return days | {SUMMER[0] + n * DAY for n in range(SUMMER[1])}


def made(rhythm: str, days: int, free: set[date], calendar: Calendar, rng) -> Seconds:
    """When the images of a line are made."""
    (first, last), working_days, lots = RHYTHMS[rhythm]
    size, mean = rng.integers(20, 2000), rng.uniform(*lots) if lots else 0.0
    shift = int(rng.integers(0, 3)) if first == 6 else 0
    parts = []
    for number in range(days):
        day = START + number * DAY
        is_off_week = rhythm == "alternating weeks" and number // 7 % 2
        if day in free or day.weekday() >= working_days or is_off_week:
            continue
        count = (
            max(1, size // 10) * rng.poisson(mean) if lots else int(size * rng.uniform(0.7, 1.3))
        )
        begin = datetime.combine(day, time(first + shift), calendar.timezone).timestamp() - ORIGIN
        parts.append(begin + np.sort(rng.uniform(0, (last - first) * 3600, count)))
    return np.concatenate(parts)


def looks(kind: str, days: int, calendar: Calendar, rng) -> list[float]:
    """When a look is taken; after the machine was off, timers fire at once."""
    times: list[float] = []
    for number in range(days + 1):
        night = START + number * DAY
        end = calendar.end_of(night).timestamp() - ORIGIN
        step = {"hourly": 3600, "every": 600}.get(kind, DAY_SECONDS)
        if kind != "by hand":
            times += [end + 300 + n * step for n in range(DAY_SECONDS // step)]
        if kind == "once and by hand" and rng.random() < 0.3:
            times.append(end + rng.uniform(1, 6) * 3600)
        if kind == "by hand" and night.weekday() < 5:
            times.append(end + rng.uniform(1, 4) * 3600)
    starts = rng.uniform(0, days * DAY_SECONDS, rng.poisson(OFF_PER_YEAR * days / 365))
    off = [(start, start + rng.exponential(OFF_HOURS * 3600)) for start in starts]
    kept = [t for t in times if not any(start <= t < end for start, end in off)]
    return sorted(kept if kind == "by hand" else [*kept, *(end for _, end in off)])


def closed_nights(times: Sequence[float], calendar: Calendar) -> list[Night]:
    """The nights in the order in which they are closed."""
    of_looks: list[date] = []
    closed: list[date] = []
    for seconds in times:
        look = calendar.night_of_look(datetime.fromtimestamp(ORIGIN + seconds, UTC), closed[-3:])
        of_looks.append(look.night)
        if look.closes:
            closed.append(look.night)
    nights = []
    for night, group in groupby(range(len(of_looks)), key=of_looks.__getitem__):
        numbers = list(group)
        late = times[numbers[-1]] + ORIGIN - calendar.end_of(night).timestamp()
        nights.append(Night(night, numbers[0], numbers[-1], max(0.0, late)))
    return nights[:-1]  # the last one is still running


def counts(images: Seconds, times: Sequence[float], nights: Sequence[Night]) -> list[LineNight]:
    """The images of each night: those that its looks saw first."""
    seen = np.concatenate([[0], np.searchsorted(images, np.array(times))])
    result, late = [], 0
    for night in nights:
        number = int(seen[night.last + 1] - seen[night.first])
        result.append(LineNight(night.night, number, late))
        late = int(seen[night.last + 1] - seen[night.last]) if night.seconds_late > LATE else 0
    return result


def planted(days: int, rng) -> list[tuple[float, float]]:
    """From when to when a line is silent."""
    spans, start = [], rng.uniform(3, 40)
    while start < days - 40:
        length = float(rng.choice(SILENCES))
        spans.append((start * DAY_SECONDS, (start + length) * DAY_SECONDS))
        start += length + rng.uniform(30, 150)
    return spans


@dataclass
class Life:
    """A line over its years: `real` are the images without planted silences, `seen` those with."""

    name: str
    calendar: Calendar
    expect: Expect
    real: list[LineNight]
    seen: list[LineNight]
    made: list[int]  # in each night itself, whenever they were seen
    is_planted: list[bool]  # a silence touches the night

    def judge(self, tally: Tally) -> None:
        """Judge the nights in order."""
        history: list[LineNight] = []
        typical = float(np.median([number for number in self.made if number]))
        row, is_ours = 0, False
        for number, (real, seen) in enumerate(zip(self.real, self.seen, strict=True)):
            tonight = LineNight(self.calendar.day_of(seen.day), seen.images, seen.late)
            row = 0 if seen.images else row + 1
            changed = self.is_planted[number] or seen.images != real.images
            is_ours = changed or (is_ours and not seen.images)
            should = self.made[number] > 0.3 * typical and tonight.day not in self.expect.but
            is_dead = should and real.images > 0 and not seen.images
            history.append(self.night(history, tonight, tally, is_ours, is_dead, row))

    def night(self, history, tonight, tally, is_ours: bool, is_dead: bool, row: int) -> LineNight:
        """Judge one night and count what came of it."""
        text = silence.alarm(history, tonight, self.expect)
        named = silence.rhythm_fault(history, self.expect)
        is_new = not history or history[-1].day - history[0].day < silence.NEW - DAY
        tally.nights += 1
        tally.named += bool(named)
        if text and not is_ours:
            kind = "false_of_new" if is_new else "false_of_named" if named else "false"
            setattr(tally, kind, getattr(tally, kind) + 1)
            if kind == "false":
                tally.examples.append(f"false: {self.name} {tonight.day:%a %Y-%m-%d}: {text}")
        if is_dead and not named:
            tally.dead += 1
            tally.late += is_new and not text and row >= silence.IN_A_ROW
            tally.deferred += not is_new and not text and tonight.late > 0
            if not is_new and not text and not tonight.late:
                tally.missed += 1
                tally.examples.append(f"missed: {self.name} {tonight.day:%a %Y-%m-%d}")
        return LineNight(tonight.day, tonight.images, tonight.late, text)


def simulate(repeats: int, years: int) -> dict[tuple[str, bool], Tally]:
    """By rhythm, without and with planted silences."""
    rng, days = np.random.default_rng(18), 365 * years
    tallies = {(rhythm, is_silent): Tally() for rhythm in RHYTHMS for is_silent in (False, True)}
    free = free_days(years)
    expect = Expect.model_validate({"except": tuple(free)})
    for repeat in range(repeats):
        calendar = Calendar(ZoneInfo(ZONES[repeat % len(ZONES)]), time(6))
        for kind in LOOKS:
            times = looks(kind, days, calendar, rng)
            nights = closed_nights(times, calendar)
            for rhythm, is_silent in tallies:
                images = made(rhythm, days, free, calendar, rng)
                spans = planted(days, rng) if is_silent else []
                kept = images
                for start, end in spans:
                    kept = kept[(kept < start) | (kept >= end)]
                bounds = [
                    (calendar.start_of(n.night).timestamp(), calendar.end_of(n.night).timestamp())
                    for n in nights
                ]
                edges = np.array(bounds) - ORIGIN
                numbers = np.diff(np.searchsorted(images, edges), axis=1)[:, 0]
                touched = [any(a < y and x < b for x, y in spans) for a, b in edges]
                real, seen = (counts(made_, times, nights) for made_ in (images, kept))
                life = Life(
                    f"{rhythm}, {kind}", calendar, expect, real, seen, list(numbers), touched
                )
                life.judge(tallies[rhythm, is_silent])
    return tallies


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--years", type=int, default=2)
    asked = parser.parse_args()
    tallies = simulate(asked.repeats, asked.years)
    line_years = asked.repeats * len(LOOKS) * asked.years
    print(f"{line_years} years of lines in each row; false alarms a year of a line")
    print(f"{'':28}  named  false  (new, named)   dead nights, deferred, missed; late")
    for (rhythm, is_silent), t in tallies.items():
        print(
            f"{rhythm + ', silences' * is_silent:28} {t.named / t.nights:6.1%}"
            f" {t.false / line_years:6.2f}"
            f"  ({t.false_of_new / line_years:.2f}, {t.false_of_named / line_years:.2f})"
            f"  {t.dead:6} {t.deferred:3} {t.missed:3} {t.late:3}"
        )
        for example in t.examples[:5]:
            print("   ", example)
    bad = [t for t in tallies.values() if t.false >= line_years or t.missed or t.late]
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
