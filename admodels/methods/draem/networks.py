"""The two networks of DRAEM: one repaints, one compares.

Zavrtanik et al. 2021, sections 3.1 and 3.2.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from admodels.methods.parts.nets import ExactConv2d, SegmentationUNet, double_conv, upsample_conv


class ReconstructiveNet(nn.Module):
    """Repaints anomalies: (B, 3, H, W) -> (B, 3, H, W), no skips, output not clamped."""

    def __init__(self, width: int) -> None:
        super().__init__()
        falling = [width * factor for factor in (1, 2, 4, 8, 8)]
        rising = [width * factor for factor in (8, 4, 2, 1, 1)]
        self.pool = nn.MaxPool2d(2)
        self.encoder = nn.ModuleList(double_conv(i, o, o) for i, o in pairwise([3, *falling]))
        self.up = nn.ModuleList(upsample_conv(i, i) for i in rising[:-1])
        self.decoder = nn.ModuleList(double_conv(i, i, o) for i, o in pairwise(rising))
        self.head = ExactConv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """The anomaly-free image that `x` (0..1) could have been."""
        for level, block in enumerate(self.encoder):
            x = block(x if level == 0 else self.pool(x))
        for up, block in zip(self.up, self.decoder, strict=True):
            x = block(up(x))
        reconstruction: Tensor = self.head(x)
        return reconstruction


class Draem(nn.Module):
    """Both networks, trained end to end: the segmentation's gradient reaches the first net."""

    def __init__(self, reconstructive_width: int, discriminative_width: int) -> None:
        super().__init__()
        self.reconstructive = ReconstructiveNet(reconstructive_width)
        self.discriminative = SegmentationUNet(6, 2, discriminative_width)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) in 0..1 -> reconstruction (B, 3, H, W), logits (B, 2, H, W).

        Channel 1 of the logits is `anomalous`. The order (reconstruction, image) is the official
        one; swapping it is another network.
        """
        reconstruction = self.reconstructive(image)
        return reconstruction, self.discriminative(torch.cat([reconstruction, image], dim=1))


def initialise(net: nn.Module, generator: torch.Generator) -> None:
    """Official start: conv weights N(0, 0.02), norm weights N(1, 0.02), norm biases 0.

    Convolution biases keep torch's U(+-1/sqrt(fan_in)), drawn here from `generator` too.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, 0.0, 0.02, generator=generator)
            bound = module.weight[0].numel() ** -0.5
            if module.bias is not None:
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02, generator=generator)
            nn.init.zeros_(module.bias)
