"""Image statistics against their definitions."""

import numpy as np
import pytest

from admodels.images.describe import statistics, thumbnail


def test_statistics_are_the_textbook_ones() -> None:
    rgb = np.random.default_rng(3).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    grey = rgb @ np.array([0.299, 0.587, 0.114])
    found = statistics(rgb)
    assert found.brightness == pytest.approx(grey.mean(), abs=0.5)  # grey is rounded to 8 bits
    assert found.contrast == pytest.approx(grey.std(), abs=0.5)
    checks = np.indices((8, 8)).sum(axis=0) % 2 * 10
    checkered = np.repeat(checks[:, :, None], 3, axis=2).astype(np.uint8)
    assert statistics(checkered).sharpness == pytest.approx(40.0**2)  # +40 on one, -40 on the other


def test_a_thumbnail_is_the_mean_of_its_cells_finer_than_a_grey_level() -> None:
    rng = np.random.default_rng(1)
    cells = rng.integers(40, 200, (16, 16))
    large = np.repeat(np.repeat(cells, 32, axis=0), 24, axis=1)[:, :, None].repeat(3, axis=2)
    noise = np.rint(rng.normal(0.3, 4, large.shape[:2]))[:, :, None]  # whole levels, mean 0.3
    found = thumbnail((large + noise).astype(np.uint8)) / 256
    assert np.abs(found - cells - 0.3).mean() < 0.15  # of cells in whole levels it would be 0.3


def test_a_thumbnail_of_the_smallest_image_is_that_image() -> None:
    one = np.full((1, 1, 3), 77, np.uint8)
    np.testing.assert_array_equal(thumbnail(one), np.full((16, 16), 77 * 256))
