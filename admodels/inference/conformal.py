"""Conformal p-values of scores, and the threshold that keeps a false-alarm budget.

Vovk, Gammerman, Shafer 2005, "Algorithmic Learning in a Random World", section 4: if a normal
image is exchangeable with the n calibration images, P(p_value <= alpha) <= alpha for every alpha,
whatever the detector and the distribution of its scores.
"""

from itertools import count

import numpy as np
from numpy.typing import ArrayLike

from admodels.foundation.arrays import Float64
from admodels.foundation.errors import DataError

RANGE_SHARE = 0.95  # of the calibrations whose realised rate a range holds


def p_values(scores: ArrayLike, calibration: ArrayLike) -> Float64:
    """(1 + #{calibration >= score}) / (n + 1) for each score; in 1/(n + 1)..1.

    Raises:
        DataError: a score is not finite, so that it would pass as normal unseen.
    """
    ascending = np.sort(_finite(calibration, "calibration scores"))
    below = np.searchsorted(ascending, _finite(scores, "scores"), side="left")
    n = len(ascending)
    p: Float64 = (1 + n - below) / (n + 1)
    return p


def smallest_alpha(n: int) -> float:
    """The smallest false-alarm rate that `n` calibration images can promise."""
    return 1 / (n + 1)


def part_p_value(p: ArrayLike, views: int) -> float:
    """min(1, views * smallest p): the p-value of a part by those of its views, at least one.

    Bonferroni: if the part is normal, P(part_p_value <= alpha) <= alpha however its views depend on
    each other, because each of them is at most alpha / `views` with that probability. `views` is
    fixed beforehand: fewer p-values than views only lower the probability.
    """
    return float(min(1.0, views * np.min(p)))


def images_needed(alpha: float, views: int = 1) -> int:
    """The smallest number of calibration images that can promise `alpha`, 0 < alpha < 1.

    `views`: of a part; each of them can then flag it.
    """
    start = max(0, int(views / alpha) - 2)
    return next(n for n in count(start) if part_p_value(smallest_alpha(n), views) <= alpha)


def images_missing(n: int, alpha: float, views: int = 1) -> int:
    """How many more than `n` calibration images are needed to promise `alpha`."""
    return max(0, images_needed(alpha, views) - n)


def threshold(calibration: ArrayLike, alpha: float) -> float | None:
    """The t for which `score > t` and `p_value <= alpha` are the same, 0 < alpha < 1.

    None where alpha < 1/(n + 1), a promise that n images cannot hold.

    p <= alpha means at most k - 1 calibration scores reach the score, where k is how many of the
    levels 1/(n + 1), 2/(n + 1), ... are within alpha; so t is the k-th largest of them. The levels
    are compared as p_values computes them, hence no rounding can part the two sides.

    Raises:
        DataError: a calibration score is not finite.
    """
    ascending = np.sort(_finite(calibration, "calibration scores"))
    n = len(ascending)
    k = levels_within(n, alpha)
    return float(ascending[n - k]) if k else None


def realised_range(n: int, alpha: float) -> tuple[float, float] | None:
    """Where the false-alarm rate of one calibration of `n` images lies, in 95 of 100 calibrations.

    Alpha is the mean over calibrations. The rate of a given one is Beta(k, n + 1 - k) where scores
    are continuous, k as in `threshold` (Vovk 2012, "Conditional validity of inductive conformal
    predictors"). None where n images cannot promise alpha.
    """
    k = levels_within(n, alpha)
    if not k:
        return None
    from scipy.special import betaincinv  # 0.1 s

    outside = (1 - RANGE_SHARE) / 2
    low, high = betaincinv(k, n + 1 - k, [outside, 1 - outside])
    return float(low), float(high)


def images_within(alpha: float, factor: float) -> int:
    """How many calibration images keep `realised_range` between alpha / factor and alpha factor.

    With more images it stays there, too.
    """
    for k in count(1):
        first, last = images_needed(alpha / k), images_needed(alpha / (k + 1)) - 1
        high, low = realised_range(first, alpha), realised_range(last, alpha)
        if high and low and high[1] <= alpha * factor and low[0] >= alpha / factor:
            return first
    raise AssertionError("count never ends")


def levels_within(n: int, alpha: float) -> int:
    """How many of the levels 1/(n + 1), 2/(n + 1), ..., n/(n + 1) are within alpha."""
    return int(np.count_nonzero(np.arange(1, n + 1) / (n + 1) <= alpha))


def benjamini_hochberg(p: ArrayLike, fdr: float) -> float:
    """The p-value up to which a list has at most the expected share `fdr` of false alarms; or 0.

    Benjamini and Hochberg 1995: the largest p_(k) <= fdr k / m. Conformal p-values that share
    their calibration images keep the promise (Bates et al. 2023, theorem 2).
    """
    ascending = np.sort(np.asarray(p, dtype=np.float64))
    m = len(ascending)
    kept = ascending[ascending <= fdr * np.arange(1, m + 1) / m] if m else ascending
    return float(kept[-1]) if len(kept) else 0.0


def _finite(scores: ArrayLike, name: str) -> Float64:
    values = np.asarray(scores, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise DataError(
            f"{len(bad)} of {values.size} {name} are not finite",
            where=f"{name}, first at index {bad[0]}",
            expected="finite numbers",
            next_step="train again: the detector's weights or calibration have diverged",
        )
    return values
