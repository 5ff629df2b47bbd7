"""Intervals against resamples that are really made, scikit-learn, and their own definitions."""

from functools import partial
from itertools import product

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.metrics import average_precision_score, roc_curve

from admodels.evaluation import metrics, resampling
from admodels.evaluation.intervals import auroc_components, auroc_interval, exact_interval
from admodels.evaluation.metrics import Ranking
from tests.test_metrics import SEEDS, drawn, drawn_maps

FIGURES = {
    "auroc": metrics.auroc,
    "ap": metrics.average_precision,
    "f1": metrics.f1_max,
    "aupro": partial(metrics.aupro, limit=0.3),
    "recall": partial(metrics.recall_at, rate=0.5),
}


def compare(ours: Ranking, made: Ranking | None) -> None:
    for name, figure in FIGURES.items():
        assert figure(ours) == pytest.approx(figure(made), abs=1e-12), name


@pytest.mark.parametrize("seed", SEEDS)
def test_a_resample_of_images_is_the_set_in_which_they_stand_so_often(seed: int) -> None:
    scores, anomalous = drawn(seed)
    counts = resampling.draw(anomalous, 5)
    for row, ranks in zip(
        counts, resampling.image_rankings(scores, anomalous, counts), strict=True
    ):
        times = row.astype(int)
        compare(ranks, metrics.ranking(scores.repeat(times), anomalous.repeat(times)))
        expected = average_precision_score(anomalous, scores, sample_weight=row)
        assert metrics.average_precision(ranks) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_resample_of_maps_is_the_set_in_which_they_stand_so_often(seed: int) -> None:
    maps, masks = drawn_maps(seed)
    weights = metrics.region_weights(masks)
    ranks = metrics.ranking(maps, masks, weights)
    assert ranks is not None
    counts = np.array([[1, 1, 1], [0, 1, 2], [3, 0, 0], [2, 2, 1]], float)
    found = resampling.pixel_rankings(maps, masks, weights, ranks, counts)
    assert len(found) == len(counts)
    for row, ours in zip(counts, found, strict=True):
        times = row.astype(int)
        many, where = maps.repeat(times, axis=0), masks.repeat(times, axis=0)
        compare(ours, metrics.ranking(many, where, metrics.region_weights(where)))


def test_a_thousand_thresholds_are_as_good_as_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    masks = np.zeros((6, 64, 64), bool)
    masks[3:, 10:40, 20:30] = True
    maps = (rng.standard_normal(masks.shape) + 1.5 * masks).astype(np.float32)
    ranks = metrics.ranking(maps, masks, metrics.region_weights(masks))
    counts = resampling.draw(masks.any(axis=(1, 2)), 50)
    assert ranks is not None
    figures = {name: FIGURES[name] for name in ("auroc", "ap", "aupro")}
    few = resampling.pixel_intervals(maps, masks, ranks, counts, figures)
    monkeypatch.setattr(resampling, "LEVELS", 10**6)
    every = resampling.pixel_intervals(maps, masks, ranks, counts, figures)
    for name in figures:
        assert few[name] == pytest.approx(every[name], abs=1e-3)


def test_each_side_is_drawn_apart_and_in_its_own_number() -> None:
    anomalous = np.array([True] * 3 + [False] * 7)
    counts = resampling.draw(anomalous, 400)
    assert set(counts[:, anomalous].sum(axis=1)) == {3}
    assert set(counts[:, ~anomalous].sum(axis=1)) == {7}
    assert counts.mean(axis=0) == pytest.approx(np.ones(10), abs=0.2)
    assert (counts == resampling.draw(anomalous, 400)).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_delong_is_the_variance_of_the_placements_of_his_equations(seed: int) -> None:
    scores, anomalous = drawn(seed)
    x, y = scores[anomalous], scores[~anomalous]
    psi = np.array([[(a > b) + (a == b) / 2 for b in y] for a in x])
    of_anomalous, of_normal = auroc_components(scores, anomalous)
    assert of_anomalous == pytest.approx(psi.mean(axis=1))
    assert of_normal == pytest.approx(psi.mean(axis=0))
    area, found = psi.mean(), auroc_interval(scores, anomalous)
    if min(psi.shape) < 2:
        assert found is None
    elif 0 < area < 1:
        assert found is not None
        variance = psi.mean(axis=1).var(ddof=1) / len(x) + psi.mean(axis=0).var(ddof=1) / len(y)
        slope = 1 / (area * (1 - area))  # of the log odds
        expected = [logit(area) + side * 1.959964 * slope * variance**0.5 for side in (-1, 1)]
        assert found == pytest.approx(expit(expected), abs=1e-6)


