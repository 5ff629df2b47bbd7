"""PatchCore: the coreset, the patches, the scores, and the state that a bundle keeps."""

import itertools
import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter
from scipy.spatial.distance import cdist
from torch import Tensor

from admodels import methods
from admodels.foundation import params
from admodels.foundation.errors import BundleError, ConfigurationError, DataError
from admodels.methods.patchcore import coreset
from admodels.methods.patchcore.coreset import farthest_first, random_projection
from admodels.methods.patchcore.detector import Detector
from admodels.methods.patchcore.params import Params
from admodels.methods.patchcore.patches import image_score, nearest_patches, patches
from tests import tiny


def points_of(count: int, seed: int, channels: int = 8) -> Tensor:
    """Points of some dense and some thin clusters."""
    rng = np.random.default_rng(seed)
    centres, spread = rng.normal(0, 3, (5, channels)), rng.uniform(0.1, 2, (5, 1))
    chosen = rng.integers(0, 5, count)
    points = centres[chosen] + spread[chosen] * rng.normal(0, 1, (count, channels))
    return torch.from_numpy(points).float()


def plain_choice(points: Tensor, count: int) -> list[int]:
    """Greedy k-centre from its definition: all distances, anew for every centre."""
    away = cdist(points.double(), points.double())
    chosen = [0]
    while len(chosen) < count:
        chosen.append(int(away[:, chosen].min(axis=1).argmax()))
    return chosen


@pytest.mark.parametrize(("block", "group"), [(1, 1), (7, 2), (64, 16), (4096, 512)])
def test_the_coreset_is_the_greedy_choice_whatever_the_blocks(monkeypatch, block, group):
    monkeypatch.setattr(coreset, "BLOCK", block)
    monkeypatch.setattr(coreset, "GROUP", group)
    for seed in range(3):
        points = points_of(300, seed)
        indices, distances = farthest_first(points, 60)
        expected = plain_choice(points, 60)
        assert indices.tolist() == expected
        away = cdist(points, points)
        for size in (1, 2, 30, 59):
            covering = away[:, expected[:size]].min(axis=1).max()
            assert distances[size].item() == pytest.approx(covering, rel=1e-4)


def test_the_covering_radius_is_at_most_twice_the_smallest_there_is():
    for seed in range(20):
        points = points_of(11, seed, channels=2)
        away = cdist(points, points)
        for count in (2, 3, 4):
            smallest = min(
                away[:, chosen].min(axis=1).max()
                for chosen in itertools.combinations(range(11), count)
            )
            indices, _ = farthest_first(points, count)
            assert away[:, indices].min(axis=1).max() <= 2 * smallest + 1e-6


def test_all_points_may_be_chosen_and_none_is_chosen_twice():
    same = torch.ones(20, 3)
    for points in (points_of(50, 1), same, torch.cat([same, points_of(9, 2, 3), same])):
        indices, _ = farthest_first(points, len(points))
        assert sorted(indices.tolist()) == list(range(len(points)))


def test_a_shift_of_all_points_changes_no_choice():
    points = points_of(400, 3)
    far = farthest_first(points + 1000, 40)[0]
    assert torch.equal(far, farthest_first(points, 40)[0])


def test_a_projection_keeps_squared_lengths_in_the_mean():
    vectors = torch.randn(200, 1000, generator=torch.Generator().manual_seed(1))
    ratios = [
        ((vectors @ random_projection(1000, 128, seed)).square().sum(1) / vectors.square().sum(1))
        for seed in range(10)
    ]
    assert torch.stack(ratios).mean().item() == pytest.approx(1, abs=0.01)
    assert torch.stack(ratios).std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.1)


def test_a_projection_of_few_channels_is_the_identity():
    assert torch.equal(random_projection(24, 128, 1), torch.eye(24))
    assert torch.equal(random_projection(24, 24, 1), torch.eye(24))


def test_a_projection_is_another_one_for_another_seed():
    assert torch.equal(random_projection(200, 128, 1), random_projection(200, 128, 1))
    assert not torch.equal(random_projection(200, 128, 1), random_projection(200, 128, 2))


def test_a_patch_is_the_mean_of_nine_cells_and_zeros_lie_outside():
    tap = torch.randn(2, 5, 6, 9)
    expected = uniform_filter(tap.numpy(), size=(1, 1, 3, 3), mode="constant", cval=0)
    np.testing.assert_allclose(patches([tap]), expected, atol=1e-6)


def test_the_second_tap_is_enlarged_to_the_grid_of_the_first_between_cell_centres():
    rows = torch.arange(4.0)[:, None].expand(4, 6)
    first, second = torch.zeros(1, 2, 8, 12), rows[None, None]
    found = patches([first, second])
    assert found.shape == (1, 3, 8, 12)
    # means of a ramp are the ramp; a cell centre of the fine grid is at (i + 0.5) / 2 - 0.5
    expected = (np.arange(8) + 0.5) / 2 - 0.5
    np.testing.assert_allclose(found[0, 2, 3:5, 5], expected[3:5], atol=1e-6)


