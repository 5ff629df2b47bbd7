"""Network parts that two methods share: the conv block and the U-Net that segments."""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

STRIDE = 32  # five 2x2 poolings


def conv_norm_relu(channels_in: int, channels_out: int) -> list[nn.Module]:
    """3x3 convolution with bias, batch norm, ReLU."""
    return [
        nn.Conv2d(channels_in, channels_out, 3, padding=1),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    ]


def double_conv(channels_in: int, inner: int, channels_out: int) -> nn.Sequential:
    """Two convolutions of the same resolution."""
    return nn.Sequential(*conv_norm_relu(channels_in, inner), *conv_norm_relu(inner, channels_out))


def upsampled_conv(channels_in: int, channels_out: int) -> nn.Sequential:
    """Bilinear x2 whose corner pixels stay corners, then one convolution."""
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
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
        self.encoder = nn.ModuleList(
            double_conv(i, o, o) for i, o in pairwise([channels_in, *falling])
        )
        self.up = nn.ModuleList(upsampled_conv(i, o) for i, o in pairwise(rising))
        self.decoder = nn.ModuleList(
            double_conv(o + skip, o, o) for o, skip in zip(rising[1:], skips, strict=True)
        )
        self.head = nn.Conv2d(width, channels_out, 3, padding=1)

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


def _sequences(net: nn.Module) -> Iterator[nn.Sequential]:
    yield from (m for m in net.modules() if isinstance(m, nn.Sequential))


def fold_batch_norms(net: nn.Module) -> nn.Module:
    """`net` in eval mode, in place, each batch norm merged into the convolution before it.

    Exact up to rounding; the folded net is for inference alone.
    """
    net.eval()
    for sequence in _sequences(net):
        for at, (conv, norm) in enumerate(pairwise(list(sequence))):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                sequence[at] = fuse_conv_bn_eval(conv, norm)
                sequence[at + 1] = nn.Identity()
    return net
