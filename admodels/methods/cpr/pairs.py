"""What the heads learn from: pairs of places in a synthetic anomaly and in a similar normal image.

Li et al. 2024. `parity` repeats the official code where it matters to numbers: the
far-negative weight stands inside the power (the paper has it outside), points are read up to half a
pixel off, and the most similar image is taken for the image itself. Without it these are corrected.
Anomalies are drawn online from (seed, number in the pool), at the size of the network and never
stored as JPEG, so that queries and references have the same texture.
"""

import math
from dataclasses import dataclass, fields
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from admodels.foundation.arrays import Bool, Float32, Indices, UInt8
from admodels.images.shape import Shape
from admodels.methods.cpr.foreground import IS_PART
from admodels.methods.cpr.params import Params
from admodels.synthesis.anomalies import Paint, anomaly_mask, apply, interleave, mix_with_itself
from admodels.synthesis.augmenters import augment

TRIES = 100  # for a mask that meets the part; then the sample stays normal


@dataclass(frozen=True)
class Sample:
    """A normal image with an anomaly, or without: `image` (3, H, W) uint8, `mask` (H, W) bool."""

    source: int
    image: UInt8
    mask: Bool


def synthetic_sample(
    normal: Tensor,
    textures: Tensor,
    foreground: Tensor | None,
    params: Params,
    *,
    self_share: float,
    seed: int,
    number: int,
    inspected: Tensor | None = None,
) -> Sample:
    """Number `number` of the pool: from image `number` modulo N, with a share that stays normal.

    `normal` (N, 3, H, W), `textures` (T, 3, H, W) uint8; `foreground` (N, h, w) float32 or None.
    `inspected` (N, H, W) bool: where the anomaly may lie; None: anywhere.
    """
    rng = np.random.default_rng([seed, number])
    source, generator = number % len(normal), params.generator
    image = interleave(normal[source].numpy())
    shape = image.shape[0], image.shape[1]
    pixels = image.astype(np.float32) / np.float32(255)
    mask = np.zeros(shape, dtype=np.float32)
    if rng.random() >= generator.clean_share:
        part_map = None if foreground is None else _enlarge(foreground[source], shape)
        mask = _mask_on_part(part_map, shape, params, rng)
        if inspected is not None:
            mask *= inspected[source].numpy()
    if mask.any():
        if rng.random() < self_share:
            appearance = mix_with_itself(image, generator, rng)
        else:
            texture = interleave(textures[rng.integers(len(textures))].numpy())
            appearance = augment(texture, generator.augmenters_per_texture, rng)
        opacity = rng.uniform(generator.image_opacity_min, generator.image_opacity_max)
        apply(Paint(mask, appearance, opacity), pixels)
    inside = mask > 0
    painted = image.copy()
    painted[inside] = pixels[inside] * np.float32(255)  # truncated, as in the official code
    return Sample(source, np.ascontiguousarray(painted.transpose(2, 0, 1)), inside)


