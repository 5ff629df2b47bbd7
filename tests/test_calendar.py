"""Nights: a twin walks through the minutes of local time; the zones are those that surprise."""

from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admodels.nights.calendar import DAY, Calendar, NightOfLook

BERLIN = Calendar(ZoneInfo("Europe/Berlin"), time(6))
MINUTE = timedelta(minutes=1)
# A zone, and the day (UTC) around which its clocks change; both changes of a year where it has two.
CHANGES = [
    ("Europe/Berlin", date(2026, 3, 29)),
    ("Europe/Berlin", date(2026, 10, 25)),
    ("America/New_York", date(2026, 3, 8)),
    ("America/New_York", date(2026, 11, 1)),
    ("America/Santiago", date(2026, 9, 6)),  # midnight does not exist
    ("America/Havana", date(2026, 11, 1)),  # the first hour of a day exists twice
    ("Australia/Lord_Howe", date(2026, 4, 5)),  # by 30 minutes
    ("Australia/Lord_Howe", date(2026, 10, 4)),
    ("America/St_Johns", date(2006, 10, 29)),  # one minute after midnight, back to the day before
    ("America/Nuuk", date(2025, 10, 26)),
    ("Pacific/Apia", date(2011, 12, 30)),  # a date that was left out
    ("Asia/Kathmandu", date(2026, 6, 1)),  # no change
]
ENDS = [time(0), time(0, 30), time(1, 45), time(2), time(2, 30), time(6), time(14), time(23, 30)]
CASES = [(zone, around, end) for zone, around in CHANGES for end in ENDS]


@cache
def minutes(zone: str, around: date) -> list[tuple[datetime, datetime]]:
    """(instant, wall time) of every minute of nine days."""
    start = datetime(around.year, around.month, around.day, tzinfo=UTC) - 4 * DAY
    instants = [start + MINUTE * number for number in range(9 * 24 * 60)]
    return [(at, at.astimezone(ZoneInfo(zone)).replace(tzinfo=None)) for at in instants]


def first_minute(zone: str, around: date, wall: datetime) -> datetime:
    return next(instant for instant, local in minutes(zone, around) if local >= wall)


@pytest.mark.parametrize(("zone", "around", "day_ends"), CASES)
def test_a_night_ends_at_the_first_minute_that_reaches_its_wall_time(
    zone: str, around: date, day_ends: time
) -> None:
    calendar = Calendar(ZoneInfo(zone), day_ends)
    for days in range(-2, 4):
        night = around + days * DAY
        end = first_minute(zone, around, datetime.combine(night, day_ends))
        assert calendar.end_of(night) == end
        assert calendar.start_of(night + DAY) == end


@given(st.sampled_from(CASES), st.integers(2 * 24 * 3600, 7 * 24 * 3600))
def test_every_instant_is_in_one_night_and_looks_name_it_or_the_night_before(
    case: tuple[str, date, time], seconds: int
) -> None:
    zone, around, day_ends = case
    calendar = Calendar(ZoneInfo(zone), day_ends)
    instant = minutes(zone, around)[0][0] + timedelta(seconds=seconds)
    night = calendar.night_of(instant)
    holding = [
        date
        for date in (around + days * DAY for days in range(-5, 7))
        if calendar.start_of(date) <= instant < calendar.end_of(date)
    ]
    assert holding == [night]
    before = calendar.before(night)
    assert calendar.end_of(before) == calendar.start_of(night)
    assert calendar.start_of(before) < calendar.start_of(night)
    assert calendar.night_of_look(instant, []) == NightOfLook(before, True, False)
    assert calendar.night_of_look(instant, [before]) == NightOfLook(night, False, False)


def hours(calendar: Calendar, night: date) -> float:
    return (calendar.end_of(night) - calendar.start_of(night)) / timedelta(hours=1)


def test_nights_have_23_and_25_hours_where_the_clocks_change() -> None:
    nights = [date(2026, 1, 1) + days * DAY for days in range(365)]
    lengths = {night: hours(BERLIN, night) for night in nights}
    odd = {night: length for night, length in lengths.items() if length != 24}
    assert odd == {date(2026, 3, 29): 23, date(2026, 10, 25): 25}
    # The clocks go from 2:00 to 3:00 and back: 2:30 does not exist, then exists twice.
    half_past = Calendar(BERLIN.timezone, time(2, 30))
    assert half_past.end_of(date(2026, 3, 29)) == datetime(2026, 3, 29, 1, tzinfo=UTC)
    assert half_past.end_of(date(2026, 10, 25)) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert hours(Calendar(ZoneInfo("Australia/Lord_Howe"), time(6)), date(2026, 4, 5)) == 24.5


@pytest.mark.parametrize("day_ends", ENDS)
def test_a_date_that_was_left_out_leaves_no_instant_without_a_night(day_ends: time) -> None:
    apia = Calendar(ZoneInfo("Pacific/Apia"), day_ends)
    nights = [date(2011, 12, 28) + days * DAY for days in range(6)]
    assert sum(hours(apia, night) for night in nights) == 5 * 24
    running = sorted({apia.night_of(instant) for instant, _ in minutes("Pacific/Apia", nights[2])})
    assert [apia.before(night) for night in running[1:]] == running[:-1]
    assert all(apia.end_of(a) < apia.end_of(b) for a, b in pairwise(running))


@pytest.mark.parametrize(
    ("now", "closed", "expected"),
    [
        ("2026-05-04T06:05", [], ("2026-05-04", True, False)),  # the first look of a plant
        ("2026-05-04T06:05", ["2026-05-03"], ("2026-05-04", True, False)),
        ("2026-05-04T05:59", ["2026-05-03"], ("2026-05-04", False, False)),
        ("2026-05-04T06:05", ["2026-05-04"], ("2026-05-05", False, False)),
        ("2026-05-09T15:00", ["2026-05-04"], ("2026-05-09", True, False)),  # after days of no look
        ("2026-05-04T04:00", ["2026-05-04"], ("2026-05-05", False, True)),
        ("2026-05-03T04:00", ["2026-05-01", "2026-05-04"], ("2026-05-05", False, True)),
        ("2026-05-04T07:00", ["2026-05-03", "2031-01-01"], ("2026-05-04", True, False)),
    ],
)
def test_the_first_look_after_the_end_closes_the_night(
    now: str, closed: list[str], expected: tuple[str, bool, bool]
) -> None:
    instant = datetime.fromisoformat(now).replace(tzinfo=BERLIN.timezone).astimezone(UTC)
    night, closes, is_back = BERLIN.night_of_look(instant, [date.fromisoformat(d) for d in closed])
    assert (night.isoformat(), closes, is_back) == expected


@pytest.mark.parametrize(("zone", "around"), CHANGES)
def test_a_look_every_hour_closes_every_night_once_and_in_order(zone: str, around: date) -> None:
    calendar, closed, nights = Calendar(ZoneInfo(zone), time(2, 30)), [], []
    for instant, _ in minutes(zone, around)[5::60]:
        look = calendar.night_of_look(instant, closed)
        nights.append(look.night)
        if look.closes:
            assert instant >= calendar.end_of(look.night)
            closed.append(look.night)
    assert nights == sorted(nights)
    assert closed == sorted(set(nights))[: len(closed)]
    assert len(closed) >= 8


def test_the_day_of_a_night_is_the_one_that_most_of_it_lies_in() -> None:
    for hour in range(24):
        calendar = Calendar(ZoneInfo("UTC"), time(hour))
        middle = calendar.start_of(date(2026, 5, 4)) + DAY / 2
        assert calendar.day_of(date(2026, 5, 4)) == middle.date()
