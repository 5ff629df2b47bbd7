"""The normal images of a bundle, for people: what an image that was flagged was compared with.

evidence/NNNN.webp   in the order of training, at the size of scoring, under the licence of the data

No score depends on them. bundle.json has their hashes, apart from those of the files that a bundle
needs: without the folder, or a picture of it, the bundle is whole.
"""

import hashlib
import io
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from admodels.foundation.arrays import UInt8

FOLDER = "evidence"
QUALITY = 80  # of a WebP
METHOD = 2  # of its encoder, 0..6
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evidence:
    """The pictures in `folder`; `sha256s` are those of the files, in the order of training."""

    folder: Path | None = None
    sha256s: tuple[str, ...] = ()

    def image(self, index: int) -> UInt8 | None:
        """(h, w, 3) uint8 RGB of a normal image by its place in training; None: not kept.

        A picture that was changed is not shown, and a warning names it.
        """
        if self.folder is None or index not in range(len(self.sha256s)):
            return None
        path = self.folder / name_of(index)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        if hashlib.sha256(data).hexdigest() != self.sha256s[index]:
            LOG.warning("%s was changed: the picture is left out, scores do not depend on it", path)
            return None
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def size_bytes(self) -> int:
        """What the pictures take on the disk."""
        paths = [] if self.folder is None else self.folder.glob("*.webp")
        return sum(path.stat().st_size for path in paths)


def name_of(index: int) -> str:
    """The file of a normal image by its place in training."""
    return f"{index:04d}.webp"


def write_evidence(folder: Path, normal: UInt8) -> tuple[str, ...]:
    """Write normal images (N, 3, h, w) uint8 RGB into a new folder; the SHA-256 of each file."""
    folder.mkdir()
    for index, planes in enumerate(normal):
        picture = Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0)))
        picture.save(folder / name_of(index), "WEBP", quality=QUALITY, method=METHOD)
    paths = sorted(folder.iterdir())
    return tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
