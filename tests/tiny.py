"""Small real things for tests: methods that train in seconds, pictures with structure."""

import json
from pathlib import Path

import numpy as np
import torch

from admodels import methods
from admodels.bundles import runtime
from admodels.foundation.arrays import Bool, UInt8
from admodels.foundation.params import load
from admodels.images.decode import STORED
from admodels.images.rules import ImageRules
from admodels.images.shape import Shape
from admodels.methods import Synthetic, TrainingData

PX = 64
SQUARE, WIDE = (PX, PX), (PX // 2, PX * 3 // 2)
CONTRACT = ImageRules(  # of anything that decodes
    reading=STORED,
    width_px=(1, 100_000),
    height_px=(1, 100_000),
    side_ratio=(0.01, 100),
    size_tolerance=1.25,
    ratio_tolerance=1.05,
    bit_depths=(8, 16),
    channels="both",
    brightness=(0, 255),
    min_contrast=0,
)
# Of every method, from its own folder: `params` of a run of seconds, `longer` (what changes for a
# run that finds a pasted defect) and `contrast` (how much higher the map is then inside it).
TINY = {
    name: load(Path(methods.__file__).with_name(name) / "tiny.yaml") for name in methods.available()
}
PARAMS = {name: tiny["params"] for name, tiny in TINY.items()}


def detector(
    method: str, precision: torch.dtype = torch.float32, **changes: object
) -> methods.Detector:
    """A tiny detector of `method` without weights, on the device that `admodels` would take."""
    cls = methods.detector_class(method)
    params = cls.Params.model_validate_json(json.dumps(PARAMS[method] | changes), strict=True)
    return cls(params, device=runtime.device(), precision=precision)


def stripes(count: int, seed: int, shape: Shape = SQUARE) -> UInt8:
    """(count, 3, *shape) uint8: soft diagonal stripes of varied phase, the normal look here."""
    rng = np.random.default_rng(seed)
    i, j = np.mgrid[: shape[0], : shape[1]]
    phase = rng.uniform(0, 6.28, (count, 1, 1, 1))
    tint = rng.uniform(0.8, 1.0, (count, 3, 1, 1))
    wave = 0.5 + 0.3 * np.sin((i + j) / 5 + phase)
    return (255 * tint * wave).astype(np.uint8)


def discs(count: int, seed: int, defects: bool = False) -> tuple[UInt8, Bool]:
    """A part on a flat ground, (count, 3, PX, PX) uint8, and where every other one is damaged.

    Specification of CPR, section 18, V25: a disc of radius 20 that jitters by a pixel.
    """
    rng = np.random.default_rng(seed)
    i, j = np.mgrid[:PX, :PX]
    images = np.empty((count, 3, PX, PX), dtype=np.uint8)
    masks = np.zeros((count, PX, PX), dtype=np.bool_)
    for at, (image, mask) in enumerate(zip(images, masks, strict=True)):
        dy, dx = rng.integers(-1, 2, size=2)
        part = (i - 32 - dy) ** 2 + (j - 32 - dx) ** 2 <= 20**2
        pixels = np.where(
            part, *(np.reshape(c, (3, 1, 1)) for c in ([0.7, 0.6, 0.2], [0.2, 0.3, 0.4]))
        )
        if defects and at % 2 == 0:
            y, x = rng.integers(20, 37, size=2)
            mask[y : y + 8, x : x + 8] = True
            pixels = np.where(mask, 0.95, pixels)
        image[:] = 255 * (pixels + rng.normal(0, 0.02, pixels.shape)).clip(0, 1)
    return images, masks


def textures(count: int = 6, shape: Shape = SQUARE) -> UInt8:
    """(count, 3, *shape) uint8 noise blocks: anything but stripes."""
    rng = np.random.default_rng(99)
    coarse = rng.integers(0, 256, (count, 3, shape[0] // 8, shape[1] // 8), dtype=np.uint8)
    return coarse.repeat(8, axis=2).repeat(8, axis=3)


def training_data(count: int = 12, shape: Shape = SQUARE) -> TrainingData:
    """Normal stripes, textures, and three held-out anomalies: a bright square each."""
    held_out = stripes(3, 2, shape)
    masks = np.zeros((3, *shape), dtype=bool)
    masks[:, shape[0] // 3 - 1 : shape[0] // 3 + 15, 24:44] = True
    held_out.transpose(0, 2, 3, 1)[masks] = 250
    return TrainingData(
        normal=torch.from_numpy(stripes(count, 1, shape)),
        textures=torch.from_numpy(textures(shape=shape)),
        validation=Synthetic(torch.from_numpy(held_out), torch.from_numpy(masks)),
        foreground=None,
        weights={},
    )


def fitted(
    method: str, checkpoints: Path, precision: torch.dtype = torch.float32, **changes: object
) -> methods.Detector:
    """A tiny detector after a real `fit`."""
    found = detector(method, precision, **changes)
    data = training_data(shape=found.params.shape)
    found.fit(data, kind="texture", seed=5, checkpoints=checkpoints, log=lambda *_: None)
    return found
