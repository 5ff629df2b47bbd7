"""Small real things for tests: methods that train in seconds, pictures with structure."""

import json
from pathlib import Path

import numpy as np
import torch

from admodels import methods
from admodels.bundles import runtime
from admodels.foundation.arrays import Bool, UInt8
from admodels.images.decode import STORED
from admodels.images.rules import ImageRules
from admodels.methods import Synthetic, TrainingData

PX = 64
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
PARAMS = {
    "draem": {
        "image_px": PX,
        "resize": "bilinear",
        "score_chunk_images": 4,
        "precision": "fp32",
        "reconstructive_width": 4,
        "discriminative_width": 4,
        "generator": {
            "clean_share": 0.5,
            "image_rotation_share": 0.3,
            "image_rotation_degrees": 90,
            "lattice_exponent_max": 5,
            "noise_rotation_degrees": 90,
            "mask_threshold": 0.5,
            "image_opacity_min": 0.0,
            "image_opacity_max": 0.8,
            "augmenters_per_texture": 3,
        },
        "batch_images": 4,
        "length": 12,
        "length_unit": "steps",
        "learning_rate": 0.001,
        "schedule": "milestones",
        "milestones": [0.8, 0.9],
        "milestone_factor": 0.2,
        "ema_decay": 0.9,
        "ssim_range": "one",
        "score_window_px": 21,
    },
    "cpr": {
        "image_px": PX,
        "resize": "bilinear",
        "score_chunk_images": 4,
        "precision": "fp32",
        "backbone": "resnet18",
        "backbone_weights": "random",
        "backbone_sha256": "",
        "head_weights": "random",
        "head_sha256": "",
        "smoothing_cells": {"object": [0.0, 0.0], "texture": [0.0, 0.0]},
        "tap_strides": [4, 8],
        "head_channels": 12,
        "descriptor_channels": 16,
        "references": 4,
        "histogram_blocks": 2,
        "dropped_blocks": 1,
        "codebook_words": 4,
        "regions": [3, 1],
        "tap_weights": {"object": [0.5, 1.0], "texture": [1.0, 1.0]},
        "foreground": {"object": True, "texture": False},
        "generator": {
            "clean_share": 0.1,
            "lattice_exponent_max": 5,
            "noise_rotation_degrees": 90.0,
            "mask_threshold": 0.5,
            "image_opacity_min": 0.0,
            "image_opacity_max": 0.5,
            "augmenters_per_texture": 0,
            "self_share": {"object": 0.5, "texture": 0.0},
            "augmenters_per_self": 3,
            "tiles_per_side": 8,
        },
        "smallest_anomaly_share": 0.001,
        "synthetic_images": 8,
        "photometric_share": 0.3,
        "batch_pairs": 2,
        "steps": {"object": 6, "texture": 6},
        "learning_rate": 0.001,
        "weight_decay": 0.01,
        "positive_margin": 0.8,
        "negative_margin": -0.2,
        "loss_exponent": 3,
        "points_per_image": 50,
        "bank": "fp16",
        "blur_sigma_px": 1.0,
        "score_pixels": 20,
        "cache_mib": 64,
        "parity": False,
    },
    "diffusionad": {
        "image_px": PX,
        "resize": "bilinear",
        "score_chunk_images": 4,
        "precision": "fp32",
        "pixel_range": "unit",
        "base_channels": 32,
        "channel_multipliers": [1, 1],
        "blocks_per_level": 1,
        "attention_px": [],
        "segmentation_width": 4,
        "noise_steps": 1000,
        "t_split": 300,
        "t_b_max": 1000,
        "guidance_weight": 1.0,
        "eval_t_s": 200,
        "eval_t_b": 400,
        "eval_draws": 1,
        "foreground": "auto",
        "generator": {
            "clean_share": 0.5,
            "lattice_exponent_max": 5,
            "noise_rotation_degrees": 90,
            "mask_threshold": 0.5,
            "image_opacity_min": 0.2,
            "image_opacity_max": 0.8,
            "augmenters_per_texture": 3,
            "self_share": {"object": 0.5, "texture": 0.0},
            "augmenters_per_self": 3,
            "tiles_per_side": 8,
        },
        "batch_images": 2,
        "micro_batch_images": 2,
        "checkpointing": False,
        "length": 8,
        "length_unit": "steps",
        "denoiser_learning_rate": 0.001,
        "segmentation_learning_rate": 0.001,
        "denoiser_schedule": "cosine",
        "segmentation_schedule": "cosine",
        "ema_decay": 0.9,
        "score_pixels": 50,
    },
}
# a run long and wide enough to find what it has learnt to find
LONGER: dict[str, dict[str, object]] = {
    "draem": {
        "length": 250,
        "reconstructive_width": 8,
        "discriminative_width": 8,
        "batch_images": 8,
    },
    "cpr": {"steps": {"object": 30, "texture": 30}, "references": 11, "synthetic_images": 60},
    "diffusionad": {
        "length": 100,
        "segmentation_width": 16,
        "batch_images": 4,
        "micro_batch_images": 4,
        "segmentation_learning_rate": 0.003,
        "denoiser_learning_rate": 0.002,
    },
}

# How much higher the map is then inside a defect than in a normal image. DiffusionAD's focal loss
# has an exponent of 4: it hardly pushes below p = 0.2, and 100 steps are no long training.
CONTRAST = {"draem": 3.0, "cpr": 3.0, "diffusionad": 1.5}


def detector(
    method: str, precision: torch.dtype = torch.float32, **changes: object
) -> methods.Detector:
    """A tiny detector of `method` without weights, on the device that `admodels` would take."""
    cls = methods.detector_class(method)
    params = cls.Params.model_validate_json(json.dumps(PARAMS[method] | changes), strict=True)
    return cls(params, device=runtime.device(), precision=precision)


def stripes(count: int, seed: int) -> UInt8:
    """(count, 3, PX, PX) uint8: soft diagonal stripes of varied phase, the normal look here."""
    rng = np.random.default_rng(seed)
    i, j = np.mgrid[:PX, :PX]
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


def textures(count: int = 6) -> UInt8:
    """(count, 3, PX, PX) uint8 noise blocks: anything but stripes."""
    rng = np.random.default_rng(99)
    coarse = rng.integers(0, 256, (count, 3, PX // 8, PX // 8), dtype=np.uint8)
    return coarse.repeat(8, axis=2).repeat(8, axis=3)


def training_data(count: int = 12) -> TrainingData:
    """Normal stripes, textures, and three held-out anomalies: a bright square each."""
    held_out = stripes(3, seed=2)
    masks = np.zeros((3, PX, PX), dtype=bool)
    masks[:, 20:36, 24:44] = True
    held_out.transpose(0, 2, 3, 1)[masks] = 250
    return TrainingData(
        normal=torch.from_numpy(stripes(count, seed=1)),
        textures=torch.from_numpy(textures()),
        validation=Synthetic(torch.from_numpy(held_out), torch.from_numpy(masks)),
        foreground=None,
        weights={},
    )


def fitted(
    method: str, checkpoints: Path, precision: torch.dtype = torch.float32, **changes: object
) -> methods.Detector:
    """A tiny detector after a real `fit`."""
    found = detector(method, precision, **changes)
    found.fit(training_data(), kind="texture", seed=5, checkpoints=checkpoints, log=lambda *_: None)
    return found
