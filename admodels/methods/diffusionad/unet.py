"""The denoiser: a U-Net that gets the noise step as an input.

The guided-diffusion family (Dhariwal and Nichol 2021) with additive time conditioning.
"""

import math
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from admodels.methods.parts.nets import ExactConv2d, autocast, recompute

GROUPS, HEADS = 32, 4
LONGEST_WAVE = 10_000


def time_vector(t: Tensor, channels: int) -> Tensor:
    """Of t (B,), 0-based and not rescaled: (B, channels) float32: all sines, then all cosines."""
    half = channels // 2
    exponents = torch.arange(half, device=t.device, dtype=torch.float32) / half
    angles = t[:, None] * torch.exp(-math.log(LONGEST_WAVE) * exponents)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def zero(conv: nn.Conv2d) -> nn.Conv2d:
    """Set weights and biases of `conv` to 0; return it: a block that ends with it starts as x."""
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv


class GroupNorm(nn.GroupNorm):
    """Of 32 groups; sums in fp32 whatever compute type surrounds it, and gives that type back."""

    def __init__(self, channels: int) -> None:
        super().__init__(GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.GroupNorm`, of the type of `x`."""
        with autocast(x.device, torch.float32):
            exact = x.to(torch.promote_types(x.dtype, torch.float32))
            return super().forward(exact).to(x.dtype)


class ResBlock(nn.Module):
    """Two convolutions around a shortcut; `resample` halves or doubles the sides of both."""

    def __init__(self, channels_in: int, channels_out: int, time: int, resample: nn.Module) -> None:
        super().__init__()
        self.resample = resample
        self.before = nn.Sequential(GroupNorm(channels_in), nn.SiLU())
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.time = nn.Sequential(nn.SiLU(), nn.Linear(time, channels_out))
        last = zero(nn.Conv2d(channels_out, channels_out, 3, padding=1))
        self.after = nn.Sequential(GroupNorm(channels_out), nn.SiLU(), last)
        same = channels_in == channels_out
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Of x (B, channels_in, H, W), time (B, 4C) -> (B, channels_out, H', W')."""
        h = self.conv(self.resample(self.before(x))) + self.time(time)[:, :, None, None]
        result: Tensor = self.shortcut(self.resample(x)) + self.after(h)
        return result


def _reproducible_attention(x: Tensor) -> AbstractContextManager[None]:
    """Use no fused kernel in training on CUDA: its gradients differ from run to run."""
    trains_on_cuda = x.is_cuda and torch.is_grad_enabled()
    return sdpa_kernel(SDPBackend.MATH) if trains_on_cuda else nullcontext()


class Attention(nn.Module):
    """Self-attention between all pixels, with 4 heads; starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = GroupNorm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)  # head by head: q, k, v
        self.project = zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        batch, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x)).permute(0, 2, 3, 1)  # no copy in channels_last
        heads = qkv.reshape(batch, height * width, HEADS, 3, channels // HEADS)
        q, k, v = heads.permute(3, 0, 2, 1, 4)
        with _reproducible_attention(x):
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        back = mixed.reshape(batch, height, width, channels).permute(0, 3, 1, 2)
        result: Tensor = x + self.project(back)
        return result


class Step(nn.Module):
    """One entry of the U-Net: a ResBlock, attention where asked, the doubling that ends a level."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        time: int,
        *,
        attention: bool = False,
        down: bool = False,
        up: bool = False,
    ) -> None:
        super().__init__()
        resample = nn.AvgPool2d(2) if down else nn.Identity()
        self.block = ResBlock(channels_in, channels_out, time, resample)
        self.attention = Attention(channels_out) if attention else nn.Identity()
        self.up = (
            ResBlock(channels_out, channels_out, time, nn.Upsample(scale_factor=2)) if up else None
        )

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Of x (B, channels_in, H, W), time (B, 4C) -> (B, channels_out, H', W')."""
        x = self.attention(self.block(x, time))
        return x if self.up is None else self.up(x, time)


class DenoisingUNet(nn.Module):
    """Predicts the noise: x_t (B, 3, H, W), t (B,) -> (B, 3, H, W) fp32, 0 before training.

    `channels` C times each of `multipliers` is the width of a level, of half the side of the one
    above it; `attention_levels` of them look around, and the lowest always does. `checkpointing`
    recomputes each entry in the backward pass instead of keeping its maps.
    """

    def __init__(
        self,
        channels: int,
        multipliers: Sequence[int],
        attention_levels: Collection[int],
        *,
        blocks_per_level: int = 2,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.channels, self.checkpointing = channels, checkpointing
        time = 4 * channels
        self.time = nn.Sequential(nn.Linear(channels, time), nn.SiLU(), nn.Linear(time, time))
        self.stem = ExactConv2d(3, channels, 3, padding=1)
        widths = [channels * factor for factor in multipliers]
        h, skips = channels, [channels]
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            for _ in range(blocks_per_level):
                self.encoder.append(Step(h, width, time, attention=level in attention_levels))
                h = width
                skips.append(h)
            if level < len(widths) - 1:
                self.encoder.append(Step(h, h, time, down=True))
                skips.append(h)
        self.middle = nn.ModuleList([Step(h, h, time, attention=True), Step(h, h, time)])
        for level, width in reversed(list(enumerate(widths))):
            for block in range(blocks_per_level + 1):
                wider = h + skips.pop()
                attention, up = level in attention_levels, level > 0 and block == blocks_per_level
                self.decoder.append(Step(wider, width, time, attention=attention, up=up))
                h = width
        head = zero(ExactConv2d(h, 3, 3, padding=1))
        self.head = nn.Sequential(GroupNorm(h), nn.SiLU(), head)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The noise in `x`, of which `t` says how much there is."""
        time = self.time(time_vector(t, self.channels).to(x))
        x = self.stem(x)
        skips = [x]
        for step in self.encoder:
            x = self._run(step, x, time)
            skips.append(x)
        for step in self.middle:
            x = self._run(step, x, time)
        for step in self.decoder:
            x = self._run(step, torch.cat([x, skips.pop()], dim=1), time)
        noise: Tensor = self.head(x)
        return noise

    def _run(self, step: nn.Module, x: Tensor, time: Tensor) -> Tensor:
        if self.checkpointing:
            return recompute(step, x, time)  # type: ignore[no-any-return]
        return step(x, time)  # type: ignore[no-any-return]
