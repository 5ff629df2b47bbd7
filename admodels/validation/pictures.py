"""Small pictures of images for the data page: files beside it, whose sizes the page states."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from admodels.foundation.arrays import UInt8
from admodels.foundation.errors import DataError
from admodels.images import decode, load
from admodels.images.decode import Reading

LONGER_SIDE_PX = 320  # twice what a card shows, for dense screens
QUALITY = 80  # of a WebP
MASK_COLOUR = np.array([230, 30, 60])  # over an image
MASK_SHARE = 0.5
Shown = tuple[str, str]  # paths of an image and of the mask to lay over it, which may be empty


@dataclass(frozen=True)
class Picture:
    """The address of a picture as the page sees it, and its size in px."""

    address: str
    width: int
    height: int


def write_pictures(
    folder: Path, raw: Path, reading: Reading, wanted: Sequence[Shown]
) -> dict[Shown, Picture]:
    """Write each of the images below `raw` that decodes to `folder`, under a number.

    A name of ours, as that of the image may be anything.
    """

    def write(entry: tuple[int, Shown]) -> Picture | None:
        number, (image, mask) = entry
        try:
            rgb = decode.decode_image((raw / image).read_bytes(), image, reading).rgb
        except DataError:
            return None
        small = _small(_lay_over(rgb, raw, mask))
        path = folder / f"{number:04}.webp"
        Image.fromarray(small).save(path, "WEBP", quality=QUALITY)
        return Picture(f"{folder.name}/{path.name}", small.shape[1], small.shape[0])

    unique = list(dict.fromkeys(wanted))
    folder.mkdir()
    pictures = load.in_threads(write, list(enumerate(unique, 1)), f"draw pictures of {raw.name}")
    return {shown: picture for shown, picture in zip(unique, pictures, strict=True) if picture}


def _lay_over(rgb: UInt8, raw: Path, mask_path: str) -> UInt8:
    """The image with the marked pixels coloured, where the mask can be read and fits."""
    path = raw / mask_path
    try:
        mask = decode.decode_mask(path.read_bytes(), path) if mask_path else None
    except (DataError, FileNotFoundError):
        return rgb
    if mask is None or mask.shape != rgb.shape[:2]:
        return rgb
    coloured = (1 - MASK_SHARE) * rgb + MASK_SHARE * MASK_COLOUR
    return np.where(mask[:, :, None], coloured, rgb).astype(np.uint8)


def _small(rgb: UInt8) -> UInt8:
    """The image with its longer side at LONGER_SIDE_PX, its proportions kept."""
    height, width = rgb.shape[:2]
    scale = LONGER_SIDE_PX / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(rgb, size, interpolation=how), dtype=np.uint8)
