"""Image statistics against their definitions."""

import numpy as np
import pytest

from admodels.statistics import perceptual_hash, statistics


def test_statistics_are_the_textbook_ones() -> None:
    rgb = np.random.default_rng(3).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    grey = rgb @ np.array([0.299, 0.587, 0.114])
    found = statistics(rgb)
    assert found.brightness == pytest.approx(grey.mean(), abs=0.5)  # grey is rounded to 8 bits
    assert found.contrast == pytest.approx(grey.std(), abs=0.5)
    checks = np.indices((8, 8)).sum(axis=0) % 2 * 10
    checkered = np.repeat(checks[:, :, None], 3, axis=2).astype(np.uint8)
    assert statistics(checkered).sharpness == pytest.approx(40.0**2)  # +40 on one, -40 on the other


def test_a_perceptual_hash_stays_when_an_image_is_scaled_and_tells_its_mirror() -> None:
    ramp = np.repeat(np.linspace(0, 255, 90).astype(np.uint8)[None, :, None], 80, axis=0)
    rgb = np.repeat(ramp, 3, axis=2)
    assert perceptual_hash(rgb) == perceptual_hash(rgb[::2, ::2]) == "f" * 16
    assert perceptual_hash(np.ascontiguousarray(rgb[:, ::-1])) == "0" * 16
