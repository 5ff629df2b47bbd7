"""What is known of every image and mask before anything is learnt from them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from admodels import images
from admodels.errors import DataError
from admodels.images import UnreadableImage
from admodels.manifest import FOREGROUND, Found, Row
from admodels.statistics import statistics, thumbnail

MaskProblem = Literal["", "missing", "unreadable", "not binary", "other size", "empty"]
DIGITS = 4


@dataclass(frozen=True)
class Facts:
    """Of one image: its statistics, its thumbnail as bytes, what is wrong with mask and matte.

    `mask_area_share` is the anomalous share of the pixels, None without a readable mask.
    """

    brightness: float
    contrast: float
    sharpness: float
    thumbnail: bytes
    mask_problem: MaskProblem = ""
    mask_area_share: float | None = None
    matte_problem: str = ""


Inspected = tuple[Found, Row, Facts]


def inspected(found: Sequence[Found], root: Path) -> tuple[list[Inspected], list[UnreadableImage]]:
    """Every image that can be read, in order, and the refusals of the others."""

    def inspected_or_refused(one: Found) -> Inspected | UnreadableImage:
        try:
            return one, *described(one, root)
        except UnreadableImage as error:
            return error

    outcomes = images.in_threads(inspected_or_refused, found, f"inspect {root.name}")
    refused = [o for o in outcomes if isinstance(o, UnreadableImage)]
    return [o for o in outcomes if not isinstance(o, UnreadableImage)], refused


def described(found: Found, root: Path) -> tuple[Row, Facts]:
    """The manifest row and the facts of one image, read and decoded once, as are mask and matte.

    Raises:
        UnreadableImage: the file does not give an image.
    """
    data = (root / found.image_path).read_bytes()
    image = images.decoded(data, found.image_path)
    mask = root / found.mask_path
    mask_data = mask.read_bytes() if found.mask_path and mask.is_file() else None
    matte = root / FOREGROUND / PurePosixPath(found.image_path).with_suffix(".png")
    matte_data = matte.read_bytes() if matte.is_file() else None
    row = Row(
        image_id=str(PurePosixPath(found.image_path).with_suffix("")),
        image_path=found.image_path,
        image_sha256=hashlib.sha256(data).hexdigest(),
        width=image.width,
        height=image.height,
        mode=image.mode,
        bit_depth=image.bit_depth,
        label=found.label,
        defect_type=found.defect_type,
        mask_path=found.mask_path,
        mask_sha256="" if mask_data is None else hashlib.sha256(mask_data).hexdigest(),
        foreground_path="" if matte_data is None else matte.relative_to(root).as_posix(),
        foreground_sha256="" if matte_data is None else hashlib.sha256(matte_data).hexdigest(),
    )
    return row, _facts(image.rgb, *_mask_facts(row, mask_data), _matte_problem(row, matte_data))


def _facts(rgb: images.UInt8, problem: MaskProblem, share: float | None, matte: str) -> Facts:
    seen = statistics(rgb)
    return Facts(
        brightness=round(seen.brightness, DIGITS),
        contrast=round(seen.contrast, DIGITS),
        sharpness=round(seen.sharpness, DIGITS),
        thumbnail=thumbnail(rgb).tobytes(),
        mask_problem=problem,
        mask_area_share=share,
        matte_problem=matte,
    )


def _matte_problem(row: Row, data: bytes | None) -> str:
    try:
        if data is not None:
            images.decoded_matte(data, row.foreground_path, row)
    except DataError as error:
        return error.found
    return ""


def _mask_facts(row: Row, data: bytes | None) -> tuple[MaskProblem, float | None]:
    if data is None:
        return ("missing" if row.mask_path else ""), None
    try:
        mask = images.decoded_mask(data, row.mask_path)
    except UnreadableImage:
        return "unreadable", None
    except DataError:
        return "not binary", None
    share = round(float(mask.mean()), 6)
    if mask.shape != (row.height, row.width):
        return "other size", share
    return ("" if mask.any() else "empty"), share
