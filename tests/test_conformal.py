"""The false-alarm promise, by enumeration."""

import numpy as np
import pytest

from admodels.foundation.errors import DataError
from admodels.inference import conformal

ALPHAS = [0.01, 0.05, 0.07, 0.1, 0.29, 1 / 3, 0.5, 0.9, 0.999]


def drawn(seed: int) -> np.ndarray:
    """1 to 39 scores, with ties for odd seeds."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 40))
    return rng.integers(0, 8, n).astype(float) if seed % 2 else rng.standard_normal(n)


def test_a_p_value_counts_the_calibration_scores_that_reach_the_score() -> None:
    found = conformal.p_values([0.0, 1.0, 1.5, 2.0, 9.0], [2.0, 1.0, 2.0])
    assert found.tolist() == [1, 1, 0.75, 0.75, 0.25]


def test_without_calibration_images_nothing_is_unusual() -> None:
    assert conformal.p_values([3.0], []).tolist() == [1]


@pytest.mark.parametrize("seed", range(30))
def test_above_the_threshold_is_exactly_a_p_value_within_alpha(seed: int) -> None:
    scores = drawn(seed)
    levels = [k / (len(scores) + 1) for k in range(1, len(scores) + 1)]
    candidates = np.unique([scores, np.nextafter(scores, 99), np.nextafter(scores, -99)])
    candidates = np.append(candidates, [-99.0, 99.0])
    for alpha in [*levels, *ALPHAS]:
        if alpha < conformal.smallest_alpha(len(scores)):
            continue
        t = conformal.threshold(scores, alpha)
        within = conformal.p_values(candidates, scores) <= alpha
        np.testing.assert_array_equal(candidates > t, within)


@pytest.mark.parametrize(("alpha", "n", "k"), [(0.05, 19, 1), (0.1, 29, 3), (0.29, 99, 29)])
def test_the_threshold_is_the_kth_largest_where_alpha_is_a_level(
    alpha: float, n: int, k: int
) -> None:
    # 0.1 * 30 and 0.29 * 100 are not 3 and 29 in floating point
    assert conformal.threshold(np.arange(n), alpha) == n - k


@pytest.mark.parametrize("seed", range(30))
def test_of_exchangeable_scores_at_most_alpha_raise_a_false_alarm(seed: int) -> None:
    scores = drawn(seed)
    rest = [np.delete(scores, i) for i in range(len(scores))]
    for alpha in ALPHAS:
        if len(scores) - 1 >= conformal.images_needed(alpha):
            pairs = zip(scores, rest, strict=True)
            alarms = sum(score > conformal.threshold(others, alpha) for score, others in pairs)
            assert alarms / len(scores) <= alpha


def test_the_budget_is_used_up_where_there_are_no_ties() -> None:
    scores = np.arange(40.0)
    alarms = [s > conformal.threshold(np.delete(scores, i), 0.1) for i, s in enumerate(scores)]
    assert sum(alarms) == 4


@pytest.mark.parametrize(("alpha", "n"), [(0.05, 19), (0.01, 99), (0.5, 1), (0.9, 1), (1 / 49, 48)])
def test_the_images_needed_are_the_fewest_that_can_promise_alpha(alpha: float, n: int) -> None:
    assert conformal.images_needed(alpha) == n
    assert conformal.smallest_alpha(n) <= alpha < conformal.smallest_alpha(n - 1)


def test_every_smallest_alpha_can_be_promised() -> None:
    for n in range(1, 3000):
        assert conformal.images_needed(conformal.smallest_alpha(n)) == n


def test_a_promise_that_the_images_cannot_hold_has_no_threshold_and_a_number_missing() -> None:
    assert conformal.threshold(np.arange(8.0), 0.05) is None
    assert conformal.threshold([], 0.05) is None
    assert conformal.threshold(np.arange(19.0), 0.05) == 18
    assert [conformal.images_missing(n, 0.05) for n in (0, 8, 19, 40)] == [19, 11, 0, 0]
    assert conformal.images_missing(8, 0.01) == 91
    for n in range(1, 120):
        for alpha in [*ALPHAS, 1 / (n + 1)]:
            nothing = conformal.threshold(np.arange(n), alpha) is None
            assert nothing == (conformal.images_missing(n, alpha) > 0)


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DataError, match="1 of 2 calibration scores are not finite"):
        conformal.threshold([np.nan, 1.0], 0.5)
    with pytest.raises(DataError, match="1 of 1 scores are not finite"):
        conformal.p_values([np.nan], [1.0])
