"""Descriptors whose normal directions count alike."""

from pathlib import Path

import numpy as np
import pytest
import torch

from admodels.foundation.errors import BundleError
from admodels.methods.cpr.closed_form import SHRINKAGE, whitening
from admodels.methods.cpr.heads import RootedTap, WhitenedTap, unit_vectors
from tests import tiny

WHITENED = {
    "head_weights": "whitened",
    "steps": {"object": 0, "texture": 0},
    "smoothing_cells": {"object": [0.0, 0.0], "texture": [0.7, 2.0]},
}


def correlated_cells(count: int = 400, channels: int = 6) -> np.ndarray:
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(count, channels)) @ rng.normal(size=(channels, channels))
    return (mixed * [30, 10, 3, 1, 1, 0.1] + 5).astype(np.float32)


def test_whitened_cells_have_the_shrunk_covariance_of_the_identity():
    cells = correlated_cells()
    centred = cells.astype(np.float64) - cells.mean(0, dtype=np.float64)
    covariance = centred.T @ centred / len(cells)
    covariance *= 6 / np.trace(covariance)
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.eye(6)
    matrix = whitening(cells).numpy().astype(np.float64)
    np.testing.assert_allclose(matrix, matrix.T, rtol=0, atol=1e-6)
    np.testing.assert_allclose(matrix @ shrunk @ matrix, np.eye(6), rtol=0, atol=1e-5)


def test_whitening_knows_no_scale_and_no_offset_and_leaves_constant_cells_as_they_are():
    cells = correlated_cells()
    torch.testing.assert_close(whitening(7 * cells - 3), whitening(cells), rtol=0, atol=1e-5)
    assert torch.equal(whitening(np.full((9, 6), 2, np.float32)), torch.eye(6))


def test_before_a_fit_a_whitened_tap_is_the_rooted_one():
    tap = torch.randn(2, 12, 5, 9, generator=torch.Generator().manual_seed(0))
    for sigmas in ((0, 0), (0.7, 2)):
        assert torch.equal(WhitenedTap(12, *sigmas)(tap), RootedTap(*sigmas)(tap))


@pytest.mark.slow
def test_the_bank_holds_whitened_roots_that_another_kind_of_head_refuses(tmp_path: Path):
    normal = torch.from_numpy(tiny.discs(12, seed=1)[0])
    data = tiny.training_data()
    data = type(data)(normal, data.textures, data.validation, None, {})
    detector = tiny.detector("cpr", **WHITENED)
    detector.fit(data, kind="texture", seed=5, checkpoints=tmp_path, log=lambda *_: None)
    batches = [taps for _, taps in detector._backbone_for_scoring().over(normal)]
    for number, rooted in enumerate([RootedTap(), RootedTap(0.7, 2)]):
        roots = torch.cat([rooted(taps[number]) for taps in batches])
        matrix = detector.state()[f"heads.{number}.matrix"]
        cells = roots.permute(0, 2, 3, 1).flatten(0, 2)
        torch.testing.assert_close(matrix, whitening(cells.numpy()), rtol=0, atol=1e-4)
        wanted = unit_vectors(torch.einsum("dc,bchw->bdhw", matrix, roots))
        bank = detector.state()[f"bank.{number}.values"].float()
        torch.testing.assert_close(bank, wanted, rtol=0, atol=1e-3)
        assert not torch.equal(matrix, torch.eye(len(matrix)))
    with pytest.raises(BundleError, match="does not fit"):
        tiny.detector("cpr", **WHITENED | {"head_weights": "none"}).restore(detector.state())
