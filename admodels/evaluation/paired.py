"""Two detectors on the same images: how far their figures differ, and whether it is more than luck.

Images are drawn, or exchanged, with what both detectors say of them: an image that is hard for one
is often hard for the other. Images of one group (`units`) go together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from admodels.evaluation import resampling
from admodels.evaluation.intervals import CONFIDENCE, auroc_components
from admodels.evaluation.metrics import Ranking, ranking
from admodels.evaluation.resampling import Figures, Interval
from admodels.foundation.arrays import Bool, Float64, Int64

PERMUTATIONS = 1000
SEED = 0  # the same answer for the same scores
SAME = 1e-9  # differences that are smaller are equal but for rounding
VALUES_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Pair:
    """`before` and `after` (N,) scores of the same images, `anomalous` (N,) bool, both sides there.

    `units` (N,): images with one number are of one group.
    """

    before: Float64
    after: Float64
    anomalous: Bool
    units: Int64


@dataclass(frozen=True)
class Exchanged:
    """AUROC after minus before and its standard error, as they are (first) and exchanged; (P,)."""

    differences: Float64
    errors: Float64

    def p_value(self) -> float:
        """How often an exchange gives as large a difference; the larger share of two tests.

        One looks at the difference (Venkatraman and Begg 1996, Biometrika 83), one at the
        difference over its standard error (Pauly, Asendorf and Konietschke 2016). Near AUROC 1, and
        where two detectors are alike, either alone is wrong too often; both are seldom.
        """
        distances = np.abs(self.differences)
        errors = np.maximum(self.errors, SAME)
        ratios = np.where(distances <= SAME, 0.0, distances / errors)
        shares = [np.mean(v >= v[0] * (1 - SAME) - SAME) for v in (distances, ratios)]
        return float(max(shares))


def exchange(pair: Pair, permutations: int = PERMUTATIONS) -> Exchanged:
    """Exchange before and after in half of the groups at random, `permutations` times.

    Scores become ranks first, so that it does not matter on which scale a detector scores.
    """
    before, after = _ranks(pair.before), _ranks(pair.after)
    rng = np.random.default_rng(SEED)
    unit = np.unique(pair.units, return_inverse=True)[1]
    swaps = rng.random((permutations + 1, unit.max() + 1)) < 0.5
    swaps[0] = False
    differences, errors = [], []
    for some in np.array_split(swaps, math.ceil(swaps.shape[0] * len(unit) / VALUES_AT_ONCE)):
        swapped = some[:, unit]
        first, second = np.where(swapped, after, before), np.where(swapped, before, after)
        difference, error = _auroc_difference(first, second, pair.anomalous)
        differences.append(difference)
        errors.append(error)
    return Exchanged(np.concatenate(differences), np.concatenate(errors))


def mean_of_tasks(tasks: Sequence[Exchanged]) -> Exchanged:
    """The mean difference over tasks, whose images are exchanged independently."""
    differences = np.mean([task.differences for task in tasks], axis=0)
    errors = np.sqrt(np.sum([task.errors**2 for task in tasks], axis=0)) / len(tasks)
    return Exchanged(differences, errors)


def _ranks(scores: Float64) -> Float64:
    """Places in ascending order from 1, the mean of them for ties, along the last axis."""
    from scipy.stats import rankdata

    return np.asarray(rankdata(scores, axis=-1), np.float64)


def _auroc_difference(before: Float64, after: Float64, anomalous: Bool) -> tuple[Float64, Float64]:
    """AUROC after minus before of each row (P, N), and DeLong's standard error of it, both (P,)."""
    first, second = _components(before, anomalous), _components(after, anomalous)
    by_side = [late - early for early, late in zip(first, second, strict=True)]
    parts = [side.var(axis=1, ddof=min(1, side.shape[1] - 1)) / side.shape[1] for side in by_side]
    return by_side[0].mean(axis=1), np.sqrt(parts[0] + parts[1])


