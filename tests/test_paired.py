"""Paired figures against their definitions, SciPy, and a null that is really drawn."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from admodels.evaluation import metrics, paired, resampling
from admodels.evaluation.paired import Exchanged, Pair
from tests.test_metrics import SEEDS, drawn


def scored_twice(seed: int) -> Pair:
    before, anomalous = drawn(seed)
    rng = np.random.default_rng(seed + 100)
    after = np.round(before + rng.standard_normal(len(before)), seed % 2)
    return Pair(before, after, anomalous, np.arange(len(before)))


def auroc(scores: np.ndarray, anomalous: np.ndarray) -> float:
    pairs = product(scores[anomalous], scores[~anomalous])
    return float(np.mean([(a > b) + (a == b) / 2 for a, b in pairs]))


@pytest.mark.parametrize("seed", SEEDS)
def test_an_exchange_gives_the_auroc_of_the_ranks_that_were_exchanged(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = scored_twice(seed)
    monkeypatch.setattr(paired, "VALUES_AT_ONCE", 50)  # in several pieces
    differences = paired.exchange(pair, 6).differences
    swaps = np.random.default_rng(paired.SEED).random((7, len(pair.units))) < 0.5
    swaps[0] = False
    first, second = paired._ranks(pair.before), paired._ranks(pair.after)
    for swap, difference in zip(swaps, differences, strict=True):
        late = auroc(np.where(swap, first, second), pair.anomalous)
        early = auroc(np.where(swap, second, first), pair.anomalous)
        assert difference == pytest.approx(late - early, abs=1e-12)
    whole = auroc(pair.after, pair.anomalous) - auroc(pair.before, pair.anomalous)
    assert differences[0] == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_delong_pairs_the_placements_of_every_image(seed: int) -> None:
    pair = scored_twice(seed)
    sides = pair.before[pair.anomalous], pair.before[~pair.anomalous]
    limits = paired.delong_interval(pair)
    if min(map(len, sides)) < 2:
        assert limits is None
        return

    def placements(scores: np.ndarray) -> np.ndarray:
        table = scores[pair.anomalous][:, None] - scores[~pair.anomalous][None, :]
        return (np.sign(table) + 1) / 2

    gain = placements(pair.after) - placements(pair.before)
    variance = sum(np.var(gain.mean(axis=a), ddof=1) / gain.shape[1 - a] for a in (0, 1))
    if variance == 0:
        assert limits is None
        return
    reach = norm.ppf(0.975) * np.sqrt(variance)
    expected = np.clip([gain.mean() - reach, gain.mean() + reach], -1, 1)
    assert limits == pytest.approx(tuple(expected), abs=1e-12)
    assert paired.exchange(pair, 1).errors[0] == pytest.approx(np.sqrt(variance), abs=1e-12)


def test_images_of_one_group_are_exchanged_and_drawn_together() -> None:
    anomalous = np.array([True] * 4 + [False] * 6)
    units = np.array([0, 0, 1, 1, 2, 2, 2, 3, 4, 4])
    counts = resampling.draw(anomalous, 50, units)
    for unit in range(5):
        own = counts[:, units == unit]
        assert (own == own[:, :1]).all()
    assert len({tuple(row) for row in counts}) > 10
    rng = np.random.default_rng(0)
    pair = Pair(rng.standard_normal(10), rng.standard_normal(10), anomalous, units)
    together = np.unique(np.abs(paired.exchange(pair, 400).differences).round(12))
    assert (
        len(together)
        <= 2**4
        < len(np.unique(np.abs(paired.exchange(scored_apart(pair), 400).differences).round(12)))
    )


def scored_apart(pair: Pair) -> Pair:
    return Pair(pair.before, pair.after, pair.anomalous, np.arange(len(pair.units)))


def test_the_p_value_is_the_larger_share_of_two_tests() -> None:
    exchanged = Exchanged(np.array([0.2, -0.3, 0.1, 0.0]), np.array([0.1, 0.3, 0.02, 0.0]))
    assert exchanged.p_value() == 0.5  # as far: the second too; as many errors: the third too
    one = Exchanged(np.array([0.0, 0.1, 0.2]), np.array([0.0, 0.1, 0.1]))
    assert one.p_value() == 1.0


def test_a_mean_of_tasks_is_that_of_every_exchange() -> None:
    tasks = [paired.exchange(scored_twice(seed), 20) for seed in (1, 2, 3)]
    mean = paired.mean_of_tasks(tasks)
    for row in range(21):
        values = [(t.differences[row], t.errors[row]) for t in tasks]
        assert mean.differences[row] == pytest.approx(np.mean([d for d, _ in values]))
        assert mean.errors[row] == pytest.approx(np.sqrt(sum(e * e for _, e in values)) / 3)


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (3, 0), (0, 6), (5, 11), (20, 20), (1, 9)])
def test_mcnemar_is_an_exact_binomial_test(lost: int, won: int) -> None:
    expected = binomtest(lost, lost + won).pvalue if lost + won else 1.0
    assert paired.mcnemar(lost, won) == pytest.approx(expected)


def test_holm_corrects_the_smallest_most_and_keeps_the_order() -> None:
    # Holm 1979: 4 x 0.005, 3 x 0.01, 2 x 0.03 and, not below the one before, 1 x 0.04
    assert paired.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert paired.holm([0.9, 0.8]) == [1.0, 1.0]


def test_a_difference_of_figures_is_that_of_the_same_resample() -> None:
    pair = scored_twice(7)
    counts = resampling.draw(pair.anomalous, 200)
    figures = {"ap": metrics.average_precision}
    gains = []
    for row in counts.astype(int):
        sets = [s.repeat(row) for s in (pair.before, pair.after)]
        early, late = (metrics.ranking(s, pair.anomalous.repeat(row)) for s in sets)
        gains.append(figures["ap"](late) - figures["ap"](early))
    limits = paired.image_differences(pair, counts, figures)["ap"]
    assert limits == pytest.approx(np.quantile(gains, [0.025, 0.975]))
    means = counts @ (pair.after - pair.before) / counts.sum(axis=1)
    limits = paired.mean_difference(pair.before, pair.after, counts)
    assert limits == pytest.approx(np.quantile(means, [0.025, 0.975]))


@pytest.mark.slow
@pytest.mark.parametrize(("area", "alike", "width"), [(0.9, 0.0, 3.0), (0.99, 0.8, 1.0)])
def test_detectors_of_one_true_auroc_are_seldom_told_apart(
    area: float, alike: float, width: float
) -> None:
    rng = np.random.default_rng(5)
    anomalous = np.array([True] * 40 + [False] * 20)
    wrong = 0
    for _ in range(150):
        shared, *own = rng.standard_normal((3, 60))
        noise = [np.sqrt(alike) * shared + np.sqrt(1 - alike) * each for each in own]
        before = noise[0] + anomalous * norm.ppf(area) * np.sqrt(2)
        scale = np.where(anomalous, width, 1.0)
        after = scale * noise[1] + anomalous * norm.ppf(area) * np.hypot(1, width)
        pair = Pair(before, after, anomalous, np.arange(60))
        wrong += paired.exchange(pair, 99).p_value() <= 0.05
    assert wrong <= 150 * 0.05 + 2 * np.sqrt(150 * 0.05 * 0.95)


def test_a_true_difference_is_seen() -> None:
    rng = np.random.default_rng(5)
    anomalous = np.array([True] * 60 + [False] * 20)
    noise = rng.standard_normal((2, 80))
    pair = Pair(noise[0] + anomalous, noise[1] + 4 * anomalous, anomalous, np.arange(80))
    assert paired.exchange(pair, 999).p_value() == 0.001
