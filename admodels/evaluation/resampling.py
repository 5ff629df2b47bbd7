"""Intervals of figures that have no formula: images drawn again, of each side as many as there are.

The stratified bootstrap with percentiles (Efron and Tibshirani 1993, chapters 8 and 13). An image
is drawn with all its pixels, because the pixels of an image are alike. Pixels are counted once, at
a fixed set of thresholds, so a resample costs a few products of matrices.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from admodels.evaluation.intervals import CONFIDENCE, exact_interval
from admodels.evaluation.metrics import Ranking, region_weights, thin_places
from admodels.foundation.arrays import Bool, Float32, Float64, Int64
from admodels.inference import conformal

RESAMPLES = 1000
SEED = 0  # the same intervals for the same scores
LEVELS = 1000  # thresholds at which the pixels of an image are counted
SAME = 1e-9  # figures that differ by no more are equal but for rounding
Interval = tuple[float, float]
Figures = Mapping[str, Callable[[Ranking | None], float | None]]


def draw(anomalous: Bool, resamples: int = RESAMPLES, units: Int64 | None = None) -> Float64:
    """How often each image stands in each resample, (resamples, N); each side keeps its number.

    `units` (N,): images with one number are of one group, and drawn together from their side.
    """
    rng = np.random.default_rng(SEED)
    counts = np.zeros((resamples, len(anomalous)))
    for side in (anomalous, ~anomalous):
        own = np.arange(side.sum()) if units is None else units[side]
        groups, group = np.unique(own, return_inverse=True)
        n = len(groups)
        if n:
            drawn = rng.multinomial(n, np.full(n, 1 / n), size=resamples)
            counts[:, side] = drawn[:, group]
    return counts


def percentile_interval(figures: Float64) -> Interval | None:
    """The middle 95 % of the figures of the resamples; None where all are the same.

    That is so where a figure is the best that there is: resamples then say nothing.
    """
    if np.ptp(figures) <= SAME:
        return None
    outside = (1 - CONFIDENCE) / 2
    low, high = np.quantile(figures, [outside, 1 - outside])
    return float(low), float(high)


def image_rankings(scores: Float64, anomalous: Bool, counts: Float64) -> list[Ranking]:
    """The ranking of the images of every resample; `counts` (R, N) as `draw` gives them."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    hits, false = (
        np.cumsum(counts[:, order] * side[order], axis=1)[:, last]
        for side in (anomalous, ~anomalous)
    )
    above = np.concatenate([np.zeros((len(counts), 1)), false[:, :-1]], axis=1)
    return _rankings(np.stack([hits, hits, false, above]), false[:, -1], ordered[last])


def pixel_rankings(
    maps: Float32, masks: Bool, weights: Float64, ranks: Ranking, counts: Float64
) -> list[Ranking]:
    """The ranking of the pixels of every resample, at about `LEVELS` of the thresholds of `ranks`.

    `weights` of the pixels of `masks[masks]`, as `metrics.region_weights` gives them.
    """
    rate = np.sqrt(ranks.false / ranks.normal)  # the levels are dense where alarms are rare
    levels = ranks.thresholds[thin_places((rate, ranks.covered), LEVELS)]
    sizes = masks.sum(axis=(1, 2))
    tables = np.zeros((4, len(maps), len(levels)))
    for image, own in enumerate(np.split(weights, np.cumsum(sizes)[:-1])):
        inside, outside = maps[image][masks[image]], maps[image][~masks[image]]
        tables[:, image] = (
            _counts(levels, inside),
            _counts(levels, inside, own),
            _counts(levels, outside),
            _counts(levels, outside, side="left"),
        )
    normal = counts @ (masks[0].size - sizes)
    return _rankings(counts @ tables, normal, levels)


