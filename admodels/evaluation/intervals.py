"""The exact interval of a share that was counted.

Clopper and Pearson 1934: it holds the true share in at least the given part of all countings, for
any number of trials.
"""

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
