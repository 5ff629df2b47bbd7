"""The images, masks and mattes of manifest rows as arrays: read in threads, checked by hash."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from admodels.foundation.arrays import Bool, Float64, UInt8
from admodels.foundation.errors import DataError
from admodels.foundation.exclude import is_excluded
from admodels.foundation.files import names_text
from admodels.foundation.manifest import FOREGROUND, IMAGE_SUFFIXES, ManifestRow
from admodels.foundation.params import Resize
from admodels.foundation.progress import progress
from admodels.images import decode
from admodels.images.decode import (
    Image,
    Reading,
    decode_image,
    decode_mask,
    decode_matte,
    resize_image,
    resize_mask,
)
from admodels.images.pose import cut_band
from admodels.images.shape import Shape

T = TypeVar("T")
R = TypeVar("R")

DECODING_THREADS = min(8, os.cpu_count() or 1)


def load_image(row: ManifestRow, root: Path, reading: Reading) -> Image:
    """The image of a row, as the camera took it; refusals as in `load_images`."""
    path = root / row.image_path
    return decode_image(_read_and_check(path, row.image_sha256), path, reading)


def load_images(
    rows: list[ManifestRow], root: Path, shape: Shape, resize: Resize, reading: Reading
) -> UInt8:
    """The whole images of the rows, in order, as (N, 3, *shape) uint8 RGB.

    Raises:
        DataError: a file is missing, or its bytes are not those of the manifest.
        UnreadableImage: a file does not give an image.
    """

    def planes(row: ManifestRow) -> UInt8:
        rgb = load_image(row, root, reading).rgb
        return resize_image(rgb, shape, resize).transpose(2, 0, 1)

    label = f"read images of {root.name}"
    return stack_arrays(planes, rows, (3, *shape), np.uint8, label)


def load_masks(
    rows: list[ManifestRow],
    root: Path,
    shape: Shape,
    resize: Callable[[Bool, Shape], Bool] = resize_mask,
) -> Bool:
    """The masks of the rows, in order, as (N, *shape) bool by `resize`; no mask is all False.

    Raises:
        DataError: a file is missing, is not that of the manifest, is not binary, or has another
            size than its image.
    """

    def plane(row: ManifestRow) -> Bool:
        if not row.mask_sha256:
            return np.zeros(shape, dtype=np.bool_)
        path = root / row.mask_path
        mask = decode_mask(_read_and_check(path, row.mask_sha256), path)
        if mask.shape != (row.height, row.width):
            raise DataError(
                f"mask is {mask.shape[1]} x {mask.shape[0]} pixels",
                where=path,
                expected=f"{row.width} x {row.height}, as {row.image_path}",
                next_step=f"fix the mask, then `admodels task refresh {root.name}`",
            )
        return resize(mask, shape)

    label = f"read masks of {root.name}"
    return stack_arrays(plane, rows, shape, np.bool_, label)


def load_foreground(
    rows: list[ManifestRow],
    root: Path,
    shape: Shape,
    resize: Resize,
    places: Sequence[Float64 | None] | None = None,
) -> UInt8 | None:
    """The mattes of the rows, in order, as (N, 1, *shape) uint8; None: there is none.

    `places`: of the band that is seen of each image, None where that is the whole image.

    Raises:
        DataError: some images have one and others not, a file is missing or is not that of the
            manifest, has another size than its image, or is dark all over.
    """
    bare = [row.image_path for row in rows if not row.foreground_sha256]
    if len(bare) == len(rows):
        return None
    if bare:
        raise DataError(
            f"{len(bare)} of {len(rows)} images have no foreground matte",
            where=names_text(bare),
            expected=f"{FOREGROUND}/<path of the image>.png for every image, or for none",
            next_step="add or remove mattes, then `admodels task refresh NAME`",
        )

    def plane(row_place: tuple[ManifestRow, Float64 | None]) -> UInt8:
        row, place = row_place
        path = root / row.foreground_path
        matte = decode_matte(_read_and_check(path, row.foreground_sha256), path, row)
        if place is not None:
            return cut_band(matte, place, shape, resize)[None, :, :, 0]
        return resize_image(matte, shape, resize)[None, :, :, 0]

    pairs = list(zip(rows, places or [None] * len(rows), strict=True))
    return stack_arrays(plane, pairs, (1, *shape), np.uint8, f"read mattes of {root.name}")


def _read_and_check(path: Path, sha256: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _not_as_listed(f"file cannot be read: {error.strerror}", path) from error
    actual = hashlib.sha256(data).hexdigest()
    if actual != sha256:
        raise _not_as_listed(f"file has sha256 {actual}, its manifest says {sha256}", path)
    return data


def _not_as_listed(fault: str, path: Path) -> DataError:
    return DataError(
        fault,
        where=path,
        expected="the bytes that the manifest lists",
        next_step="dvc repro fetch validate",
    )


def stack_arrays(
    array_of: Callable[[T], NDArray[Any]],
    items: Sequence[T],
    shape: tuple[int, ...],
    dtype: DTypeLike,
    label: str,
) -> NDArray[Any]:
    """`array_of` every item as an (N, *shape) array, filled in place: nothing is held twice."""
    stack: NDArray[Any] = np.empty((len(items), *shape), dtype=dtype)

    def fill(index: int) -> None:
        stack[index] = array_of(items[index])

    in_threads(fill, range(len(items)), label)
    return stack


def in_threads(function: Callable[[T], R], items: Sequence[T], label: str) -> list[R]:
    """`function` of every item, in order; decoders release the interpreter lock."""
    with ThreadPoolExecutor(DECODING_THREADS) as pool:
        return list(progress(pool.map(function, items), len(items), label))


def texture_paths(folder: Path) -> list[Path]:
    """The image files below `folder`, sorted by relative path.

    Raises:
        DataError: there is none: anomalies would have nothing to be painted with.
    """
    paths = [
        p
        for p in folder.rglob("*")
        if p.suffix.lower() in IMAGE_SUFFIXES and not is_excluded(p.relative_to(folder).as_posix())
    ]
    if not paths:
        raise DataError(
            "no texture source: no image",
            where=folder,
            expected=f"images ({', '.join(sorted(IMAGE_SUFFIXES))}) for `textures`",
            next_step="fix `textures` in params.yaml, with `admodels textures LOCATION`",
        )
    return sorted(paths, key=lambda p: p.relative_to(folder).as_posix())


def load_textures(folder: Path, shape: Shape) -> UInt8:
    """All textures below `folder`, sorted by path, as (T, 3, *shape) uint8 RGB.

    Raises:
        DataError: there is none, or one does not decode.
    """

    def planes(path: Path) -> UInt8:
        rgb = decode.decode_image(path.read_bytes(), path).rgb
        return decode.resize_image(rgb, shape, "bilinear").transpose(2, 0, 1)

    paths = texture_paths(folder)
    return stack_arrays(planes, paths, (3, *shape), np.uint8, "read textures")
