"""The test vectors of the DRAEM specification, section 11, that need no official code."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from admodels.foundation import params
from admodels.foundation.errors import ConfigurationError
from admodels.methods.draem.detector import learning_rate, window_maximum
from admodels.methods.draem.losses import focal_loss, guessed_range, ssim_loss
from admodels.methods.draem.networks import Draem, ReconstructiveNet, initialise
from admodels.methods.draem.params import Params
from admodels.methods.parts.nets import ExactConv2d, SegmentationUNet, for_inference, upsample
from admodels.methods.parts.training import ahead
from tests import tiny


def in_forward_order(net: nn.Module, x: Tensor) -> Iterator[nn.Module]:
    seen: list[nn.Module] = []
    hooks = [
        m.register_forward_hook(lambda module, *_: seen.append(module))
        for m in net.modules()
        if isinstance(m, nn.Conv2d | nn.BatchNorm2d)
    ]
    with torch.inference_mode():
        net.eval()(x)
    for hook in hooks:
        hook.remove()
    return iter(seen)


def h(count: int, k: int) -> Tensor:
    n = torch.arange(count, dtype=torch.int64)
    return ((7 * n**2 + 131 * n + 977 * k) % 1009).double() / 504 - 1


def set_vector_weights(net: nn.Module, channels_in: int) -> None:
    convs = norms = 0
    with torch.no_grad():
        for module in in_forward_order(net, torch.zeros(1, channels_in, 64, 64).double()):
            if isinstance(module, nn.Conv2d):
                weight = module.weight
                scale = math.sqrt(6 / weight[0].numel())
                weight.copy_((scale * h(weight.numel(), convs)).view_as(weight))
                module.bias.copy_(0.01 * h(len(module.bias), convs))
                convs += 1
            else:
                module.weight.copy_(1 + 0.1 * h(len(module.weight), norms))
                module.bias.copy_(0.1 * h(len(module.bias), norms + 1))
                norms += 1


@pytest.fixture
def net() -> Draem:
    net = Draem(4, 4).double()
    set_vector_weights(net.reconstructive, 3)
    set_vector_weights(net.discriminative, 6)
    return net


@pytest.fixture
def x() -> Tensor:
    s, ch, i, j = torch.meshgrid(*(torch.arange(n) for n in (2, 3, 64, 64)), indexing="ij")
    return 0.5 + 0.5 * torch.sin(((ch + 1) * (i + 2 * j)).double() / 17 + s)


def test_the_vector_input_is_the_specified_one(x: Tensor) -> None:
    assert x.mean().item() == pytest.approx(0.503574817, abs=1e-9)
    assert x[1, 2, 10, 20].item() == pytest.approx(0.305865975, abs=1e-9)


@pytest.mark.parametrize(("width", "parameters"), [(4, 68_619), (16, 1_083_171), (128, 69_048_579)])
def test_reconstructive_parameter_count_has_its_closed_form(width: int, parameters: int) -> None:
    with torch.device("meta"):
        net = ReconstructiveNet(width)
    assert sum(p.numel() for p in net.parameters()) == 4212 * width**2 + 306 * width + 3
    assert 4212 * width**2 + 306 * width + 3 == parameters


@pytest.mark.parametrize("width", [4, 8, 64])
def test_discriminative_parameter_count_has_its_closed_form(width: int) -> None:
    with torch.device("meta"):
        net = SegmentationUNet(6, 2, width)
    assert sum(p.numel() for p in net.parameters()) == 6921 * width**2 + 402 * width + 2


def test_the_full_size_network_has_97_42_million_parameters() -> None:
    with torch.device("meta"):
        net = Draem(128, 64)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 2) == 97.42
    assert len(net.reconstructive.state_dict()) == 156
    assert len(net.discriminative.state_dict()) == 191


def test_eval_outputs_match_the_golden_values(net: Draem, x: Tensor) -> None:
    with torch.inference_mode():
        r, logits = net.eval()(x)
    assert r.mean().item() == pytest.approx(-0.0180009438, abs=1e-6)
    assert r.std().item() == pytest.approx(0.0674597208, abs=1e-6)
    assert r[0, 0, 0, 0].item() == pytest.approx(0.0618982296, abs=1e-6)
    assert r[1, 2, 10, 20].item() == pytest.approx(0.0019722924, abs=1e-6)
    assert logits.mean().item() == pytest.approx(-0.0044393659, abs=1e-6)
    assert logits.std().item() == pytest.approx(0.0105868091, abs=1e-6)
    assert logits[1, 1, 10, 20].item() == pytest.approx(-0.0138159068, abs=1e-6)
    assert logits[0, 1, 63, 63].item() == pytest.approx(0.0664379485, abs=1e-6)
    p1 = logits.softmax(1)[:, 1]
    assert p1.mean().item() == pytest.approx(0.5009602020, abs=1e-6)
    assert window_maximum(p1, 21).tolist() == pytest.approx([0.5018232992, 0.5031578395], abs=1e-6)


def test_swapping_the_concatenation_gives_the_other_golden_value(net: Draem, x: Tensor) -> None:
    with torch.inference_mode():
        r, _ = net.eval()(x)
        swapped = net.discriminative(torch.cat([x, r], dim=1))
    assert swapped.mean().item() == pytest.approx(0.0033337388, abs=1e-6)


def test_train_outputs_statistics_losses_and_gradients_match(net: Draem, x: Tensor) -> None:
    r, logits = net.train()(x)
    assert r.mean().item() == pytest.approx(-0.2321775662, abs=1e-6)
    assert r.std().item() == pytest.approx(1.2853456428, abs=1e-6)
    assert r[0, 0, 0, 0].item() == pytest.approx(0.1821202629, abs=1e-6)
    assert r[1, 2, 10, 20].item() == pytest.approx(-0.1653913443, abs=1e-6)
    assert logits.mean().item() == pytest.approx(0.2223973355, abs=1e-6)
    assert logits.std().item() == pytest.approx(0.7084055140, abs=1e-6)
    assert logits[1, 1, 10, 20].item() == pytest.approx(0.4788538340, abs=1e-6)
    assert logits[0, 1, 63, 63].item() == pytest.approx(1.7299092140, abs=1e-6)
    p1 = logits.softmax(1)[:, 1]
    assert p1.mean().item() == pytest.approx(0.5341651934, abs=1e-6)
    assert window_maximum(p1, 21).tolist() == pytest.approx([0.5628956160, 0.5619450193], abs=1e-6)

    norm = next(m for m in net.reconstructive.modules() if isinstance(m, nn.BatchNorm2d))
    mean = [-0.0413836257, -0.0113026731, 0.1219127566, 0.0223078788]
    assert norm.running_mean.tolist() == pytest.approx(mean, abs=1e-6)
    var = [0.9317040021, 0.9124370789, 0.9313221686, 0.9121297116]
    assert norm.running_var.tolist() == pytest.approx(var, abs=1e-6)

    target = x.flip(3)
    i, j = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    mask = torch.zeros(2, 1, 64, 64).double()
    mask[0, 0] = ((i - 20) ** 2 + (j - 30) ** 2 < 100).double()
    assert mask.sum().item() == 305
    l2, ssim, focal = F.mse_loss(r, target), ssim_loss(r, target), focal_loss(logits, mask)
    assert l2.item() == pytest.approx(2.3313160176, abs=1e-6)
    assert ssim.item() == pytest.approx(0.993441, abs=1e-5)
    assert ssim_loss(r, target, guessed_range(r)).item() == pytest.approx(1.005376, abs=1e-5)
    assert focal.item() == pytest.approx(0.4312449537, abs=1e-6)

    focal.backward(retain_graph=True)
    assert gradient_norm(net.reconstructive) > 1e-3
    net.zero_grad()
    (l2 + ssim + focal).backward()
    assert gradient_norm(net.reconstructive) == pytest.approx(98.826483, rel=1e-5)
    assert gradient_norm(net.discriminative) == pytest.approx(2.121072, rel=1e-5)


def gradient_norm(net: nn.Module) -> float:
    return math.sqrt(sum(p.grad.square().sum().item() for p in net.parameters()))


def test_the_levels_of_the_segmentation_net_halve_down_to_two_pixels() -> None:
    sides: list[int] = []
    net = SegmentationUNet(6, 2, 2)
    for block in net.encoder:
        block.register_forward_hook(lambda *args: sides.append(args[2].shape[-1]))
    net(torch.zeros(2, 6, 64, 64))
    assert sides == [64, 32, 16, 8, 4, 2]


def test_focal_loss_of_single_pixels_matches_the_table() -> None:
    expected = {
        0.0: 10.8193455,
        0.01: 4.5114082,
        0.2: 1.0299479,
        0.5: 0.1732749,
        0.9: 0.0010535,
        1.0: 0.0,
    }
    for p1, loss in expected.items():
        p = torch.tensor(p1, dtype=torch.float64)
        margin = torch.logit(p).clamp(-60, 60)
        logits = torch.stack([torch.zeros_like(margin), margin]).view(1, 2, 1, 1)
        ones = torch.ones(1, 1, 1, 1).double()
        assert focal_loss(logits, ones).item() == pytest.approx(loss, abs=1e-6)
        assert focal_loss(logits.flip(1), 1 - ones).item() == pytest.approx(loss, abs=1e-6)


def test_focal_loss_of_a_map_matches_and_teaches_normal_pixels_too() -> None:
    i, j = torch.meshgrid(*(torch.arange(32).double(),) * 2, indexing="ij")
    logits = torch.stack([3 * torch.sin(i / 4 + j / 7), 3 * torch.cos(i / 5 - j / 3)])[None]
    mask = ((i - 16) ** 2 + (j - 12) ** 2 < 36).double()[None, None]
    logits.requires_grad_()
    loss = focal_loss(logits, mask)
    loss.backward()
    assert mask.sum().item() == 109
    assert loss.item() == pytest.approx(0.82757972, abs=1e-6)
    assert (logits.grad[0, 0][mask[0, 0] == 0].abs() > 0).all()


def ssim_pair() -> tuple[Tensor, Tensor]:
    i, j = torch.meshgrid(*(torch.arange(32).double(),) * 2, indexing="ij")
    a = torch.stack(
        [(32 * i + j) / 1023, 0.5 + 0.5 * torch.sin(i / 3), 0.5 + 0.5 * torch.cos(j / 5)]
    )[None]
    return a, a.transpose(2, 3)


def test_ssim_loss_matches_the_golden_values() -> None:
    a, b = ssim_pair()
    assert ssim_loss(a, a).item() == pytest.approx(0, abs=1e-12)
    assert ssim_loss(a, b).item() == pytest.approx(0.7956324, abs=1e-5)
    per_channel = [ssim_loss(a[:, c : c + 1], b[:, c : c + 1]).item() for c in range(3)]
    assert per_channel == pytest.approx([0.7377337, 0.8436797, 0.8054837], abs=1e-5)
    assert F.mse_loss(a, b).item() == pytest.approx(0.2125317412, abs=1e-9)


def test_the_guessed_range_doubles_below_minus_a_half() -> None:
    a, b = ssim_pair()
    assert guessed_range(a - 0.6).item() == 2
    assert ssim_loss(a - 0.6, b, guessed_range(a - 0.6)).item() == pytest.approx(
        0.9069577, abs=1e-5
    )
    assert guessed_range(b).item() == 1
    assert ssim_loss(b, a - 0.6, guessed_range(b)).item() == pytest.approx(0.8861626, abs=1e-5)


def test_ssim_of_constants_shows_zero_padding() -> None:
    shape = (1, 1, 32, 32)
    half, quarter = torch.full(shape, 0.5).double(), torch.full(shape, 0.25).double()
    assert ssim_loss(half, quarter).item() == pytest.approx(0.2683039, abs=1e-5)


def test_one_hot_pixel_scores_one_over_the_window_and_borders_are_damped() -> None:
    hot = torch.zeros(3, 64, 64)
    hot[0, 30, 30] = 1
    hot[1, :21, :21] = 1
    hot[2] = 1
    assert window_maximum(hot, 21).tolist() == pytest.approx([1 / 441, 1, 1], abs=1e-6)
    corner = F.avg_pool2d(hot[2:, None], 21, 1, 10)[0, 0, 0, 0]
    assert corner.item() == pytest.approx(121 / 441, abs=1e-6)


def test_initial_weights_have_the_official_spread() -> None:
    net = ReconstructiveNet(16)
    initialise(net, torch.Generator().manual_seed(3))
    convs = torch.cat([m.weight.flatten() for m in net.modules() if isinstance(m, nn.Conv2d)])
    norms = torch.cat([m.weight for m in net.modules() if isinstance(m, nn.BatchNorm2d)])
    assert convs.std().item() == pytest.approx(0.02, rel=0.01)
    assert norms.mean().item() == pytest.approx(1, abs=0.005)
    assert norms.std().item() == pytest.approx(0.02, rel=0.15)
    head = net.head.bias.abs().max().item()
    assert 0 < head <= (16 * 9) ** -0.5


def test_folding_batch_norms_changes_nothing_but_rounding(net: Draem, x: Tensor) -> None:
    net.train()(x)  # gives the norms statistics that matter
    with torch.inference_mode():
        before = net.eval()(x)
        after = for_inference(net, torch.float64)(x)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    torch.testing.assert_close(after, before, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_eight_samples_are_learnt_by_heart() -> None:
    torch.manual_seed(0)
    net = Draem(16, 16).to(memory_format=torch.channels_last)
    initialise(net, torch.Generator().manual_seed(0))
    i, j = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    phase = torch.rand(8, 3, 1, 1) * 6.28
    clean = 0.5 + 0.4 * torch.sin((i + 2 * j) / 17 + phase)
    disc = ((i - 15) ** 2 + (j - 13) ** 2 < 40).float()[None, None]
    mask = torch.cat([disc.expand(4, 1, 32, 32), torch.zeros(4, 1, 32, 32)])
    images = clean * (1 - mask) + mask * torch.rand(8, 3, 32, 32)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(60):
        r, logits = net(images)
        loss = F.mse_loss(r, clean) + ssim_loss(r, clean) + focal_loss(logits, mask)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    found, truth = logits.softmax(1)[:, 1:] > 0.5, mask > 0
    assert loss.item() < 0.10
    assert ((found & truth).sum() / (found | truth).sum()).item() > 0.7


def test_a_training_that_diverges_stops_at_the_step_where_it_does(tmp_path: Path) -> None:
    steps: list[int] = []
    with pytest.raises(ConfigurationError, match=r"diverged: the loss is (nan|inf) at step [2-9]"):
        tiny.detector("draem", learning_rate=1e30).fit(
            tiny.training_data(),
            kind="texture",
            seed=5,
            checkpoints=tmp_path,
            log=lambda step, *_: steps.append(step),
        )
    assert steps == list(range(1, len(steps) + 1))


@pytest.mark.parametrize("side", [16, 48, 100])
def test_a_side_that_32_does_not_divide_is_refused_by_key(side: int) -> None:
    block = tiny.PARAMS["draem"] | {"image_px": side}
    with pytest.raises(ConfigurationError, match=r"methods\.draem\.image_px"):
        params.parse(block, Params, "methods.draem")


def test_the_scorer_keeps_fp32_where_images_are_compared_and_where_nets_end() -> None:
    net = for_inference(Draem(4, 4), torch.bfloat16)
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert {m.weight.dtype for m in convs if isinstance(m, ExactConv2d)} == {torch.float32}
    assert {m.weight.dtype for m in convs if not isinstance(m, ExactConv2d)} == {torch.bfloat16}
    assert sum(isinstance(m, ExactConv2d) for m in convs) == 3
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert {part.dtype for part in net(torch.rand(1, 3, 64, 64))} == {torch.float32}


def rates(at: list[int], steps: int, **changes: object) -> list[float]:
    block = params.parse(tiny.PARAMS["draem"] | changes, Params, "methods.draem")
    return [learning_rate(block, step, steps) for step in at]


def test_the_official_milestones_fall_on_epochs_560_and_630_of_700() -> None:
    official = {"schedule": "milestones", "milestones": [0.8, 0.9], "milestone_factor": 0.2}
    at = [epoch * 26 for epoch in (0, 560, 630, 699)]
    assert rates(at, 700 * 26, **official) == pytest.approx([1e-3, 2e-4, 4e-5, 4e-5])
    assert rates([560 * 26 - 1], 700 * 26, **official) == [1e-3]


def test_the_cosine_falls_from_the_full_rate_to_nearly_none() -> None:
    found = rates([0, 50, 99], 100, schedule="cosine")
    assert found == pytest.approx([1e-3, 5e-4, 2.467e-7], rel=1e-3)


@pytest.mark.parametrize(
    ("key", "value"), [("milestones", [560, 630]), ("score_window_px", 20), ("length", -1)]
)
def test_params_that_would_silently_do_something_else_are_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=rf"methods\.draem\.{key}"):
        params.parse(tiny.PARAMS["draem"] | {key: value}, Params, "methods.draem")


@pytest.mark.parametrize("shape", [(2, 5, 8, 12), (1, 1, 1, 1), (1, 3, 32, 2)])
def test_the_upsampling_of_a_gpu_in_training_is_that_of_torch(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    theirs = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)(x)
    weight = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(1))
    expected = torch.autograd.grad((theirs * weight).sum(), x)[0]
    found = upsample(x)
    torch.testing.assert_close(found, theirs, rtol=0, atol=2e-6)
    torch.testing.assert_close(
        torch.autograd.grad((found * weight).sum(), x)[0], expected, rtol=0, atol=5e-6
    )


def test_what_is_drawn_ahead_is_what_was_asked_for_and_drawn_once() -> None:
    asked: list[int] = []

    def draw(step: int) -> int:
        asked.append(step)
        return step**2

    found = ahead(draw, torch.device("cuda"))
    assert [found(step) for step in (3, 4, 5, 9, 10)] == [9, 16, 25, 81, 100]
    assert {3, 4, 5, 9, 10} <= set(asked) <= {3, 4, 5, 6, 9, 10, 11}
    assert len(asked) == len(set(asked))
    assert ahead(draw, torch.device("cpu")) is draw
