"""Strips of text and tiles that make up a sheet to look at; the same bytes every time."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from admodels.foundation.arrays import UInt8
from admodels.images.shape import Shape

TILE_PX = 192
CAPTION_PX = 18
GAP_PX = 4
FONT_SCALE = 0.38
BACKGROUND = 255
INK = (20, 20, 20)


def tile_shape(height: int, width: int) -> Shape:
    """The shape of a picture whose longer side is TILE_PX."""
    scale = TILE_PX / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def frame(picture: UInt8) -> UInt8:
    """A picture of at most a tile in the middle of one, (TILE_PX, TILE_PX, 3)."""
    missing = [TILE_PX - side for side in picture.shape[:2]]
    around = [(m // 2, m - m // 2) for m in missing]
    return np.pad(picture, (*around, (0, 0)), constant_values=BACKGROUND)


def text(words: str, width: int) -> UInt8:
    """A strip with the words; too many lose their beginning, as names differ at the end."""
    strip = np.full((CAPTION_PX, width, 3), BACKGROUND, np.uint8)
    shown, font = words.encode("ascii", "replace").decode(), cv2.FONT_HERSHEY_SIMPLEX
    while cv2.getTextSize(shown, font, FONT_SCALE, 1)[0][0] > width - 2 * GAP_PX:
        shown = "..." + shown[4:]
    baseline = (GAP_PX, CAPTION_PX - 5)
    cv2.putText(strip, shown, baseline, font, FONT_SCALE, INK, 1, cv2.LINE_AA)
    return strip


def beside(tiles: Sequence[UInt8]) -> UInt8:
    """The tiles, equally high, from left to right with gaps."""
    gap = np.full((len(tiles[0]), GAP_PX, 3), BACKGROUND, np.uint8)
    return np.concatenate([strip for tile in tiles for strip in (gap, tile)] + [gap], axis=1)


def outline(picture: UInt8, region: NDArray[Any], colour: tuple[int, int, int]) -> UInt8:
    """Draw a line around what is not 0 in `region` (H, W) into `picture` (H, W, 3); return it."""
    contours, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(picture, contours, -1, colour, 1))


def stack(strips: Sequence[UInt8]) -> UInt8:
    """The strips one below the other, those that are narrower filled up to the right."""
    width = max(strip.shape[1] for strip in strips)
    filled = [((0, 0), (0, width - strip.shape[1]), (0, 0)) for strip in strips]
    return np.concatenate(
        [np.pad(s, f, constant_values=BACKGROUND) for s, f in zip(strips, filled, strict=True)]
    )
