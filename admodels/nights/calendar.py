"""Nights: the days of a plant, each of which ends at a local wall time.

A night is named by the date on which it ends. It has 23 or 25 hours where the clocks change; a wall
time that does not exist means the first instant after the gap, a time that exists twice the first.
"""

from bisect import bisect_left
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)
NOON = time(12)
AHEAD = 2 * DAY  # a night that was closed further ahead was closed by a clock that ran ahead


class NightOfLook(NamedTuple):
    """The night that a look belongs to, and whether it closes the night."""

    night: date
    closes: bool
    clock_is_back: bool  # the clock says a night that is closed


def utc_now() -> datetime:
    """The clock of this machine."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Calendar:
    """The nights of a plant in `timezone`, which end at `day_ends`."""

    timezone: ZoneInfo
    day_ends: time

    def end_of(self, night: date) -> datetime:
        """The first instant (UTC) whose local time has reached the end of `night`."""
        wall = datetime.combine(night, self.day_ends)
        first, second = (
            wall.replace(tzinfo=self.timezone, fold=fold).astimezone(UTC) for fold in (0, 1)
        )
        if first <= second:
            return first
        # In a gap fold 0 is the later instant (PEP 495); the clocks change between the two.
        seconds = range((first - second) // SECOND)
        return second + SECOND * bisect_left(
            seconds, wall, key=lambda n: self.local(second + n * SECOND).replace(tzinfo=None)
        )

    def start_of(self, night: date) -> datetime:
        """The first instant (UTC) of `night`."""
        return self.end_of(night - DAY)

    def night_of(self, instant: datetime) -> date:
        """The night that is running at an aware `instant`."""
        night = self.local(instant).date()
        while instant >= self.end_of(night):
            night += DAY
        return night

    def before(self, night: date) -> date:
        """The night before `night`; a date that a zone left out has a night of no length."""
        return self.night_of(self.start_of(night) - SECOND)

    def day_of(self, night: date) -> date:
        """The calendar day that most of `night` lies in: what people call its day."""
        return night - DAY if self.day_ends < NOON else night

    def night_of_look(self, now: datetime, closed: Collection[date]) -> NightOfLook:
        """The night of a look at `now`, where the nights `closed` have a record.

        The first look after the end of a night belongs to it and closes it. After a clock was set
        back a look belongs to the night after the last closed one.
        """
        night = self.night_of(now)
        last = max((date for date in closed if date <= night + AHEAD), default=date.min)
        if self.before(night) > last:
            return NightOfLook(self.before(night), True, False)
        if night > last:
            return NightOfLook(night, False, False)
        return NightOfLook(last + DAY, False, True)

    def local(self, instant: datetime) -> datetime:
        """An aware `instant` in the zone of the plant."""
        return instant.astimezone(self.timezone)
