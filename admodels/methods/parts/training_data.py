"""What a detector is fitted with, read from the folders of the stages before `train`."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from admodels.foundation import manifest
from admodels.foundation.arrays import Bool, Float64
from admodels.images import load, pose
from admodels.images.area import Area
from admodels.images.load import load_textures
from admodels.images.pose import Views
from admodels.images.reading import Reading
from admodels.images.shape import SEVERAL_RATIOS, Band, Shape, ratios
from admodels.methods import MethodParams, Synthetic, TrainingData
from admodels.synthesis import held_out

Rows = list[manifest.ManifestRow]


def resolve_shape(block: MethodParams, task: str, rows: Rows, reading: Reading) -> MethodParams:
    """The params for the shape of the images to learn from; images of several shapes are named."""
    least, usual, greatest = ratios(rows)
    if block.aspect == "keep" and greatest > SEVERAL_RATIOS * least:
        sys.stderr.write(
            f"{task}: width over height of the images is {least:.3g} to {greatest:.3g}; all are "
            f"stretched to {usual:.3g}, that of the image in the middle\n"
        )
    return block.resolve_shape(usual, _learn_band(block, task, rows, reading))


def _learn_band(block: MethodParams, task: str, rows: Rows, reading: Reading) -> Band | None:
    """What is cut out around the parts; None: images stay as they are."""
    if block.pose == "none":
        return None

    def find(row: manifest.ManifestRow) -> pose.Part | None:
        return pose.find_part(load.load_image(row, Path("data/raw", task), reading).rgb)

    parts = load.in_threads(find, rows, f"find the parts of {task}")
    band = pose.learn_band(parts)
    known = sum(piece is not None for piece in parts)
    kept = f"`pose: upright` changes nothing: {band}"
    words = kept if isinstance(band, str) else pose.turned_sentence(known, len(parts))
    sys.stderr.write(f"{task}: {words}\n")
    return None if isinstance(band, str) else band


def read_views(rows: Rows, task: str, block: MethodParams, reading: Reading) -> list[Views]:
    """The images of the rows as a detector with these params gets them."""

    def see(row: manifest.ManifestRow) -> Views:
        rgb = load.load_image(row, Path("data/raw", task), reading).rgb
        return pose.views(rgb, block.shape, block.resize, block.band)

    return load.in_threads(see, rows, f"read images of {task}")


def inspected_masks(area: Area, shape: Shape, places: Sequence[Float64 | None]) -> Bool:
    """Which pixels of each image are inspected, (N, *shape)."""
    return np.stack([area.seen(shape, place) for place in places])


def training_data(
    block: MethodParams,
    task: str,
    rows: Rows,
    reading: Reading,
    weights: Mapping[str, Path],
    area: Area | None = None,
) -> TrainingData:
    """All that a fit on these rows may see, beside `weights`: files by their stem."""
    raw, shape = Path("data/raw", task), block.shape
    seen = read_views(rows, task, block, reading)
    places = [views.place for views in seen]
    inspected = None if area is None else inspected_masks(area, shape, places)
    mattes = load.load_foreground(rows, raw, shape, block.resize, places)
    textures = load_textures(Path("data/textures"), shape)
    painted = (Path("data/synthetic", task), shape, block.resize, block.band)
    synthetic, masks = held_out.read(*painted)
    return TrainingData(
        normal=torch.from_numpy(np.stack([views.planes[:3] for views in seen])),
        textures=torch.from_numpy(textures),
        validation=Synthetic(torch.from_numpy(synthetic), torch.from_numpy(masks)),
        foreground=None if mattes is None else torch.from_numpy(mattes),
        weights=dict(weights),
        inspected=None if inspected is None else torch.from_numpy(inspected),
    )