def test_the_nearest_patch_is_that_of_all_distances():
    bank, cells = points_of(500, 4), points_of(2500, 5)
    distances, nearest = nearest_patches(cells, bank)
    away = cdist(cells.double(), bank.double())
    np.testing.assert_allclose(distances, away.min(axis=1), rtol=1e-5)
    assert (nearest.numpy() == away.argmin(axis=1)).all()


def test_a_remembered_patch_has_the_distance_zero_to_the_bit():
    bank = 10 + points_of(300, 6)
    distances, nearest = nearest_patches(bank, bank)
    assert distances.max() == 0
    assert torch.equal(nearest, torch.arange(300))


def formula(cells: Tensor, bank: Tensor, neighbours: int) -> float:
    """Equations 6 and 7 of the paper, term by term."""
    away = cdist(cells.double(), bank.double())
    worst = away.min(axis=1).argmax()
    nearest = away[worst].argmin()
    order = cdist(bank[nearest, None].double(), bank.double())[0].argsort()[:neighbours]
    terms = np.exp(away[worst, order])
    return float((1 - np.exp(away[worst, nearest]) / terms.sum()) * away[worst, nearest])


@pytest.mark.parametrize("neighbours", [2, 3, 9])
def test_the_image_score_is_that_of_equations_6_and_7(neighbours):
    for seed in range(5):
        bank, cells = points_of(200, seed), points_of(100, seed + 50)
        found = image_score(cells, *nearest_patches(cells, bank), bank, neighbours)
        assert found.item() == pytest.approx(formula(cells, bank, neighbours), rel=1e-4)


def test_the_image_score_of_far_patches_is_finite_and_at_most_the_largest_distance():
    bank, cells = points_of(20, 1), points_of(30, 2) * 1e4
    distances, nearest = nearest_patches(cells, bank)
    found = image_score(cells, distances, nearest, bank, 9)
    assert torch.isfinite(found)
    assert 0 < found <= distances.max()


def test_a_bank_with_fewer_patches_than_neighbours_takes_all_of_them():
    bank, cells = points_of(4, 1), points_of(30, 2)
    found = image_score(cells, *nearest_patches(cells, bank), bank, 9)
    assert found.item() == pytest.approx(formula(cells, bank, 4), rel=1e-4)


def no_log(*_: object) -> None:
    """A log that forgets."""


@cache
def fitted(**changes: float) -> Detector:
    with TemporaryDirectory() as folder:
        detector = tiny.fitted("patchcore", Path(folder), **changes)
    assert isinstance(detector, Detector)
    return detector


def cells_of(detector: Detector, images: Tensor) -> Tensor:
    """All patches of images, (n, C), from taps that the detector's own network computes."""
    maps = patches(detector.backbone(images))
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


@pytest.mark.slow
def test_the_bank_is_the_stated_share_of_different_patches_of_the_normal_images():
    detector = fitted()
    bank, normal = detector.state()["bank"], tiny.training_data().normal
    assert bank.shape == (200, 192)  # a tenth of a pool of 2000 of 12 x 16 x 16 cells
    away, nearest = nearest_patches(bank, cells_of(detector, normal))
    assert away.max() < 1e-4 * bank.norm(dim=1).max()
    assert len(nearest.unique()) == 200


@pytest.mark.slow
def test_each_patch_of_the_bank_is_the_farthest_of_all_patches_from_those_before_it():
    detector = fitted(pool_cells=10_000, coreset_share=0.02, projected_channels=512)
    bank = detector.state()["bank"]
    assert len(bank) == 61
    cells = cells_of(detector, tiny.training_data().normal)
    away = cdist(cells.double(), bank.double())
    steps = cdist(bank.double(), bank.double())
    for size in range(1, 61):
        farthest = away[:, :size].min(axis=1).max()
        assert steps[size, :size].min() == pytest.approx(farthest, rel=1e-3)


@pytest.mark.slow
def test_a_share_of_one_remembers_every_patch_and_scores_normal_images_zero():
    detector = fitted(coreset_share=1.0, pool_cells=10_000)
    assert len(detector.state()["bank"]) == 12 * 16 * 16
    prediction = detector.score(tiny.training_data().normal[:4])
    assert prediction.anomaly_map.abs().max() == 0
    assert prediction.anomaly_score.abs().max() == 0


def test_the_map_and_the_score_are_those_of_the_state_alone():
    detector, images = fitted(), torch.from_numpy(tiny.stripes(3, 9))
    bank = detector.state()["bank"]
    prediction = detector.score(images)
    for row, image in enumerate(images):
        cells = cells_of(detector, image[None])
        assert prediction.anomaly_score[row].item() == pytest.approx(
            formula(cells, bank, 9), rel=1e-3
        )
        plain = cdist(cells.double(), bank.double()).min(axis=1).reshape(16, 16)
        assert prediction.anomaly_map[row].mean().item() == pytest.approx(plain.mean(), rel=0.02)


