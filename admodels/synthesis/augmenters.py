"""The ten texture augmenters of DRAEM (Zavrtanik et al. 2021), on (H, W, 3) uint8 RGB.

They follow imgaug 0.4 as the official code calls it, with two differences: images are RGB, which is
what the colour spaces assume (there they are BGR), and every draw comes from the generator given.
"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageOps

from admodels.foundation.arrays import UInt8

Augmenter = Callable[[UInt8, np.random.Generator], UInt8]

GREYS = np.arange(256)
SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], dtype=np.float64) / 13  # Pillow's SMOOTH
BRIGHTNESS_CHANNEL = {"YCrCb": 0, "HSV": 2, "HLS": 1, "Lab": 0, "Luv": 0, "YUV": 0}
SPACES = tuple(BRIGHTNESS_CHANNEL)
NEVER = 256  # a solarize threshold above every grey


def _look_up(image: UInt8, tables: NDArray[Any]) -> UInt8:
    """Replace every value by its entry in `tables` (256,) or (256, 3), a column per channel."""
    table = np.broadcast_to(tables.reshape(256, -1), (256, 3)).astype(np.uint8)
    return np.asarray(cv2.LUT(image, table[:, None]), dtype=np.uint8)


def _look_up_in_space(image: UInt8, space: str, tables: NDArray[Any]) -> UInt8:
    """As `_look_up`, in an OpenCV colour space."""
    there, back = (getattr(cv2, f"COLOR_{name}") for name in (f"RGB2{space}", f"{space}2RGB"))
    changed = _look_up(np.asarray(cv2.cvtColor(image, there), dtype=np.uint8), tables)
    return np.asarray(cv2.cvtColor(changed, back), dtype=np.uint8)


def gamma_contrast(image: UInt8, gammas: ArrayLike) -> UInt8:
    """floor(255 (v / 255)^gamma), `gammas` one per channel."""
    return _look_up(image, 255 * (GREYS[:, None] / 255) ** np.asarray(gammas))


def brightness(
    image: UInt8, space: str, factor: float, offset: int, *, factor_first: bool
) -> UInt8:
    """Multiply and shift the brightness channel of a colour space, in either order."""
    table: NDArray[Any] = GREYS
    for is_factor in (factor_first, not factor_first):
        changed = np.floor(table * factor) if is_factor else table + offset
        table = np.clip(changed, 0, 255)
    tables = np.tile(GREYS[:, None], 3)
    tables[:, BRIGHTNESS_CHANNEL[space]] = table
    return _look_up_in_space(image, space, tables)


def sharpness(image: UInt8, factor: float) -> UInt8:
    """S + factor (v - S) with S smoothed: 0 smooths, 1 keeps, 2 sharpens; borders stay."""
    smooth = cv2.filter2D(image, cv2.CV_8U, SMOOTH)
    detail = cv2.subtract(image, smooth, dtype=cv2.CV_32F)
    sharpened = np.clip(cv2.scaleAdd(detail, factor, smooth.astype(np.float32)), 0, 255)
    result = image.copy()
    result[1:-1, 1:-1] = sharpened[1:-1, 1:-1]
    return result


def hue_and_saturation(image: UInt8, hue: int, saturation: int) -> UInt8:
    """Turn the hue by trunc(180 hue / 255) of 180 and shift the saturation, clipped."""
    hues = (GREYS + int(hue / 255 * 180)) % 180
    tables = np.stack((hues, np.clip(GREYS + saturation, 0, 255), GREYS), axis=1)
    return _look_up_in_space(image, "HSV", tables)


def solarize(image: UInt8, threshold: float) -> UInt8:
    """Invert what is at or above trunc(threshold)."""
    kept = int(threshold)
    return _look_up(image, np.concatenate((GREYS[:kept], 255 - GREYS[kept:])))


def posterize(image: UInt8, bits: int) -> UInt8:
    """Keep the top bits."""
    return image & np.uint8(256 - (1 << (8 - bits)))


def invert(image: UInt8) -> UInt8:
    """255 - v."""
    return 255 - image


def autocontrast(image: UInt8, cutoff_percent: int) -> UInt8:
    """Stretch each channel to 0..255 after cutting both ends of its histogram (Pillow)."""
    return np.asarray(ImageOps.autocontrast(Image.fromarray(image), cutoff_percent))


def equalize(image: UInt8) -> UInt8:
    """Equalise the histogram of each channel (Pillow)."""
    return np.asarray(ImageOps.equalize(Image.fromarray(image)))


def rotate(image: NDArray[Any], degrees: float, *, mirrored: bool = False) -> NDArray[Any]:
    """(H, W) or (H, W, C) turned clockwise about the centre of its pixels; bilinear.

    Outside is 0, or the image `mirrored` at its edges.
    """
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -degrees, 1)
    border = cv2.BORDER_REFLECT if mirrored else cv2.BORDER_CONSTANT
    size, how = (width, height), cv2.INTER_LINEAR
    return np.asarray(cv2.warpAffine(image, turn, size, flags=how, borderMode=border))


def _draw_brightness(image: UInt8, rng: np.random.Generator) -> UInt8:
    return brightness(
        image,
        SPACES[rng.integers(len(SPACES))],
        rng.uniform(0.8, 1.2),
        round(rng.uniform(-30, 30)),
        factor_first=bool(rng.integers(2)),
    )


AUGMENTERS: tuple[Augmenter, ...] = (
    lambda image, rng: gamma_contrast(image, rng.uniform(0.5, 2, size=3)),
    _draw_brightness,
    lambda image, rng: sharpness(image, rng.uniform(0, 2)),
    lambda image, rng: hue_and_saturation(image, *rng.integers(-50, 51, size=2).tolist()),
    lambda image, rng: solarize(image, rng.uniform(32, 128) if rng.random() < 0.5 else NEVER),
    lambda image, rng: posterize(image, int(rng.integers(1, 9))),
    lambda image, _: invert(image),
    lambda image, rng: autocontrast(image, int(rng.integers(0, 21))),
    lambda image, _: equalize(image),
    lambda image, rng: rotate(image, rng.uniform(-45, 45)),
)


def augment(image: UInt8, count: int, rng: np.random.Generator) -> UInt8:
    """`image` after `count` different augmenters, each with drawn parameters, in drawn order."""
    for index in rng.choice(len(AUGMENTERS), size=count, replace=False):
        image = AUGMENTERS[index](image, rng)
    return image


def shuffle_tiles(image: UInt8, tiles_per_side: int, rng: np.random.Generator) -> UInt8:
    """`image` cut into equal square tiles that change places, none turned.

    Both sides are multiples of `tiles_per_side`.
    """
    height, width = (side // tiles_per_side for side in image.shape[:2])
    grid = image.reshape(tiles_per_side, height, tiles_per_side, width, 3).swapaxes(1, 2)
    tiles = rng.permutation(grid.reshape(-1, height, width, 3))
    return tiles.reshape(grid.shape).swapaxes(1, 2).reshape(image.shape)


def shuffle_strips(image: UInt8, strips: int, rng: np.random.Generator) -> UInt8:
    """`image` cut into equal columns that change places, then into rows that do.

    Even columns come first, then odd ones, so from three strips on some column always moves; rows
    take any order. Both sides are multiples of `strips`.
    """
    height, width = (side // strips for side in image.shape[:2])
    columns = np.concatenate([rng.permutation(np.arange(first, strips, 2)) for first in (0, 1)])
    grid = image.reshape(strips, height, strips, width, 3)
    moved = grid[rng.permutation(strips)][:, :, columns]
    return np.ascontiguousarray(moved).reshape(image.shape)
