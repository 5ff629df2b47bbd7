"""The height and width at which the images of a task are seen: by a network, and by a measure."""

from collections.abc import Sequence
from typing import Literal, Protocol

from pydantic import Field

from admodels.foundation.params import Strict

Aspect = Literal["keep", "square"]
Pose = Literal["none", "upright"]
Shape = tuple[int, int]  # height, width, pixels

SHORTEST_PX = 32  # of a side of what a network sees
SEVERAL_RATIOS = 1.1  # greatest over least: beyond, the images of a task have more than one shape


class Band(Strict):
    """What is cut out around a single part, in shares of the root of the image's area.

    `heavy_end`: whether the parts have one, so that every one has one way up.
    """

    length: float = Field(gt=0)
    width: float = Field(gt=0)
    heavy_end: bool

    @property
    def ratio(self) -> float:
        """Width over height of what is cut out."""
        return self.width / self.length


class Sized(Protocol):
    """An image by its sides in pixels."""

    @property
    def width(self) -> int:
        """Pixels from left to right."""

    @property
    def height(self) -> int:
        """Pixels from top to bottom."""


def square(side_px: int) -> Shape:
    """The shape of a square."""
    return side_px, side_px


def ratios(images: Sequence[Sized]) -> tuple[float, float, float]:
    """Width over height: the least, the usual one and the greatest.

    The usual ratio is that of the image in the middle (the lower median), so it is the ratio of an
    image that exists, and a few images of another shape do not change it. No image: 1.
    """
    ascending = sorted(image.width / image.height for image in images) or [1.0]
    return ascending[0], ascending[(len(ascending) - 1) // 2], ascending[-1]


def shape_of(ratio: float, side_px: int, multiple: int = 1, shortest_px: int = 1) -> Shape:
    """The shape of about `side_px`^2 pixels whose width over height is about `ratio`.

    Each side is the nearest multiple, nearest as a factor: the larger of the two errors is then as
    small as it can be. A side that would be shorter than `shortest_px` is that long, and the other
    keeps the number of pixels, so an image of 20 : 1 costs no more than others and loses ratio.
    """
    least = -(-shortest_px // multiple) * multiple
    tall, wide = side_px / ratio**0.5, side_px * ratio**0.5
    if tall < least:
        tall, wide = least, side_px**2 / least
    elif wide < least:
        tall, wide = side_px**2 / least, least
    return _nearest(tall, multiple, least), _nearest(wide, multiple, least)


def _nearest(length: float, multiple: int, least: int) -> int:
    below = int(length + 1e-9) // multiple * multiple
    nearest = below if length**2 < below * (below + multiple) else below + multiple
    return max(least, nearest)
