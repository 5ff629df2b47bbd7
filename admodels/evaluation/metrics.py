"""Ranking metrics, exact: computed from sorted scores, never from a grid of thresholds.

Every one is a function of a `Ranking`, so five million pixels are sorted once. Only the scores of
the anomalous side are needed as steps: between two of them a curve runs level.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from admodels.foundation.arrays import Bool, Float64, Int64
from admodels.foundation.errors import DataError

Curve = tuple[Float64, Float64]  # x, y
ROUNDING = 1e-9  # of a number times a rate


@dataclass(frozen=True)
class Ranking:
    """What is found at each of the S distinct scores of the anomalous side, descending.

    `found` (S,) anomalous ones >= the score, of `anomalous`; `covered` (S,) the same as a weighted
    share in 0..1; `false` and `false_above` (S,) normal ones >= and > it, of `normal`.
    `thresholds` (S,) are the scores.
    """

    found: Int64
    covered: Float64
    false: Int64
    false_above: Int64
    anomalous: int
    normal: int
    thresholds: NDArray[np.floating]


def ranking(
    scores: NDArray[np.floating], anomalous: Bool, weights: Float64 | None = None
) -> Ranking | None:
    """Rank `scores` (any shape) against `anomalous` (same shape); None where a side is empty.

    `weights` (number of anomalous,), in the order of `scores[anomalous]`, sum 1; None: all alike.

    Raises:
        DataError: a score is not finite, which would rank it anywhere.
    """
    bad = scores.size - int(np.count_nonzero(np.isfinite(scores)))
    if bad:
        raise DataError(
            f"{bad} of {scores.size} scores are not finite",
            where="scores to be evaluated",
            expected="finite numbers",
            next_step="train again: the detector's weights have diverged",
        )
    positive, negative = scores[anomalous], scores[~anomalous]
    if not len(positive) or not len(negative):
        return None
    negative.sort()
    order = np.argsort(-positive, kind="stable")
    descending = positive[order]
    last = np.flatnonzero(np.append(descending[1:] != descending[:-1], True))
    thresholds = descending[last]
    counts = last + 1
    covered = counts / len(positive) if weights is None else np.cumsum(weights[order])[last]
    return Ranking(
        found=counts,
        covered=covered,
        false=len(negative) - np.searchsorted(negative, thresholds, side="left"),
        false_above=len(negative) - np.searchsorted(negative, thresholds, side="right"),
        anomalous=len(positive),
        normal=len(negative),
        thresholds=thresholds,
    )


def auroc(ranks: Ranking | None) -> float | None:
    """The share of (anomalous, normal) pairs ranked rightly, a tie counting half."""
    if ranks is None:
        return None
    gained = np.diff(ranks.found, prepend=0)
    twice_right = np.sum(gained * (2 * ranks.normal - ranks.false - ranks.false_above))
    return int(twice_right) / (2 * ranks.anomalous * ranks.normal)


def average_precision(ranks: Ranking | None) -> float | None:
    """Sum over steps of (recall gained) * precision; no interpolation."""
    if ranks is None:
        return None
    gained = np.diff(ranks.found, prepend=0)
    precision = ranks.found / (ranks.found + ranks.false)
    return float(np.sum(gained * precision)) / ranks.anomalous


def f1_max(ranks: Ranking | None) -> float | None:
    """The largest F1 over all thresholds."""
    if ranks is None:
        return None
    f1 = 2 * ranks.found / (ranks.found + ranks.false + ranks.anomalous)
    return float(f1.max())


def recall_at(ranks: Ranking | None, rate: float) -> float | None:
    """The highest recall with at most that share of the normal ones at or above the threshold.

    None below 1 / `rate` normal ones, which could show no such share but 0.
    """
    if ranks is None or ranks.normal * rate < 1 - ROUNDING:
        return None
    allowed = ranks.false <= ranks.normal * rate + ROUNDING
    return float(ranks.covered[allowed].max(initial=0.0))


def region_weights(masks: Bool) -> Float64:
    """A weight for each pixel of `masks[masks]`, masks (N, H, W): every region weighs the same.

    Regions are 8-connected. With them, `Ranking.covered` is PRO: the mean over all regions of the
    share that is found.
    """
    import cv2

    parts, regions = [np.empty(0)], 0
    for mask in masks[masks.any(axis=(1, 2))]:
        n, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        members = labels[mask]
        parts.append(1 / np.bincount(members, minlength=n)[members])
        regions += n - 1
    return np.concatenate(parts) / max(1, regions)


def roc_curve(ranks: Ranking, limit: float = 1.0) -> Curve:
    """False-positive rate and covered share from (0, 0) up to the rate `limit`, 0 < limit <= 1.

    Ties are one straight step; the last point is interpolated at `limit`.
    """
    covered = ranks.covered
    rate = np.stack([ranks.false_above, ranks.false], axis=1).ravel() / ranks.normal
    share = np.stack([np.append(0.0, covered[:-1]), covered], axis=1).ravel()
    x, y = np.concatenate([[0.0], rate, [1.0]]), np.concatenate([[0.0], share, covered[-1:]])
    inside = int(np.searchsorted(x, limit, side="right"))
    if inside == len(x):
        return x, y
    slope = (y[inside] - y[inside - 1]) / (x[inside] - x[inside - 1])
    end = y[inside - 1] + slope * (limit - x[inside - 1])
    return np.append(x[:inside], limit), np.append(y[:inside], end)


def pr_curve(ranks: Ranking) -> Curve:
    """Recall and precision at each step; level from recall 0 to the first."""
    precision = ranks.found / (ranks.found + ranks.false)
    recall = ranks.found / ranks.anomalous
    return np.append(0.0, recall), np.append(precision[0], precision)


def aupro(ranks: Ranking | None, limit: float) -> float | None:
    """Area under PRO up to the false-positive rate `limit`, divided by `limit`; 0..1.

    `ranks` is of pixels, with `region_weights`. Bergmann et al. 2021, IJCV 129, section 5.2.
    """
    if ranks is None:
        return None
    rate, share = roc_curve(ranks, limit)
    return float(np.trapezoid(share, rate)) / limit


def thin(curve: Curve, points: int) -> Curve:
    """At most `points` >= 2 points of a curve, evenly along its length, both ends among them."""
    if len(curve[0]) <= points:
        return curve
    kept = thin_places(curve, points)
    return curve[0][kept], curve[1][kept]


def thin_places(curve: Curve, points: int) -> Int64:
    """The places, ascending, of the points of a curve that `thin` keeps."""
    x, y = curve
    if len(x) <= points:
        return np.arange(len(x))
    way = np.append(0.0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    near = np.searchsorted(way, np.linspace(0.0, way[-1], points - 1))
    return np.unique(np.append(near, len(x) - 1))
