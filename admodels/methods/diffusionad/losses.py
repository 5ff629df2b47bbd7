"""DiffusionAD's losses in fp32 (Zhang et al. 2025): noise + 5 focal + smooth L1."""

import torch
from torch import Tensor
from torch.nn import functional as F

FOCAL_ALPHA, FOCAL_GAMMA, FOCAL_WEIGHT = 0.5, 4, 5  # the official code


def noise_loss(noise_error: Tensor, normal: Tensor) -> Tensor:
    """The paper's formula 9: the mean of `noise_error` (B,) where `normal` (B,) bool, 0 if nowhere.

    By count: the official code tests for NaN instead, which hides a network that has diverged.
    """
    return (noise_error * normal).sum() / normal.sum().clamp(min=1)


def focal_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """The mean of 0.5 (1 - pt)^4 BCE, pt = exp(-BCE), against a soft mask in 0..1.

    Not DRAEM's: that one has two classes, smooths its targets and knows hard masks only.
    """
    bce = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    return (FOCAL_ALPHA * (1 - torch.exp(-bce)) ** FOCAL_GAMMA * bce).mean()


def smooth_l1_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """The mean of 0.5 (p - M)^2, as |p - M| is at most 1."""
    return F.smooth_l1_loss(torch.sigmoid(logits), mask)
