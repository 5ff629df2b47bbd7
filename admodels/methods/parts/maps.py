"""Anomaly maps at the size of the image: enlarged and smoothed."""

import torch
from torch import Tensor
from torch.nn import functional as F


def enlarge(maps: Tensor, side_px: int) -> Tensor:
    """(N, h, w) to (N, side_px, side_px), bilinear between pixel centres."""
    size = (side_px, side_px)
    return F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def gaussian_blur(maps: Tensor, sigma: float) -> Tensor:
    """(B, H, W), cut at 4 sigma, reflected without repeating the edge."""
    reach = int(4 * sigma)
    offsets = torch.arange(-reach, reach + 1, dtype=maps.dtype, device=maps.device)
    kernel = torch.exp(-offsets.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum())[None, None]
    padded = F.pad(maps[:, None], (reach, reach, reach, reach), mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel[..., None]), kernel[:, :, None])[:, 0]
