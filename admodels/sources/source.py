"""The params block `source`: where images come from, the pin of what they are, their licence."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from admodels.foundation.params import Kind, Strict


class Source(Strict):
    """Where images come from; a relative `location` is relative to the repository root.

    `mirrors` are URLs of the same bytes: they can change where data comes from, not what it is.
    """

    kind: Literal["sample", "path", "archive", "url", "urls"]
    location: str = Field(min_length=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    mirrors: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _mirrors_are_of_a_url(self) -> Self:
        if self.mirrors and "://" not in self.location:
            raise ValueError("mirrors go with a location that is a URL")
        return self


Level = Annotated[int, Field(ge=1, le=255)]
Zone = Annotated[str, Field(pattern=r"^[^\s,;/]([^,;/\r\n\t]{0,38}[^\s,;/])?$")]


class AreaSource(Strict):
    """Which pixels of a task's or a line's images are inspected: a grey PNG of their size.

    Level 0 is left out. `zones` names other levels. `file` is relative to the repository root, of
    a line to the plant.
    """

    file: str = Field(min_length=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    zones: dict[Level, Zone] = Field(default_factory=dict)

    @field_validator("zones")
    @classmethod
    def _names_differ(cls, zones: dict[int, str]) -> dict[int, str]:
        names = list(zones.values())
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"several levels are named {', '.join(twice)}: give each its own name")
        return zones


class Task(Strict):
    """One dataset category to learn: a block under `tasks:`.

    `exclude` adds to the patterns of `foundation/exclude.py`. `page` is that of the images in TIFF
    files that have several, from 0. `normal_folders` names folders of
    normal images beside `good` and `normal`, where a name like `OK` or `0` leaves it open. `group`
    is a regular expression that finds in an image's path which piece, or run, it shows: the first
    capture group, or the whole match. Images of a group stand in one split.
    """

    dataset: str
    category: str
    kind: Kind
    licence: str = Field(min_length=1)  # of the images; every bundle states it
    source: Source
    exclude: tuple[str, ...] = ()
    page: int | None = Field(default=None, ge=0)
    normal_folders: tuple[str, ...] = ()
    group: re.Pattern[str] | None = None
    area: AreaSource | None = None  # None: every pixel is inspected
