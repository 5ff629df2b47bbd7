"""What the assets stage has brought: the params block `assets` and the texture images."""

from pathlib import Path

import numpy as np

from admodels import images
from admodels.foundation.errors import DataError
from admodels.foundation.params import Strict
from admodels.sources import Source


class Assets(Strict):
    """Where the textures that anomalies are painted with come from."""

    textures: Source


def texture_paths(folder: Path) -> list[Path]:
    """The image files below `folder`, sorted by relative path.

    Raises:
        DataError: there is none: anomalies would have nothing to be painted with.
    """
    paths = [p for p in folder.rglob("*") if p.suffix.lower() in images.IMAGE_SUFFIXES]
    if not paths:
        raise DataError(
            "no texture source: no image",
            where=folder,
            expected=f"images ({', '.join(sorted(images.IMAGE_SUFFIXES))}) for `assets.textures`",
            next_step="mend `assets.textures` in params.yaml, with `admodels textures LOCATION`",
        )
    return sorted(paths, key=lambda p: p.relative_to(folder).as_posix())


def load_textures(folder: Path, image_px: int) -> images.UInt8:
    """All textures below `folder`, sorted by path, as (T, 3, image_px, image_px) uint8 RGB.

    Raises:
        DataError: there is none, or one does not decode.
    """

    def planes(path: Path) -> images.UInt8:
        rgb = images.decoded(path.read_bytes(), path).rgb
        return images.resized(rgb, image_px, "bilinear").transpose(2, 0, 1)

    paths = texture_paths(folder)
    return images.stacked(planes, paths, (3, image_px, image_px), np.uint8, "read textures")
