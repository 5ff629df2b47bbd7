"""From what a decoder holds to 8-bit RGB: depth, window, orientation."""

from functools import lru_cache
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from admodels.foundation.arrays import UInt8
from admodels.images.cost import Header

Orientation = Literal["stored", "exif"]
Window = tuple[int, int] | tuple[float, float]

STRIP_ROWS = 512
TABLE_BITS = 16
SIGNED, FLOAT = 2, 3  # TIFF 6.0, section 19: SampleFormat
EXIF_ORIENTATION = 0x0112  # Exif 2.32, section 4.6.4
TURNED = "turned"  # as which orientation says
TURNS = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}
UNDONE = TURNS | {6: TURNS[8], 8: TURNS[6]}  # every other turn undoes itself
COLOURS = ("RGB", "RGBA", "LA")  # Pillow's names for what it cuts to 8 bits


def plain_rgb(image: Pillow.Image) -> UInt8:
    """A decoded image of at most 8 bits as (H, W, 3) uint8.

    Raises:
        ValueError: it has more.
    """
    if image.mode in ("I", "F"):
        raise ValueError("32 bits per channel, which map to 8 bits only through a learnt window")
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, STRIP_ROWS):  # Pillow copies several times on the way
        strip = image.crop((0, top, image.width, min(top + STRIP_ROWS, image.height)))
        rgb[top : top + STRIP_ROWS] = np.asarray(strip.convert("RGB"))
    return rgb


def stored_values(image: Pillow.Image, data: bytes, header: Header | None) -> NDArray[Any]:
    """The stored values (H, W, C) of a decoded image of more than 8 bits: uint16, or wider.

    `header` is None for the rules of decoder 1, which knew no wider ones and inverted none. Where
    white is zero, values are turned round, so that more light is always more.

    Raises:
        ValueError: nothing that we have reads them.
    """
    white_zero = header is not None and header.white_zero_at > 0
    if image.mode.startswith("I;16"):
        values = np.asarray(image)[:, :, None].astype(np.uint16, copy=False)  # any byte order
        return np.asarray(np.iinfo(np.uint16).max - values, np.uint16) if white_zero else values
    if header is not None and image.mode in ("I", "F"):
        values = np.asarray(image)[:, :, None]
        if image.mode == "I" and header.sample_format not in (SIGNED, FLOAT):
            values = values.view(np.uint32)
        return -values.astype(np.float64) if white_zero else values
    read = None
    if image.mode in COLOURS:
        read = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if read is None or read.dtype != np.uint16 or read.ndim != 3:
        raise ValueError(
            f"an image of mode {image.mode} with more than 8 bits, which no decoder here can read"
        )
    return np.asarray(read[:, :, 2::-1], np.uint16)  # BGR and perhaps alpha


def apply_window(values: NDArray[Any], window: Window) -> UInt8:
    """(H, W, C) values as (H, W, 3) uint8: 256 equal steps from low to high, clipped.

    Raises:
        ValueError: a value is no number.
    """
    if values.dtype == np.uint16:
        low, high = map(int, window)
        mapped = _table((low, high))[values]
    else:
        mapped = _levels(values, *window)
    return np.repeat(mapped, 3, axis=2) if mapped.shape[2] == 1 else mapped


def _levels(values: NDArray[Any], low: float, high: float) -> UInt8:
    levels = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), STRIP_ROWS):
        strip = values[top : top + STRIP_ROWS].astype(np.float64)
        if not np.isfinite(strip).all():
            raise ValueError("a value is infinite or no number")
        levels[top : top + STRIP_ROWS] = ((strip - low) * (256 / (high - low))).clip(0, 255)
    return levels


@lru_cache(maxsize=8)
def _table(window: tuple[int, int]) -> UInt8:
    """The grey level of each 16-bit value."""
    low, high = window
    levels = (np.arange(1 << TABLE_BITS) - low) * 256 // (high - low + 1)
    return levels.clip(0, 255).astype(np.uint8)


def turn(pixels: NDArray[Any], image: Pillow.Image, policy: Orientation, exif: int) -> NDArray[Any]:
    """Turned as `policy` says; of all formats only TIFF comes turned, from both decoders."""
    if image.format == "TIFF":
        transpose = UNDONE.get(image.info[TURNED]) if policy == "stored" else None
    else:
        transpose = TURNS.get(exif) if policy == "exif" else None
    if transpose is None:
        return pixels
    return np.asarray(Pillow.fromarray(pixels).transpose(transpose))
