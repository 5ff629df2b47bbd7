"""Training samples: a normal image, its copy with a synthetic anomaly, and the exact mask.

The generator of DRAEM (Zavrtanik et al. 2021, arXiv 2108.07610), with two departures from the
official code: the coin for clean samples falls before the work instead of after it, and each sample
draws from a generator of its own instead of three global ones that loader workers replay.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from admodels.foundation.arrays import Bool, Float32, UInt8
from admodels.foundation.params import Kind
from admodels.synthesis.augmenters import augment, rotate, shuffle_strips, shuffle_tiles
from admodels.synthesis.params import Anomaly, Generator, SelfMix
from admodels.synthesis.perlin import perlin_noise

PLACING_DRAWS = 50  # Zhang et al. 2023's code
HALF = 0.5  # of a pixel inspected: from there on it counts after a rotation


@dataclass(frozen=True)
class Batch:
    """On the CPU; images in 0..1 with channels-last strides, equal wherever the mask is 0.

    `normal` and `augmented` (B, 3, H, W) float32, `mask` (B, 1, H, W) float32 of 0 and 1.
    """

    normal: Tensor
    augmented: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Paint:
    """One anomaly before it is on an image.

    `mask` (H, W) float32 in 0..1 and not all 0, `appearance` (H, W, 3) uint8, and the opacity that
    the image keeps inside the mask.
    """

    mask: Float32
    appearance: UInt8
    image_opacity: float


def synthetic_batch(
    normal: Tensor,
    textures: Tensor,
    generator: Generator,
    *,
    batch: int,
    seed: int,
    step: int,
    inspected: Tensor | None = None,
) -> Batch:
    """`batch` samples, images and textures drawn with replacement.

    `normal` (N, 3, H, W) and `textures` (T, 3, H, W) are uint8 RGB on the CPU. Sample i comes from
    (seed, step, i) alone: no worker, no order and no batch size changes its bytes. `inspected`
    (N, H, W) bool: where anomalies may lie on each image; None: anywhere.
    """
    samples = [
        _sample(normal, textures, generator, np.random.default_rng([seed, step, index]), inspected)
        for index in range(batch)
    ]
    return _batch(samples)


def batch_on_parts(
    normal: Tensor,
    textures: Tensor,
    foreground: Tensor,
    generator: SelfMix,
    *,
    kind: Kind,
    batch: int,
    seed: int,
    step: int,
) -> Batch:
    """As `synthetic_batch`, but anomalies lie on `foreground` (N, 1, H, W) uint8.

    Where it is grey, so is the mask. A share of the anomalies is painted with the image itself,
    cut into strips that change places: the generator of DiffusionAD (Zhang et al. 2023).
    """
    share = generator.self_share.of(kind)
    samples = []
    for index in range(batch):
        rng = np.random.default_rng([seed, step, index])
        chosen = rng.integers(len(normal))
        image = interleave(normal[chosen].numpy())
        texture = textures[rng.integers(len(textures))].numpy()
        paint = None
        if rng.random() >= generator.clean_share:
            matte = foreground[chosen, 0].numpy().astype(np.float32) / np.float32(255)
            paint = _draw_paint_on_part(image, interleave(texture), matte, generator, share, rng)
        samples.append((image, paint))
    return _batch(samples)


def _draw_paint_on_part(
    image: UInt8,
    texture: UInt8,
    matte: Float32,
    generator: SelfMix,
    self_share: float,
    rng: np.random.Generator,
) -> Paint | None:
    """An anomaly on the part, (H, W) in 0..1; None where 50 draws of noise all miss it."""
    (height, width), rows_columns = matte.shape, _lattice(generator, rng)
    for _ in range(PLACING_DRAWS):
        mask = _noise_mask(height, width, rows_columns, generator, rng) * matte
        if mask.any():
            break
    else:
        return None
    if rng.random() < self_share:
        changed = augment(image, generator.augmenters_per_self, rng)
        appearance = shuffle_strips(changed, generator.tiles_per_side, rng)
    else:
        appearance = augment(texture, generator.augmenters_per_texture, rng)
    opacity = rng.uniform(generator.image_opacity_min, generator.image_opacity_max)
    return Paint(mask, appearance, opacity)


def _batch(samples: Sequence[tuple[UInt8, Paint | None]]) -> Batch:
    images = torch.from_numpy(np.stack([image for image, _ in samples])).to(torch.float32).div_(255)
    painted = images.clone()
    masks = torch.zeros(*images.shape[:3], 1)
    for index, (_, paint) in enumerate(samples):
        if paint is not None:
            apply(paint, painted[index].numpy())
            masks[index, :, :, 0] = torch.from_numpy(paint.mask)
    return Batch(*(stack.permute(0, 3, 1, 2) for stack in (images, painted, masks)))


def _sample(
    normal: Tensor,
    textures: Tensor,
    generator: Generator,
    rng: np.random.Generator,
    inspected: Tensor | None,
) -> tuple[UInt8, Paint | None]:
    chosen = rng.integers(len(normal))
    image = interleave(normal[chosen].numpy())
    area = None if inspected is None else inspected[chosen].numpy()
    if rng.random() < generator.image_rotation_share:
        limit = generator.image_rotation_degrees
        is_square = image.shape[0] == image.shape[1]  # else much more than corners would be bare
        degrees = rng.uniform(-limit, limit)
        image = rotate(image, degrees, mirrored=not is_square)
        if area is not None:
            area = rotate(area.astype(np.float32), degrees, mirrored=not is_square) > HALF
    if rng.random() < generator.clean_share:
        return image, None
    texture = interleave(textures[rng.integers(len(textures))].numpy())
    for _ in range(1 if area is None else PLACING_DRAWS):
        paint = draw_paint(texture, generator, rng, area)
        if paint is not None:
            return image, paint
    return image, None


def draw_paint(
    texture: UInt8, anomaly: Anomaly, rng: np.random.Generator, inspected: Bool | None = None
) -> Paint | None:
    """An anomaly of `texture` (H, W, 3) uint8, or None where the mask comes out empty.

    `inspected` (H, W) bool: where it may lie; None: anywhere.
    """
    height, width = texture.shape[:2]
    mask = anomaly_mask(height, width, anomaly, rng)
    if inspected is not None:
        mask *= inspected
    if not mask.any():
        return None
    appearance = augment(texture, anomaly.augmenters_per_texture, rng)
    return Paint(
        mask, appearance, rng.uniform(anomaly.image_opacity_min, anomaly.image_opacity_max)
    )


def mix_with_itself(image: UInt8, generator: SelfMix, rng: np.random.Generator) -> UInt8:
    """`image` (H, W, 3) augmented, its tiles shuffled: what an anomaly is painted with.

    Li et al. 2024 (CPR) paint objects so, half of the time.
    """
    changed = augment(image, generator.augmenters_per_self, rng)
    return shuffle_tiles(changed, generator.tiles_per_side, rng)


def anomaly_mask(
    height_px: int, width_px: int, anomaly: Anomaly, rng: np.random.Generator
) -> Float32:
    """(height_px, width_px) of 0 and 1: rotated noise above the threshold, all 0 at times.

    Cut from the middle of a square of noise: turned, a strip of it would leave the ends bare.
    """
    return _noise_mask(height_px, width_px, _lattice(anomaly, rng), anomaly, rng)


def _lattice(anomaly: Anomaly, rng: np.random.Generator) -> tuple[int, int]:
    """Cells of noise, rows and columns."""
    rows, columns = 2 ** rng.integers(anomaly.lattice_exponent_max + 1, size=2)
    return int(rows), int(columns)


def _noise_mask(
    height_px: int,
    width_px: int,
    rows_columns: tuple[int, int],
    anomaly: Anomaly,
    rng: np.random.Generator,
) -> Float32:
    rows, columns = rows_columns
    theta = rng.random((rows + 1, columns + 1), dtype=np.float32) * np.float32(2 * np.pi)
    limit, side = anomaly.noise_rotation_degrees, max(height_px, width_px)
    square = rotate(perlin_noise(theta, side, side), rng.uniform(-limit, limit))
    top, left = (side - height_px) // 2, (side - width_px) // 2
    noise = square[top : top + height_px, left : left + width_px]
    return (noise > anomaly.mask_threshold).astype(np.float32)


def apply(paint: Paint, image: Float32) -> None:
    """Change a contiguous image I (H, W, 3) in 0..1 to I (1 - M) + M ((1 - g) A + g I), in place.

    M is the mask, A the appearance, g the image's opacity; where M = 0 no bit changes.
    """
    inside = np.flatnonzero(paint.mask > 0)
    pixels = image.reshape(-1, 3)
    normal, share = pixels[inside], paint.mask.ravel()[inside, None]
    appearance = paint.appearance.reshape(-1, 3)[inside] / np.float32(255)
    painted = (1 - paint.image_opacity) * appearance + paint.image_opacity * normal
    pixels[inside] = normal * (1 - share) + share * painted


def interleave(planes: NDArray[Any]) -> UInt8:
    """(3, H, W) as a contiguous (H, W, 3)."""
    return np.asarray(cv2.merge(list(planes)), dtype=np.uint8)
