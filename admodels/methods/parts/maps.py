"""Anomaly maps at the size of the image: enlarged and smoothed, and 0 where nobody inspects."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from admodels.images.shape import Shape

LEAST_WEIGHT = 1e-9  # keeps 0 / 0 at 0, far from what is inspected


def enlarge(maps: Tensor, shape: Shape) -> Tensor:
    """(N, h, w) to (N, *shape), bilinear between pixel centres."""
    return F.interpolate(maps[:, None], shape, mode="bilinear", align_corners=False)[:, 0]


def peaks(maps: Tensor) -> Tensor:
    """(B, H, W) to row and column of each maximum, the first of equal ones: (B, 2) int64."""
    places = torch.unravel_index(maps.flatten(1).argmax(1), maps.shape[1:])
    return torch.stack(places, dim=1)


def gaussian_blur(maps: Tensor, sigma: float) -> Tensor:
    """(B, H, W), cut at 4 sigma, reflected without repeating the edge."""
    reach = int(4 * sigma)
    offsets = torch.arange(-reach, reach + 1, dtype=maps.dtype, device=maps.device)
    kernel = torch.exp(-offsets.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum())[None, None]
    padded = F.pad(maps[:, None], (reach, reach, reach, reach), mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel[..., None]), kernel[:, :, None])[:, 0]


def inside(maps: Tensor, inspected: Tensor | None) -> Tensor:
    """(B, H, W), 0 where `inspected` (B, H, W) bool is False; None: everything is inspected."""
    return maps if inspected is None else torch.where(inspected.to(maps.device), maps, 0)


def inspected_cells(inspected: Tensor, shape: Shape) -> Tensor:
    """(B, H, W) bool as (B, *shape) bool: whether anything of a cell is inspected."""
    return F.adaptive_max_pool2d(inspected.to(torch.float32), shape) > 0


def mean_inside(
    spread: Callable[[Tensor], Tensor], maps: Tensor, inspected: Tensor | None
) -> Tensor:
    """The linear `spread` of (B, h, w) maps, of which only values that are inspected count.

    Normalised convolution (Knutsson and Westin 1993): each result is a mean of inspected values, so
    the edge of an area is neither damped nor raised.
    """
    if inspected is None:
        return spread(maps)
    weights = inspected.to(maps.device, maps.dtype)
    return spread(inside(maps, inspected)) / spread(weights).clamp_min(LEAST_WEIGHT)
