"""The texts of a page by message id, in one language, and how it writes numbers and dates.

messages/LANGUAGE.toml   one file a language: `[format]`, and every text in tables by section

A text has its values in braces. A text with the key `other` is a plural: `one` is taken for n = 1.
Another language needs another file with the same ids, and nothing else.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from markupsafe import Markup, escape

from admodels.pages.words import visible

MESSAGES = Path(__file__).parent / "messages"
PLURAL = {"one", "other"}
SEPARATORS = str.maketrans(",.", "\0\1")


@dataclass(frozen=True)
class Catalogue:
    """Texts by id; the ids of a table are `section.name`."""

    language: str
    texts: Mapping[str, str | Mapping[str, str]]
    form: Mapping[str, Any]

    def text(self, message: str, /, **values: object) -> str:
        """The text of an id, with its values; whole numbers are written as the language does.

        Raises:
            KeyError: the catalogue has no such id, or the text names a value that is not given.
        """
        return self._pattern(message, values).format(**self._written(values))

    def markup(self, message: str, /, **values: object) -> Markup:
        """`text` for a page: all is escaped but values that are markup themselves."""
        return escape(self._pattern(message, values)).format(**self._written(values))

    def _pattern(self, message: str, values: Mapping[str, object]) -> str:
        text = self.texts[message]
        if isinstance(text, str):
            return text
        return text["one"] if values["n"] == 1 and "one" in text else text["other"]

    def _written(self, values: Mapping[str, object]) -> dict[str, object]:
        return {k: self.number(v) if type(v) is int else v for k, v in values.items()}

    def section(self, name: str) -> dict[str, str | Mapping[str, str]]:
        """The texts of a section without its name, for the script of a page."""
        start = f"{name}."
        return {k.removeprefix(start): v for k, v in self.texts.items() if k.startswith(start)}

    def number(self, value: float | None, form: str = ",") -> str:
        """A number in a format of Python, with the separators of the language."""
        if value is None:
            return self.text("unknown")
        written = format(value, form).translate(SEPARATORS).replace("-", "\N{MINUS SIGN}")
        return written.replace("\0", self.form["group"]).replace("\1", self.form["decimal"])

    def significant(self, value: float, digits: int = 2) -> str:
        """A measured value with so many significant digits and without an exponent."""
        if not value:
            return self.number(0)
        rounded = float(f"{value:.{digits}g}")
        places = max(0, digits - 1 - int(f"{rounded:e}".rpartition("e")[2]))
        return self.number(rounded, f",.{places}f")

    def percent(self, share: float | None) -> str:
        """A share as percent with two significant digits."""
        if share is None:
            return self.text("unknown")
        return str(self.form["percent"].format(value=self.significant(100 * share)))

    def date(self, day: date, form: str = "date") -> str:
        """A day, as `date`, `date_short` or `date_row` of `[format]` has it."""
        return str(
            self.form[form].format(
                weekday=self.form["weekdays"][day.weekday()],
                weekday_short=self.form["weekdays_short"][day.weekday()],
                day=day.day,
                month=self.form["months"][day.month - 1],
                month_short=self.form["months_short"][day.month - 1],
                year=day.year,
            )
        )

    def moment(self, time: datetime | str, zone: str | None) -> str:
        """An instant as a clock of `zone` (default: UTC) showed it."""
        instant = datetime.fromisoformat(time) if isinstance(time, str) else time
        local = instant.astimezone(ZoneInfo(zone) if zone else UTC)
        clock = self.form["time"].format(hour=local.hour, minute=local.minute)
        day = self.date(local.date(), "date_short")
        return str(self.form["moment"].format(date=day, time=clock, zone=zone or "UTC"))


def name_markup(name: str) -> Markup:
    """A name from outside, whose direction of writing changes nothing around it."""
    return Markup("<bdi>{}</bdi>").format(visible(name))


def _texts(content: Mapping[str, Any], start: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, str) or set(value) <= PLURAL:
            yield start + name, value
        else:
            yield from _texts(value, f"{start}{name}.")


def read_catalogue(path: Path) -> Catalogue:
    """The catalogue in a file; its name is the tag of the language (BCP 47)."""
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    form = content.pop("format")
    return Catalogue(path.stem, dict(_texts(content)), form)


@cache
def english() -> Catalogue:
    """The catalogue that every page of this version is written with."""
    return read_catalogue(MESSAGES / "en.toml")