def test_the_maximum_of_a_map_names_the_normal_patch_that_is_nearest_there():
    detector, images = fitted(), torch.from_numpy(tiny.stripes(4, 9))
    images[:, :, 21:33, 38:50] = 250
    prediction = detector.score(images)
    for image, anomaly_map, place in zip(
        images, prediction.anomaly_map, prediction.compared, strict=True
    ):
        row, column = divmod(int(anomaly_map.argmax()), 64)
        index, y, x = place.tolist()
        patch = cells_of(detector, image[None])[row // 4 * 16 + column // 4]
        normal = cells_of(detector, tiny.training_data().normal[index][None])
        away = torch.linalg.vector_norm(detector.state()["bank"] - patch, dim=1)
        compared = torch.linalg.vector_norm(normal[y // 4 * 16 + x // 4] - patch)
        assert compared.item() == pytest.approx(away.min().item(), rel=1e-3)
        assert (y % 4, x % 4) == (2, 2)


def test_a_bank_of_an_older_version_does_not_say_where_its_patches_come_from():
    state = {key: tensor for key, tensor in fitted().state().items() if key != "origins"}
    old = tiny.detector("patchcore")
    old.restore(state)
    images = torch.from_numpy(tiny.stripes(2, 9))
    assert old.score(images).compared is None
    assert torch.equal(old.score(images).anomaly_map, fitted().score(images).anomaly_map)
    assert old.state().keys() == state.keys()


def test_the_covering_radius_that_is_logged_only_falls():
    rows: list[tuple[int, int, dict[str, float]]] = []
    detector = tiny.detector("patchcore")
    detector.fit(
        tiny.training_data(),
        kind="object",
        seed=5,
        checkpoints=Path(),
        log=lambda *row: rows.append(row),
    )
    losses = [values["loss"] for _, _, values in rows]
    assert losses == sorted(losses, reverse=True)
    assert [step for step, _, _ in rows] == list(range(1, 200, 2))


@pytest.mark.slow
@pytest.mark.parametrize("cache_mib", [0, 1])
def test_the_memory_for_features_changes_no_byte(cache_mib):
    assert torch.equal(fitted(cache_mib=cache_mib).state()["bank"], fitted().state()["bank"])


@pytest.mark.parametrize("bank", [None, torch.zeros(0, 192), torch.zeros(5, 191), torch.zeros(192)])
def test_a_state_whose_bank_does_not_fit_is_refused(bank):
    state = {key: tensor for key, tensor in fitted().state().items() if key != "bank"}
    if bank is not None:
        state["bank"] = bank
    with pytest.raises(BundleError, match="does not fit PatchCore's params"):
        tiny.detector("patchcore").restore(state)


def test_a_state_with_more_in_it_is_refused():
    with pytest.raises(BundleError, match="surprise"):
        tiny.detector("patchcore").restore(fitted().state() | {"surprise": torch.zeros(1)})


def test_weights_that_were_not_fetched_are_not_replaced_by_random_ones():
    detector = tiny.detector("patchcore", backbone_weights="a.pth", backbone_sha256="ab" * 8)
    data = tiny.training_data()
    with pytest.raises(DataError, match=r"patchcore are missing[\s\S]*dvc repro weights"):
        detector.fit(data, kind="object", seed=1, checkpoints=Path(), log=no_log)


@pytest.mark.parametrize("grey", [0, 255])
def test_a_constant_image_has_a_finite_score(grey):
    images = torch.full((4, 3, tiny.PX, tiny.PX), grey, dtype=torch.uint8)
    prediction = methods.predict(fitted(), images, 4)
    assert torch.isfinite(prediction.anomaly_map).all()
    assert torch.isfinite(prediction.anomaly_score).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tap_strides": [8, 8]}, "tap_strides"),
        ({"image_px": 72}, "image_px"),
        ({"coreset_share": 0.0}, "coreset_share"),
        ({"coreset_share": 0.0001}, "no patch of the pool"),
        ({"neighbours": 1}, "neighbours"),
        ({"blur_sigma_px": 16.0}, "blur_sigma_px"),
        ({"backbone_weights": "packaged"}, "only efficientnet_lite2 is packaged"),
        ({"backbone_weights": "a.pth"}, "backbone_sha256"),
        ({"backbone_sha256": "ab" * 8}, "backbone_sha256"),
    ],
)
def test_params_that_cannot_work_are_refused_by_key(changes, message):
    block = json.loads(json.dumps(tiny.PARAMS["patchcore"])) | changes
    with pytest.raises(ConfigurationError, match=message):
        params.parse(block, Params, "methods.patchcore")
