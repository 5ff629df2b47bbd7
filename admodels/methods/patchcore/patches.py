"""What a patch is, and how far it is from what is remembered (Roth et al. 2022, section 3)."""

import torch
from torch import Tensor
from torch.nn import functional as F

QUERIES = 1024  # cells compared with the whole bank at once: bounds the memory


def patches(taps: list[Tensor]) -> Tensor:
    """Taps (B, C, h, w) each to (B, all C, h, w): 3 x 3 means, on the grid of the first tap.

    Section 3.1, equations 1 to 3; outside an image are zeros, as in the authors' code. The
    authors' pooling of the concatenation to 1024 channels is left out, as in anomalib.
    """
    means = [F.avg_pool2d(tap, 3, stride=1, padding=1) for tap in taps]
    grid = means[0].shape[-2:]
    others = [F.interpolate(m, grid, mode="bilinear", align_corners=False) for m in means[1:]]
    return torch.cat([means[0], *others], dim=1)


def nearest_patches(cells: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """Distance (n,) of (n, C) cells to the nearest of (K, C), and its index, ties any of them.

    The product only finds which one is nearest; its distance is that of the difference, which is
    exact for a cell that is remembered.
    """
    half_squares = bank.square().sum(1) / 2
    starts = range(0, len(cells), QUERIES)
    blocks = (cells[start : start + QUERIES] for start in starts)
    rows = torch.cat([torch.addmm(half_squares, b, bank.T, alpha=-1).argmin(1) for b in blocks])
    return torch.linalg.vector_norm(cells - bank[rows], dim=1), rows


def image_score(
    cells: Tensor, distances: Tensor, nearest: Tensor, bank: Tensor, neighbours: int
) -> Tensor:
    """The largest of (n,) distances, weighted by how rare its nearest patch is; equations 6 and 7.

    The weight is 1 - exp(d) / sum exp(d_i) over the `neighbours` patches of the bank next to the
    nearest patch, itself among them: a far cell in a dense place counts more. Returns ().
    """
    worst = distances.argmax()
    remembered = bank[nearest[worst]]
    near = torch.linalg.vector_norm(bank - remembered, dim=1)
    around = near.topk(min(neighbours, len(bank)), largest=False).indices
    away = torch.linalg.vector_norm(bank[around] - cells[worst], dim=1)
    share = (distances[worst] - away.logsumexp(0)).exp()
    weighted: Tensor = distances[worst] * (1 - share)
    return weighted
