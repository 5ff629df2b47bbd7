"""What is known of every image and mask before anything is learnt from them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from admodels.foundation.arrays import UInt8
from admodels.foundation.errors import DataError
from admodels.foundation.manifest import FOREGROUND, DatasetImage, ManifestRow
from admodels.images import cost, decode, load
from admodels.images.describe import DIGITS, PLAIN_BITS, Look, statistics, thumbnail
from admodels.images.pixels import TABLE_BITS, Window
from admodels.images.reading import DECODER, Reading, UnreadableImage
from admodels.images.rules import ImageRules

MaskProblem = Literal["", "missing", "unreadable", "not binary", "other size", "empty"]
TAILS = (0.1, 99.9)  # percentiles of an image's values: what lies beyond are dead and hot pixels
WINDOW_MARGIN = 0.25  # of the span learnt from, on both sides: a defect may be darker or brighter
LEEWAY = 2  # times nearer to black, white or one flat grey than any image learnt from
WHITE = 255
LEAST_SPAN = 1e-6  # of values of 32 bits, so that no window is empty
LEAST_WINDOW = 256  # stored values: fewer cannot fill 256 grey levels


@dataclass(frozen=True)
class Facts:
    """Of one image: its statistics, its thumbnail as bytes, what is wrong with mask and matte.

    `file_format` and how many zero bytes the file ends with show one that was copied in part.
    `mask_area_share` is the anomalous share of the pixels, None without a readable mask.
    """

    brightness: float
    contrast: float
    sharpness: float
    is_grey: bool
    thumbnail: bytes
    mask_problem: MaskProblem = ""
    mask_area_share: float | None = None
    matte_problem: str = ""
    file_format: str = ""
    zero_tail: int = 0


Inspected = tuple[DatasetImage, ManifestRow, Facts]


def inspect_images(
    images: Sequence[DatasetImage], root: Path, reading: Reading
) -> tuple[list[Inspected], list[UnreadableImage]]:
    """Every image that can be read, in order, and the refusals of the others."""

    def inspect(image: DatasetImage) -> Inspected | UnreadableImage:
        try:
            return image, *describe_image(image, root, reading)
        except UnreadableImage as error:
            return error

    outcomes = load.in_threads(inspect, images, f"inspect {root.name}")
    refused = [o for o in outcomes if isinstance(o, UnreadableImage)]
    return [o for o in outcomes if not isinstance(o, UnreadableImage)], refused


def learnt_window(
    learnt: Sequence[ManifestRow], root: Path, page: int | None = None
) -> Window | None:
    """The window (low, high) of the images with more than 8 bits, None without such an image.

    The window reaches from the darkest to the brightest value of the images to learn from, without
    the TAILS (percentiles) of each image, and WINDOW_MARGIN of that span further at both ends. So
    the values of a 12-bit camera in 16-bit files use all grey levels.
    """
    rows = [row for row in learnt if row.bit_depth > PLAIN_BITS]
    if not rows:
        return None
    reading = Reading(window=None, orientation="stored", decoder=DECODER, page=page)

    def ends(row: ManifestRow) -> tuple[float, float]:
        path = root / row.image_path
        low, high = np.percentile(decode.deep_values(path.read_bytes(), path, reading), TAILS)
        return float(low), float(high)

    lows, highs = zip(*load.in_threads(ends, rows, f"learn window of {root.name}"), strict=True)
    middle = (min(lows) + max(highs)) / 2
    half = (max(highs) - min(lows)) * (0.5 + WINDOW_MARGIN)
    if max(row.bit_depth for row in rows) > TABLE_BITS:  # no whole numbers, no least and largest
        return middle - max(half, LEAST_SPAN), middle + max(half, LEAST_SPAN)
    largest = (1 << max(row.bit_depth for row in rows)) - 1
    half = max(half, LEAST_WINDOW / 2)
    return max(0, round(middle - half)), min(largest, round(middle + half))


def look_of(row: ManifestRow, facts: Facts) -> Look:
    """What the rules compare of an image."""
    about = (facts.is_grey, facts.brightness, facts.contrast)
    return Look(row.width, row.height, row.bit_depth, *about)


def learnt_rules(
    looks: Sequence[Look],
    reading: Reading,
    *,
    size_tolerance: float,
    ratio_tolerance: float,
    brightness: tuple[float, float],
    min_contrast: float,
    zero_tails: dict[str, int] | None = None,
) -> ImageRules:
    """The rules that all of `looks` keep to: those of the images to learn from."""
    widths, heights = [look.width for look in looks], [look.height for look in looks]
    ratios = [look.width / look.height for look in looks]
    seen = [look.brightness for look in looks]
    greys = {look.is_grey for look in looks}
    return ImageRules(
        reading=reading,
        width_px=(min(widths), max(widths)),
        height_px=(min(heights), max(heights)),
        side_ratio=(min(ratios), max(ratios)),
        size_tolerance=size_tolerance,
        ratio_tolerance=ratio_tolerance,
        bit_depths=tuple(sorted({max(PLAIN_BITS, look.bit_depth) for look in looks})),
        channels="both" if len(greys) == 2 else "grey" if True in greys else "colour",
        brightness=(
            min(brightness[0], min(seen) / LEEWAY),
            max(brightness[1], WHITE - (WHITE - max(seen)) / LEEWAY),
        ),
        min_contrast=min(min_contrast, min(look.contrast for look in looks) / LEEWAY),
        zero_tails=zero_tails or {},
    )


def describe_image(listed: DatasetImage, root: Path, reading: Reading) -> tuple[ManifestRow, Facts]:
    """The manifest row and the facts of one image, read and decoded once, as are mask and matte.

    Raises:
        UnreadableImage: the file does not give an image.
    """
    data = (root / listed.image_path).read_bytes()
    image = decode.decode_image(data, listed.image_path, reading)
    mask = root / listed.mask_path
    mask_data = mask.read_bytes() if listed.mask_path and mask.is_file() else None
    matte = root / FOREGROUND / PurePosixPath(listed.image_path).with_suffix(".png")
    matte_data = matte.read_bytes() if matte.is_file() else None
    row = ManifestRow(
        image_id=str(PurePosixPath(listed.image_path).with_suffix("")),
        image_path=listed.image_path,
        image_sha256=hashlib.sha256(data).hexdigest(),
        width=image.width,
        height=image.height,
        mode=image.mode,
        bit_depth=image.bit_depth,
        label=listed.label,
        defect_type=listed.defect_type,
        mask_path=listed.mask_path,
        mask_sha256="" if mask_data is None else hashlib.sha256(mask_data).hexdigest(),
        foreground_path="" if matte_data is None else matte.relative_to(root).as_posix(),
        foreground_sha256="" if matte_data is None else hashlib.sha256(matte_data).hexdigest(),
        group=listed.group,
    )
    facts = _facts(image.rgb, *_mask_facts(row, mask_data), _matte_problem(row, matte_data))
    header = cost.read_header(data)
    file_format = header.format if header else ""
    return row, replace(facts, file_format=file_format, zero_tail=cost.zero_tail(data))


def _facts(rgb: UInt8, problem: MaskProblem, share: float | None, matte: str) -> Facts:
    seen = statistics(rgb)
    return Facts(
        brightness=round(seen.brightness, DIGITS),
        contrast=round(seen.contrast, DIGITS),
        sharpness=round(seen.sharpness, DIGITS),
        is_grey=decode.is_grey(rgb),
        thumbnail=thumbnail(rgb).tobytes(),
        mask_problem=problem,
        mask_area_share=share,
        matte_problem=matte,
    )


def _matte_problem(row: ManifestRow, data: bytes | None) -> str:
    try:
        if data is not None:
            decode.decode_matte(data, row.foreground_path, row)
    except DataError as error:
        return error.fault
    return ""


def _mask_facts(row: ManifestRow, data: bytes | None) -> tuple[MaskProblem, float | None]:
    if data is None:
        return ("missing" if row.mask_path else ""), None
    try:
        mask = decode.decode_mask(data, row.mask_path)
    except UnreadableImage:
        return "unreadable", None
    except DataError:
        return "not binary", None
    share = round(float(mask.mean()), 6)
    if mask.shape != (row.height, row.width):
        return "other size", share
    return ("" if mask.any() else "empty"), share
