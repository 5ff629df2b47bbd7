"""Bytes to arrays and back: the only place where images and masks are decoded and resized.

Pillow decodes, because it refuses truncated files where OpenCV fills them with grey; OpenCV
resizes, and reads the full depth of colours, which Pillow cuts to 8 bits.
"""

import threading
import warnings
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from admodels.foundation.arrays import Bool, UInt8, UInt16
from admodels.foundation.errors import AdmodelsError, DataError
from admodels.foundation.files import whole_file
from admodels.foundation.manifest import IMAGE_SUFFIXES as IMAGE_SUFFIXES
from admodels.foundation.manifest import ManifestRow
from admodels.foundation.params import Resize, Strict

T = TypeVar("T")
R = TypeVar("R")
Orientation = Literal["stored", "exif"]
Reason = Literal["empty", "truncated", "undecodable", "too_large"]

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")  # Pillow knows some that run programs
LARGEST_PIXELS = 200_000_000
STRIP_ROWS = 512
GRID_PX = 16
LARGEST_CLASS_ID = 9  # in VisA's raw masks (spot-diff, id2class.json)
TIFF_BITS_PER_SAMPLE = 258  # TIFF 6.0, section 8
PNG_BIT_DEPTH_OFFSET = 24  # PNG, third edition: signature 8, length 4, type 4, width 4, height 4

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

BRIGHT = 128  # a matte that stays below it is black, or stored as 0 and 1

