"""Noise and its removal in one step, at two scales at once (Zhang et al. 2025).

A pair has a leading axis of 2: the small scale s, whose estimate keeps detail and perhaps the
defect, then the big scale b, whose estimate is blurred and normal.

Where we depart from the official code: both scales go through the network in one pass of 2B, which
is exact because its norms do not mix samples, and the guidance is its closed form.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Denoiser = Callable[[Tensor, Tensor], Tensor]  # x_t (B, 3, H, W), t (B,) -> predicted noise


class Estimate(NamedTuple):
    """The normal image `guided` (B, 3, H, W) in -1..1.

    `noise_error` (B,): the mean squares of both scales, summed.
    """

    guided: Tensor
    noise_error: Tensor


def alpha_bars(steps: int) -> Tensor:
    """The share of signal that is left after each of `steps` linear steps, (steps,) float64."""
    first, last = 1e-4 * 1000 / steps, 0.02 * 1000 / steps  # Ho et al. 2020, section 4
    betas = torch.linspace(first, last, steps, dtype=torch.float64)
    return torch.cumprod(1 - betas, dim=0)


def noisy_image(x0: Tensor, alpha_bar: Tensor, noise: Tensor) -> Tensor:
    """q(x0, t, eps) = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps."""
    signal, spread = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    return _per_image(signal, noise) * x0 + _per_image(spread, noise) * noise


def x0_from_eps(x_t: Tensor, alpha_bar: Tensor, noise: Tensor) -> Tensor:
    """The image that `noise` says `x_t` was: sqrt(1/alpha_bar) x_t - sqrt(1/alpha_bar - 1) eps."""
    signal, spread = (1 / alpha_bar).sqrt(), (1 / alpha_bar - 1).sqrt()
    return _per_image(signal, x_t) * x_t - _per_image(spread, x_t) * noise


def _per_image(coefficient: Tensor, like: Tensor) -> Tensor:
    """A float64 coefficient per image, as what multiplies images of the type of `like`."""
    return coefficient.to(like)[..., None, None, None]


def guided_x0(u: Tensor, r: Tensor, alpha_bar: Tensor, weight: float) -> Tensor:
    """clamp((1 - lambda) u + lambda clamp(r)), lambda = weight (1 - alpha_bar of the small scale).

    `u` is the estimate from the small scale, not clamped; `r` that from the big one. The official
    long form re-noises r and subtracts; this is the same function.
    """
    share = _per_image(weight * (1 - alpha_bar), u)
    return ((1 - share) * u + share * r.clamp(-1, 1)).clamp(-1, 1)


def denoise(
    denoiser: Denoiser, x0: Tensor, t: Tensor, noise: Tensor, schedule: Tensor, weight: float
) -> Estimate:
    """Noise x0 (B, 3, H, W) twice, denoise both in one step, guide one by the other.

    `t` (2, B) int64, `noise` (2, B, 3, H, W), `schedule` what `alpha_bars` gives; all on a device.
    """
    alpha_bar = schedule[t]
    x_t = noisy_image(x0, alpha_bar, noise)
    both = x_t.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    predicted = denoiser(both, t.flatten()).view_as(x_t)
    u, r = x0_from_eps(x_t, alpha_bar, predicted)
    noise_error = (predicted - noise).square().mean(dim=(2, 3, 4)).sum(dim=0)
    return Estimate(guided_x0(u, r, alpha_bar[0], weight), noise_error)