def _enlarge(part_map: Tensor, shape: Shape) -> Float32:
    scaled = cv2.resize(part_map.numpy(), shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(scaled, dtype=np.float32)


def _mask_on_part(
    part_map: Float32 | None, shape: Shape, params: Params, rng: np.random.Generator
) -> Float32:
    """(H, W) of 0 and 1: components large enough that touch the part; all 0 if none came."""
    shows_part = part_map is None or bool((part_map > IS_PART).any())
    for _ in range(TRIES if shows_part else 0):
        mask = anomaly_mask(*shape, params.generator, rng)
        kept = large_components(mask, part_map, params.smallest_anomaly_share)
        if kept.any():
            return kept
    return np.zeros(shape, dtype=np.float32)


def large_components(mask: Float32, part_map: Float32 | None, smallest_share: float) -> Float32:
    """The 8-connected components of at least that area that reach foreground above 0.5."""
    count, labels, components, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    keep = components[:, cv2.CC_STAT_AREA] >= smallest_share * mask.size
    if part_map is not None:
        keep &= np.bincount(labels[part_map > IS_PART], minlength=count) > 0
    keep[0] = False
    return np.asarray(keep[labels], dtype=np.float32)


def photometric(image: UInt8, share: float, rng: np.random.Generator) -> UInt8:
    """(3, H, W) with salt and pepper, then other lightness, each in `share` of the draws."""
    if rng.random() < share:
        each = (1 - rng.uniform(0.97, 1)) / 2
        chance = rng.random(image.shape[1:])
        image = np.where(chance < 2 * each, np.uint8(0), image)
        image = np.where(chance < each, np.uint8(255), image)
    if rng.random() < share:
        hls = cv2.cvtColor(interleave(image), cv2.COLOR_RGB2HLS)
        hls[:, :, 1] = np.clip(hls[:, :, 1] * rng.uniform(0.9, 1.1), 0, 255).astype(np.uint8)
        image = np.asarray(cv2.cvtColor(hls, cv2.COLOR_HLS2RGB), dtype=np.uint8).transpose(2, 0, 1)
    return image


@dataclass(frozen=True)
class Points:
    """Pairs of pixels (B, P, 2) as x, y, with (B, P) weights 1, or 0 for padding; float32.

    Positives and anomalies stand at the same place in query and reference.
    """

    positive: Tensor
    positive_weight: Tensor
    anomaly: Tensor
    anomaly_weight: Tensor
    far_query: Tensor
    far_reference: Tensor
    far_weight: Tensor

    @classmethod
    def batch(cls, of: list["Points"]) -> "Points":
        """Points of one pair each (1, P, ...), as one batch."""
        return cls(*(torch.cat([getattr(p, f.name) for p in of]) for f in fields(cls)))

    def to(self, device: torch.device) -> "Points":
        """The same on another device."""
        return Points(*(getattr(self, f.name).to(device) for f in fields(self)))


def draw_points(
    mask: Bool, attention: Float32 | None, count: int, far_px: float, rng: np.random.Generator
) -> Points:
    """The points of one pair: `count` of each kind where there are so many.

    `attention` (H, W) makes normal pixels likelier and turns far negatives on; None is a texture.
    """
    normal, anomalous = np.flatnonzero(~mask), np.flatnonzero(mask)
    pool = _draw_by_weight(
        normal, None if attention is None else attention.ravel()[normal], 2 * count, rng
    )
    anomaly = rng.choice(anomalous, min(count, len(anomalous)), replace=False)
    anywhere = rng.choice(mask.size, len(pool), replace=False)
    query, reference = _xy(anywhere, mask.shape[1]), _xy(pool, mask.shape[1])
    far = np.flatnonzero(np.hypot(*(query - reference).T) > far_px)[
        : count if attention is not None else 0
    ]
    return Points(
        *_pad(reference[:count], count),
        *_pad(_xy(anomaly, mask.shape[1]), count),
        _pad(query[far], count)[0],
        *_pad(reference[far], count),
    )


def _draw_by_weight(
    items: Indices, weights: Float32 | None, count: int, rng: np.random.Generator
) -> Indices:
    """`count` different items, drawn one after the other in proportion to their weights."""
    if weights is None:
        return rng.choice(items, min(count, len(items)), replace=False)
    # the smallest of exponential arrival times at these rates come in exactly that order
    arrival = rng.standard_exponential(len(items)) / np.maximum(weights, 1e-12)
    count = min(count, len(items))
    first = np.argpartition(arrival, count - 1)[:count] if count else np.empty(0, np.intp)
    return items[first[np.argsort(arrival[first])]]


def _xy(flat: Indices, width: int) -> Indices:
    return np.stack([flat % width, flat // width], axis=1)


def _pad(points: Indices, count: int) -> tuple[Tensor, Tensor]:
    """(1, count, 2) with (0, 0) for what is missing, and (1, count) weights that say so."""
    padded = np.zeros((1, count, 2), dtype=np.float32)
    padded[0, : len(points)] = points
    weight = (np.arange(count) < len(points)).astype(np.float32)[None]
    return torch.from_numpy(padded), torch.from_numpy(weight)


class _GatherWeighted(torch.autograd.Function):
    """Weighted sums of cells: (B, n, C), four indices and weights (B, P) each, to (B, P, C).

    By hand: the gradient of `grid_sample` differs from run to run on a GPU, and that of `gather`
    keeps the whole map, and makes one as large for each corner.
    """

    @staticmethod
    def forward(ctx: Any, cells: Tensor, corners: list[Tensor], weights: list[Tensor]) -> Tensor:
        ctx.shape, ctx.corners, ctx.weights = cells.shape, corners, weights
        sums = torch.zeros((), dtype=cells.dtype, device=cells.device)
        for corner, weight in zip(corners, weights, strict=True):
            places = corner[..., None].expand(-1, -1, cells.shape[2])
            sums = sums + cells.gather(1, places) * weight[..., None]
        return sums

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        of_cells = gradient.new_zeros(ctx.shape)
        rows = of_cells.flatten(0, 1)
        first = torch.arange(0, len(rows), ctx.shape[1], device=rows.device)[:, None]
        for corner, weight in zip(ctx.corners, ctx.weights, strict=True):
            shares = gradient * weight[..., None]
            rows.index_add_(0, (first + corner).flatten(), shares.flatten(0, 1))
        return of_cells, None, None


def at_points(features: Tensor, points: Tensor, shape: Shape, *, parity: bool) -> Tensor:
    """Bilinear (B, P, C) of (B, C, h, w) at (B, P, 2) pixels of an image of `shape`.

    The official code takes pixel 0 for the image's left edge: `parity` reads there, zeros outside.
    """
    size = torch.tensor([features.shape[3], features.shape[2]], device=features.device)
    sides = torch.tensor(shape[::-1], device=features.device)
    place = (points / (sides - 1) if parity else (points + 0.5) / sides) * size - 0.5
    if not parity:
        place = place.clamp_min(0).minimum(size - 1)
    corner = place.floor()
    share, corners, weights = place - corner, [], []
    for shift in torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]], device=features.device):
        cell = corner + shift
        inside = ((cell >= 0) & (cell < size)).all(-1)
        x, y = cell.clamp_min(0).minimum(size - 1).long().unbind(-1)
        corners.append(y * features.shape[3] + x)
        weights.append(torch.where(shift == 1, share, 1 - share).prod(-1) * inside)
    read: Tensor = _GatherWeighted.apply(features.flatten(2).mT, corners, weights)
    return read


