"""Anomaly maps in 8 bits, and AUPIMO against its definition, written out the slow way."""

import math
from pathlib import Path

import numpy as np
import pytest

from admodels.evaluation import aupimo, metrics
from admodels.evaluation.aupimo import HIGH, LOW, Aupimo
from admodels.evaluation.maps import CodedMaps, code_maps, read_maps, write_maps


def example(seed: int, shapes: list[tuple[int, int]], ties: bool) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    maps = [rng.gamma(2.0, size=shape).astype(np.float32) for shape in shapes]
    return [np.round(m, 1) for m in maps] if ties else maps


def area_by_definition(normal: list[np.ndarray], inside: np.ndarray) -> float:
    """The area over the logarithm of the shared rate, at every score of a normal pixel."""
    scores = np.unique(np.concatenate([m.ravel() for m in normal]))[::-1]
    area, reached = 0.0, 0.0
    for score in scores:
        rate = float(np.mean([(m >= score).mean() for m in normal]))
        low, high = max(reached, LOW), min(rate, HIGH)
        if low < high:  # between the two rates the lowest threshold is just above `score`
            area += (math.log(high) - math.log(low)) * float((inside > score).mean())
        if rate > HIGH:
            break
        reached = rate
    return area / math.log(HIGH / LOW)


@pytest.mark.parametrize(("seed", "ties"), [(0, False), (1, True), (2, False)])
def test_aupimo_is_the_area_of_its_definition_for_images_of_any_size(seed: int, ties: bool) -> None:
    normal = example(seed, [(250, 400), (300, 500), (180, 200)], ties)
    scored = example(seed + 9, [(90, 120), (150, 80)], ties)
    masks = [np.zeros(m.shape, bool) for m in scored]
    collected = Aupimo(len(normal))
    for mask, anomaly_map in zip(masks, scored, strict=True):
        mask[20:60, 10:50] = True
        anomaly_map[mask] += np.float32(9 + seed)
        collected.add(anomaly_map, mask)
    for anomaly_map in normal:
        collected.add(anomaly_map, None)
    areas = collected.areas()
    expected = [area_by_definition(normal, m[mask]) for m, mask in zip(scored, masks, strict=True)]
    assert areas == pytest.approx(expected, abs=1e-9)
    assert 0.05 < min(expected) < max(expected) <= 1


def test_a_defect_above_every_normal_pixel_has_aupimo_1_and_one_below_has_0() -> None:
    collected = Aupimo(1)
    collected.add(np.arange(200_000, dtype=np.float32).reshape(400, 500), None)
    for value in (1e6, -1.0):
        collected.add(np.full((4, 4), value, np.float32), np.ones((4, 4), bool))
    assert collected.areas() == pytest.approx([1.0, 0.0])


def test_aupimo_is_not_defined_for_pixels_too_few_to_show_its_rates() -> None:
    collected = Aupimo(1)
    collected.add(np.zeros((4, 4), np.float32), np.ones((4, 4), bool))
    assert collected.areas() is None
    collected.add(np.arange(90_000, dtype=np.float32).reshape(300, 300), None)
    assert collected.areas() is None


def test_aupimo_stands_beside_the_anomalous_images() -> None:
    anomalous = np.array([False, True, False, True])
    assert np.isnan(aupimo.spread(None, anomalous)).all()
    placed = aupimo.spread([0.5, 0.25], anomalous)
    assert placed[anomalous].tolist() == [0.5, 0.25]
    assert np.isnan(placed[~anomalous]).all()


def defects() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    masks = np.zeros((6, 70, 50), bool)
    masks[3:, 10:40, 20:30] = True
    return (rng.standard_normal(masks.shape) + 1.5 * masks).astype(np.float32), masks


def test_maps_in_8_bits_keep_the_order_of_pixels_and_the_figures() -> None:
    maps, masks = defects()
    coded = code_maps(maps, masks)
    assert coded.codes.dtype == np.uint8
    order = np.argsort(maps, axis=None)
    assert (np.diff(coded.codes.ravel()[order].astype(int)) >= 0).all()
    weights = metrics.region_weights(masks)
    exact = metrics.ranking(maps, masks, weights)
    kept = metrics.ranking(coded.levels[coded.codes], masks, weights)
    for limit in (0.05, 0.3):
        assert metrics.aupro(kept, limit) == pytest.approx(metrics.aupro(exact, limit), abs=2e-3)
    assert metrics.auroc(kept) == pytest.approx(metrics.auroc(exact), abs=2e-3)
    assert (coded.values(2) <= maps[2]).all()
    assert coded.values(2).max() == pytest.approx(maps[2].max(), abs=0.3)


def test_maps_of_few_values_come_back_as_they_are() -> None:
    maps = np.array([[[0.5, 2.0, 0.5], [7.0, 2.0, 0.5]]], np.float32)
    coded = code_maps(maps, None)
    assert (coded.values(0) == maps[0]).all()


@pytest.mark.parametrize("with_masks", [True, False])
def test_the_file_of_the_maps_holds_them_and_is_the_same_every_time(
    tmp_path: Path, with_masks: bool
) -> None:
    maps, masks = defects()
    coded = code_maps(maps, masks if with_masks else None)
    for name in ("a.npz", "b.npz"):
        write_maps(tmp_path / name, coded)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    stored = read_maps(tmp_path / "a.npz")
    assert (stored.codes == coded.codes).all()
    assert (stored.levels == coded.levels).all()
    assert stored.masks is None if coded.masks is None else (stored.masks == coded.masks).all()


def test_a_set_without_images_has_a_file_too(tmp_path: Path) -> None:
    write_maps(tmp_path / "maps.npz", code_maps(np.empty((0, 32, 32), np.float32), None))
    stored: CodedMaps = read_maps(tmp_path / "maps.npz")
    assert stored.codes.shape == (0, 32, 32)