_INTERPOLATION = {"bilinear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA}
_OPENING = threading.Lock()

# The limit is ours (`too_large`): Pillow's warns in a band that we accept, and the warning filter
# is one global of the process, which threads must not touch.
Pillow.MAX_IMAGE_PIXELS = None


class UnreadableImage(DataError):  # noqa: N818
    """A file that does not give an image; `reason` is a closed word, `where` the file."""

    def __init__(self, reason: Reason, detail: str, where: object) -> None:
        super().__init__(
            f"image is {reason.replace('_', ' ')}: {detail}",
            where=where,
            expected=f"a whole image of at most {LARGEST_PIXELS // 1_000_000} million pixels",
            next_step="replace or remove the file, then `admodels task refresh` of its task",
        )
        self.reason = reason
        self.where = where


class Reading(Strict):
    """How stored values become 8-bit RGB: fixed for a task, never chosen by the image itself.

    `window` (low, high) becomes 0..255 where there are more than 8 bits; None: all that they can
    hold. `orientation`: pixels `stored` by the camera, so that masks, which carry no EXIF, fit, or
    turned as `exif` says.
    """

    window: tuple[int, int] | None
    orientation: Orientation


STORED = Reading(window=None, orientation="stored")


@dataclass(frozen=True)
class Image:
    """A decoded image: `rgb` (H, W, 3) uint8; `mode` and `bit_depth` as stored."""

    rgb: UInt8
    width: int
    height: int
    mode: str
    bit_depth: int


def decode_image(data: bytes, where: object, reading: Reading = STORED) -> Image:
    """An encoded image as RGB; the first frame where there are several.

    More than 8 bits go through one fixed window, never a stretch of their own, so that brightness
    stays comparable. Grey is replicated; alpha is dropped, not composited.

    Raises:
        UnreadableImage: no bytes, bytes missing, not an image, or too large.
    """
    image, bit_depth = _whole(data, where)
    try:
        rgb = (
            _rgb(image) if bit_depth <= 8 else _apply_window(_deep(image, data), bit_depth, reading)
        )
        rgb = _turn(rgb, image, reading.orientation)
    except (ValueError, OSError, cv2.error) as error:
        raise UnreadableImage("undecodable", str(error), where) from error
    return Image(rgb, rgb.shape[1], rgb.shape[0], image.mode, bit_depth)


def deep_values(data: bytes, where: object) -> UInt16:
    """The stored values (H, W, C) of an image that has more than 8 bits.

    Raises:
        UnreadableImage: the file does not give an image.
    """
    image, _ = _whole(data, where)
    try:
        return _deep(image, data)
    except (ValueError, cv2.error) as error:
        raise UnreadableImage("undecodable", str(error), where) from error


def is_grey(rgb: UInt8) -> bool:
    """Whether the channels of (H, W, 3) are equal everywhere; a few pixels mostly tell."""
    return all(
        np.array_equal(pixels[:, :, channel], pixels[:, :, 0])
        for pixels in (rgb[::GRID_PX, ::GRID_PX], rgb)
        for channel in (1, 2)
    )


def _whole(data: bytes, where: object) -> tuple[Pillow.Image, int]:
    """The image with all its pixels, and the bits of one stored sample."""
    if not data:
        raise UnreadableImage("empty", "zero bytes", where)
    try:
        image = _open(data)
        if image.width * image.height > LARGEST_PIXELS:
            raise UnreadableImage("too_large", f"{image.width} x {image.height} pixels", where)
        if image.format == "PNG":
            _open(data).verify()  # checksums, which load() ignores
        if image.format == "TIFF":
            image.info[TURNED] = _orientation(image)  # load() turns, and forgets
        image.load()
        return image, _bit_depth(image, data)
    except AdmodelsError:
        raise
    except Exception as error:  # decoders raise nearly anything on hostile bytes
        reason: Reason = "truncated" if _is_truncation(error) else "undecodable"
        raise UnreadableImage(reason, f"{type(error).__name__}: {error}", where) from error


def _open(data: bytes) -> Pillow.Image:
    """The header read; complaints about metadata are dropped, one thread at a time."""
    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Pillow.open(BytesIO(data), formats=FORMATS)
    image.info.pop("transparency", None)  # convert() would warn; alpha is dropped anyway
    return image


def _is_truncation(error: Exception) -> bool:
    return isinstance(error, EOFError) or "truncated" in str(error).lower()


def _bit_depth(image: Any, data: bytes) -> int:
    if image.format == "PNG":
        return data[PNG_BIT_DEPTH_OFFSET]
    if image.format == "TIFF":
        return int(image.tag_v2.get(TIFF_BITS_PER_SAMPLE, (1,))[0])
    return 16 if image.mode.startswith("I;16") else 1 if image.mode == "1" else 8


def _orientation(image: Pillow.Image) -> int:
    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return int(image.getexif().get(EXIF_ORIENTATION, 1))
        except Exception:  # whatever stands there, it is no orientation
            return 1


def _turn(pixels: NDArray[Any], image: Pillow.Image, policy: Orientation) -> NDArray[Any]:
    """Turned as `policy` says; of all formats only TIFF comes turned, from both decoders."""
    if image.format == "TIFF":
        turn = UNDONE.get(image.info[TURNED]) if policy == "stored" else None
    else:
        turn = TURNS.get(_orientation(image)) if policy == "exif" else None
    return pixels if turn is None else np.asarray(Pillow.fromarray(pixels).transpose(turn))


def _rgb(image: Pillow.Image) -> UInt8:
    if image.mode in ("I", "F"):
        raise ValueError("32 bits per channel have no fixed window to 8 bits")
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, STRIP_ROWS):  # Pillow copies several times on the way
        strip = image.crop((0, top, image.width, min(top + STRIP_ROWS, image.height)))
        rgb[top : top + STRIP_ROWS] = np.asarray(strip.convert("RGB"))
    return rgb


def _deep(image: Pillow.Image, data: bytes) -> UInt16:
    if image.mode.startswith("I;16"):
        return np.asarray(image)[:, :, None]
    read = None
    if image.mode in COLOURS:
        read = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if read is None or read.dtype != np.uint16 or read.ndim != 3:
        raise ValueError(f"more than 8 bits of {image.mode} have no fixed window to 8 bits")
    return np.asarray(read[:, :, 2::-1], np.uint16)  # BGR and perhaps alpha


