"""The images of a night that may come into its audit set: chosen by hash, whatever their score.

An image leaves its folder, and memory at once; so a picture of each that is among the smallest
ranks so far is made when it is decoded. Of 100,000 images in a night these are about 55.
"""

import hashlib
from bisect import insort
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from admodels.foundation.arrays import UInt8
from admodels.scoring.lines import folder_name

SIDE_PX_MAX = 1600  # of the longer side of a picture
QUALITY = 80  # of a WebP
METHOD = 2  # of its encoder, 0..6: 4 takes twice the time and saves 6 % of the bytes


def rank(line: str, night: str, image_sha256: str) -> bytes:
    """Where an image stands in the audit of a night (ISO date): SHA-256 of the three, a line each.

    Nobody can choose it, and neither score nor time of day moves it.
    """
    return hashlib.sha256(f"{line}\n{night}\n{image_sha256}".encode()).digest()


class Candidates:
    """The `count` images of a line and night with the smallest ranks so far.

    Threads may ask while one thread adds.
    """

    def __init__(self, line: str, night: str, count: int, sha256s: Iterable[str] = ()) -> None:
        self.line, self.night, self.count = line, night, count
        self._smallest: list[bytes] = []
        for image_sha256 in sha256s:
            self.add(image_sha256)

    def is_candidate(self, image_sha256: str) -> bool:
        """Whether an image is among them, or would be if it were added."""
        smallest = self._smallest
        if len(smallest) < self.count:
            return True
        return bool(smallest) and rank(self.line, self.night, image_sha256) <= smallest[-1]

    def add(self, image_sha256: str) -> None:
        """Count an image that was scored in this night."""
        smallest, own = self._smallest.copy(), rank(self.line, self.night, image_sha256)
        if own not in smallest:
            insort(smallest, own)
        self._smallest = smallest[: self.count]


def picture_path(ledger: Path, line: str, night: str, image_sha256: str) -> Path:
    """Where the picture of a candidate stands; the names of a night's pictures give their ranks."""
    return ledger / "audit" / folder_name(line) / night / f"{image_sha256}.webp"


def picture(rgb: UInt8) -> bytes:
    """A WebP of an image (H, W, 3), no larger than SIDE_PX_MAX."""
    encoded = BytesIO()
    small = Image.fromarray(shrink(rgb))
    small.save(encoded, "WEBP", quality=QUALITY, method=METHOD)
    return encoded.getvalue()


def shrink(rgb: UInt8) -> UInt8:
    """An image (H, W, 3) whose longer side is at most SIDE_PX_MAX."""
    height, width = shrunk_shape(*rgb.shape[:2])
    if (height, width) == rgb.shape[:2]:
        return rgb
    return np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA))


def shrunk_shape(height: int, width: int) -> tuple[int, int]:
    """The height and width of an image that `shrink` gives."""
    scale = min(1.0, SIDE_PX_MAX / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))
