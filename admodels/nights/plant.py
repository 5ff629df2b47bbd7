"""A plant: the folder of all that production owns, and plant.yaml, which names its lines.

plant.yaml          the lines, and when a day of the plant ends
models/SHA16/       deployed bundles by content, never changed
deployments.jsonl   which bundle a line is scored with, and was (`admodels.nights.deploy`)
ledger/             scores, judgements, nights
"""

import os
import re
from datetime import date, time
from pathlib import Path
from typing import Literal, Self
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator, model_validator

from admodels.foundation.errors import ConfigurationError
from admodels.foundation.params import Strict, load, parse
from admodels.nights.calendar import Calendar
from admodels.nights.expect import Expect
from admodels.nights.views import Captured, PartExpression, Parts, Zone, check_capture
from admodels.scoring.lines import Tile, name_faults
from admodels.scoring.part_names import PartNames
from admodels.sources.source import AreaSource
from admodels.tracking.gates import Gates

PLANT_FILE = "plant.yaml"
LEDGER = "ledger"
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
CLOCK = r"^([01]\d|2[0-3]):[0-5]\d$"


class PlantLine(Strict):
    """One production source of images; its last deployment says what scores it."""

    folder: str = Field(min_length=1)  # its inbox, relative to the plant or absolute
    alpha: float = Field(gt=0, lt=1)  # false-alarm budget
    pattern: str | None = Field(default=None, min_length=1)  # of paths below folder; * crosses /
    ignore_case: bool = True  # of the pattern
    exclude: tuple[str, ...] = ()  # patterns of names or paths, beside the usual ones
    page: int | None = Field(default=None, ge=0)  # of TIFF files with several, from 0
    tile: Tile | None = None  # large images, small defects
    area: AreaSource | None = None  # of its own, in place of the bundle's
    fdr: float | None = Field(default=None, gt=0, lt=1)  # of the Benjamini-Hochberg list, if any
    verdicts: Literal["none"] | None = None  # none: scores alone are meant
    paused_until: date | None = None  # before this day no images are no alarm
    expect: Expect | None = None
    gates: Gates | None = None  # of its own, in place of the plant's
    part: PartExpression | None = None  # matches the whole path below folder; group part_id
    captured: Captured | None = None
    mm_per_px: float | None = Field(default=None, gt=0)  # of the stored image, on the part
    smallest_defect_mm2: float | None = Field(default=None, gt=0)  # smaller ones are only counted

    @model_validator(mode="after")
    def _has_its_times(self) -> Self:
        check_capture(self.part, self.captured)
        return self


class PlantFile(Strict):
    """The content of plant.yaml."""

    version: Literal[1] = Field(alias="schema")
    timezone: Zone
    day_ends: str = Field(default="06:00", pattern=CLOCK)  # local wall time
    audit: int = Field(default=5, ge=0, le=1000)  # images a night and line that people mark
    page_url: str | None = Field(default=None, min_length=1)  # where ledger/pages is served
    gates: Gates = Field(default_factory=Gates)  # what `deploy` wants of a bundle
    lines: dict[str, PlantLine] = Field(default_factory=dict)
    parts: dict[str, Parts] = Field(default_factory=dict)  # views that are judged together

    @field_validator("page_url")
    @classmethod
    def _holds_no_secret(cls, url: str | None) -> str | None:
        if url and re.search(r"://[^/@]*:[^/@$]+@", url):
            raise ValueError("a password stands in the environment: write ${NAME} for it")
        return url

    @model_validator(mode="after")
    def _has_the_lines_of_its_parts(self) -> Self:
        for name, parts in self.parts.items():
            for line in parts.lines:
                if line not in self.lines:
                    raise ValueError(f"parts.{name}: a view names `{line}`, which is no line")
                if self.lines[line].part is None:
                    raise ValueError(f"parts.{name}: line `{line}` needs `part`, a regex of paths")
        return self


class Plant(PlantFile):
    """A plant in `folder`."""

    folder: Path

    @property
    def calendar(self) -> Calendar:
        """The nights of the plant."""
        return Calendar(ZoneInfo(self.timezone), time.fromisoformat(self.day_ends))

    @property
    def ledger(self) -> Path:
        """The folder of scores and verdicts."""
        return self.folder / LEDGER

    def inbox(self, line: str) -> Path:
        """Where the images of a line arrive."""
        return self.folder / self.lines[line].folder

    def part_names(self, line: str) -> PartNames | None:
        """How the part of an image of a line, and the time of its capture, are read."""
        pattern, captured = self.lines[line].part, self.lines[line].captured
        if pattern is None and captured is None:
            return None
        expression = None if pattern is None else re.compile(pattern)
        zone = ZoneInfo((captured and captured.timezone) or self.timezone)
        return PartNames(expression, captured.clock if captured else None, zone)

    def alpha_of_parts(self, name: str) -> float:
        """The false-alarm budget of one of `parts`."""
        parts = self.parts[name]
        return parts.alpha or min(self.lines[line].alpha for line in parts.lines)

    def line(self, name: str) -> PlantLine:
        """One of `lines`.

        Raises:
            ConfigurationError: there is no line of this name.
        """
        if name not in self.lines:
            raise ConfigurationError(
                f"no line named `{name}`",
                where=f"{self.folder / PLANT_FILE}: lines",
                expected=f"one of {', '.join(self.lines) or 'none: the plant has no line yet'}",
                next_step="correct the name, or `admodels line add`",
            )
        return self.lines[name]


def read_plant(folder: Path, draft: Path | None = None) -> Plant:
    """The plant in `folder`, as plant.yaml says, or a `draft` of it.

    Raises:
        ConfigurationError: there is none, or its file cannot be used; names every fault.
    """
    path = folder / PLANT_FILE
    if not path.is_file():
        raise ConfigurationError(
            "no plant here",
            where=path,
            expected="the folder that `admodels plant init` made",
            next_step="correct `--plant` or ADMODELS_PLANT; `admodels plant init` makes a new one",
        )
    content = parse(load(draft or path), PlantFile, "", path)
    for key, names in (("lines", content.lines), ("parts", content.parts)):
        if faults := name_faults(names):
            raise ConfigurationError(
                "; ".join(faults),
                where=f"{path}: {key}",
                expected="names of letters, digits, `_`, `.` and `-`, a letter or digit first, "
                "that differ in more than upper and lower case",
                next_step="choose another; its rows under the old name stay in the ledger",
            )
    return Plant.model_construct(None, **dict(content), folder=folder)


def with_environment(text: str, where: str) -> str:
    """`text` with the value of every ${NAME}; no message shows one.

    Raises:
        ConfigurationError: a variable is not set.
    """
    missing = [name for name in VARIABLE.findall(text) if name not in os.environ]
    if missing:
        raise ConfigurationError(
            f"{', '.join(missing)} is not set",
            where=where,
            expected="every ${NAME} in the environment",
            next_step="set it where the secrets of the alert stand (deploy/RUNBOOK.md)",
        )
    return VARIABLE.sub(lambda name: os.environ[name[1]], text)