def _apply_window(values: UInt16, bit_depth: int, reading: Reading) -> UInt8:
    mapped = _table(reading.window or (0, (1 << bit_depth) - 1))[values]
    return np.repeat(mapped, 3, axis=2) if mapped.shape[2] == 1 else mapped


@lru_cache(maxsize=8)
def _table(window: tuple[int, int]) -> UInt8:
    """The grey level of each 16-bit value: 256 equal steps from low to high, clipped."""
    low, high = window
    levels = (np.arange(1 << 16) - low) * 256 // (high - low + 1)
    return levels.clip(0, 255).astype(np.uint8)


def decode_mask(data: bytes, where: object) -> Bool:
    """An encoded ground-truth mask (H, W): True where it is not black.

    Several values are fine if they are class ids of an 8-bit grey image (1..9).

    Raises:
        UnreadableImage: the file does not give an image.
        DataError: more than two values, or two of which none is 0: it is not clear then which
            pixels are defective.
    """
    image, _ = _whole(data, where)
    plain = len(image.getbands()) == 1 and image.mode != "P"  # convert() would clip 16 bits
    pixels = np.asarray(image if plain else image.convert("RGB"))
    values = pixels if plain else pixels.astype(np.uint32) @ np.array([1, 1 << 8, 1 << 16])
    defective: Bool = np.asarray(values != 0, dtype=np.bool_)
    other = values[defective]
    is_ids = image.mode == "L" and other.size < values.size
    class_ids = is_ids and other.max(initial=0) <= LARGEST_CLASS_ID
    if other.size and other.min() != other.max() and not class_ids:
        raise DataError(
            f"mask has more values than 0 and one other ({other.min()}, {other.max()}, ...)",
            where=where,
            expected="a binary mask: 0 is normal, one other value is defective",
            next_step="fix the mask (store it lossless), then `admodels task refresh` of its task",
        )
    return _turn(defective, image, "stored")


def decode_matte(data: bytes, where: object, row: ManifestRow) -> UInt8:
    """The encoded foreground matte of the image of `row`, as (H, W, 3) uint8: 255 is the part.

    Raises:
        UnreadableImage: the file does not give an image.
        DataError: it has another size than its image, or is dark all over.
    """
    matte = decode_image(data, where)
    brightest, size = matte.rgb.max(), f"{matte.width} x {matte.height} pixels"
    if (matte.width, matte.height) != (row.width, row.height) or brightest < BRIGHT:
        raise DataError(
            f"foreground matte is {size}, its brightest {brightest} of 255",
            where=where,
            expected=f"{row.width} x {row.height}, as {row.image_path}, the part at 255",
            next_step="fix the matte, then `admodels task refresh NAME`",
        )
    return matte.rgb


def resize_image(rgb: UInt8, image_px: int, resize: Resize) -> UInt8:
    """An (H, W, 3) uint8 image as (image_px, image_px, 3) uint8, stretched to the square.

    `bilinear` samples without antialiasing, as DRAEM's cv2.resize does; `area` averages.
    """
    scaled = cv2.resize(rgb, (image_px, image_px), interpolation=_INTERPOLATION[resize])
    return np.asarray(scaled, dtype=np.uint8)


def resize_mask(mask: Bool, mask_px: int) -> Bool:
    """An (H, W) bool mask as (mask_px, mask_px) bool, nearest."""
    # EXACT samples at pixel centres, as bilinear does; plain INTER_NEAREST shifts by half a pixel.
    scaled = cv2.resize(
        mask.astype(np.uint8), (mask_px, mask_px), interpolation=cv2.INTER_NEAREST_EXACT
    )
    return np.asarray(scaled, dtype=np.bool_)


def write_png(path: Path, array: NDArray[Any]) -> None:
    """Write (H, W, 3) RGB uint8, (H, W) uint8 or (H, W) bool (as 0 and 255), as a PNG."""
    pixels = array.astype(np.uint8) * 255 if array.dtype == np.bool_ else array
    with whole_file(path) as partial:
        Pillow.fromarray(pixels).save(partial, format="PNG")
