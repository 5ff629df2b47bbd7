"""How pages write names, times and numbers."""

from datetime import UTC, datetime

UNKNOWN = "n/a"  # a number that is not defined, which is not 0


def visible(name: str) -> str:
    """A file's name, with what cannot be seen or turns the direction of writing spelt out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def utc(time: str) -> str:
    """An ISO time with its offset, for people."""
    return f"{datetime.fromisoformat(time).astimezone(UTC):%a %d %b %Y, %H:%M} UTC"


def number(value: float | None, form: str = ".4g") -> str:
    """A number in a format of Python, or that it is not known."""
    return UNKNOWN if value is None else format(value, form)