def test_a_perfect_separation_is_as_sure_as_its_independent_pairs() -> None:
    scores, anomalous = np.arange(30.0), np.arange(30) >= 10
    assert auroc_interval(scores, anomalous) == exact_interval(10, 10)
    assert auroc_interval(-scores, anomalous) == exact_interval(0, 10)


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 1.0, 2.5])
def test_the_interval_of_an_auroc_holds_the_true_one(shift: float) -> None:
    """24 anomalous and 20 normal images of normal scores: the true AUROC is Phi(shift / sqrt 2)."""
    from scipy.stats import norm

    rng, truth = np.random.default_rng(8), norm.cdf(shift / 2**0.5)
    anomalous = np.arange(44) < 24
    runs = [rng.standard_normal(44) + shift * anomalous for _ in range(400)]
    limits = [auroc_interval(scores, anomalous) for scores in runs]
    held = np.mean([low <= truth <= high for low, high in limits if low is not None])
    assert held >= 0.93


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("seed", SEEDS)
def test_recall_at_a_rate_is_the_highest_of_the_roc_within_it(seed: int, rate: float) -> None:
    scores, anomalous = drawn(seed)
    found = metrics.recall_at(metrics.ranking(scores, anomalous), rate)
    normal = int((~anomalous).sum())
    if normal * rate < 1 - 1e-9:
        assert found is None
        return
    false, true, _ = roc_curve(anomalous, scores, drop_intermediate=False)
    assert found == max(t for f, t in zip(false, true, strict=True) if f <= rate + 1e-9)


def test_recall_at_one_per_cent_needs_a_hundred_normal_images() -> None:
    for normal, known in ((99, False), (100, True)):
        scores = np.append(np.arange(float(normal)), normal - 1.5)
        anomalous = np.arange(normal + 1) == normal
        found = metrics.recall_at(metrics.ranking(scores, anomalous), 0.01)
        assert found == (1.0 if known else None)


def test_the_interval_of_recall_holds_the_exact_one_and_knows_the_threshold_is_drawn() -> None:
    calibration, scores = np.arange(19.0), np.full(24, 18.5)
    counts = resampling.draw(np.ones(24, bool))
    # 18 is the threshold of alpha 0.05; a calibration drawn again is never above it
    assert resampling.recall_interval(scores, counts, calibration, 0.05) == exact_interval(24, 24)
    assert resampling.recall_interval(scores, counts, calibration, 0.04) is None
    assert resampling.recall_interval(scores[:0], counts[:, :0], calibration, 0.05) is None
    low, high = resampling.recall_interval(scores - 1, counts, calibration, 0.05)
    assert (low, high) == (0.0, 1.0)  # nothing is found, but all is with another calibration


def test_the_middle_of_the_resamples_and_nothing_where_they_agree() -> None:
    assert resampling.percentile_interval(np.arange(1001.0)) == pytest.approx((25, 975))
    assert resampling.percentile_interval(np.ones(10)) is None


def test_every_pair_counts_once_in_the_components() -> None:
    scores, anomalous = drawn(4)
    won = [a > b for a, b in product(scores[anomalous], scores[~anomalous])]
    for side in auroc_components(scores, anomalous):
        assert side.mean() == pytest.approx(np.mean(won))
