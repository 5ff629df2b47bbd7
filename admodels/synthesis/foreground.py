"""Where the part is, so that no anomaly is painted beside it: a matte for every image.

The user's own mattes where the manifest has them; else, of an object, what differs in colour from
the border of its image; else the whole image, better anywhere than never, which is also what a
texture is. DiffusionAD's authors segment objects with a network (DIS) and take parts of carpets for
textures; neither is published.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from admodels.foundation.arrays import UInt8
from admodels.foundation.params import Kind
from admodels.images.part import estimate_matte

MatteSource = Literal["manifest", "estimated", "whole"]


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
