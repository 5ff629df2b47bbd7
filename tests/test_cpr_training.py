"""How CPR's heads are trained.

The number of the specification's test vector (section 18) stands after a test's name.
"""

import copy
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from admodels.foundation.errors import ConfigurationError
from admodels.methods import TrainingData
from admodels.methods.cpr.heads import LocalHead
from admodels.methods.cpr.pairs import Points
from admodels.methods.cpr.params import Params
from admodels.methods.cpr.training import Trainer
from admodels.methods.parts.backbones import Backbone
from admodels.methods.parts.frozen import FrozenTaps
from admodels.methods.parts.training import Training
from tests import tiny


def tiny_params(**changes: object) -> Params:
    return Params.model_validate_json(json.dumps(tiny.PARAMS["cpr"] | changes), strict=True)


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def trainer(
    data: TrainingData | None = None,
    kind: str = "object",
    maps: Tensor | None = None,
    **changes: object,
) -> Trainer:
    params, data = tiny_params(**changes), data or tiny.training_data()
    torch.manual_seed(0)
    net = Backbone(params.backbone, params.tap_strides)
    channels = {"resnet18": (64, 128), "densenet201": (256, 512)}[params.backbone]
    heads = nn.ModuleList(
        LocalHead(c, params.head_channels, params.descriptor_channels) for c in channels
    )
    count = len(data.normal)
    ranking = torch.stack([(torch.arange(3) + n + 1) % count for n in range(count)])
    return Trainer(
        heads,
        FrozenTaps(net, torch.float32, 4, params.cache_mib),
        data,
        params,
        kind=kind,
        seed=5,
        ranking=ranking,
        maps=maps,
        precision=torch.float32,
    )


def test_every_sample_of_the_pool_is_drawn_once_before_any_twice():
    run = trainer(synthetic_images=10, batch_pairs=4)
    drawn = [run._draw_pairs(step, rng(5, step)) for step in range(5)]
    numbers = [n for samples, _ in drawn for n in samples]
    assert sorted(numbers[:10]) == sorted(numbers[10:]) == list(range(10))
    assert numbers[:10] != numbers[10:]
    for samples, references in drawn:
        for number, reference in zip(samples, references, strict=True):
            assert reference in run.ranking[number % 12].tolist()
    pairs = [
        pair for samples, references in drawn for pair in zip(samples, references, strict=True)
    ]
    assert {(reference - number) % 12 for number, reference in pairs} == {1, 2, 3}


def test_attention_is_the_sharpened_foreground_blurred_at_symmetric_borders():  # V13
    maps = torch.rand(12, 80, 80, generator=torch.Generator().manual_seed(0))
    found = trainer(maps=maps, image_px=320)._attention_to(4)
    reach = 13  # 4 sigma, rounded
    kernel = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * 3.2**2))
    kernel /= kernel.sum()
    blurred = np.pad(maps[4].numpy().astype(np.float64), reach, mode="symmetric")
    for axis in (0, 1):
        blurred = np.apply_along_axis(np.convolve, axis, blurred, kernel, mode="valid")
    sharp = 1 / (1 + np.exp(5 - 10 * blurred))
    np.testing.assert_allclose(found, cv2.resize(sharp, (320, 320)), rtol=0, atol=1e-5)
    assert found.dtype == np.float32


@pytest.mark.slow
def test_without_a_found_part_an_object_still_has_far_negatives():
    run = trainer(kind="object")
    assert run._points(0, 1, rng(0)).far_weight.sum() > 0
    assert trainer(kind="texture")._points(0, 1, rng(0)).far_weight.sum() == 0


@pytest.mark.slow
def test_fifty_steps_on_one_batch_learn_it_by_heart():  # V26
    discs = torch.from_numpy(tiny.discs(12, seed=1)[0])
    run = trainer(
        replace(tiny.training_data(), normal=discs),
        head_channels=96,
        descriptor_channels=64,
        synthetic_images=4,
        batch_pairs=4,
        photometric_share=0.0,
        points_per_image=300,
        parity=True,
    )
    run.heads.train()
    losses = [run._step(0)["loss"] for _ in range(50)]

    assert losses[0] < 2 * (1.8**3 + 1.2**3 * 3)  # both parts bounded, E[w^3] about 2
    assert losses[9] < 0.3 * losses[0]
    assert losses[49] < 0.06 * losses[0]


