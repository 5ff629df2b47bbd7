"""Anomaly maps at the size of the image: enlarged and smoothed."""

import torch
from torch import Tensor
from torch.nn import functional as F

from admodels.images.shape import Shape


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
