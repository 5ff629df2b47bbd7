"""What lies outside the inspected area changes no score, no map and no maximum of a map."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from admodels import methods
from admodels.bundles import bundle as bundles
from admodels.foundation.arrays import Float32
from admodels.images.area import Area
from admodels.inference.regions import Region
from admodels.methods.cpr import detector as cpr
from admodels.methods.diffusionad import detector as diffusionad
from admodels.methods.draem import detector as draem
from admodels.methods.parts.maps import inspected_cells, mean_inside
from admodels.methods.patchcore import detector as patchcore
from admodels.methods.patchcore.patches import image_score, nearest_patches
from admodels.scoring.pointing import Pointing, point
from tests import tiny
from tests.cards import make_bundle

SIDE, GRID = 64, 8
Reduced = tuple[Tensor, Tensor]
CPR = tiny.detector("cpr").params
PATCHCORE = tiny.detector("patchcore").params
BANK = torch.from_numpy(np.random.default_rng(0).random((12, 3), np.float32))


def reduce_patches(values: Tensor, inspected: Tensor | None) -> Reduced:
    """Cells whose channels are the values of the map: what PatchCore does after its network."""
    cells = values[0].repeat(3, 1, 1).flatten(1).T.contiguous()
    distances, nearest = nearest_patches(cells, BANK)
    rows = distances.view(1, *values.shape[1:])
    anomaly_map = patchcore.enlarge_inside(rows, inspected, PATCHCORE)
    if inspected is not None:
        distances = torch.where(inspected_cells(inspected, (GRID, GRID)).flatten(), distances, 0)
    return anomaly_map, image_score(cells, distances, nearest, BANK, 3)[None]


REDUCTIONS: dict[str, tuple[Callable[[Tensor, Tensor | None], Reduced], int]] = {
    "draem": (lambda values, inspected: draem.reduce_map(values, inspected, 7), SIDE),
    "diffusionad": (lambda values, inspected: diffusionad.reduce_map(values, inspected, 9), SIDE),
    "cpr": (lambda values, inspected: cpr.reduce_map(values, inspected, CPR), SIDE),
    "patchcore": (reduce_patches, GRID),
}
NUMBERS = st.floats(0, 100, width=32)


def test_every_method_is_here() -> None:
    assert sorted(REDUCTIONS) == methods.available()


@pytest.mark.parametrize("method", REDUCTIONS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_values_outside_the_area_change_nothing(method: str, data: st.DataObject) -> None:
    reduce_map, side = REDUCTIONS[method]
    inside = data.draw(arrays.arrays(bool, (1, SIDE, SIDE)), "inspected")
    inside[0, data.draw(st.integers(0, SIDE - 1)), 0] = True
    first, other = (
        data.draw(arrays.arrays(np.float32, (1, side, side), elements=NUMBERS)) for _ in range(2)
    )
    inspected = torch.from_numpy(inside)
    counts = inspected_cells(inspected, (side, side)).numpy()
    changed = np.where(counts, first, other)
    expected, score = reduce_map(torch.from_numpy(first), inspected)
    anomaly_map, again = reduce_map(torch.from_numpy(changed), inspected)
    assert torch.equal(again, score)
    assert torch.equal(anomaly_map, expected)
    assert not anomaly_map[~inspected].any()
    assert torch.isfinite(anomaly_map).all()


@pytest.mark.parametrize("method", REDUCTIONS)
def test_an_area_of_everything_is_as_good_as_none(method: str) -> None:
    reduce_map, side = REDUCTIONS[method]
    values = torch.from_numpy(np.random.default_rng(1).random((1, side, side), np.float32))
    everything = torch.ones(1, SIDE, SIDE, dtype=torch.bool)
    for a, b in zip(reduce_map(values, everything), reduce_map(values, None), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["cpr", "patchcore"])
def test_the_edge_of_an_area_is_neither_damped_nor_raised(method: str) -> None:
    reduce_map, side = REDUCTIONS[method]
    half = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    half[:, :, SIDE // 2 :] = True
    values = torch.full((1, side, side), 0.25)
    values[:, :, : side // 2] = 50  # outside, much higher
    inside = reduce_map(values, half)[0][:, :, SIDE // 2 :]
    everywhere = reduce_map(torch.full((1, side, side), 0.25), None)[0][:, :, SIDE // 2 :]
    torch.testing.assert_close(inside, everywhere, rtol=1e-5, atol=1e-6)


def test_a_mean_inside_is_the_weighted_mean_of_what_is_inspected() -> None:
    rng = np.random.default_rng(2)
    matrix, values = rng.random((6, 6)), rng.random(6)
    inspected = np.array([True, False, True, True, False, True])
    expected = [
        sum(w * v for w, v, keep in zip(row, values, inspected, strict=True) if keep)
        / sum(w for w, keep in zip(row, inspected, strict=True) if keep)
        for row in matrix
    ]
    weights = torch.from_numpy(matrix)
    result = mean_inside(
        lambda maps: maps @ weights.T, torch.from_numpy(values), torch.from_numpy(inspected)
    )
    np.testing.assert_allclose(result.numpy(), expected)


def test_scores_of_pixels_take_the_area_through_chunks_and_both_ways_up() -> None:
    bundle = make_bundle()
    rng = np.random.default_rng(3)
    pixels = rng.integers(1, 200, (5, 3, 32, 32), np.uint8)
    inspected = rng.random((5, 32, 32)) < 0.5
    scored = bundles.score(bundle.detector, pixels, inspected)
    masked = pixels * inspected[:, None]
    np.testing.assert_allclose(scored.anomaly_score, masked.mean(axis=(1, 2, 3)), rtol=1e-6)
    assert scored.map_max.dtype == np.float32
    np.testing.assert_allclose(scored.map_max, masked.mean(axis=1).max(axis=(1, 2)), rtol=1e-6)
    both = [np.concatenate([p, p[:, ::-1, ::-1]]) for p in pixels]
    views = bundles.score_views(bundle.detector, both, list(inspected))
    np.testing.assert_array_equal(views.anomaly_score, scored.anomaly_score)
    np.testing.assert_array_equal(views.anomaly_map, scored.anomaly_map)


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_values_outside_the_area_change_no_region_and_no_zone(data: st.DataObject) -> None:
    shape = (9, 12)
    levels = data.draw(arrays.arrays(np.uint8, shape, elements=st.sampled_from([0, 128, 255])))
    levels[data.draw(st.integers(0, 8)), 0] = 128
    area = Area(levels, {128: "rim"})
    numbers = st.integers(0, 8).map(float)
    first, other = (data.draw(arrays.arrays(np.float32, shape, elements=numbers)) for _ in range(2))
    level = data.draw(st.none() | st.integers(0, 8).map(float))
    expected = places(first, level, area)
    assert places(np.where(levels > 0, first, other), level, area) == expected
    assert expected
    for region in expected:
        rows = slice(region.top, region.top + region.height)
        assert area.inside[rows, region.left : region.left + region.width].any()
        assert region.zone in ("rim", "")


def places(anomaly_map: Float32, level: float | None, area: Area) -> tuple[Region, ...]:
    """The regions of a flagged image of the size of its map."""
    pointing = Pointing(threshold=0.5, level=level, scale=(0.0, 1.0))
    rgb = np.zeros((*anomaly_map.shape, 3), np.uint8)
    kept = point(pointing, 1.0, "", lambda: anomaly_map, lambda: rgb, lambda _: None, area)
    return kept.regions
