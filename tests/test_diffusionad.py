"""DiffusionAD's identities (specification, section 14.1) and what its detector promises."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from admodels.foundation import params
from admodels.foundation.errors import BundleError, ConfigurationError
from admodels.methods.diffusionad.detector import (
    Detector,
    DiffusionAd,
    highest_mean,
    training_noise,
)
from admodels.methods.diffusionad.diffusion import (
    alpha_bars,
    denoise,
    guided_x0,
    noisy_image,
    x0_from_eps,
)
from admodels.methods.diffusionad.losses import focal_loss, noise_loss, smooth_l1_loss
from admodels.methods.diffusionad.params import Params
from admodels.methods.parts.training import Training
from admodels.synthesis.anomalies import Batch
from tests import tiny

SCHEDULE = alpha_bars(1000)
PX = 32
GENERATOR = tiny.PARAMS["diffusionad"]["generator"]
SMALL = {"image_px": PX, "batch_images": 3, "micro_batch_images": 2, "eval_draws": 2}


def block(**changes: object) -> Params:
    values = tiny.PARAMS["diffusionad"] | SMALL | changes
    return params.parse(values, Params, "methods.diffusionad")


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def gauss(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_schedule_is_the_published_table() -> None:
    table = {
        0: (0.9999, 0.01000050),
        100: (0.8951415909, 0.342259699),
        200: (0.6563470055, 0.723591259),
        299: (0.3964197595, 1.233928116),
        300: (0.3940111225, 1.240161046),
        400: (0.1935720097, 2.041087003),
        600: (0.0255674923, 6.173505158),
        999: (4.035829765e-5, 157.4072808),
    }
    for t, (alpha_bar, spread) in table.items():
        assert SCHEDULE[t].item() == pytest.approx(alpha_bar, abs=1e-9)
        assert (1 / SCHEDULE[t] - 1).sqrt().item() == pytest.approx(spread, rel=1e-8)
    ratios = [(SCHEDULE[t] / (1 - SCHEDULE[t])).item() for t in (0, 100, 200, 300, 400, 999)]
    assert ratios == pytest.approx([9999, 8.54, 1.91, 0.650, 0.240, 4.0e-5], rel=1e-2)
    assert SCHEDULE[999].item() == pytest.approx(4.035829765e-5, rel=1e-9)
    assert SCHEDULE.dtype == torch.float64
    assert (SCHEDULE.diff() < 0).all()


def test_the_noise_that_was_added_takes_the_image_back_at_every_step() -> None:
    x0, noise, alpha_bar = images(1), gauss(1000, 3, 16, 16), SCHEDULE
    x_t = noisy_image(x0.expand(1000, -1, -1, -1), alpha_bar, noise)
    error = (x0_from_eps(x_t, alpha_bar, noise) - x0).abs().amax(dim=(1, 2, 3))
    assert (error < 1e-5 / alpha_bar.sqrt()).all()
    assert error[999] < 4e-3


def analytic(x_t: Tensor, t: Tensor) -> Tensor:
    return 0.3 * x_t + 0.05 + 0.0005 * t[:, None, None, None]


def times(t_s: int, t_b: int, count: int) -> Tensor:
    return torch.tensor([[t_s] * count, [t_b] * count])


def long_form(x0: Tensor, t: Tensor, noise: Tensor, weight: float) -> Tensor:
    """Section 4.1 word for word: two passes, the reference noised again, the noise corrected."""
    a_s, a_b = SCHEDULE[t][..., None, None, None]
    x_s = a_s.sqrt() * x0 + (1 - a_s).sqrt() * noise[0]
    x_b = a_b.sqrt() * x0 + (1 - a_b).sqrt() * noise[1]
    e_s, e_b = analytic(x_s, t[0]), analytic(x_b, t[1])
    reference = ((1 / a_b).sqrt() * x_b - (1 / a_b - 1).sqrt() * e_b).clamp(-1, 1)
    again = a_s.sqrt() * reference + (1 - a_s).sqrt() * e_s
    e_g = e_s - (1 - a_s).sqrt() * weight * (again - x_s)
    return ((1 / a_s).sqrt() * x_s - (1 / a_s - 1).sqrt() * e_g).clamp(-1, 1)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("t_b", [300, 400, 999])
@pytest.mark.parametrize("t_s", [0, 10, 200, 299])
def test_the_closed_form_is_the_long_form(t_s: int, t_b: int, weight: float) -> None:
    x0, noise, t = images(2), gauss(2, 2, 3, 16, 16), times(t_s, t_b, 2)
    found = denoise(analytic, x0, t, noise, SCHEDULE, weight)
    expected = long_form(x0.double(), t, noise.double(), weight).float()
    torch.testing.assert_close(found.guided, expected, rtol=0, atol=1e-5)


def test_the_noise_error_is_summed_over_both_scales_per_sample() -> None:
    x0, noise, t = images(2), gauss(2, 2, 3, 16, 16), times(200, 400, 2)
    found = denoise(lambda x, _: torch.zeros_like(x), x0, t, noise, SCHEDULE, 1.0)
    per_scale = noise.square().mean(dim=(2, 3, 4))
    torch.testing.assert_close(found.noise_error, per_scale[0] + per_scale[1])


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_an_oracle_gives_the_image_back_whatever_the_weight(weight: float) -> None:
    x0, noise = 2.5 * images(2) - 1, gauss(2, 2, 3, 16, 16)
    true = noise.flatten(0, 1)
    found = denoise(lambda *_: true, x0, times(200, 400, 2), noise, SCHEDULE, weight)
    torch.testing.assert_close(found.guided, x0.clamp(-1, 1), rtol=0, atol=1e-5)
    assert not found.noise_error.any()


def test_without_weight_the_guide_has_no_say() -> None:
    x0, noise = images(2), gauss(2, 2, 3, 16, 16)
    found = denoise(analytic, x0, times(200, 400, 2), noise, SCHEDULE, 0.0).guided
    alpha_bar = SCHEDULE[torch.tensor([200, 200])]
    x_s = noisy_image(x0, alpha_bar, noise[0])
    plain = x0_from_eps(x_s, alpha_bar, analytic(x_s, torch.tensor([200, 200])))
    assert torch.equal(found, plain.clamp(-1, 1))


def test_guidance_blends_the_unclamped_estimate_with_the_clamped_guide() -> None:
    share = 1 - SCHEDULE[:300]
    assert (share.diff() > 0).all()
    assert share[200].item() == pytest.approx(0.3436529945, abs=1e-10)
    u, r = torch.full((1, 3, 2, 2), 1.2), torch.full((1, 3, 2, 2), -3.0)
    found = guided_x0(u, r, SCHEDULE[[200]], 1.0)
    expected = (1 - 0.3436529945) * 1.2 - 0.3436529945
    assert found.flatten().tolist() == pytest.approx([expected] * 12, abs=1e-6)
    low, high = 0.3 * gauss(300, 3, 4, 4), 0.3 * gauss(300, 3, 4, 4, seed=2)
    between = guided_x0(low, high, SCHEDULE[:300], 1.0)
    assert (between >= torch.minimum(low, high).clamp(-1, 1) - 1e-6).all()
    assert (between <= torch.maximum(low, high).clamp(-1, 1) + 1e-6).all()


@pytest.mark.parametrize(
    ("p", "mask", "focal", "smooth_l1"),
    [
        (0.9, 1.0, 5.268025783e-6, 0.005),
        (0.1, 1.0, 0.7553630398, 0.405),
        (0.3, 0.0, 0.001444533523, 0.045),
        (0.5, 0.5, 0.02166084939, 0.0),
        (0.2, 0.7, 0.1407292471, 0.125),
    ],
)
def test_losses_of_single_pixels(p: float, mask: float, focal: float, smooth_l1: float) -> None:
    logits = torch.logit(torch.full((1, 1, 1, 1), p, dtype=torch.float64))
    target = torch.full((1, 1, 1, 1), mask, dtype=torch.float64)
    assert focal_loss(logits, target).item() == pytest.approx(focal, rel=1e-8)
    assert smooth_l1_loss(logits, target).item() == pytest.approx(smooth_l1, abs=1e-12)


def test_the_noise_loss_counts_normal_samples_and_hides_no_nan() -> None:
    error = torch.tensor([1.0, 5.0, 3.0], requires_grad=True)
    normal = torch.tensor([True, False, True])
    assert noise_loss(error, normal).item() == 2
    none = noise_loss(error, torch.zeros(3, dtype=torch.bool))
    none.backward()
    assert none.item() == 0
    assert error.grad is not None
    assert not error.grad.any()
    broken = torch.tensor([1.0, math.nan, 3.0])
    assert math.isnan(noise_loss(broken, normal).item())
    assert math.isnan(noise_loss(broken, torch.zeros(3, dtype=torch.bool)).item())


def test_the_image_score_is_the_mean_of_the_highest_pixels_wherever_they_are() -> None:
    ramp = torch.linspace(0, 1, 4096).view(1, 64, 64)
    shuffled = ramp.flatten()[torch.randperm(4096)].view(1, 64, 64)
    for anomaly_map in (ramp, shuffled):
        assert highest_mean(anomaly_map, 50).item() == pytest.approx(0.9940171838, abs=1e-6)
    constant = torch.full((2, 64, 64), 0.25)
    assert highest_mean(constant, 50).tolist() == [0.25, 0.25]


def test_training_noise_of_a_sample_depends_on_seed_step_and_index_alone() -> None:
    few, many = block(batch_images=2), block(batch_images=5)
    t, noise = training_noise(many, 3, 7)
    assert t.shape == (2, 5)
    assert noise.shape == (2, 5, 3, PX, PX)
    first_t, first_noise = training_noise(few, 3, 7)
    assert torch.equal(t[:, :2], first_t)
    assert torch.equal(noise[:, :2], first_noise)
    others = [training_noise(few, 3, 8)[1], training_noise(few, 4, 7)[1]]
    streams = [*first_noise.flatten(0, 1), *(o for other in others for o in other.flatten(0, 1))]
    assert len({float(s.sum()) for s in streams}) == len(streams) == 12


def test_training_steps_cover_their_ranges_and_no_more() -> None:
    p = block(batch_images=400, t_split=5, t_b_max=9, eval_t_s=4, eval_t_b=5, score_pixels=1)
    t, noise = training_noise(p, 0, 0)
    assert set(t[0].tolist()) == set(range(5))
    assert set(t[1].tolist()) == set(range(5, 9))
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert noise.std().item() == pytest.approx(1, abs=0.01)


def fresh_net(**changes: object) -> DiffusionAd:
    torch.manual_seed(0)
    net = DiffusionAd(block(**changes))
    with torch.no_grad():  # what starts at zero would hide gradients
        for parameter in net.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.02)
    return net


def loss_and_gradients(net: DiffusionAd, dtype: torch.dtype) -> list[Tensor]:
    p, net = net.params, net.to(dtype)
    t, noise = training_noise(p, 0, 0)
    x0 = gauss(p.batch_images, 3, PX, PX, seed=5).sigmoid().to(dtype)
    normal = torch.arange(p.batch_images) % 3 != 0
    mask = (x0[:, :1] > 0.6).to(dtype) * ~normal[:, None, None, None]
    found, logits = net.train()(x0, t, noise.to(dtype))
    loss = noise_loss(found.noise_error, normal) + 5 * focal_loss(logits, mask)
    loss.backward()
    running = next(m for m in net.segmentation.modules() if isinstance(m, nn.BatchNorm2d))
    return [loss.detach(), running.running_mean, *(p.grad for p in net.parameters())]


@pytest.mark.slow
@pytest.mark.parametrize(("micro", "checkpointing"), [(1, False), (2, False), (1, True)])
def test_micro_batches_and_checkpointing_give_the_gradients_of_the_whole_batch(
    micro: int, checkpointing: bool
) -> None:
    whole = fresh_net(batch_images=3, micro_batch_images=3)
    parts = fresh_net(batch_images=3, micro_batch_images=micro, checkpointing=checkpointing)
    pairs = zip(
        loss_and_gradients(whole, torch.float64),
        loss_and_gradients(parts, torch.float64),
        strict=True,
    )
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)  # sums in another order


def test_the_noise_of_anomalous_samples_teaches_nothing_but_their_reconstruction_does() -> None:
    net = fresh_net(batch_images=2, micro_batch_images=2)
    t, noise = training_noise(net.params, 0, 0)
    x0 = torch.rand(2, 3, PX, PX)
    changed = torch.cat([x0[:1], 1 - x0[1:]])
    first_is_normal = torch.tensor([True, False])
    losses = [noise_loss(net(i, t, noise)[0].noise_error, first_is_normal) for i in (x0, changed)]
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-6)
    found, _ = net(x0, t, noise)
    noise_loss(found.noise_error, torch.tensor([False, False])).backward(retain_graph=True)
    assert not any(p.grad.any() for p in net.denoiser.parameters())
    found.guided.sum().backward()
    assert all(p.grad.any() for p in net.denoiser.parameters() if p.ndim > 1)


def detector_of(**changes: object) -> Detector:
    found = tiny.detector("diffusionad", **(SMALL | changes))
    assert isinstance(found, Detector)
    return found


def values_of_a_step(detector: Detector, x0: Tensor, mask: Tensor) -> dict[str, float]:
    t, noise = training_noise(detector.params, 0, 0)
    run = Training(detector.net, torch.optim.Adam(detector.net.parameter_groups()))
    return detector._step(run, Batch(x0, x0, mask), t, noise, 0, 10)


def test_a_batch_without_a_normal_sample_has_no_noise_loss_and_still_trains() -> None:
    detector = detector_of()
    mask = torch.zeros(3, 1, PX, PX)
    mask[:, :, 5, 5] = 0.01  # one faint pixel makes an anomaly
    before = detector.state()
    values = values_of_a_step(detector, torch.rand(3, 3, PX, PX), mask)
    assert values["noise"] == 0
    assert values["loss"] == pytest.approx(5 * values["focal"] + values["smooth_l1"])
    assert any(not torch.equal(before[k], v) for k, v in detector.state().items())


@pytest.mark.slow
@torch.no_grad()
def test_before_training_the_noise_loss_is_that_of_two_unit_gaussians() -> None:
    net = detector_of(batch_images=64).net
    found, _ = net(torch.rand(64, 3, PX, PX), *training_noise(net.params, 0, 0))
    assert found.noise_error.mean().item() == pytest.approx(2.0, abs=0.02)


@pytest.mark.parametrize("all_anomalous", [True, False])
def test_a_nan_in_an_image_stops_the_step(all_anomalous: bool) -> None:
    x0 = torch.rand(3, 3, PX, PX)
    x0[0, 0, 0, 0] = math.nan
    mask = torch.full((3, 1, PX, PX), float(all_anomalous))
    detector = detector_of()
    before = detector.state()
    with pytest.raises(ConfigurationError, match="diverged: the loss is nan at step 1"):
        values_of_a_step(detector, x0, mask)
    weights = dict(detector.net.named_parameters())
    assert all(torch.equal(before[k], v) for k, v in weights.items())


@pytest.mark.slow
def test_a_training_that_diverges_stops_at_the_step_where_it_does(tmp_path: Path) -> None:
    steps: list[int] = []
    with pytest.raises(ConfigurationError, match=r"diverged: the loss is (nan|inf) at step [2-9]"):
        tiny.detector("diffusionad", denoiser_learning_rate=1e30).fit(
            tiny.training_data(),
            kind="texture",
            seed=5,
            checkpoints=tmp_path,
            log=lambda step, *_: steps.append(step),
        )
    assert steps == list(range(1, len(steps) + 1))


def started(**changes: object) -> Detector:
    """A detector with drawn weights and noise, whose denoiser predicts something."""
    detector = detector_of(**changes)
    detector.net.load_state_dict(fresh_net(**changes).state_dict())
    return detector


def pixels(count: int) -> Tensor:
    return torch.from_numpy(tiny.stripes(count, seed=3)[:, :, :PX, :PX])


def test_inference_noise_travels_with_the_state() -> None:
    first, other = started(), detector_of()
    noise = first.state()["noise"]
    assert noise.shape == (2, 2, 3, PX, PX)
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    assert len({float(draw.sum()) for draw in noise.flatten(0, 1)}) == 4
    other.restore(first.state() | {"noise": 0 * noise})
    assert not torch.equal(other.score(pixels(1)).anomaly_map, first.score(pixels(1)).anomaly_map)


@pytest.mark.slow
def test_the_map_is_the_mean_over_the_stored_draws() -> None:
    both = started()
    state, alone = both.state(), []
    for draw in (0, 1):
        one = detector_of(eval_draws=1)
        one.restore(state | {"noise": state["noise"][draw : draw + 1]})
        alone.append(one.score(pixels(4)))
    found = both.score(pixels(4))
    mean_map = (alone[0].anomaly_map + alone[1].anomaly_map) / 2
    torch.testing.assert_close(found.anomaly_map, mean_map)
    assert torch.equal(found.anomaly_score, highest_mean(found.anomaly_map, 50))
    assert not torch.equal(alone[0].anomaly_map, alone[1].anomaly_map)


@pytest.mark.parametrize("draws", [1, 3])
def test_a_state_with_other_noise_than_the_params_ask_for_is_refused(draws: int) -> None:
    with pytest.raises(BundleError, match=r"size mismatch for noise"):
        detector_of().restore(detector_of(eval_draws=draws).state())


@pytest.mark.slow
@pytest.mark.parametrize(("pixel_range", "scale", "shift"), [("unit", 1, 0), ("symmetric", 2, -1)])
def test_the_networks_see_the_named_range_and_the_reconstruction_is_an_image(
    pixel_range: str, scale: int, shift: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = started(pixel_range=pixel_range)
    seen: list[Tensor] = []
    forward = DiffusionAd.forward

    def spying(self: DiffusionAd, x0: Tensor, *more: Tensor) -> object:
        seen.append(x0)
        return forward(self, x0, *more)

    monkeypatch.setattr(DiffusionAd, "forward", spying)
    found = detector.score(pixels(2))
    torch.testing.assert_close(seen[0], scale * (pixels(2) / 255) + shift)
    assert found.reconstruction is not None
    assert 0 <= found.reconstruction.min() < found.reconstruction.max() <= 1


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"image_px": 48}, "image_px"),
        ({"image_px": 16}, "image_px"),
        ({"base_channels": 48}, "base_channels"),
        ({"base_channels": 0}, "base_channels"),
        ({"channel_multipliers": []}, "channel_multipliers"),
        ({"channel_multipliers": [1] * 7}, "channel_multipliers"),
        ({"channel_multipliers": [0.5, 1]}, "channel_multipliers.0"),
        ({"attention_px": [48]}, "attention_px"),
        ({"eval_t_s": 300}, "eval_t_s < t_split"),
        ({"eval_t_b": 299}, "t_split <= eval_t_b"),
        ({"t_b_max": 400}, "eval_t_b < t_b_max"),
        ({"t_b_max": 1001}, "t_b_max <= noise_steps"),
        ({"score_pixels": 64 * 64 + 1}, "score_pixels"),
        ({"batch_images": 1}, "batch_images"),
        ({"micro_batch_images": 4}, "micro_batch_images is more than batch_images"),
        ({"generator": GENERATOR | {"tiles_per_side": 2}}, "tiles_per_side"),
        ({"generator": GENERATOR | {"tiles_per_side": 5}}, "are no multiples of 160"),
    ],
)
def test_params_that_cannot_work_are_refused_by_name(changes: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"methods\.diffusionad.*{key}"):
        block(**changes)


def test_attention_sides_become_levels() -> None:
    table = {"channel_multipliers": [1, 1, 2, 2, 4, 4], "attention_px": [32, 16, 8]}
    assert block(image_px=256, **table).attention_levels() == [3, 4, 5]
    assert block(attention_px=[]).attention_levels() == []


def test_an_epoch_drops_its_partial_batch() -> None:
    official = block(batch_images=16, length=3000, length_unit="epochs")
    assert official.steps(60) == 9000  # toothbrush: 3 a epoch
    assert official.steps(391) == 72_000  # hazelnut: 24
    assert official.steps(7) == 3000
    assert block(length=12, length_unit="steps").steps(391) == 12


@pytest.mark.slow
def test_four_samples_are_learnt_by_heart() -> None:
    changes = {"batch_images": 4, "micro_batch_images": 4, "eval_draws": 1}
    detector = started(**changes, segmentation_width=8, segmentation_learning_rate=0.01)
    net = detector.net
    run = Training(net, torch.optim.Adam(net.parameter_groups()))
    mask = torch.zeros(4, 1, PX, PX)
    mask[2:, :, 10:20, 6:22] = 1
    clean = pixels(4) / 255
    painted = clean * (1 - mask) + mask * torch.rand(4, 3, PX, PX)
    found = []
    for step in range(40):
        t, noise = training_noise(detector.params, 0, step)
        found.append(detector._step(run, Batch(clean, painted, mask), t, noise, step, 40))
    assert found[0]["noise"] > 1.9
    assert found[-1]["noise"] < 1.0
    assert found[-1]["focal"] < 0.2 * found[0]["focal"]
    assert all(p.grad is not None and p.grad.any() for p in net.parameters() if p.ndim > 1)


@pytest.mark.parametrize("preset", ["cpu", "official"])
def test_a_preset_guides_by_the_estimate_of_what_is_mostly_noise(preset: str) -> None:
    p = params.read("methods.diffusionad", Params, Path(f"presets/{preset}.yaml"))
    alpha_bar = alpha_bars(p.noise_steps)
    assert p.guidance_weight * (1 - alpha_bar[p.eval_t_s]) >= 0.3
    assert alpha_bar[p.eval_t_b].sqrt() <= 0.5
