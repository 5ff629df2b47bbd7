"""The Detector contract, run over every method there is; a new method gets it free."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from admodels import methods
from admodels.errors import BundleError, ConfigurationError
from admodels.methods import Detector
from tests import tiny

pytestmark = pytest.mark.parametrize("method", methods.available())


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Detector]:
    kept: dict[str, Detector] = {}

    def of(method: str) -> Detector:
        if method not in kept:
            kept[method] = tiny.fitted(method, tmp_path_factory.mktemp(method))
        return kept[method]

    return of


def images(count: int, seed: int = 3) -> torch.Tensor:
    return torch.from_numpy(tiny.stripes(count, seed))


def test_a_prediction_has_the_stated_shapes_and_types(method: str, fitted) -> None:
    found = fitted(method).score(images(2))
    assert found.anomaly_map.shape[0] == 2
    assert found.anomaly_map.ndim == 3
    assert found.anomaly_map.dtype == torch.float32
    assert found.anomaly_score.shape == (2,)
    assert torch.isfinite(found.anomaly_score).all()
    if found.reconstruction is not None:
        assert found.reconstruction.shape == (2, 3, tiny.PX, tiny.PX)


def test_a_restored_detector_scores_bit_for_bit_the_same(method: str, fitted) -> None:
    first, second = fitted(method), tiny.detector(method)
    second.restore(first.state())
    a, b = first.score(images(4)), second.score(images(4))
    assert torch.equal(a.anomaly_map, b.anomaly_map)
    assert torch.equal(a.anomaly_score, b.anomaly_score)


def test_a_state_with_a_missing_key_or_another_shape_is_refused(method: str, fitted) -> None:
    state = fitted(method).state()
    key = next(iter(state))
    with pytest.raises(BundleError):
        tiny.detector(method).restore({k: v for k, v in state.items() if k != key})
    with pytest.raises(BundleError):
        tiny.detector(method).restore(state | {key: state[key][:1, :1]})


def test_an_image_scores_the_same_alone_and_in_a_batch(method: str, fitted) -> None:
    detector, many = fitted(method), images(7)
    together = methods.predict(detector, many, 4)
    for at in range(7):
        alone = methods.predict(detector, many[at : at + 1], 4)
        assert torch.equal(alone.anomaly_score[0], together.anomaly_score[at])
        assert torch.equal(alone.anomaly_map[0], together.anomaly_map[at])
    backwards = methods.predict(detector, many.flip(0), 4)
    assert torch.equal(backwards.anomaly_score.flip(0), together.anomaly_score)


def test_scoring_changes_no_state(method: str, fitted) -> None:
    detector = fitted(method)
    before = detector.state()
    detector.score(images(4))
    after = detector.state()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_the_same_seed_gives_the_same_state_and_another_seed_another(
    method: str, fitted, tmp_path: Path
) -> None:
    first, again = fitted(method).state(), tiny.fitted(method, tmp_path / "again").state()
    assert all(torch.equal(first[k], again[k]) for k in first)
    other = tiny.detector(method)
    data = tiny.training_data()
    other.fit(data, kind="texture", seed=6, checkpoints=tmp_path, log=lambda *_: None)
    assert any(not torch.equal(v, other.state()[k]) for k, v in first.items())


class InterruptionError(Exception):
    """What a test raises in the middle of a training."""


def test_an_interrupted_training_ends_in_the_same_bytes(
    method: str, fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("admodels.checkpoint.SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr("admodels.checkpoint.Checkpoint.due", lambda self: True)
    logged: list[int] = []

    def stop_at_seven(step: int, steps: int, values: dict[str, float]) -> None:
        if step == 7:
            raise InterruptionError

    def keep(step: int, steps: int, values: dict[str, float]) -> None:
        logged.append(step)

    data = tiny.training_data()
    with pytest.raises(InterruptionError):
        tiny.detector(method).fit(
            data, kind="texture", seed=5, checkpoints=tmp_path, log=stop_at_seven
        )
    assert list(tmp_path.iterdir())
    resumed = tiny.detector(method)
    resumed.fit(data, kind="texture", seed=5, checkpoints=tmp_path, log=keep)
    whole = fitted(method).state()
    assert all(torch.equal(whole[k], v) for k, v in resumed.state().items())
    assert logged == list(range(1, len(logged) + 1))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_pasted_defect_raises_the_map_inside_its_mask(method: str, tmp_path: Path) -> None:
    detector = tiny.fitted(
        method, tmp_path, length=250, reconstructive_width=8, discriminative_width=8, batch_images=8
    )
    pixels = tiny.stripes(8, seed=11)
    pixels[:4, :, 20:40, 16:36] = tiny.textures()[0][:, :20, :20]
    found = methods.predict(detector, torch.from_numpy(pixels), 4)
    scale = found.anomaly_map.shape[-1] / tiny.PX
    box = np.s_[round(20 * scale) : round(40 * scale), round(16 * scale) : round(36 * scale)]
    inside = found.anomaly_map[:4, box[0], box[1]].mean()
    elsewhere = found.anomaly_map[4:].mean()
    assert inside > 3 * elsewhere
    assert found.anomaly_score[:4].min() > found.anomaly_score[4:].max()


def test_an_unknown_method_is_refused_with_the_list_of_those_there_are(method: str) -> None:
    with pytest.raises(ConfigurationError, match=method):
        methods.detector_class("no_such_method")
