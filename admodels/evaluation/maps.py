"""The anomaly maps of a test set as they are kept: 8 bits a pixel, and what each code stands for.

A revision is compared with another from these, with nothing scored again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from admodels.foundation.arrays import Bool, Float32, UInt8

CODES = 256
TAIL_EXPONENT = 4  # of the shares of pixels above the levels: half of these are below 6 %


@dataclass(frozen=True)
class CodedMaps:
    """`codes` (N, H, W) uint8 are places in `levels` (at most 256,) float32, ascending.

    `masks` (N, H, W) bool, None where the pixels of the set cannot be measured.
    """

    codes: UInt8
    levels: Float32
    masks: Bool | None

    def values(self, image: int) -> Float32:
        """The map of one image (H, W) float32: each pixel is the level at or below its value."""
        return np.asarray(self.levels[self.codes[image]])


def code_maps(maps: Float32, masks: Bool | None) -> CodedMaps:
    """Maps (N, H, W) float32 in 256 levels, which are dense where pixels raise an alarm.

    The order of two pixels stays, or they become equal.
    """
    if not maps.size:
        return CodedMaps(np.zeros(maps.shape, np.uint8), np.zeros(1, np.float32), masks)
    above = np.linspace(1, 0, CODES) ** TAIL_EXPONENT
    places = np.unique(np.rint((1 - above) * (maps.size - 1)).astype(np.int64))
    levels = np.unique(np.partition(maps.ravel(), places)[places])
    codes = np.searchsorted(levels, maps.ravel(), side="right") - 1
    return CodedMaps(codes.astype(np.uint8).reshape(maps.shape), levels, masks)


def write_maps(path: Path, coded: CodedMaps) -> None:
    """Write a compressed NumPy archive, the same bytes for the same maps."""
    arrays: dict[str, Any] = {"codes": coded.codes, "levels": coded.levels}
    if coded.masks is not None:
        arrays["masks"] = np.packbits(coded.masks, axis=2)
    np.savez_compressed(path, allow_pickle=False, **arrays)


def read_maps(file: Path | BinaryIO) -> CodedMaps:
    """What `write_maps` wrote."""
    with np.load(file, allow_pickle=False) as stored:
        codes: UInt8 = stored["codes"]
        masks = None
        if "masks" in stored:
            unpacked = np.unpackbits(stored["masks"], axis=2, count=codes.shape[2])
            masks = unpacked.astype(np.bool_)
        return CodedMaps(codes, stored["levels"], masks)
