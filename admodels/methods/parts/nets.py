"""Network parts that two methods share: the compute type, conv blocks, the U-Net that segments."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.checkpoint import checkpoint

Net = TypeVar("Net", bound=nn.Module)
T = TypeVar("T")


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """The context that computes in `precision`; float32 undoes a context around it."""
    return torch.autocast(device.type, precision, enabled=precision != torch.float32)


def recompute(
    function: Callable[..., T],
    *arguments: object,
    second_pass: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> T:
    """`function(*arguments)`; the backward pass computes its maps again instead of keeping them.

    `second_pass` is the context of that second computation. `function` draws no random number.
    """
    if not torch.is_grad_enabled():
        return function(*arguments)
    result: T = checkpoint(
        function,
        *arguments,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), second_pass()),
    )
    return result


class ExactConv2d(nn.Conv2d):
    """A convolution that computes in fp32 whatever compute type surrounds it.

    For where a network ends, and where one subtracts two nearly equal images: bfloat16 has 8 bits
    there, which is a grey level.
    """

    def forward(self, x: Tensor) -> Tensor:
        """As `Conv2d`, in and out fp32."""
        with autocast(x.device, torch.float32):
            return super().forward(x.to(torch.promote_types(x.dtype, torch.float32)))


def conv_norm_relu(
    channels_in: int, channels_out: int, conv: type[nn.Conv2d] = nn.Conv2d
) -> list[nn.Module]:
    """3x3 convolution with bias, batch norm, ReLU."""
    return [
        conv(channels_in, channels_out, 3, padding=1),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    ]


def double_conv(channels_in: int, inner: int, channels_out: int) -> nn.Sequential:
    """Two convolutions of the same resolution."""
    return nn.Sequential(*conv_norm_relu(channels_in, inner), *conv_norm_relu(inner, channels_out))


class Upsample(nn.Upsample):
    """Bilinear x2 whose corner pixels stay corners.

    While a GPU trains it is two matrix products: torch's own gradient is slow there once it must
    give the same bytes again.
    """

    def __init__(self) -> None:
        super().__init__(scale_factor=2, mode="bilinear", align_corners=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2 H, 2 W)."""
        if not (x.is_cuda and torch.is_grad_enabled()):
            return super().forward(x)
        return upsample(x)


def upsample(x: Tensor) -> Tensor:
    """What `Upsample` computes of (B, C, H, W), as products over rows and columns."""
    rows, columns = (_interpolation(n, x) for n in x.shape[2:])
    return multiply_rows_and_columns(x, rows, columns)


def multiply_rows_and_columns(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(B, C, h, w) to (B, C, H, W), by weights `rows` (H, h) and `columns` (W, w)."""
    b, c, h, w = x.shape
    tall = rows @ x.permute(0, 2, 3, 1).reshape(b, h, w * c)  # no copy in channels_last
    wide: Tensor = columns @ tall.view(b, len(rows), w, c)
    return wide.permute(0, 3, 1, 2)


def _interpolation(n: int, like: Tensor) -> Tensor:
    """(2 n, n): the weight of each pixel in each pixel of a line twice as long."""
    identity = torch.eye(n, device=like.device)[None]
    line = F.interpolate(identity, size=2 * n, mode="linear", align_corners=True)[0]
    return line.T.to(like.dtype)


def upsample_conv(channels_in: int, channels_out: int) -> nn.Sequential:
    """Bilinear x2 whose corner pixels stay corners, then one convolution."""
    return nn.Sequential(
        Upsample(),
        *conv_norm_relu(channels_in, channels_out),
    )


class SegmentationUNet(nn.Module):
    """Six levels, five skips: (B, channels_in, H, W) -> (B, channels_out, H, W) logits.

    H and W are multiples of 32. Zavrtanik et al. 2021, the discriminative sub-network; DiffusionAD
    segments with the same net.
    """

    def __init__(self, channels_in: int, channels_out: int, width: int) -> None:
        super().__init__()
        falling = [width * factor for factor in (1, 2, 4, 8, 8, 8)]
        rising = [width * factor for factor in (8, 8, 4, 2, 1, 1)]
        skips = falling[-2::-1]
        self.pool = nn.MaxPool2d(2)
        first = [
            *conv_norm_relu(channels_in, width, ExactConv2d),
            *conv_norm_relu(width, width),
        ]
        deeper = (double_conv(i, o, o) for i, o in pairwise(falling))
        self.encoder = nn.ModuleList([nn.Sequential(*first), *deeper])
        self.up = nn.ModuleList(upsample_conv(i, o) for i, o in pairwise(rising))
        self.decoder = nn.ModuleList(
            double_conv(o + skip, o, o) for o, skip in zip(rising[1:], skips, strict=True)
        )
        self.head = ExactConv2d(width, channels_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits at the resolution of `x`."""
        skips: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            x = block(x if level == 0 else self.pool(x))
            skips.append(x)
        skips.pop()
        for up, block in zip(self.up, self.decoder, strict=True):
            x = block(torch.cat([up(x), skips.pop()], dim=1))
        logits: Tensor = self.head(x)
        return logits


def for_inference(net: Net, precision: torch.dtype) -> Net:
    """`net`, changed in place: batch norms merged into convolutions, weights in `precision`.

    The merge is exact up to rounding; an `ExactConv2d` keeps fp32. Call it under autocast.
    """
    net.eval()
    for sequence in [m for m in net.modules() if isinstance(m, nn.Sequential)]:
        for index, (conv, norm) in enumerate(pairwise(list(sequence))):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                sequence[index] = fuse_conv_bn_eval(conv, norm)
                sequence[index + 1] = nn.Identity()
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and not isinstance(module, ExactConv2d):
            module.to(precision)
    return net
