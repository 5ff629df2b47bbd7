"""DRAEM's three losses in fp32: L2 + SSIM + focal, all weights 1.

Zavrtanik et al. 2021, sections 3.1 and 3.2.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW_TAPS, WINDOW_SIGMA = 11, 1.5
FOCAL_SMOOTHING, FOCAL_GAMMA = 1e-5, 2


def _gaussian(device: torch.device) -> Tensor:
    taps = torch.arange(WINDOW_TAPS, device=device) - WINDOW_TAPS // 2
    weights = torch.exp(-(taps**2) / (2 * WINDOW_SIGMA**2))
    return weights / weights.sum()


def _window_mean(x: Tensor) -> Tensor:
    """(B, C, H, W) through the Gaussian window, which is separable; zero padding."""
    channels, half = x.shape[1], WINDOW_TAPS // 2
    taps = _gaussian(x.device).to(x.dtype)
    column = taps.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    row = taps.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    x = F.conv2d(x, column, padding=(half, 0), groups=channels)
    return F.conv2d(x, row, padding=(0, half), groups=channels)


def guessed_range(reconstruction: Tensor) -> Tensor:
    """The dynamic range as the official code guesses it, from the whole batch (a 0-d tensor)."""
    x = reconstruction.detach()
    upper = torch.where(x.max() > 128, 255.0, 1.0)
    lower = torch.where(x.min() < -0.5, -1.0, 0.0)
    return upper - lower


def ssim_loss(
    reconstruction: Tensor, target: Tensor, dynamic_range: float | Tensor = 1.0
) -> Tensor:
    """1 - mean SSIM of two (B, C, H, W) images; zero padding, no clamp."""
    c1, c2 = (0.01 * dynamic_range) ** 2, (0.03 * dynamic_range) ** 2
    x, y = reconstruction, target
    channels = x.shape[1]
    moments = _window_mean(torch.cat([x, y, x * x, y * y, x * y], dim=1))
    mean_x, mean_y, xx, yy, xy = torch.split(moments, channels, dim=1)
    variances = xx - mean_x**2 + yy - mean_y**2
    covariance = xy - mean_x * mean_y
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    loss: Tensor = 1 - (similarity / ((mean_x**2 + mean_y**2 + c1) * (variances + c2))).mean()
    return loss


def focal_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Focal loss of (B, 2, H, W) logits against a (B, 1, H, W) mask of 0 and 1.

    q = 2e + (1 - 2e) p_true, mean of -(1 - q)^2 ln q: the closed form for two classes of the
    official smoothed one-hot loss. In fp32, because 1e-5 is below bf16's resolution near 1.
    """
    margin = logits[:, 1:] - logits[:, :1]
    p_true = torch.sigmoid(torch.where(mask > 0, margin, -margin))
    q = 2 * FOCAL_SMOOTHING + (1 - 2 * FOCAL_SMOOTHING) * p_true
    return (-((1 - q) ** FOCAL_GAMMA) * torch.log(q)).mean()
