"""What CPR learns without gradients: visual words, histograms, and where the part is.

Over the first tap of all normal images. Li et al. 2024.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor

from admodels.foundation.arrays import Float32
from admodels.foundation.errors import DataError
from admodels.methods.cpr import foreground, retrieval
from admodels.methods.cpr.params import Params
from admodels.methods.parts.backbones import Taps
from admodels.methods.parts.frozen import FrozenTaps

SAMPLED_CELLS = 50_000
RESTARTS = 10
SHRINKAGE = 0.4  # of the covariance that whitens
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class PartEstimate:
    """The foreground estimator, weight (C,) and bias (), and its maps (N, h, w) float32."""

    weight: Tensor
    bias: Tensor
    maps: Tensor


def sample_cells(
    frozen: FrozenTaps,
    normal: Tensor,
    seed: int,
    maps: Callable[[Taps], Tensor] = lambda taps: taps[0],
) -> Float32:
    """Up to 50,000 different cells of all images, (n, C), of the first tap or of other `maps`."""
    _, taps = next(frozen.over(normal))
    cells = len(normal) * maps(taps)[0, 0].numel()
    wanted = np.random.default_rng(seed).permutation(cells)[:SAMPLED_CELLS]
    return frozen.cells(normal, wanted, maps)


def _centres(cells: Float32, count: int, seed: int) -> Tensor:
    """k-means, (count, C) float32; one thread, because sums in any order differ in their bits."""
    with threadpool_limits(1):
        clusters = KMeans(count, n_init=RESTARTS, random_state=seed % 2**32).fit(cells)
    return torch.from_numpy(clusters.cluster_centers_).to(torch.float32)


def codebook(sample: Float32, words: int, seed: int) -> Tensor:
    """The visual words (V, C) of sampled cells.

    Raises:
        DataError: fewer different cells than words: the images are constant, or nearly.
    """
    different = len(np.unique(sample, axis=0))
    if different < words:
        raise DataError(
            f"the normal images show only {different} different places",
            where="the training images",
            expected=f"at least {words} (`codebook_words`): pictures, not constant frames",
            next_step="look at them (data/validation/TASK/index.html) and fix the source",
        )
    return _centres(sample, words, seed)


def whitening(cells: Float32) -> Tensor:
    """The inverse root of the shrunk covariance of (n, C) cells, trace C: (C, C) float32.

    Shrunk towards the identity (Ledoit and Wolf 2004), because directions in which normal cells
    hardly differ would otherwise count most of all.
    """
    with threadpool_limits(1):  # sums in any order differ in their bits
        covariance = np.cov(cells.astype(np.float64), rowvar=False, bias=True)
        channels, spread = len(covariance), np.trace(covariance)
        if not spread > 0:
            return torch.eye(channels)
        scaled = (1 - SHRINKAGE) * channels / spread * covariance + SHRINKAGE * np.eye(channels)
        values, vectors = np.linalg.eigh(scaled)
        return torch.from_numpy(vectors / np.sqrt(values) @ vectors.T).to(torch.float32)


def image_histograms(frozen: FrozenTaps, normal: Tensor, book: Tensor, params: Params) -> Tensor:
    """The histograms of all images, (N, blocks^2, V + 1) float64, on the CPU."""
    blocks = params.histogram_blocks
    histograms = []
    for _, taps in frozen.over(normal):
        words = [retrieval.nearest_words(tap, book.to(tap.device)) for tap in taps[0]]
        histograms += [
            retrieval.histograms(image, blocks, len(book), is_padded=params.parity)
            for image in words
        ]
    return torch.stack(histograms).cpu()


def ranking(bank: Tensor, params: Params) -> Tensor:
    """The most similar other images of each image, best first: (N, min(K, N - 1)) int64."""
    rows = []
    for own, histogram in enumerate(bank):
        order = retrieval.nearest(histogram, bank, params.dropped_blocks, len(bank))
        others = order[1:] if params.parity else order[order != own]
        rows.append(others[: params.references])
    return torch.stack(rows)


def estimate_part(
    frozen: FrozenTaps, normal: Tensor, sample: Float32, seed: int
) -> PartEstimate | None:
    """Estimate where the part is; None, and a warning, where the images do not show it."""
    centres = _centres(sample, 2, seed)
    labels = torch.cat(
        [
            retrieval.nearest_words(tap, centres.to(tap.device))[None].to("cpu", torch.uint8)
            for _, taps in frozen.over(normal)
            for tap in taps[0]
        ]
    )
    sure = foreground.sure_cells(labels.numpy())
    count = min(foreground.SAMPLES_PER_CLASS, *(len(cells) for cells in sure))
    if count < 2:
        LOG.warning("no foreground found: the whole image counts as the part")
        return None
    rng = np.random.default_rng([seed, count])
    background, inside = (frozen.cells(normal, rng.permutation(cells)[:count]) for cells in sure)
    return _scale_part(frozen, normal, foreground.direction(background, inside), labels.shape)


def _scale_part(
    frozen: FrozenTaps, normal: Tensor, weight: Tensor, shape: torch.Size
) -> PartEstimate | None:
    """The estimator, scaled so that 1 % of all cells are clamped at either end."""
    values = torch.empty(shape)
    for start, taps in frozen.over(normal):
        along = torch.tensordot(taps[0], weight.to(taps[0].device), dims=([1], [0]))
        values[start : start + len(along)] = along.cpu()
    low, high = foreground.trimmed_range(values)
    if not high > low:
        LOG.warning("no foreground found: all places look alike, the whole image counts")
        return None
    maps = ((values - low) / (high - low)).clamp_(0, 1)
    bare = int((maps.amax(dim=(1, 2)) <= foreground.IS_PART).sum())
    if bare:
        LOG.warning(
            "no foreground above %s in %d of %d images: no synthetic anomaly is painted on them",
            *(foreground.IS_PART, bare, len(maps)),
        )
    return PartEstimate(weight / (high - low), torch.tensor(-low / (high - low)), maps)
