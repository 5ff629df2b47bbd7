"""The global retrieval branch: which normal images a test image is compared with.

Histograms of visual words per block, compared by KL(query || reference), the worst blocks dropped.
Li et al. 2024.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-8


def nearest_words(features: Tensor, codebook: Tensor) -> Tensor:
    """The nearest of (V, C) words for each cell of (C, h, w): (h, w) int64, ties the lowest."""
    cells = features.flatten(1).T
    distance = codebook.square().sum(1) - 2 * cells @ codebook.T  # without the cell's own square
    return distance.argmin(1).view(features.shape[1:])


def histograms(words: Tensor, blocks: int, word_count: int, *, is_padded: bool) -> Tensor:
    """(h, w) words to (blocks^2, word_count + 1) relative frequencies, float64; bin 0 is padding.

    Blocks differ by at most one row and one column, unless `is_padded`: the official code pads a
    side that `blocks` does not divide on all four sides, so blocks may hold nothing but padding.
    """
    if not is_padded:
        return _even_histograms(words, blocks, word_count)
    (height, width) = (-(-side // blocks) for side in words.shape)
    below, beside = height * blocks - words.shape[0], width * blocks - words.shape[1]
    padded = F.pad(words + 1, (beside, beside, below, below))
    padded = padded[: height * blocks, : width * blocks]
    one_hot = F.one_hot(padded, word_count + 1).to(torch.float64)
    grid = one_hot.view(blocks, height, blocks, width, -1)
    return grid.mean(dim=(1, 3)).flatten(0, 1)


def _even_histograms(words: Tensor, blocks: int, word_count: int) -> Tensor:
    row, column = (torch.arange(side, device=words.device) * blocks // side for side in words.shape)
    block = (row[:, None] * blocks + column).flatten()
    bins = word_count + 1
    counts = torch.bincount(block * bins + words.flatten() + 1, minlength=blocks**2 * bins)
    of_blocks = counts.view(blocks**2, bins).to(torch.float64)
    return of_blocks / of_blocks.sum(dim=1, keepdim=True).clamp_min(1)


def has_padding(bank: Tensor) -> bool:
    """Whether histograms (N, blocks^2, V + 1) are padded, as those of older bundles may be."""
    return bool((bank[..., 0] > 0).any())


def distances(query: Tensor, bank: Tensor, dropped_blocks: int) -> Tensor:
    """KL(query || reference), summed over all but the worst `dropped_blocks`: (N,) float64.

    `query` (blocks^2, V + 1), `bank` (N, blocks^2, V + 1).
    """
    q, r = query + EPSILON, bank + EPSILON
    per_block = (q * (q / r).log()).sum(-1)
    return per_block.sort(dim=1).values[:, : per_block.shape[1] - dropped_blocks].sum(1)


def nearest(query: Tensor, bank: Tensor, dropped_blocks: int, count: int) -> Tensor:
    """The `count` most similar images of the bank, best first, ties by index: (count,) int64."""
    return distances(query, bank, dropped_blocks).argsort(stable=True)[:count]
