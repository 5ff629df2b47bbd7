"""Bytes to arrays and back: the only place where images and masks are decoded and resized.

Pillow decodes, because it refuses truncated files where OpenCV fills them with grey; simplejpeg
decodes JPEG, because it refuses what is damaged where Pillow drops the decoder's warning; OpenCV
resizes, and reads the full depth of colours, which Pillow cuts to 8 bits. What decoding costs is
read from the bytes first, and what no header bounds is decoded in a process of its own.
"""

import json
import sys
import threading
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image as Pillow

from admodels.foundation.arrays import Bool, UInt8
from admodels.foundation.errors import AdmodelsError, DataError
from admodels.foundation.files import whole_file
from admodels.foundation.manifest import ManifestRow
from admodels.foundation.params import Resize
from admodels.images import cost, isolate, pixels
from admodels.images.cost import Budget, Header
from admodels.images.reading import DECODER as DECODER
from admodels.images.reading import LARGEST_PIXELS as LARGEST_PIXELS
from admodels.images.reading import STORED as STORED
from admodels.images.reading import Image as Image
from admodels.images.reading import NoWindow as NoWindow
from admodels.images.reading import Orientation as Orientation
from admodels.images.reading import Reading as Reading
from admodels.images.reading import Reason as Reason
from admodels.images.reading import UnreadableImage as UnreadableImage
from admodels.images.shape import Shape

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")  # Pillow knows some that run programs
LATER_FORMATS = ("JPEG2000",)
GRID_PX = 16
DEPTH_MAX = 32
LARGEST_CLASS_ID = 9  # in VisA's raw masks (spot-diff, id2class.json)
TIFF_BITS_PER_SAMPLE = 258  # TIFF 6.0, section 8
PNG_BIT_DEPTH_OFFSET = 24  # PNG, third edition: signature 8, length 4, type 4, width 4, height 4
MEMORY_BYTES = 4 << 30  # of all images that are decoded at a time
BRIGHT = 128  # a matte that stays below it is black, or stored as 0 and 1

