"""What scoring and the ledger know of a line: its name, and how its images are cut."""

import hashlib
import re
from collections.abc import Iterable
from typing import Self

from pydantic import Field, model_validator

from admodels.foundation.files import printable
from admodels.foundation.params import Strict

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class Tile(Strict):
    """How an image is cut: windows of `tile_px` stored pixels that overlap by `overlap_px`."""

    tile_px: int = Field(ge=32, le=8192)
    overlap_px: int = Field(ge=0)

    @model_validator(mode="after")
    def _moves_on(self) -> Self:
        if self.overlap_px > self.tile_px // 2:
            raise ValueError("overlap_px is more than half of tile_px")
        return self


def folder_name(line: str) -> str:
    """The name of a line's folder: other names than plain ones become `_` and a hash."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", line)[:40]
    return plain if plain == line else f"{plain}-{hashlib.sha256(line.encode()).hexdigest()[:12]}"


def name_faults(names: Iterable[str]) -> list[str]:
    """What is wrong with the names of lines or parts: two of one folder would share their rows."""
    faults, folders = [], dict[str, str]()
    for name in names:
        folder = folder_name(name).lower()
        if not NAME.fullmatch(name):
            faults.append(f"`{printable(name)}` is no valid name")
        elif folder in folders:
            faults.append(f"`{name}` and `{folders[folder]}` share a folder in the ledger")
        folders[folder] = name
    return faults
