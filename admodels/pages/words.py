"""How pages write names, times and numbers."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

UNKNOWN = "n/a"  # a number that is not defined, which is not 0


def visible(name: str) -> str:
    """A file's name, with what cannot be seen or turns the direction of writing spelt out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def local(time: str, timezone: str | None) -> str:
    """An ISO time with its offset as a clock of `timezone` (default: UTC) showed it, for people."""
    zone = ZoneInfo(timezone) if timezone else UTC
    return f"{datetime.fromisoformat(time).astimezone(zone):%a %d %b %Y, %H:%M} {zone}"


def utc(time: str) -> str:
    """An ISO time with its offset, in UTC, for people."""
    return local(time, None)


def number(value: float | None, form: str = ".4g") -> str:
    """A number in a format of Python, or that it is not known."""
    return UNKNOWN if value is None else format(value, form)
