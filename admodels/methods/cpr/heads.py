"""The local retrieval branch: a head per tap, and the nearest neighbour at nearly the same place.

Li et al. 2024. Without heads the roots of the taps describe a place.
"""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from admodels.methods.parts.nets import autocast, multiply_rows_and_columns, recompute

CELLS_IN_CACHE, CELLS_AT_A_TIME = 128, 8192  # of a block, in whole rows: on a CPU, elsewhere
REFERENCE_CELLS = 4096  # met by all cells of a query at once: bounds the memory
BELOW_ANY_COSINE = -9.0


@contextmanager
def _keep_statistics(net: nn.Module) -> Iterator[None]:
    """Batch norms of `net` do not count this batch in their running statistics."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches


def _run_and_recompute(net: nn.Module, x: Tensor) -> Tensor:
    """`net(x)`, recomputed in the backward pass without counting the batch twice."""
    return recompute(net, x, second_pass=partial(_keep_statistics, net))  # type: ignore[no-any-return]


def _conv_norm_relu(channels_in: int, channels_out: int, kernel: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=False)
    norm = nn.BatchNorm2d(channels_out, eps=1e-3)
    return nn.Sequential(OrderedDict(conv=conv, bn=norm, relu=nn.ReLU(inplace=True)))


class _FourBranches(nn.Module):
    """A modified Inception block, (B, C, h, w) to (B, 4 C / 3, h, w); the third repeats the first.

    (sic: the official code has a plain 1x1 where the paper's figure suggests a wider one)
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        out, inner = channels // 3, channels // 4
        self.branch0 = _conv_norm_relu(channels, out)
        self.branch1 = nn.Sequential(
            _conv_norm_relu(channels, inner), _conv_norm_relu(inner, out, kernel=3)
        )
        self.branch2 = nn.Sequential(_conv_norm_relu(channels, out))
        pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        self.branch3 = nn.Sequential(pool, _conv_norm_relu(channels, out))

    def forward(self, x: Tensor) -> Tensor:
        branches = (self.branch0, self.branch1, self.branch2, self.branch3)
        return torch.cat([_run_and_recompute(branch, x) for branch in branches], dim=1)


class LocalHead(nn.Sequential):
    """One tap (B, C, h, w) to descriptors (B, D, h, w); not normalised in here.

    Module names are those of the official checkpoint, `lrb.conv.<tap>.`.
    """

    def __init__(self, channels_in: int, channels: int, descriptor_channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels, 1),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            _FourBranches(channels),
            nn.Conv2d(channels // 3 * 4, descriptor_channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """All five in turn, the first three without keeping their maps."""
        conv, norm, relu, branches, last = self
        inner = _run_and_recompute(nn.Sequential(conv, norm, relu), x)
        return last(branches(inner))  # type: ignore[no-any-return]


class RootedTap(nn.Module):
    """No head: (B, C, h, w) to its signed square roots, with Gaussian means before and after them.

    Nothing is learnt, and no random projection mixes the channels. Without the roots a few strong
    channels decide every cosine (power normalisation, Perronnin et al. 2010, section 3.1), and in
    the means a few strong cells.
    """

    sigmas: Tensor

    def __init__(self, before: float = 0, after: float = 0) -> None:
        """Sigmas in cells; 0: no mean."""
        super().__init__()
        self.register_buffer("sigmas", torch.tensor([before, after], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) float32, in fp32 whatever compute type surrounds it."""
        before, after = self.sigmas.tolist()
        with autocast(x.device, torch.float32):
            x = _local_means(x, before)
            return _local_means(x.sign() * x.abs().sqrt(), after)


class WhitenedTap(RootedTap):
    """A rooted tap times a matrix (C, C) of the normal images, which is the identity before a fit.

    So all directions in which normal places differ count about alike in a cosine, and not the few
    in which they differ most.
    """

    matrix: Tensor

    def __init__(self, channels: int, before: float = 0, after: float = 0) -> None:
        super().__init__(before, after)
        self.register_buffer("matrix", torch.eye(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) float32, in fp32 whatever compute type surrounds it."""
        rooted = super().forward(x)
        with autocast(x.device, torch.float32):
            return F.conv2d(rooted, self.matrix[:, :, None, None])


def _local_means(maps: Tensor, sigma: float) -> Tensor:
    """(B, C, h, w) to the means around each cell; what lies outside the map does not count."""
    if sigma == 0:
        return maps
    rows, columns = (_gaussian_weights(side, sigma).to(maps.device) for side in maps.shape[2:])
    return multiply_rows_and_columns(maps, rows, columns)


def _gaussian_weights(cells: int, sigma: float) -> Tensor:
    """(cells, cells): in row i the weight of each cell of a line in the mean around cell i."""
    place = torch.arange(cells, dtype=torch.float64)
    weights = torch.exp(-((place[:, None] - place) / sigma).square() / 2)
    return (weights / weights.sum(dim=1, keepdim=True)).to(torch.float32)


def unit_vectors(descriptors: Tensor) -> Tensor:
    """(B, D, h, w) to unit vectors (B, h, w, D), each at its place."""
    by_place = descriptors.to(torch.float32).permute(0, 2, 3, 1)
    length: Tensor = by_place.norm(dim=-1, keepdim=True)
    return by_place / (length + 1e-8)


def nearest_distance(query: Tensor, references: Tensor, region: int | Literal["whole"]) -> Tensor:
    """1 - the largest cosine within `region` x `region` cells of any reference: (h, w) in 0..2.

    `query` (h, w, D) and `references` (K, h, w, D) hold unit vectors. Neighbours outside the map
    do not count. Per block of rows, every reference cell meets the query cells around it in one
    batched product: no unfolded reference ever exists.
    """
    if region == "whole":
        return _nearest_distance_anywhere(query, references)
    height, width, channels = query.shape
    reach = region // 2
    padded = F.pad(query, (0, 0, reach, reach, reach, reach))
    best = query.new_full((height + 2 * reach, width + 2 * reach), BELOW_ANY_COSINE)
    shifts = [(dy, dx) for dy in range(region) for dx in range(region)]
    cells_at_a_time = CELLS_IN_CACHE if query.device.type == "cpu" else CELLS_AT_A_TIME
    rows_at_a_time = max(1, cells_at_a_time // width)
    for top in range(0, height, rows_at_a_time):
        block = references[:, top : top + rows_at_a_time].to(torch.float32)
        rows = block.shape[1]
        around = [padded[top + dy : top + dy + rows, dx : dx + width] for dy, dx in shifts]
        cells = torch.stack(around, dim=2).reshape(rows * width, len(shifts), channels)
        cosines = cells @ block.permute(1, 2, 3, 0).reshape(rows * width, channels, -1)
        largest = cosines.amax(dim=2).view(rows, width, len(shifts))
        for number, (dy, dx) in enumerate(shifts):
            place = best[top + dy : top + dy + rows, dx : dx + width]
            torch.maximum(place, largest[:, :, number], out=place)
    nearest: Tensor = 1 - best[reach : reach + height, reach : reach + width]
    return nearest.clamp_min_(0)


def nearest_cell(query: Tensor, references: Tensor) -> tuple[int, int, int]:
    """Which cell of (K, h, w, D) has the largest cosine with (D,): image, row and column."""
    cosines = references.to(torch.float32) @ query
    image, row, column = (int(i) for i in torch.unravel_index(cosines.argmax(), cosines.shape))
    return image, row, column


def _nearest_distance_anywhere(query: Tensor, references: Tensor) -> Tensor:
    """The same with all cells of all references: for parts that lie anywhere."""
    cells = query.flatten(0, 1)
    best = query.new_full((len(cells),), BELOW_ANY_COSINE)
    for block in torch.split(references.flatten(0, 2), REFERENCE_CELLS):
        torch.maximum(best, (cells @ block.to(torch.float32).T).amax(1), out=best)
    return (1 - best).clamp_min_(0).view(query.shape[:2])