def far_weights(query: Tensor, reference: Tensor, valid: Tensor) -> Tensor:
    """Squared distances of raw features (B, P, C), mean 1 over the valid pairs: (B, P)."""
    distance = (query - reference).square().sum(-1) * valid
    return distance / (distance.sum(1, keepdim=True) + 1e-7) * valid.sum(1, keepdim=True)


def hinge_loss(gap: Tensor, weight: Tensor, exponent: int, *, parity: bool) -> Tensor:
    """Mean of [gap]+ ^ p over the pairs that count, their weight inside the power or outside."""
    hinge = gap.clamp_min(0)
    powered = (weight * hinge) ** exponent if parity else weight * hinge**exponent
    return powered.sum() / (weight > 0).sum().clamp_min(1)


def contrastive_loss(descriptors: Tensor, taps: Tensor, points: Points, params: Params) -> Tensor:
    """L_pos + L_neg of one tap, of descriptors (2 B, D, h, w) and raw taps.

    All queries, then all references. Equal places should be alike, far places and anomalies not.
    """

    def read(maps: Tensor, query: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        places = torch.cat([query, reference])  # in one gather: its gradient is as large as `maps`
        q, r = at_points(maps, places, params.shape, parity=params.parity).chunk(2)
        return q, r

    far = (points.far_query, points.far_reference)
    with torch.no_grad():
        weight = far_weights(*read(taps, *far), points.far_weight)
    same = (points.positive, points.anomaly)
    query, reference = (torch.cat([*same, other], dim=1) for other in far)
    cosine = F.cosine_similarity(*read(descriptors, query, reference), dim=-1)
    alike, unlike = cosine.tensor_split([points.positive.shape[1]], dim=1)
    unlike_weight = torch.cat([points.anomaly_weight, weight], dim=1)
    return hinge_loss(
        params.positive_margin - alike,
        points.positive_weight,
        params.loss_exponent,
        parity=params.parity,
    ) + hinge_loss(
        unlike - params.negative_margin, unlike_weight, params.loss_exponent, parity=params.parity
    )


def far_distance_px(params: Params) -> float:
    """Beyond the first tap's search region: stride * (region // 2) * sqrt(2)."""
    side = params.regions[0]
    if side == "whole":
        raise ValueError("no place is beyond a region that is the whole image")
    return params.tap_strides[0] * (side // 2) * math.sqrt(2)
