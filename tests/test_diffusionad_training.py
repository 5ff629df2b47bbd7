"""What DiffusionAD's networks are given while it trains and scores, seen by hooks on them."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from admodels.foundation import params
from admodels.foundation.params import Kind
from admodels.images.part import estimate_matte
from admodels.methods import Synthetic, TrainingData
from admodels.methods.diffusionad import detector as module
from admodels.methods.diffusionad.detector import (
    Detector,
    DiffusionAd,
    learning_rates,
    training_noise,
)
from admodels.methods.diffusionad.diffusion import alpha_bars, guided_x0, noisy_image, x0_from_eps
from admodels.methods.diffusionad.params import Params
from admodels.methods.diffusionad.unet import Attention, DenoisingUNet, Step
from admodels.methods.parts.nets import SegmentationUNet
from admodels.synthesis.anomalies import batch_on_parts
from tests import tiny

PX, SEED, WEIGHT = tiny.PX, 5, 0.5
SCHEDULE = alpha_bars(1000)

Seen = dict[type[nn.Module], list[tuple[Tensor, ...]]]


@pytest.fixture
def seen() -> Iterator[Seen]:
    """Every call of both networks: what went in, then what came out."""
    calls: Seen = defaultdict(list)

    def keep(called: nn.Module, given: tuple[Tensor, ...], found: Tensor) -> None:
        if isinstance(called, DenoisingUNet | SegmentationUNet):
            calls[type(called)].append(tuple(v.detach().clone() for v in (*given, found)))

    handle = register_module_forward_hook(keep)
    yield calls
    handle.remove()


@pytest.fixture
def optimisers() -> Iterator[list[Optimizer]]:
    """The optimiser, once for every step it took."""
    stepped: list[Optimizer] = []
    handle = register_optimizer_step_post_hook(lambda optimiser, *_: stepped.append(optimiser))
    yield stepped
    handle.remove()


def detector_of(**changes: object) -> Detector:
    values: dict[str, object] = {"length": 2, "guidance_weight": WEIGHT, "ema_decay": 0.0}
    found = tiny.detector("diffusionad", **(values | changes))
    assert isinstance(found, Detector)
    return found


def discs(matte: int | None = None) -> TrainingData:
    """Parts on a ground; with `matte`, their left half is the foreground, of that grey."""
    normal = torch.from_numpy(tiny.discs(6, seed=1)[0])
    foreground = torch.zeros(6, 1, PX, PX, dtype=torch.uint8)
    foreground[..., : PX // 2] = matte or 0
    return replace(
        tiny.training_data(), normal=normal, foreground=None if matte is None else foreground
    )


def fit(
    detector: Detector, data: TrainingData, folder: Path, kind: Kind = "texture"
) -> list[dict[str, float]]:
    history: list[dict[str, float]] = []
    detector.fit(
        data,
        kind=kind,
        seed=SEED,
        checkpoints=folder,
        log=lambda step, steps, values: history.append(values),
    )
    return history


def guided_of(call: tuple[Tensor, ...]) -> Tensor:
    """The norm-guided estimate (B, 3, H, W) that one pass of the denoiser stands for."""
    x_t, t, predicted = (value.unflatten(0, (2, -1)) for value in call)
    u, r = x0_from_eps(x_t, SCHEDULE[t], predicted)
    return guided_x0(u, r, SCHEDULE[t[0]], WEIGHT)


def parts_of(data: TrainingData, kind: Kind) -> Tensor:
    if data.foreground is not None:
        return data.foreground
    if kind == "texture":
        return torch.full_like(data.normal[:, :1], 255)
    found = [estimate_matte(planes) for planes in data.normal.numpy()]
    return torch.stack([torch.from_numpy(part)[None] for part in found if part is not None])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "matte"), [("texture", None), ("object", None), ("texture", 128), ("object", 255)]
)
def test_a_step_learns_from_the_painted_image_and_its_soft_mask(
    kind: Kind, matte: int | None, seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets: list[Tensor] = []
    for name in ("focal_loss", "smooth_l1_loss"):
        loss = getattr(module, name)

        def heard(logits: Tensor, mask: Tensor, loss: Any = loss) -> Any:
            targets.append(mask)
            return loss(logits, mask)

        monkeypatch.setattr(module, name, heard)
    detector, data = detector_of(batch_images=4, micro_batch_images=4), discs(matte)
    fit(detector, data, tmp_path, kind)
    p, part = detector.params, parts_of(data, kind)
    values: set[float] = set()
    for step in range(2):
        drawn: dict[str, Any] = {"kind": kind, "batch": 4, "seed": SEED, "step": step}
        batch = batch_on_parts(data.normal, data.textures, part, p.generator, **drawn)
        t, noise = training_noise(p, SEED, step)
        call, (given, _) = seen[DenoisingUNet][step], seen[SegmentationUNet][step]
        assert torch.equal(call[1], t.flatten())
        torch.testing.assert_close(
            call[0], noisy_image(batch.augmented, SCHEDULE[t], noise).flatten(0, 1)
        )
        assert torch.equal(given[:, :3], batch.augmented)
        torch.testing.assert_close(given[:, 3:], guided_of(call))
        assert not torch.equal(batch.augmented, batch.normal)
        assert all(torch.equal(target, batch.mask) for target in targets[2 * step : 2 * step + 2])
        values |= set(batch.mask.unique().tolist())
        assert not batch.mask[(part == 0).all(dim=0).expand_as(batch.mask)].any()
    assert sorted(values) == pytest.approx([0, 1 if matte is None else matte / 255])


@pytest.mark.slow
def test_the_first_step_tells_how_many_foregrounds_came_from_where(tmp_path: Path) -> None:
    noise = torch.randint(256, (2, 3, PX, PX), generator=torch.Generator().manual_seed(0))
    some = replace(discs(), normal=torch.cat([discs().normal, noise.to(torch.uint8)]))
    told = fit(detector_of(), some, tmp_path, "object")
    assert (told[0]["foreground_estimated"], told[0]["foreground_whole"]) == (6, 2)
    assert not any(key.startswith("foreground") for key in told[1])
    assert fit(detector_of(length=1), discs(255), tmp_path)[0]["foreground_manifest"] == 6
    anywhere = detector_of(length=1, foreground="whole")
    assert fit(anywhere, discs(255), tmp_path, "object")[0]["foreground_whole"] == 6


def test_scoring_denoises_at_both_steps_and_shows_what_the_segmentation_saw(seen: Seen) -> None:
    detector = detector_of(eval_t_s=150, eval_t_b=350)
    images = torch.from_numpy(tiny.stripes(2, seed=3))
    found = detector.score(images)
    [call], [(given, logits)] = seen[DenoisingUNet], seen[SegmentationUNet]
    t = torch.tensor([[150, 150], [350, 350]])
    assert torch.equal(call[1], t.flatten())
    noise = detector.net.noise[0][:, None].expand(-1, 2, -1, -1, -1)
    torch.testing.assert_close(call[0], noisy_image(images / 255, SCHEDULE[t], noise).flatten(0, 1))
    torch.testing.assert_close(given, torch.cat([images / 255, guided_of(call)], dim=1))
    assert found.reconstruction is not None
    torch.testing.assert_close(found.reconstruction, given[:, 3:].clamp(0, 1))
    torch.testing.assert_close(found.anomaly_map, logits[:, 0].sigmoid())


def test_official_rates_are_constant_and_a_cosine_of_20_steps() -> None:
    official = detector_of(
        denoiser_schedule="constant",
        denoiser_learning_rate=1e-4,
        segmentation_schedule="waves",
        segmentation_learning_rate=1e-5,
    ).params
    rates = [learning_rates(official, step, 663_000) for step in range(40)]
    assert {rate for rate, _ in rates} == {1e-4}
    expected = [1, 0.9755, 0.9045, 0.7939, 0.6545, 0.5, 0.3455, 0.2061, 0.0955, 0.0245, 0]
    assert [r / 1e-5 for _, r in rates[:11]] == pytest.approx(expected, abs=5e-5)
    segmentation = [r for _, r in rates]
    assert segmentation[20:] == pytest.approx(segmentation[:20], abs=1e-18)


def test_the_cosine_schedule_falls_once() -> None:
    p = detector_of(denoiser_learning_rate=1e-3, segmentation_learning_rate=1e-2).params
    assert learning_rates(p, 0, 100) == pytest.approx((1e-3, 1e-2))
    assert learning_rates(p, 50, 100) == pytest.approx((5e-4, 5e-3))
    assert learning_rates(p, 99, 100) == pytest.approx((2.467e-7, 2.467e-6), rel=1e-3)


@pytest.mark.slow
def test_each_network_has_its_own_learning_rate(
    optimisers: list[Optimizer], tmp_path: Path
) -> None:
    detector = detector_of(
        length=1, denoiser_learning_rate=0.002, segmentation_learning_rate=0.0003
    )
    [told] = fit(detector, discs(), tmp_path)
    assert (told["learning_rate"], told["segmentation_learning_rate"]) == (0.002, 0.0003)
    [optimiser] = optimisers
    rate = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    assert {rate.pop(id(p)) for p in detector.net.denoiser.parameters()} == {0.002}
    assert {rate.pop(id(p)) for p in detector.net.segmentation.parameters()} == {0.0003}
    assert not rate


@pytest.mark.slow
def test_what_is_kept_is_the_running_mean_of_the_weights(tmp_path: Path) -> None:
    detector = detector_of(ema_decay=0.75)
    head, weights = detector.net.segmentation.head.weight, list[Tensor]()
    handle = register_optimizer_step_post_hook(lambda *_: weights.append(head.detach().clone()))
    fit(detector, discs(), tmp_path)
    handle.remove()
    first, last = weights
    kept = detector.net.segmentation.head.weight
    torch.testing.assert_close(kept, 0.75 * first + 0.25 * last)
    assert not torch.equal(kept, last)


@pytest.mark.slow
def test_other_mattes_are_another_run(optimisers: list[Optimizer], tmp_path: Path) -> None:
    for matte, steps in ((255, 2), (255, 0), (200, 2), (None, 2)):
        optimisers.clear()
        fit(detector_of(), discs(matte), tmp_path)
        assert len(optimisers) == steps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "passes", "each"),
    [
        ({"micro_batch_images": 3}, 1, 1),
        ({"micro_batch_images": 1}, 6, 1),
        ({"micro_batch_images": 3, "checkpointing": True}, 1, 2),
    ],
)
def test_what_is_not_kept_is_computed_again(
    changes: dict[str, object], passes: int, each: int, tmp_path: Path
) -> None:
    detector = detector_of(length=1, batch_images=3, **changes)
    steps = sum(isinstance(m, Step) for m in detector.net.modules())
    assert steps == 9  # two levels of one block: 3 down, 2 in the middle, 4 up
    called: Counter[type] = Counter()
    handle = register_module_forward_pre_hook(lambda m, _: called.update([type(m)]))
    fit(detector, discs(), tmp_path)
    handle.remove()
    assert called[DenoisingUNet] == passes
    assert called[Step] == passes * each * steps
    assert called[SegmentationUNet] == 1


@pytest.mark.slow
def test_held_out_images_are_scored_in_pieces_too(seen: Seen) -> None:
    detector = detector_of(batch_images=3, micro_batch_images=2)
    masks = torch.zeros(5, PX, PX, dtype=torch.bool)
    masks[:, 4:40, 4:40] = True
    held_out = Synthetic(torch.from_numpy(tiny.stripes(5, seed=3)), masks)
    in_pieces = detector._validation_loss(detector.net, held_out)
    assert [len(given) for given, _ in seen[SegmentationUNet]] == [2, 2, 1]
    whole = detector_of(batch_images=5, micro_batch_images=5)
    assert whole._validation_loss(detector.net, held_out) == pytest.approx(in_pieces, rel=1e-2)
    other = Synthetic(held_out.images, ~masks)
    assert detector._validation_loss(detector.net, other) != pytest.approx(in_pieces, rel=1e-2)


def test_the_official_preset_is_that_of_the_authors_code() -> None:
    p = params.read("methods.diffusionad", Params, Path("presets/official.yaml"))
    with torch.device("meta"):
        net = DiffusionAd(p)
    assert sum(q.numel() for q in net.denoiser.parameters()) == 131_654_403
    assert sum(q.numel() for q in net.segmentation.parameters()) == 28_373_569
    assert sum(isinstance(m, Attention) for m in net.modules()) == 16
    official = {
        "image_px": 256,
        "resize": "bilinear",
        "precision": "fp32",
        "pixel_range": "unit",
        "noise_steps": 1000,
        "t_split": 300,
        "t_b_max": 1000,
        "guidance_weight": 1.0,
        "eval_t_s": 200,
        "eval_t_b": 400,
        "eval_draws": 1,
        "batch_images": 16,
        "length": 3000,
        "length_unit": "epochs",
        "denoiser_learning_rate": 1e-4,
        "segmentation_learning_rate": 1e-5,
        "denoiser_schedule": "constant",
        "segmentation_schedule": "waves",
        "foreground": "auto",
        "ema_decay": 0.0,
        "score_pixels": 50,
    }
    assert p.model_dump(include=set(official)) == official
    assert p.generator.model_dump() == {
        "clean_share": 0.5,
        "lattice_exponent_max": 5,
        "noise_rotation_degrees": 90.0,
        "mask_threshold": 0.5,
        "image_opacity_min": 0.2,
        "image_opacity_max": 0.8,
        "augmenters_per_texture": 3,
        "self_share": {"object": 0.5, "texture": 0.0},
        "augmenters_per_self": 3,
        "tiles_per_side": 8,
    }
