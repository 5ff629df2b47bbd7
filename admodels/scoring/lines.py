"""The `lines` block of params.yaml: which images a bundle scores, and the false-alarm budget."""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from admodels.foundation.errors import ConfigurationError
from admodels.foundation.files import names_text, printable
from admodels.foundation.params import PARAMS_FILE, Strict, read

# of MLflow's model registry: by alias or by version
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
ADDRESS = r"^models:/[A-Za-z0-9][A-Za-z0-9_.-]*(@[A-Za-z][A-Za-z0-9_-]*|/[1-9][0-9]*)$"


class Tile(Strict):
    """How an image is cut: windows of `tile_px` stored pixels that overlap by `overlap_px`."""

    tile_px: int = Field(ge=32, le=8192)
    overlap_px: int = Field(ge=0)

    @model_validator(mode="after")
    def _moves_on(self) -> Self:
        if self.overlap_px > self.tile_px // 2:
            raise ValueError("overlap_px is more than half of tile_px")
        return self


class Line(Strict):
    """One production source of images, and whose bundle scores them: a cell's or the registry's."""

    folder: str = Field(min_length=1)
    task: str = Field(min_length=1)
    method: str | None = Field(default=None, min_length=1)
    model: str | None = Field(default=None, pattern=ADDRESS)  # instead of a method
    alpha: float = Field(gt=0, lt=1)
    pattern: str | None = Field(default=None, min_length=1)  # of paths below folder; * crosses /
    exclude: tuple[str, ...] = ()  # patterns of names or paths, beside the usual ones
    page: int | None = Field(default=None, ge=0)  # of TIFF files with several, from 0
    tile: Tile | None = None  # large images, small defects
    fdr: float | None = Field(default=None, gt=0, lt=1)  # of the Benjamini-Hochberg list, if any

    @model_validator(mode="after")
    def _one_bundle(self) -> Self:
        if (self.method is None) == (self.model is None):
            raise ValueError("exactly one of method and model says which bundle")
        return self

    @property
    def bundle(self) -> str:
        """METHOD/TASK of a cell, or the address in the registry."""
        return self.model or f"{self.method}/{self.task}"


def lines(path: Path = PARAMS_FILE) -> dict[str, Line]:
    """The block `lines` of params.yaml, or of a file of its own that names a plant's inboxes.

    Raises:
        ConfigurationError: the file or the block cannot be used.
    """
    content = read("lines", dict[str, Line], path)
    if faults := name_faults(content):
        raise ConfigurationError(
            "; ".join(faults),
            where=f"{path}: lines",
            expected="names of letters, digits, `_`, `.` and `-`, a letter or digit first, that "
            "differ in more than upper and lower case",
            next_step="rename the line; its rows under the old name stay in the ledger",
        )
    return content


def folder_name(line: str) -> str:
    """The name of a line's folder: other names than plain ones become `_` and a hash."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", line)[:40]
    return plain if plain == line else f"{plain}-{hashlib.sha256(line.encode()).hexdigest()[:12]}"


def name_faults(names: Iterable[str]) -> list[str]:
    """What is wrong with the names of lines: two of one folder would share their rows."""
    faults, folders = [], dict[str, str]()
    for name in names:
        folder = folder_name(name).lower()
        if not NAME.fullmatch(name):
            faults.append(f"`{printable(name)}` is no name of a line")
        elif folder in folders:
            faults.append(f"`{name}` and `{folders[folder]}` share a folder in the ledger")
        folders[folder] = name
    return faults


def find_line(name: str, path: Path = PARAMS_FILE) -> Line:
    """One of `lines`.

    Raises:
        ConfigurationError: there is no line of this name.
    """
    known = lines(path)
    if name not in known:
        raise ConfigurationError(
            f"no line named `{name}`",
            where=f"{path}: lines",
            expected=f"one of {names_text(known)}",
            next_step="correct the name, or `admodels line add`",
        )
    return known[name]
