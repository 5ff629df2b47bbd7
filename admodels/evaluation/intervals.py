"""The interval of a share that was counted, and of an AUROC.

Clopper and Pearson 1934: their interval holds the true share in at least the given part of all
countings, for any number of trials.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from admodels.foundation.arrays import Bool, Float64

CONFIDENCE = 0.95


def exact_interval(count: int, of: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The lowest and the highest share that agree with `count` in `of` trials; 0..1 without one."""
    from scipy.special import betaincinv  # 0.1 s

    outside = (1 - confidence) / 2
    low = betaincinv(count, of - count + 1, outside) if count else 0.0
    high = betaincinv(count + 1, of - count, 1 - outside) if count < of else 1.0
    return float(low), float(high)


def upper_bound(count: int, of: int, confidence: float = CONFIDENCE) -> float:
    """The highest share that agrees with `count` in `of` trials, with no bound below it."""
    return exact_interval(count, of, 2 * confidence - 1)[1]


def auroc_components(scores: Float64, anomalous: Bool) -> tuple[Float64, Float64]:
    """The share of the other side that each anomalous and each normal image is ranked right of.

    A tie counts half. The mean of either is the AUROC; `scores` (N,), `anomalous` (N,), both sides
    present. DeLong, DeLong and Clarke-Pearson 1988, Biometrics 44, equations 4 and 5.
    """
    import numpy as np

    positive, negative = scores[anomalous], scores[~anomalous]
    below, above = np.sort(negative), np.sort(positive)
    won = np.searchsorted(below, positive, "left") + np.searchsorted(below, positive, "right")
    lost = np.searchsorted(above, negative, "left") + np.searchsorted(above, negative, "right")
    return won / (2 * len(negative)), 1 - lost / (2 * len(positive))


def auroc_interval(
    scores: Float64, anomalous: Bool, confidence: float = CONFIDENCE
) -> tuple[float, float] | None:
    """DeLong's interval of the AUROC, on the scale of its log odds; None without two of each side.

    Where every pair is ranked right, or every pair wrong, his variance is 0 and says nothing. Then
    the interval is the exact one of as many pairs as the smaller side has images: pairs without
    a common image are independent.
    """
    from scipy.special import expit, logit, ndtri

    count = int(min(anomalous.sum(), (~anomalous).sum()))
    if count < 2:
        return None
    right_of_normal, right_of_anomalous = auroc_components(scores, anomalous)
    area = float(right_of_normal.mean())
    variance = float(
        right_of_normal.var(ddof=1) / len(right_of_normal)
        + right_of_anomalous.var(ddof=1) / len(right_of_anomalous)
    )
    if area in (0.0, 1.0):
        return exact_interval(round(area) * count, count, confidence)
    reach = float(ndtri((1 + confidence) / 2)) * variance**0.5 / (area * (1 - area))
    centre = float(logit(area))
    return float(expit(centre - reach)), float(expit(centre + reach))
