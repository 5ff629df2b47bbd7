"""What an image looks like, against the definitions and under planted changes."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from admodels.foundation.arrays import Records, UInt8
from admodels.images.describe import (
    CELLS,
    PROFILE_BINS,
    appearance,
    noise,
    read_records,
    statistics,
    thumbnail,
    write_records,
)
from tests import cards


def scene(seed: int = 3) -> UInt8:
    """A smooth coloured picture with structure, (120, 200, 3), at least 40 grey levels."""
    rough = np.random.default_rng(seed).integers(40, 220, (24, 40, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(rough, (200, 120), interpolation=cv2.INTER_CUBIC), np.uint8)


def seen(rgb: UInt8) -> Records:
    return appearance(rgb, statistics(rgb))


@pytest.mark.parametrize("sigma", [2.0, 8.0])
def test_noise_is_the_standard_deviation_of_what_was_added(sigma: float) -> None:
    i, j = np.mgrid[:300, :300]
    slope = 60 + 0.2 * i + 0.3 * j  # which the estimate does not see
    grey = slope + np.random.default_rng(1).normal(0, sigma, slope.shape)
    assert noise(np.rint(grey).astype(np.uint8)) == pytest.approx(sigma, rel=0.03)
    assert noise(np.rint(slope).astype(np.uint8)) < 0.5  # of rounding


def test_dimming_changes_brightness_and_nothing_else_of_the_scalars() -> None:
    bright, dim = seen(scene()), seen(np.rint(scene() * 0.6).astype(np.uint8))
    assert dim["brightness"] / bright["brightness"] == pytest.approx(0.6, abs=0.01)
    for name in ("contrast", "red", "blue"):
        assert dim[name] == pytest.approx(bright[name], rel=0.02), name
    assert dim["sharpness"] == pytest.approx(bright["sharpness"], rel=0.05)
    assert np.abs(dim["detail"] - bright["detail"]).max() < 0.1


def test_colour_and_contrast_are_ratios_of_means_and_spread() -> None:
    rgb = scene()
    red, green, blue = rgb.reshape(-1, 3).mean(axis=0) + 1
    found, plain = seen(rgb), statistics(rgb)
    assert (found["red"], found["blue"]) == pytest.approx((red / green, blue / green))
    assert found["contrast"] == pytest.approx(plain.contrast / (plain.brightness + 1))
    assert (found["width"], found["height"]) == (200, 120)


def test_profiles_are_means_along_the_axes_and_detail_is_of_its_cell() -> None:
    rgb = np.full((128, 128, 3), 100, np.uint8)
    rgb[:, 40:42] = 200
    rgb[80:88:2, 8:16] = 140
    found = seen(rgb)
    assert found["columns"].argmax() == 40 * PROFILE_BINS // 128
    assert found["rows"].argmax() in range(40, 44)
    detail = found["detail"].astype(float).reshape(CELLS, CELLS)
    assert np.argwhere(detail > detail.min() + 0.01).tolist() == [
        [row, column] for row in range(CELLS) for column in (1, 5) if column == 5 or row == 10
    ]
    expected = np.log(20 / (found["brightness"] + 1) + 0.01)  # half at 100, half at 140
    assert detail[10, 1] == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (5, 400)])
def test_any_shape_has_an_appearance(shape: tuple[int, int]) -> None:
    found = seen(np.full((*shape, 3), 0, np.uint8))
    assert all(np.isfinite(found[name]).all() for name in found.dtype.names)


def test_records_come_back_from_a_file_as_they_were(tmp_path: Path) -> None:
    records = cards.appearances(np.stack([scene(seed) for seed in range(3)]))
    write_records(tmp_path / "a.safetensors", records)
    write_records(tmp_path / "b.safetensors", records.copy())
    assert np.array_equal(read_records(tmp_path / "a.safetensors"), records)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


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
