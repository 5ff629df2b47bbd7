"""The Detector contract, run over every method there is; a new method gets it free."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from admodels import methods
from admodels.bundles import runtime
from admodels.foundation.errors import BundleError, ConfigurationError, DataError
from admodels.images.shape import Shape
from admodels.methods import Detector
from tests import tiny

Cell = tuple[str, torch.dtype, Shape]
KINDS = {
    "float32": (torch.float32, tiny.SQUARE),
    "bfloat16": (torch.bfloat16, tiny.SQUARE),
    "wide": (torch.float32, tiny.WIDE),
}
CELLS = [(method, *kind) for method in methods.available() for kind in KINDS.values()]
NAMES = [f"{method}-{kind}" for method in methods.available() for kind in KINDS]
pytestmark = pytest.mark.parametrize("cell", CELLS, ids=NAMES)


def detector(cell: Cell, **changes: object) -> Detector:
    method, precision, shape = cell
    return tiny.detector(method, precision, aspect="keep", shape_px=shape, **changes)


def fit(cell: Cell, folder: Path, **changes: object) -> Detector:
    method, precision, shape = cell
    return tiny.fitted(method, folder, precision, aspect="keep", shape_px=shape, **changes)


@cache
def fitted(cell: Cell) -> Detector:
    with TemporaryDirectory() as folder:
        return fit(cell, Path(folder))


def images(cell: Cell, count: int, seed: int = 3) -> torch.Tensor:
    return torch.from_numpy(tiny.stripes(count, seed, cell[2]))


@pytest.mark.slow
def test_a_prediction_has_the_stated_shapes_and_types(cell: Cell) -> None:
    prediction = fitted(cell).score(images(cell, 2))
    assert prediction.anomaly_map.shape[0] == 2
    assert prediction.anomaly_map.ndim == 3
    assert prediction.anomaly_map.dtype == prediction.anomaly_score.dtype == torch.float32
    assert prediction.anomaly_score.shape == (2,)
    assert torch.isfinite(prediction.anomaly_score).all()
    if prediction.reconstruction is not None:
        assert prediction.reconstruction.shape == (2, 3, *cell[2])
    if prediction.compared is not None:
        assert (prediction.compared.dtype, prediction.compared.shape) == (torch.int64, (2, 3))
        assert (prediction.compared < torch.tensor([12, *cell[2]])).all()
    assert (prediction.reconstruction is None) != (
        prediction.compared is None
    )  # a person sees one of them


@pytest.mark.slow
def test_a_restored_detector_scores_bit_for_bit_the_same(cell: Cell) -> None:
    first, second = fitted(cell), detector(cell)
    second.restore(first.state())
    a, b = first.score(images(cell, 4)), second.score(images(cell, 4))
    assert torch.equal(a.anomaly_map, b.anomaly_map)
    assert torch.equal(a.anomaly_score, b.anomaly_score)


@pytest.mark.slow
def test_a_state_with_a_missing_key_or_another_shape_is_refused(cell: Cell) -> None:
    state = fitted(cell).state()
    key = next(iter(state))
    with pytest.raises(BundleError):
        detector(cell).restore({k: v for k, v in state.items() if k != key})
    with pytest.raises(BundleError):
        detector(cell).restore(state | {key: state[key][:1, :1]})


@pytest.mark.slow
def test_an_image_scores_the_same_alone_and_in_a_batch(cell: Cell) -> None:
    whole, many = fitted(cell), images(cell, 7)
    together = methods.predict(whole, many, 4)
    for at in range(7):
        alone = methods.predict(whole, many[at : at + 1], 4)
        assert torch.equal(alone.anomaly_score[0], together.anomaly_score[at])
        assert torch.equal(alone.anomaly_map[0], together.anomaly_map[at])
    backwards = methods.predict(whole, many.flip(0), 4)
    assert torch.equal(backwards.anomaly_score.flip(0), together.anomaly_score)


@pytest.mark.slow
def test_scores_are_the_same_bytes_whatever_the_number_of_threads(cell: Cell) -> None:
    whole, many, threads = fitted(cell), images(cell, 7), torch.get_num_threads()
    expected = methods.predict(whole, many, 2)
    try:
        for count in (2, 3, 4):
            torch.set_num_threads(count)
            again = methods.predict(whole, many, 2)
            assert torch.get_num_threads() == count
            assert torch.equal(again.anomaly_map, expected.anomaly_map)
            assert torch.equal(again.anomaly_score, expected.anomaly_score)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
def test_images_of_another_size_or_type_are_refused(cell: Cell) -> None:
    whole = fitted(cell)
    for wrong in (images(cell, 2)[:, :, :16, :32], images(cell, 2)[:, :1], images(cell, 2).float()):
        with pytest.raises(DataError, match="images of shape"):
            methods.predict(whole, wrong, 4)


def test_scoring_changes_no_state(cell: Cell) -> None:
    scoring = fitted(cell)
    before = scoring.state()
    scoring.score(images(cell, 4))
    after = scoring.state()
    assert all(torch.equal(before[k], after[k]) for k in before)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_state_and_another_seed_another(
    cell: Cell, tmp_path: Path
) -> None:
    first, again = fitted(cell).state(), fit(cell, tmp_path).state()
    assert all(torch.equal(first[k], again[k]) for k in first)
    other = detector(cell)
    data = tiny.training_data(shape=cell[2])
    other.fit(data, kind="texture", seed=6, checkpoints=tmp_path, log=lambda *_: None)
    assert any(not torch.equal(v, other.state()[k]) for k, v in first.items())


class InterruptionError(Exception):
    """What a test raises in the middle of a training."""


@pytest.fixture
def optimiser_steps() -> Iterator[list[int]]:
    counted: list[int] = []
    hook = register_optimizer_step_post_hook(lambda *_: counted.append(1))
    yield counted
    hook.remove()


@pytest.mark.slow
def test_an_interrupted_training_goes_on_and_ends_in_the_same_bytes(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimiser_steps: list[int]
) -> None:
    monkeypatch.setattr("admodels.methods.parts.checkpoint.SECONDS_BETWEEN", 0.0)
    data = tiny.training_data(shape=cell[2])

    def run(folder: Path, stop: int = 0) -> tuple[list[object], dict[str, torch.Tensor]]:
        history: list[object] = []

        def log(step: int, steps: int, values: dict[str, float]) -> None:
            if step == stop:
                raise InterruptionError
            history.append((step, steps, values))

        training = detector(cell)
        training.fit(data, kind="texture", seed=5, checkpoints=folder, log=log)
        return history, training.state()

    whole, state = run(tmp_path / "whole")
    in_one_go = len(optimiser_steps)
    with pytest.raises(InterruptionError):
        run(tmp_path / "parts", stop=len(whole) // 2 + 1)
    optimiser_steps.clear()
    resumed, resumed_state = run(tmp_path / "parts")
    if in_one_go:  # a method without an optimiser may start again
        assert 0 < len(optimiser_steps) < in_one_go
    assert resumed == whole
    assert all(torch.equal(state[k], v) for k, v in resumed_state.items())


@pytest.mark.slow
def test_a_pasted_defect_raises_the_map_inside_its_mask(cell: Cell, tmp_path: Path) -> None:
    if cell[1] == torch.bfloat16 and not runtime.has_fast_bf16(runtime.device()):
        pytest.skip("bfloat16 is emulated here, several times slower than fp32")
    longer = fit(cell, tmp_path, **tiny.TINY[cell[0]]["longer"])
    pixels, top = tiny.stripes(8, 11, cell[2]), cell[2][0] // 3 - 1
    pixels[:4, :, top : top + 20, 16:36] = tiny.textures()[0][:, :20, :20]
    found = methods.predict(longer, torch.from_numpy(pixels), 4)
    scale = found.anomaly_map.shape[-1] / cell[2][1]
    rows, columns = (
        (round(top * scale), round((top + 20) * scale)),
        (round(16 * scale), round(36 * scale)),
    )
    box = np.s_[slice(*rows), slice(*columns)]
    inside = found.anomaly_map[:4, box[0], box[1]].mean()
    elsewhere = found.anomaly_map[4:].mean()
    assert inside > tiny.TINY[cell[0]]["contrast"] * elsewhere
    assert found.anomaly_score[:4].min() > found.anomaly_score[4:].max()


def test_an_unknown_method_is_refused_with_the_list_of_those_there_are(cell: Cell) -> None:
    with pytest.raises(ConfigurationError, match=cell[0]):
        methods.detector_class("no_such_method")
