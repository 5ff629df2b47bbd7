"""The foreground estimation branch: how much a cell looks like the part and not its background.

Two clusters, the one at the image border is background, and a linear discriminant between cells
that are surely one and the other. Li et al. 2024. Only the discriminant's direction
matters: its offset and scale fall out of the trimmed range.
"""

import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from threadpoolctl import threadpool_limits
from torch import Tensor

from admodels.foundation.arrays import Float32, Indices, UInt8

SAMPLES_PER_CLASS = 15_000
TRIMMED_SHARE = 0.01
IS_PART = 0.5  # a component of a synthetic anomaly must reach more than that somewhere


def ring_width(side: int) -> int:
    """Cells of the border that count as background."""
    return max(1, int(3 / 80 * side))


def central_window(side: int) -> slice:
    """The rows, and columns, where the part surely is."""
    return slice(int(side / 2 - side / 5), int(side / 2 + side / 5))


def sure_cells(labels: UInt8) -> tuple[Indices, Indices]:
    """Flat indices of the (N, h, w) cells that are surely background, and surely foreground.

    `labels` are 0 and 1; the label most frequent in the border ring is the background.
    """
    sides: list[int] = list(labels.shape[1:])
    ring = np.ones(sides, dtype=np.bool_)
    widths = [ring_width(side) for side in sides]
    ring[tuple(slice(width, -width) for width in widths)] = False
    background = int(labels[:, ring].mean() > 0.5)
    centre = np.zeros_like(ring)
    centre[tuple(central_window(side) for side in sides)] = True
    is_background = labels == background
    return np.flatnonzero(is_background & ring), np.flatnonzero(~is_background & centre)


def direction(background: Float32, foreground: Float32) -> Tensor:
    """Fisher's discriminant between (n, C) and (m, C) cells: (C,) float32, foreground positive."""
    cells = np.concatenate([background, foreground]).astype(np.float64)
    is_foreground = np.arange(len(cells)) >= len(background)
    with threadpool_limits(1):  # sums in any order differ in their bits
        fitted = LinearDiscriminantAnalysis(priors=[0.5, 0.5]).fit(cells, is_foreground)
    return torch.from_numpy(fitted.coef_[0]).to(torch.float32)


def trimmed_range(values: Tensor) -> tuple[float, float]:
    """The values at the ranks 1 % from below and from above (exact order statistics)."""
    flat = values.flatten()
    rank = max(1, int(TRIMMED_SHARE * len(flat)))
    low = flat.kthvalue(rank).values
    high = flat.kthvalue(len(flat) + 1 - rank).values
    return float(low), float(high)


def foreground_map(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(C, h, w) to (h, w) in 0..1: the frozen 1x1 convolution w x + b, clamped."""
    along: Tensor = torch.tensordot(weight, features, dims=1) + bias
    return along.clamp_(0, 1)


def attention(foreground: Tensor) -> Tensor:
    """1 / (1 + exp(5 - 10 x)): where training looks for points."""
    return torch.sigmoid(10 * foreground - 5)
