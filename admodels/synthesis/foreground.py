"""Where the part is, so that no anomaly is painted beside it: a matte for every image.

The user's own mattes where the manifest has them; else, of an object, what differs in colour from
the border of its image; else the whole image, better anywhere than never, which is also what a
texture is. DiffusionAD's authors segment objects with a network (DIS) and take parts of carpets for
textures; neither is published.
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from admodels.foundation.arrays import UInt8
from admodels.foundation.params import Kind

MatteSource = Literal["manifest", "estimated", "whole"]

BORDER_SHARE = 1 / 32  # of a side: what is taken for background
SPREADS = 3  # Otsu's threshold splits anything: it must leave the border's own values that far
SMALLEST_SHARE = 0.02  # of the image; an estimate below it is a mistake


@dataclass(frozen=True)
class Foreground:
    """`mattes` (N, 1, H, W) uint8, 255 where the part is, and where each of them comes from."""

    mattes: UInt8
    sources: tuple[MatteSource, ...]


def foreground(normal: UInt8, given: UInt8 | None, kind: Kind) -> Foreground:
    """The mattes of `normal` (N, 3, H, W) uint8 RGB; `given` (N, 1, H, W) are the user's."""
    if given is not None:
        return Foreground(given, tuple("manifest" for _ in given))
    everywhere = whole(normal)
    if kind == "texture":
        return everywhere
    mattes, sources = everywhere.mattes, list(everywhere.sources)
    for index, planes in enumerate(normal):
        matte = estimate_matte(planes)
        if matte is not None:
            mattes[index, 0], sources[index] = matte, "estimated"
    return Foreground(mattes, tuple(sources))


def whole(normal: UInt8) -> Foreground:
    """Anywhere on `normal` (N, 3, H, W)."""
    return Foreground(np.full_like(normal[:, :1], 255), tuple("whole" for _ in normal))


def estimate_matte(planes: UInt8) -> UInt8 | None:
    """(3, H, W) uint8 RGB -> (H, W) of 0 and 255: what is not of the border's colour, filled.

    Distance to the median colour of the border, Otsu's threshold, holes filled. None where that
    says nothing: a part without contrast to most of the border, or implausibly small.
    """
    lab = cv2.cvtColor(cv2.merge(list(planes)), cv2.COLOR_RGB2Lab).astype(np.float32)
    height, width = lab.shape[:2]
    band = max(1, round(min(height, width) * BORDER_SHARE))
    is_border = np.ones((height, width), dtype=np.bool_)
    is_border[band:-band, band:-band] = False
    distance = np.linalg.norm(lab - np.median(lab[is_border], axis=0), axis=2)
    levels = cv2.GaussianBlur(np.clip(distance, 0, 255).astype(np.uint8), (0, 0), band)
    threshold, distant = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    outlines, _ = cv2.findContours(distant, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.drawContours(np.zeros_like(distant), outlines, -1, 255, cv2.FILLED)
    usual = np.median(levels[is_border])
    spread = np.median(np.abs(levels[is_border] - usual))
    distinct = threshold > usual + SPREADS * max(1, spread)
    plausible = (filled > 0).mean() >= SMALLEST_SHARE
    return np.asarray(filled, dtype=np.uint8) if distinct and plausible else None