def _components(scores: Float64, anomalous: Bool) -> tuple[Float64, Float64]:
    """`auroc_components` of every row (P, N): the ranks among all less those among one's own."""
    everywhere = _ranks(scores)
    sides = [everywhere[:, side] - _ranks(scores[:, side]) for side in (anomalous, ~anomalous)]
    return sides[0] / (~anomalous).sum(), 1 - sides[1] / anomalous.sum()


def delong_interval(pair: Pair) -> Interval | None:
    """The 95 % interval of AUROC after minus before; None where it says nothing.

    DeLong, DeLong and Clarke-Pearson 1988, Biometrics 44: the components of both are paired by
    image. It says nothing of a side with one image, and where no image changed its place.
    """
    from scipy.special import ndtri

    if min(pair.anomalous.sum(), (~pair.anomalous).sum()) < 2:
        return None
    first, second = (auroc_components(s, pair.anomalous) for s in (pair.before, pair.after))
    gains = [late - early for early, late in zip(first, second, strict=True)]
    error = float(sum(gain.var(ddof=1) / len(gain) for gain in gains)) ** 0.5
    if error <= SAME:
        return None
    difference, reach = float(gains[0].mean()), float(ndtri((1 + CONFIDENCE) / 2)) * error
    return max(-1.0, difference - reach), min(1.0, difference + reach)


def image_differences(pair: Pair, counts: Float64, figures: Figures) -> dict[str, Interval | None]:
    """The 95 % interval of each figure of the images after minus before, images drawn again.

    `counts` (R, N) as `resampling.draw` gives them.
    """
    early, late = (
        resampling.image_rankings(scores, pair.anomalous, counts)
        for scores in (pair.before, pair.after)
    )
    limits: dict[str, Interval | None] = {}
    for name, figure in figures.items():
        values = [(figure(a), figure(b)) for a, b in zip(early, late, strict=True)]
        gains = [b - a for a, b in values if a is not None and b is not None]
        limits[name] = resampling.percentile_interval(np.array(gains)) if gains else None
    return limits


def paired_difference(
    figure: Callable[[Ranking | None], float | None],
    first: Float64,
    second: Float64,
    anomalous: Bool,
) -> tuple[float, Interval] | None:
    """`figure` of `first` minus that of `second`, and its 95 % interval; None where undefined.

    All three (N,), of the same images. The interval is a point where no resample differs.
    """
    values = [figure(ranking(scores, anomalous)) for scores in (first, second)]
    if values[0] is None or values[1] is None:
        return None
    counts = resampling.draw(anomalous)
    resampled = [
        np.array(
            [figure(ranks) for ranks in resampling.image_rankings(scores, anomalous, counts)],
            np.float64,
        )
        for scores in (first, second)
    ]
    difference = values[0] - values[1]
    spread = resampling.percentile_interval(resampled[0] - resampled[1])
    return difference, spread or (difference, difference)


def mean_difference(before: Float64, after: Float64, counts: Float64) -> Interval | None:
    """The 95 % interval of the mean of `after` - `before` (N,), images drawn again by `counts`."""
    total = counts.sum(axis=1)
    drawn = counts[total > 0] @ (after - before) / total[total > 0]
    return resampling.percentile_interval(drawn) if len(drawn) else None


def mcnemar(lost: int, won: int) -> float:
    """How often as uneven a split of the images that changed sides is luck; exact, two-sided.

    McNemar 1947, Psychometrika 12: without a difference an image goes either way as often.
    """
    changed = lost + won
    fewer = sum(math.comb(changed, count) for count in range(min(lost, won) + 1))
    return float(min(1, 2 * fewer / 2**changed))


def holm(p_values: Sequence[float]) -> list[float]:
    """Each p-value corrected for as many questions (Holm 1979, Scandinavian J. of Statistics 6)."""
    corrected, reached = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        reached = max(reached, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = reached
    return corrected
