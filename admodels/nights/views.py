"""What plant.yaml says of parts: how an image names its part, and which views a part has."""

import re
from typing import Annotated, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, model_validator

from admodels.foundation.params import Strict
from admodels.scoring.discover import is_match
from admodels.scoring.part_names import DATE, TIMES, WORDS, Clock


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError("no time zone of this name, such as Europe/Berlin") from error
    return name


def _part_expression(text: str) -> str:
    try:
        groups = set(re.compile(text).groupindex)
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from error
    if unknown := groups - {*WORDS, *TIMES}:
        names = f"{', '.join(WORDS)}, {', '.join(TIMES)}"
        raise ValueError(f"a group is named `{min(unknown)}`, and the names are {names}")
    if "part_id" not in groups:
        raise ValueError("no group is named part_id: write (?P<part_id>...) around what names it")
    return text


Zone = Annotated[str, AfterValidator(_known_zone)]
PartExpression = Annotated[str, AfterValidator(_part_expression)]


class Captured(Strict):
    """Where the time of a capture stands, and in which zone the camera's clock runs.

    `name`: in groups of the line's `part`; `exif`: in the image, whose own offset from UTC counts
    before the zone; `file`: when the file was written.
    """

    clock: Clock = Field(alias="from")
    timezone: Zone | None = None  # default: that of the plant


def check_capture(expression: str | None, captured: Captured | None) -> None:
    """Refuse a time in names that `part` does not find, and groups of a time that nobody reads.

    Raises:
        ValueError: the capture times would be missing on every image.
    """
    groups = set(re.compile(expression or "").groupindex)
    is_in_name = captured is not None and captured.clock == "name"
    if is_in_name and not groups.issuperset(DATE):
        raise ValueError("`captured` from the name needs groups year, month and day in `part`")
    if groups.intersection(TIMES) and not is_in_name:
        raise ValueError("`part` has groups of a time, which need `captured: {from: name}`")


class Parts(Strict):
    """The views of one kind of part; their number never depends on what arrives.

    A view is a line, or LINE/PATTERN: those images of the line whose path below its folder matches.
    An image belongs to the first view that it matches.
    """

    views: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)
    alpha: float | None = Field(default=None, gt=0, lt=1)  # default: the smallest of its lines

    @property
    def lines(self) -> list[str]:
        """The lines of the views, each once."""
        return list(dict.fromkeys(line for line, _ in map(_split, self.views)))

    @model_validator(mode="after")
    def _can_all_be_seen(self) -> Self:
        whole: set[str] = set()
        for number, view in enumerate(self.views):
            line, pattern = _split(view)
            if view in self.views[:number] or line in whole:
                raise ValueError(f"an earlier view takes every image of `{view}`")
            whole |= {line} if pattern is None else set()
        return self

    def view_of(self, line: str, path: str, *, ignore_case: bool) -> str | None:
        """The view that an image belongs to, if any."""
        for view in self.views:
            name, pattern = _split(view)
            if name == line and is_match(path, pattern, ignore_case=ignore_case):
                return view
        return None


def _split(view: str) -> tuple[str, str | None]:
    line, _, pattern = view.partition("/")
    return line, pattern or None