def test_training_moves_the_heads_and_nothing_else():
    run = trainer(weight_decay=0.03)
    net = run.frozen._backbone
    frozen = {k: v.clone() for k, v in net.state_dict().items()}
    before = {k: v.clone() for k, v in run.heads.state_dict().items()}
    run.heads.train()
    run._step(0)
    assert all(torch.equal(v, frozen[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert all(not torch.equal(v, before[k]) for k, v in run.heads.state_dict().items())
    group = run.training.optimiser.param_groups[0]
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.999), 1e-8, 0.03)
    assert sum(len(g["params"]) for g in run.training.optimiser.param_groups) == 42


def test_batch_norm_statistics_are_over_queries_and_references():  # V4
    run, seen = trainer(), []
    run.heads[0].register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    run.heads.train()
    run._step(0)
    assert seen == [2 * run.params.batch_pairs]


def fit_to(
    folder: Path, kind: str = "object", seed: int = 5, **changes: object
) -> tuple[dict[str, Tensor], list[float], Tensor]:
    """State, loss curve and maps of a run over discs."""
    data, losses = tiny.training_data(), []
    discs = replace(data, normal=torch.from_numpy(tiny.discs(12, seed=1)[0]))
    detector = tiny.detector("cpr", **changes)
    detector.fit(
        discs,
        kind=kind,
        seed=seed,
        checkpoints=folder,
        log=lambda *told: losses.append(told[2]["loss"]),
    )
    queries = torch.from_numpy(tiny.discs(4, seed=3, defects=True)[0])
    return detector.state(), losses, detector.score(queries).anomaly_map


def assert_equal_runs(one: object, other: object) -> None:
    (a, losses_a, maps_a), (b, losses_b, maps_b) = one, other
    assert losses_a == losses_b
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert torch.equal(maps_a, maps_b)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_losses_bank_and_maps(tmp_path):  # V27
    first = fit_to(tmp_path / "a")
    torch.manual_seed(99)  # the global generators have no say
    np.random.seed(99)  # noqa: NPY002
    assert_equal_runs(first, fit_to(tmp_path / "b"))
    other = fit_to(tmp_path / "c", seed=6)
    assert other[1] != first[1]


@pytest.mark.slow
def test_how_much_is_remembered_changes_no_result(tmp_path):
    first = fit_to(tmp_path / "64")
    for mib in (0, 1):
        assert_equal_runs(first, fit_to(tmp_path / str(mib), cache_mib=mib))


@pytest.mark.slow
def test_the_size_of_a_chunk_changes_no_more_than_rounding(tmp_path):
    steps = {"object": 2, "texture": 2}  # training makes rounding larger with every step
    state, losses, maps = fit_to(tmp_path / "4", steps=steps)
    for chunk in (1, 5):
        other, other_losses, other_maps = fit_to(
            tmp_path / str(chunk), steps=steps, score_chunk_images=chunk
        )
        assert other_losses == pytest.approx(losses, rel=1e-4)
        torch.testing.assert_close(other["histograms"], state["histograms"])
        torch.testing.assert_close(other_maps, maps, rtol=0, atol=1e-3)


def test_an_update_goes_down_the_sum_of_its_losses_one_after_the_other():
    torch.manual_seed(0)
    inputs, net = torch.randn(2, 5, 3), nn.Linear(3, 1)
    other = copy.deepcopy(net)
    expected = sum(other(x).square().mean() for x in inputs)
    expected.backward()

    def losses() -> Iterator[Tensor]:
        for x in inputs:
            seen.append(net.weight.grad is not None)
            yield net(x).square().mean()

    seen: list[bool] = []
    training = Training(net, torch.optim.SGD(net.parameters()))
    assert training.update(losses(), [0.5]) == pytest.approx(expected.item())
    assert seen == [False, True]
    torch.testing.assert_close(net.weight, other.weight - 0.5 * other.weight.grad)


def test_nothing_holds_a_tap_after_its_turn():
    run = trainer()
    taps = [torch.randn(4, c, 16 // s, 16 // s) for c, s in ((64, 1), (128, 2))]
    held, gone = [StorageWeakRef(tap.untyped_storage()) for tap in taps], []
    points = Points.batch([run._points(0, 1, rng(0)), run._points(1, 2, rng(1))])

    def noted() -> Iterator[Tensor]:
        for loss in run._losses(taps, points):
            gone.append([tap.expired() for tap in held])
            yield loss

    run.training.update(noted(), [0.1])
    assert gone == [[False, False], [False, True]]
    assert all(tap.expired() for tap in held)


@pytest.mark.slow
def test_no_step_at_all_leaves_the_heads_as_they_started(tmp_path):
    state, losses, maps = fit_to(tmp_path, steps={"object": 0, "texture": 0})
    assert losses == []
    assert torch.isfinite(maps).all()
    assert torch.equal(state["heads.0.1.running_mean"], torch.zeros(12))


@pytest.mark.slow
def test_a_texture_has_no_foreground_and_an_object_has(tmp_path):
    steps = {"object": 1, "texture": 1}
    texture = fit_to(tmp_path / "t", kind="texture", steps=steps)[0]
    assert "foreground.weight" not in texture
    found = fit_to(tmp_path / "o", kind="object", steps=steps)[0]
    assert found["foreground.weight"].shape == (64,)
    assert found["bank.foreground"].shape == (12, 16, 16)


@pytest.mark.slow
def test_a_training_that_diverges_stops_at_the_step_where_it_does(tmp_path):
    with pytest.raises(ConfigurationError, match=r"diverged: the loss is (nan|inf) at step [2-6]"):
        fit_to(tmp_path, learning_rate=1e30)


@pytest.mark.slow
def test_an_image_on_which_no_part_is_found_is_said(tmp_path, caplog):
    data = tiny.training_data()
    pixels = tiny.discs(12, seed=1)[0]
    pixels[7] = pixels[7, :, :1, :1]  # all ground
    with_gap = replace(data, normal=torch.from_numpy(pixels))
    with caplog.at_level(logging.WARNING):
        tiny.detector("cpr", steps={"object": 1, "texture": 1}).fit(
            with_gap, kind="object", seed=5, checkpoints=tmp_path, log=lambda *_: None
        )
    assert "no foreground above 0.5 in 1 of 12 images" in caplog.text


@pytest.mark.slow
def test_trainings_of_other_weights_or_ranking_do_not_resume_each_other(tmp_path):
    told: list[int] = []

    def log(step: int, *_: object) -> None:
        told.append(step)

    first = trainer()
    first.run(tmp_path, log)
    done = json.dumps(told)
    changed = trainer()
    changed.ranking = changed.ranking.flip(1)
    changed.run(tmp_path, log)
    assert json.dumps(told[6:]) == done
    steps = changed.training.optimiser.state_dict()["state"][0]["step"]
    assert steps == 6
    assert changed.training.history != first.training.history
