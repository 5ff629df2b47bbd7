"""Every metric against its definition, written out the slow way."""

from fractions import Fraction
from itertools import pairwise, product

import numpy as np
import pytest
from scipy import ndimage

from admodels.evaluation import metrics
from admodels.foundation.errors import DataError

SEEDS = range(20)


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores with many ties (odd seeds) or none, and both labels."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 40))
    scores = rng.integers(0, 6, n).astype(float) if seed % 2 else rng.standard_normal(n)
    anomalous = rng.random(n) < 0.4
    anomalous[:2] = True, False
    return scores, anomalous


def drawn_maps(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    maps = rng.random((3, 9, 8)).astype(np.float32)
    masks = ndimage.uniform_filter(rng.random((3, 9, 8)), (1, 2, 2)) > 0.62
    maps += masks * rng.random() * 0.5
    return (np.round(maps, 1) if seed % 2 else maps), masks


def pro_by_sweep(maps: np.ndarray, masks: np.ndarray) -> list[tuple[float, float]]:
    """(false-positive rate, mean coverage) at every distinct value, from the definition."""
    regions = []
    for at, mask in enumerate(masks):
        labels, n = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [(at, labels == k) for k in range(1, n + 1)]
    points = [(0.0, 0.0)]
    for t in np.unique(maps)[::-1]:
        hit = maps >= t
        share = np.mean([hit[at][region].mean() for at, region in regions])
        points.append((hit[~masks].mean(), float(share)))
    return points


def area_by_sweep(points: list[tuple[float, float]], limit: float) -> float:
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 >= limit:
            break
        end = min(x1, limit)
        y_end = y1 if x1 <= limit else y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
        area += (end - x0) * (y0 + y_end) / 2
    return area / limit


def aupro(maps: np.ndarray, masks: np.ndarray, limit: float) -> float | None:
    return metrics.aupro(metrics.ranking(maps, masks, metrics.region_weights(masks)), limit)


@pytest.mark.parametrize("seed", SEEDS)
def test_auroc_is_the_share_of_pairs_ranked_rightly(seed: int) -> None:
    scores, anomalous = drawn(seed)
    pairs = list(product(scores[anomalous], scores[~anomalous]))
    won = sum(Fraction(int(a > b)) + Fraction(int(a == b), 2) for a, b in pairs)
    assert metrics.auroc(metrics.ranking(scores, anomalous)) == float(won / len(pairs))


@pytest.mark.parametrize("seed", SEEDS)
def test_average_precision_is_the_precision_at_each_recall_gained(seed: int) -> None:
    scores, anomalous = drawn(seed)
    expected, recall = 0.0, 0.0
    for t in np.unique(scores)[::-1]:
        hit = scores >= t
        gained = (hit & anomalous).sum() / anomalous.sum() - recall
        expected += gained * (hit & anomalous).sum() / hit.sum()
        recall += gained
    found = metrics.average_precision(metrics.ranking(scores, anomalous))
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_f1_max_is_the_best_over_all_thresholds(seed: int) -> None:
    scores, anomalous = drawn(seed)

    def f1(t: float) -> float:
        hit = scores >= t
        return 2 * (hit & anomalous).sum() / (hit.sum() + anomalous.sum())

    found = metrics.f1_max(metrics.ranking(scores, anomalous))
    assert found == max(f1(t) for t in scores)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_strictly_increasing_map_of_the_scores_changes_no_metric(seed: int) -> None:
    scores, anomalous = drawn(seed)
    before, after = (
        metrics.ranking(s, anomalous) for s in (scores, np.exp(scores / 4).astype(np.float64))
    )
    assert metrics.auroc(before) == metrics.auroc(after)
    assert metrics.average_precision(before) == metrics.average_precision(after)
    assert metrics.f1_max(before) == metrics.f1_max(after)
    assert metrics.aupro(before, 0.3) == metrics.aupro(after, 0.3)


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_aupro_is_the_area_of_a_sweep_over_every_distinct_value(seed: int, limit: float) -> None:
    maps, masks = drawn_maps(seed)
    expected = area_by_sweep(pro_by_sweep(maps, masks), limit)
    assert aupro(maps, masks, limit) == pytest.approx(expected, abs=1e-12)


def test_a_map_that_ranks_every_defect_pixel_first_has_aupro_one() -> None:
    _, masks = drawn_maps(0)
    assert aupro(masks.astype(np.float32), masks, 0.3) == pytest.approx(1, abs=1e-12)


def test_a_constant_map_is_one_straight_step() -> None:
    _, masks = drawn_maps(0)
    constant = np.zeros(masks.shape, np.float32)
    assert aupro(constant, masks, 0.3) == pytest.approx(0.15, abs=1e-12)
    assert metrics.auroc(metrics.ranking(constant, masks)) == 0.5


def ramp(shift: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores of 1000 normal pixels spread evenly over 0..1, of 1000 defect pixels over 0..1 too,
    `shift` higher: coverage is min(1, rate + shift).
    """
    even = (np.arange(1000) + 0.5) / 1000
    maps = np.stack([even, even + shift])[None]
    masks = np.zeros((1, 2, 1000), bool)
    masks[0, 1] = True
    return maps, masks


@pytest.mark.parametrize(("shift", "limit"), [(0.0, 0.3), (0.2, 0.3), (0.9, 0.3), (0.5, 1.0)])
def test_aupro_of_a_ramp_is_its_integral(shift: float, limit: float) -> None:
    bend = min(limit, 1 - shift)
    expected = (bend * shift + bend**2 / 2 + (limit - bend)) / limit
    # steps of 1/1000 on both axes
    assert aupro(*ramp(shift), limit) == pytest.approx(expected, abs=2e-3 / limit)


def test_the_last_point_is_interpolated_at_the_limit() -> None:
    masks = np.array([[[True, False, True, False, False]]])
    maps = np.array([[[3.0, 2.0, 1.0, 1.0, 0.0]]])
    # points (0, 1/2), (1/3, 1/2), (2/3, 1), (1, 1): at 1/2 the coverage is 3/4
    rate, share = metrics.roc_curve(metrics.ranking(maps, masks, np.array([0.5, 0.5])), limit=0.5)
    assert (rate[-1], share[-1]) == pytest.approx((0.5, 0.75))
    assert aupro(maps, masks, 0.5) == pytest.approx((1 / 3 * 1 / 2 + 1 / 6 * 5 / 8) / 0.5)


def test_a_small_and_a_large_region_weigh_the_same() -> None:
    masks = np.zeros((2, 20, 20), bool)
    masks[0, 2, 3] = True
    masks[1, 5:15, 5:15] = True
    for found in (0, 1):
        maps = np.zeros(masks.shape, np.float32)
        maps[found] = masks[found]
        # half of the regions at rate 0, the other half with all normal pixels in one step
        assert aupro(maps, masks, 0.3) == pytest.approx(0.5 + 0.5 * 0.15, abs=1e-12)
    weights = metrics.region_weights(masks)
    assert weights[0] == 0.5
    assert weights[1:].tolist() == [0.005] * 100


def test_pixels_that_touch_at_a_corner_are_one_region() -> None:
    masks = np.zeros((1, 6, 6), bool)
    masks[0, [1, 2, 4], [1, 2, 5]] = True
    assert metrics.region_weights(masks).tolist() == [0.25, 0.25, 0.5]


def test_regions_of_different_images_stay_apart() -> None:
    masks = np.zeros((3, 4, 4), bool)
    masks[0, 0, :2] = True
    masks[2, 0, 0] = True
    assert metrics.region_weights(masks).tolist() == [0.25, 0.25, 0.5]


@pytest.mark.parametrize("label", [True, False])
def test_one_class_alone_gives_none(label: bool) -> None:
    ranks = metrics.ranking(np.array([0.1, 0.2]), np.array([label, label]))
    assert ranks is None
    assert metrics.auroc(ranks) is None
    assert metrics.average_precision(ranks) is None
    assert metrics.f1_max(ranks) is None
    assert metrics.aupro(ranks, 0.3) is None


def test_no_region_gives_none() -> None:
    assert aupro(np.zeros((2, 4, 4), np.float32), np.zeros((2, 4, 4), bool), 0.3) is None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_score_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(DataError, match="1 of 2 scores are not finite"):
        metrics.ranking(np.array([bad, 1.0]), np.array([True, False]))


def test_the_scores_given_are_left_as_they_were() -> None:
    scores, anomalous = np.array([3.0, 1.0, 2.0]), np.array([False, True, False])
    metrics.ranking(scores, anomalous)
    assert scores.tolist() == [3.0, 1.0, 2.0]


def test_curves_run_through_their_definition() -> None:
    ranks = metrics.ranking(
        np.array([5.0, 4.0, 3.0, 3.0, 1.0]), np.array([True, False, True, False, False])
    )
    x, y = metrics.roc_curve(ranks)
    assert list(zip(x * 3, y * 2, strict=True)) == [
        (0, 0), (0, 0), (0, 1), (1, 1), (2, 2), (3, 2)
    ]  # fmt: skip
    recall, precision = metrics.pr_curve(ranks)
    assert recall.tolist() == [0, 0.5, 1]
    assert precision.tolist() == [1, 1, 0.5]


def test_a_thinned_curve_keeps_its_ends_and_lies_close() -> None:
    x = np.linspace(0, 1, 10_001) ** 4
    y = np.sqrt(x)
    thin_x, thin_y = metrics.thin((x, y), 200)
    assert 150 < len(thin_x) <= 200
    assert (thin_x[0], thin_y[0], thin_x[-1], thin_y[-1]) == (0, 0, 1, 1)
    # no gap is longer than two of 199 even parts of the way, which is 2
    assert np.abs(np.interp(x, thin_x, thin_y) - y).max() < 2 * 2 / 199
    assert np.isin(thin_x, x).all()


def test_a_short_curve_is_not_thinned() -> None:
    curve = (np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0]))
    assert metrics.thin(curve, 3) == curve