def _counts(
    falling: NDArray[np.floating],
    scores: Float32,
    weights: Float64 | None = None,
    side: Literal["left", "right"] = "right",
) -> Float64:
    """How many `scores` are >= each of the `falling` thresholds, or > it on the side `left`."""
    places = np.searchsorted(falling[::-1], scores, side)
    per_place = np.bincount(places, weights, minlength=len(falling) + 1)
    above: Float64 = np.cumsum(per_place[::-1])[:-1].astype(np.float64)
    return above


def _rankings(tables: Float64, normal: Float64, thresholds: NDArray[np.floating]) -> list[Ranking]:
    """Of R resamples that hold an anomalous one; `tables` (4, R, S) as `_ranking` takes them."""
    resamples = zip(tables.swapaxes(0, 1), normal, strict=True)
    return [_ranking(rows, of, thresholds) for rows, of in resamples if rows[0, -1]]


def _ranking(rows: Float64, normal: float, thresholds: NDArray[np.floating]) -> Ranking:
    """Of hits, weight of the hits, false, false above (4, S); the last threshold finds all."""
    reached = rows[0] + rows[2] > 0  # by any image that was drawn
    hits, covered, false, above = rows[:, reached]
    return Ranking(
        found=hits.astype(np.int64),
        covered=covered / covered[-1],
        false=false.astype(np.int64),
        false_above=above.astype(np.int64),
        anomalous=round(hits[-1]),
        normal=round(normal),
        thresholds=thresholds[reached],
    )


def image_intervals(
    scores: Float64, anomalous: Bool, ranks: Ranking, counts: Float64, figures: Figures
) -> dict[str, Interval | None]:
    """The interval of each figure of the images; `ranks` is their ranking as they are."""
    return _intervals(figures, ranks, ranks, image_rankings(scores, anomalous, counts))


def pixel_intervals(
    maps: Float32, masks: Bool, ranks: Ranking, counts: Float64, figures: Figures
) -> dict[str, Interval | None]:
    """The interval of each figure of the pixels; `ranks` is their ranking as they are."""
    weights, once = region_weights(masks), np.ones(len(maps))
    whole, *drawn = pixel_rankings(maps, masks, weights, ranks, np.vstack([once, counts]))
    return _intervals(figures, ranks, whole, drawn)


def _intervals(
    figures: Figures, exact: Ranking, whole: Ranking, resamples: list[Ranking]
) -> dict[str, Interval | None]:
    """`whole` is what `exact` is at the thresholds of the resamples.

    By how far the figures of these two differ, the intervals are moved.
    """
    limits: dict[str, Interval | None] = {}
    for name, figure in figures.items():
        value, coarse = figure(exact), figure(whole)
        if value is None or coarse is None:
            limits[name] = None
            continue
        spread = percentile_interval(np.array([figure(ranks) for ranks in resamples]))
        low, high = spread or (coarse, coarse)
        moved = value - coarse
        limits[name] = spread and (max(0.0, low + moved), min(1.0, high + moved))
    return limits


def recall_interval(
    scores: Float64, counts: Float64, calibration: Float64, alpha: float
) -> Interval | None:
    """Of the share of the anomalous `scores` (N,) above the threshold; None without a threshold.

    Resamples also draw the calibration, hence the threshold, again; `counts` (R, N). The result
    holds the exact interval too: no resample of 24 in 24 says that 23 were possible.
    """
    threshold = conformal.threshold(calibration, alpha)
    if threshold is None or not len(scores):
        return None
    rng = np.random.default_rng(SEED + 1)
    drawn = rng.integers(len(calibration), size=(len(counts), len(calibration)))
    thresholds = [conformal.threshold(calibration[row], alpha) for row in drawn]
    above = scores > np.array(thresholds, np.float64)[:, None]
    figures = (counts * above).sum(axis=1) / len(scores)
    low, high = exact_interval(int((scores > threshold).sum()), len(scores))
    drawn_low, drawn_high = percentile_interval(figures) or (low, high)
    return min(low, drawn_low), max(high, drawn_high)
