"""Beside the worst place of an image stands what it was compared with."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from admodels.bundles.bundle import Scored
from admodels.bundles.evidence import FOLDER, Evidence, write_evidence
from admodels.inference.evidence import LEAST_PX, crop_around, reference_crop
from tests import cards

SIDE = 128


def ramps(levels: list[int]) -> np.ndarray:
    """(N, 3, SIDE, SIDE) uint8: red is the level, green the row, blue the column."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return np.stack([np.stack([np.full_like(rows, v), rows, columns]) for v in levels]).astype("u1")


def scored(**changes: np.ndarray) -> Scored:
    maps = np.zeros((2, SIDE, SIDE), np.float32)
    maps[1, 90, 40] = 1
    return Scored(maps, np.ones(2, np.float32), changes.get("rebuilt"), changes.get("compared"))


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    folder = tmp_path_factory.mktemp("bundle") / FOLDER
    return Evidence(folder, write_evidence(folder, ramps([20, 120, 220])))


def test_the_crop_lies_around_the_place_of_the_normal_image_that_was_compared(
    evidence: Evidence,
) -> None:
    bundle = replace(cards.make_bundle(), evidence=evidence)
    result = scored(compared=np.array([[2, 50, 70], [0, 60, 90]]))
    for index, middle in enumerate(([220, 50, 70], [20, 60, 90])):
        crop = reference_crop(bundle, result, index, (0.3, 0.5))
        assert crop.shape == (38, 64, 3)
        assert np.abs(crop.reshape(-1, 3).mean(0) - middle).max() < 4


def test_where_a_detector_rebuilds_images_the_crop_is_of_the_rebuilt_one() -> None:
    rebuilt = ramps([10, 200]).astype(np.float32) / 255
    crop = reference_crop(cards.make_bundle(), scored(rebuilt=rebuilt), 1, (0.25, 0.25))
    np.testing.assert_array_equal(crop[16, 16], [200, 90, 40])


def test_without_pictures_there_is_no_crop(evidence: Evidence, tmp_path: Path) -> None:
    bundle, compared = cards.make_bundle(), np.array([[2, 50, 70], [-1, 0, 0]])
    assert reference_crop(bundle, scored(compared=compared), 0, (0.1, 0.1)) is None
    assert reference_crop(bundle, scored(), 0, (0.1, 0.1)) is None
    kept = replace(bundle, evidence=evidence)
    assert reference_crop(kept, scored(compared=compared), 1, (0.1, 0.1)) is None


@given(
    st.tuples(st.integers(1, 80), st.integers(1, 80)),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_a_crop_holds_its_place_and_has_its_size_or_that_of_the_picture(
    shape: tuple[int, int], where: tuple[float, float], share: tuple[float, float]
) -> None:
    numbers = np.arange(shape[0] * shape[1]).reshape(*shape, 1)
    place = [round(part * (length - 1)) for part, length in zip(where, shape, strict=True)]
    crop = crop_around(numbers, place, share)
    sides = [min(n, max(LEAST_PX, round(s * n))) for s, n in zip(share, shape, strict=True)]
    assert list(crop.shape[:2]) == sides
    assert numbers[tuple(place)] in crop