_INTERPOLATION = {"bilinear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA}
OPENING = threading.Lock()

# The limit is ours (`too_large`): Pillow's warns in a band that we accept, and the warning filter
# is one global of the process, which threads must not touch.
Pillow.MAX_IMAGE_PIXELS = None


_MEMORY = cost.Memory(MEMORY_BYTES)


def decode_image(
    data: bytes, where: object, reading: Reading = STORED, budget: Budget | None = None
) -> Image:
    """An encoded image as RGB; the first frame where there are several.

    More than 8 bits go through one fixed window, never a stretch of their own, so that brightness
    stays comparable. Grey is replicated; alpha is dropped, not composited. `budget`: what it may
    cost, beside what an image of its own size may.

    Raises:
        UnreadableImage: no bytes, bytes missing, damaged, not an image, too large or too costly.
    """
    header = check_header(data, where, reading, budget)
    if (not header.is_bounded) if header else _opens(data):
        return _decode_apart(data, where, reading, header)
    with _MEMORY.reserve(header.memory_bytes if header else 0):
        return _decode(data, where, reading, header)


def check_header(
    data: bytes, where: object, reading: Reading, budget: Budget | None = None
) -> Header | None:
    """What the header says of the image that is to be decoded; None where it says nothing.

    Raises:
        UnreadableImage: it need not be decoded to know that it gives no image.
    """
    if not data:
        raise UnreadableImage("empty", "zero bytes", where)
    header = _page_header(cost.read_pages(data), where, reading)
    if header is None:
        return None
    if header.bit_depth > DEPTH_MAX and reading.decoder > 1:
        detail = f"{header.bit_depth} bits a sample, and at most {DEPTH_MAX} are read"
        raise UnreadableImage("undecodable", detail, where)
    if header.pixels > LARGEST_PIXELS:
        raise UnreadableImage("too_large", f"{header.width} x {header.height} pixels", where)
    for allowed in (cost.own_budget(header), budget):
        if allowed is not None and (excess := allowed.excess(header)):
            raise UnreadableImage("too_costly", excess, where)
    return header


def _page_header(pages: list[Header], where: object, reading: Reading) -> Header | None:
    if reading.decoder == 1:
        return cost.page_of(pages, reading.page or 0)
    header = cost.page_of(pages, reading.page)
    if pages and header is None:
        raise UnreadableImage("undecodable", f"no page {reading.page}: {_pages(pages)}", where)
    if cost.needs_page(pages, reading.page):
        detail = f"{_pages(pages)}; `page` of the task or the line must say which, from 0"
        raise UnreadableImage("undecodable", detail, where)
    return header


def _pages(pages: list[Header]) -> str:
    sizes = ", ".join(f"{page.width} x {page.height}" for page in pages[:4])
    return f"{len(pages)} page{'s' * (len(pages) > 1)} of {sizes} pixels"


def _decode(data: bytes, where: object, reading: Reading, header: Header | None) -> Image:
    header = header if reading.decoder > 1 else None
    if header and header.format == "JPEG":
        jpeg = _jpeg(data, where, header, reading)
        if jpeg is not None:
            return jpeg
    data = cost.as_black_zero(data, header)
    image, depth = _whole(data, where, reading)
    try:
        if depth <= 8:
            rgb = pixels.plain_rgb(image)
        else:
            values = pixels.stored_values(image, data, header)
            rgb = _apply_window(values, depth, where, reading)
        rgb = pixels.turn(rgb, image, reading.orientation, _orientation(image))
    except (ValueError, OSError, cv2.error) as error:
        raise UnreadableImage("undecodable", str(error), where) from error
    return Image(rgb, rgb.shape[1], rgb.shape[0], image.mode, depth)


def _apply_window(values: NDArray[Any], depth: int, where: object, reading: Reading) -> UInt8:
    if reading.window is None and values.dtype != np.uint16:
        raise NoWindow("undecodable", "32 bits, and no window of values is learnt", where)
    return pixels.apply_window(values, reading.window or (0, (1 << depth) - 1))


def _jpeg(data: bytes, where: object, header: Header, reading: Reading) -> Image | None:
    """A JPEG, refused where its decoder would warn; None where Pillow must read the colours."""
    kind = {1: "GRAY", 3: "RGB"}.get(header.channels, "CMYK")
    try:
        planes = simplejpeg.decode_jpeg(data, kind, strict=True)
    except ValueError as error:
        reason = str(error)
        if reason.startswith(("Corrupt JPEG data", "Inconsistent progression")):
            padded = _without_padding(data) if "before marker 0xd9" in reason else data
            if padded != data:
                return _jpeg(padded, where, header, reading)
            raise UnreadableImage("damaged", reason, where) from error
        if reason.startswith("Premature end"):
            raise UnreadableImage("truncated", reason, where) from error
        return None  # Pillow says more, or reads it
    if kind == "CMYK":
        return None
    exif = _orientation(_open(data, FORMATS)) if reading.orientation == "exif" else 1
    rgb = np.repeat(planes, 3, axis=2) if kind == "GRAY" else planes
    if exif in pixels.TURNS:
        rgb = np.asarray(Pillow.fromarray(rgb).transpose(pixels.TURNS[exif]))
    mode = "L" if kind == "GRAY" else "RGB"
    return Image(rgb, rgb.shape[1], rgb.shape[0], mode, header.bit_depth)


def _without_padding(data: bytes) -> bytes:
    """Zeros before the end of the image are left out: cameras fill their buffers with them."""
    end = data.rfind(b"\xff\xd9")
    return data[:end].rstrip(b"\0") + data[end:]


def _opens(data: bytes) -> bool:
    """Whether Pillow reads a header where we read none, or may take long to say so."""
    try:
        return cost.may_flood(data) or bool(_open(data, (*FORMATS, *LATER_FORMATS)))
    except Exception:  # decoders raise nearly anything on hostile bytes
        return False


def _decode_apart(data: bytes, where: object, reading: Reading, header: Header | None) -> Image:
    """The image, decoded in a process that is stopped where it takes too much."""
    program = "from admodels.images.decode import answer; answer()"
    memory = cost.own_budget(header).memory_bytes if header else cost.LEAST_MEMORY
    try:
        words = [reading.model_dump_json(), str(memory)]
        answer = isolate.run_with_limits(program, words, data, memory)
    except isolate.OverBudget as error:
        raise UnreadableImage("too_costly", str(error), where) from error
    head, _, body = answer.partition(b"\n")
    facts = json.loads(head)
    if "reason" in facts:
        raise UnreadableImage(facts["reason"], facts["detail"], where)
    rgb = np.frombuffer(body, np.uint8).reshape(facts["height"], facts["width"], 3).copy()
    return Image(rgb, **facts)


def answer() -> None:
    """What the process of `_decode_apart` does: decode standard input, write the image.

    A codec that lacks memory calls the data broken. That is believed where an image of the size
    has the memory that it may need.
    """
    reading = Reading.model_validate_json(sys.argv[1], strict=True)
    data = sys.stdin.buffer.read()
    header = check_header(data, "", reading)
    try:
        image = _decode(data, "", reading, header)
    except UnreadableImage as error:
        lacks_memory = error.reason == "undecodable" and _outgrows(data, int(sys.argv[2]))
        reason = "too_costly" if lacks_memory else error.reason
        facts: dict[str, object] = {"reason": reason, "detail": error.detail}
        sys.stdout.buffer.write(json.dumps(facts).encode())
        return
    facts = {"width": image.width, "height": image.height}
    facts |= {"mode": image.mode, "bit_depth": image.bit_depth}
    sys.stdout.buffer.write(json.dumps(facts).encode() + b"\n" + image.rgb.tobytes())


def _outgrows(data: bytes, memory_bytes: int) -> bool:
    """Whether an image of the size that Pillow reads may need more memory than that."""
    try:
        image = _open(data, (*FORMATS, *LATER_FORMATS))
    except Exception:  # decoders raise nearly anything on hostile bytes
        return False
    header = cost.Header(image.format or "", image.width, image.height)
    return cost.own_budget(header).memory_bytes > memory_bytes


def deep_values(data: bytes, where: object, reading: Reading = STORED) -> NDArray[Any]:
    """The stored values (H, W, C) of an image that has more than 8 bits.

    Raises:
        UnreadableImage: the file does not give an image.
    """
    header = check_header(data, where, reading)
    data = cost.as_black_zero(data, header)
    image, _ = _whole(data, where, reading)
    try:
        return pixels.stored_values(image, data, header)
    except (ValueError, cv2.error) as error:
        raise UnreadableImage("undecodable", str(error), where) from error


def is_grey(rgb: UInt8) -> bool:
    """Whether the channels of (H, W, 3) are equal everywhere; a few pixels are compared first."""
    return all(
        np.array_equal(grid[:, :, channel], grid[:, :, 0])
        for grid in (rgb[::GRID_PX, ::GRID_PX], rgb)
        for channel in (1, 2)
    )


def _whole(data: bytes, where: object, reading: Reading) -> tuple[Pillow.Image, int]:
    """The image with all its pixels, and the bits of one stored sample."""
    try:
        formats = FORMATS if reading.decoder == 1 else (*FORMATS, *LATER_FORMATS)
        image = _open(data, formats)
        if image.width * image.height > LARGEST_PIXELS:
            raise UnreadableImage("too_large", f"{image.width} x {image.height} pixels", where)
        if image.format == "PNG":
            _open(data, formats).verify()  # checksums, which load() ignores
        if image.format == "TIFF":
            image.seek(_page(data, reading))
            image.info[pixels.TURNED] = _orientation(image)  # load() turns, and forgets
        image.load()
        return image, _bit_depth(image, data)
    except (AdmodelsError, MemoryError):  # memory that lacks is not the file's fault
        raise
    except Exception as error:  # decoders raise nearly anything on hostile bytes
        reason: Reason = "truncated" if _is_truncation(error) else "undecodable"
        raise UnreadableImage(reason, f"{type(error).__name__}: {error}", where) from error


def _page(data: bytes, reading: Reading) -> int:
    if reading.decoder == 1 or reading.page is not None:
        return reading.page or 0
    pages = cost.read_pages(data)
    return next((number for number, page in enumerate(pages) if not page.is_reduced), 0)


def _open(data: bytes, formats: tuple[str, ...]) -> Pillow.Image:
    """The header read; complaints about metadata are dropped, one thread at a time."""
    with OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Pillow.open(BytesIO(data), formats=formats)
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
    with OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return int(image.getexif().get(pixels.EXIF_ORIENTATION, 1))
        except Exception:  # whatever stands there, it is no orientation
            return 1


def decode_mask(data: bytes, where: object) -> Bool:
    """An encoded ground-truth mask (H, W): True where it is not black.

    Several values are fine if they are class ids of an 8-bit grey image (1..9).

    Raises:
        UnreadableImage: the file does not give an image.
        DataError: more than two values, or two of which none is 0: it is not clear then which
            pixels are defective.
    """
    header = check_header(data, where, STORED)
    if (not header.is_bounded) if header else _opens(data):
        raise UnreadableImage("too_costly", "no header says what decoding costs", where)
    image, _ = _whole(data, where, STORED)
    plain = len(image.getbands()) == 1 and image.mode != "P"  # convert() would clip 16 bits
    stored = np.asarray(image if plain else image.convert("RGB"))
    values = stored if plain else stored.astype(np.uint32) @ np.array([1, 1 << 8, 1 << 16])
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
    return pixels.turn(defective, image, "stored", 1)


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


def resize_image(rgb: UInt8, shape: Shape, resize: Resize) -> UInt8:
    """An (H, W, 3) uint8 image as (*shape, 3) uint8, stretched where the ratios differ.

    `bilinear` samples without antialiasing, as DRAEM's cv2.resize does; `area` averages.
    """
    scaled = cv2.resize(rgb, shape[::-1], interpolation=_INTERPOLATION[resize])
    return np.asarray(scaled, dtype=np.uint8)


def resize_mask(mask: Bool, shape: Shape) -> Bool:
    """An (H, W) bool mask as `shape` bool, nearest."""
    # EXACT samples at pixel centres, as bilinear does; plain INTER_NEAREST shifts by half a pixel.
    levels, how = mask.astype(np.uint8), cv2.INTER_NEAREST_EXACT
    scaled = cv2.resize(levels, shape[::-1], interpolation=how)
    return np.asarray(scaled, dtype=np.bool_)


def erode_mask(mask: Bool, shape: Shape) -> Bool:
    """An (H, W) bool mask as `shape` bool: bilinear, and only what stays whole is marked.

    This is how the authors of DRAEM and of DiffusionAD read ground truth: they resize 0 and 255
    and cut off the fraction. A region shrinks, and one that is smaller than a pixel is gone.
    """
    levels = mask.astype(np.uint8) * 255
    return np.asarray(cv2.resize(levels, shape[::-1], interpolation=cv2.INTER_LINEAR) == 255)


def write_png(path: Path, array: NDArray[Any]) -> None:
    """Write (H, W, 3) RGB uint8, (H, W) uint8 or (H, W) bool (as 0 and 255), as a PNG."""
    plain = array.astype(np.uint8) * 255 if array.dtype == np.bool_ else array
    with whole_file(path) as partial:
        Pillow.fromarray(plain).save(partial, format="PNG")
