"""Golden values and identities of DiffusionAD's networks: specification, sections 14.1 and 14.2."""

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from admodels.methods.diffusionad.diffusion import alpha_bars, denoise, x0_from_eps
from admodels.methods.diffusionad.unet import (
    Attention,
    DenoisingUNet,
    GroupNorm,
    ResBlock,
    time_vector,
)
from admodels.methods.parts.nets import Net, SegmentationUNet

MULTIPLIERS = {256: (1, 1, 2, 2, 4, 4), 128: (1, 1, 2, 3, 4), 64: (1, 2, 3, 4), 32: (1, 2, 3, 4)}
ATTENTION = {256: (3, 4, 5), 128: (2, 3, 4), 64: (1, 2, 3), 32: (0, 1, 2)}
TOLERANCE, SEGMENTATION_TOLERANCE = 1e-4, 2e-4  # float32 against float64, section 14.2
T = torch.tensor([200, 400])


def unet(channels: int, table: int, **more: bool) -> DenoisingUNet:
    return DenoisingUNet(channels, MULTIPLIERS[table], ATTENTION[table], **more)


def filled(net: Net) -> Net:
    """The specification's fill rule: the same for every tensor, whatever its name and place."""
    norms = {id(m.weight) for m in net.modules() if isinstance(m, nn.GroupNorm | nn.BatchNorm2d)}
    with torch.no_grad():
        for parameter in net.parameters():
            s = torch.sin(0.7 * torch.arange(parameter.numel(), dtype=torch.float64) + 0.3)
            if parameter.ndim >= 2:
                s = s / parameter[0].numel() ** 0.5
            else:
                s = 1 + 0.1 * s if id(parameter) in norms else 0.1 * s
            parameter.copy_(s.view_as(parameter))
    return net


def x(*shape: int) -> Tensor:
    i = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return (0.5 + 0.5 * torch.sin(0.01 * i + 0.001 * (i % 97))).float().view(shape)


def assert_golden(
    found: Tensor,
    mean: float,
    std: float,
    first: list[float],
    last: list[float],
    tolerance: float = TOLERANCE,
) -> None:
    row = found.flatten()
    assert row.mean().item() == pytest.approx(mean, abs=tolerance)
    assert row.std().item() == pytest.approx(std, abs=tolerance)
    assert row[: len(first)].tolist() == pytest.approx(first, abs=tolerance)
    assert row[len(row) - len(last) :].tolist() == pytest.approx(last, abs=tolerance)


@torch.no_grad()
def test_the_time_vector_has_sines_then_cosines_of_the_raw_step() -> None:
    found = time_vector(torch.tensor([200]), 128)[0]
    assert found.dtype == torch.float32
    assert found[[0, 1, 2, 63]].tolist() == pytest.approx(
        [-0.873297, -0.394258, -0.729514, 0.0230936], abs=TOLERANCE
    )
    assert found[[64, 65, 66, 127]].tolist() == pytest.approx(
        [0.487188, -0.919, 0.683966, 0.999733], abs=TOLERANCE
    )


@torch.no_grad()
def test_the_time_mlp_matches_the_golden_values() -> None:
    net = filled(unet(32, 32))
    assert_golden(
        net.time(time_vector(torch.tensor([0, 200]), 32)),
        0.003790,
        0.221933,
        [0.313146, 0.086783, -0.184768],
        [-0.321687, 0.061434, 0.398385],
    )


BLOCKS = {
    "wider": (
        (64, nn.Identity(), 8),
        (0.004492, 1.457454),
        [-0.170758, -0.678447, -0.808532],
        [0.647545, 0.446937, -0.229909],
    ),
    "same": (
        (32, nn.Identity(), 8),
        (0.518715, 0.958770),
        [-0.436387, -0.714696, -0.781982],
        [0.279303, 0.121076, -0.096580],
    ),
    "down": (
        (32, nn.AvgPool2d(2), 4),
        (0.523573, 0.811241),
        [-0.125217, -0.611297, -0.603482],
        [-0.068434, -0.388757, -0.424527],
    ),
    "up": (
        (32, nn.Upsample(scale_factor=2), 16),
        (0.517145, 1.208934),
        [-0.950313, -0.907203, -0.682995],
        [2.377700, 2.003792, 1.080889],
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
@torch.no_grad()
def test_a_res_block_matches_the_golden_values(name: str) -> None:
    (channels, resample, side), moments, first, last = BLOCKS[name]
    found = filled(ResBlock(32, channels, 128, resample))(x(2, 32, 8, 8), x(2, 128))
    assert found.shape == (2, channels, side, side)
    assert_golden(found, *moments, first, last)


@torch.no_grad()
def test_attention_matches_the_golden_values() -> None:
    assert_golden(
        filled(Attention(64))(x(2, 64, 4, 4)),
        0.520586,
        0.386902,
        [0.402773, 0.406795, 0.411425],
        [0.869678, 0.872071, 0.873414],
    )


@torch.no_grad()
def test_the_unet_with_the_table_for_256_px_matches_the_golden_values() -> None:
    found = filled(unet(32, 256))(x(2, 3, 64, 64), T)
    assert_golden(found, -0.038579, 0.841885, [], [])
    at = [*found[0, :, 0, 0].tolist(), *found[1, :, 32, 21].tolist()]
    expected = [-0.000363, 0.067625, 0.100706, 0.099703, 0.041757, -0.043786]
    assert at == pytest.approx(expected, abs=TOLERANCE)
    assert found.abs().max().item() == pytest.approx(7.301469, abs=TOLERANCE)


@pytest.mark.slow
@torch.no_grad()
def test_the_unet_with_the_table_for_32_px_matches_the_golden_values() -> None:
    found = filled(unet(32, 32))(x(2, 3, 32, 32), T)
    assert_golden(found, -0.067027, 0.740945, [], [])
    at = [*found[0, :, 0, 0].tolist(), *found[1, :, 16, 10].tolist()]
    expected = [-0.008315, 0.060488, 0.096403, 0.031790, 0.062067, 0.059008]
    assert at == pytest.approx(expected, abs=TOLERANCE)


@torch.no_grad()
def test_the_segmentation_net_matches_the_golden_values() -> None:
    net = filled(SegmentationUNet(6, 1, 8))
    assert_golden(
        net.eval()(x(2, 6, 64, 64)).sigmoid(),
        0.501767,
        0.418471,
        [0.273537, 0.234729, 0.506281],
        [],
        SEGMENTATION_TOLERANCE,
    )
    assert_golden(
        net.train()(x(2, 6, 64, 64)).sigmoid(),
        0.506901,
        0.265677,
        [0.505409, 0.508768, 0.507145],
        [0.466068, 0.507797, 0.565115],
        SEGMENTATION_TOLERANCE,
    )
    assert_golden(
        net.eval()(x(2, 6, 64, 64)).sigmoid(),
        0.507124,
        0.377171,
        [0.477744, 0.472327, 0.505064],
        [0.511859, 0.731199, 0.805547],
        SEGMENTATION_TOLERANCE,
    )
    norm = next(m for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    assert norm.running_mean[0].item() == pytest.approx(0.00285124, abs=1e-6)
    assert norm.running_var[0].item() == pytest.approx(0.902757, abs=1e-6)


@torch.no_grad()
def test_the_whole_pipeline_matches_the_golden_values() -> None:
    net, x0, generator = filled(unet(32, 256)), x(2, 3, 64, 64), torch.Generator().manual_seed(1234)
    noise = torch.stack([torch.randn(2, 3, 64, 64, generator=generator) for _ in range(2)])
    assert noise.flatten()[:3].tolist() == pytest.approx([-0.111719, -0.49659, 0.163074], abs=1e-6)
    schedule, t = alpha_bars(1000), torch.tensor([[200, 200], [400, 400]])
    predicted: list[Tensor] = []

    def remembering(x_t: Tensor, t: Tensor) -> Tensor:
        predicted.append(net(x_t, t))
        return predicted[0]

    found = denoise(remembering, x0, t, noise, schedule, 1.0)
    assert found.noise_error.mean().item() == pytest.approx(4.299198, abs=TOLERANCE)
    assert_golden(found.guided, 0.271136, 0.593890, [], [1, 0.327249, 0.587557])
    alpha_bar = schedule[t][..., None, None, None]
    x_t = (alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise).float()
    u, r = x0_from_eps(x_t, schedule[t], predicted[0].view_as(x_t)).clamp(-1, 1)
    assert_golden(u, 0.309012, 0.661827, [], [1, 1, 0.816459])
    assert_golden(r, 0.113551, 0.881013, [], [0.667019, -1, 0.150374])
    logits = filled(SegmentationUNet(6, 1, 8)).train()(torch.cat([x0, found.guided], dim=1))
    first = [0.505344, 0.504937, 0.497398]
    assert_golden(logits.sigmoid(), 0.505823, 0.272607, first, [], SEGMENTATION_TOLERANCE)


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("channels", "table", "count"),
    [
        (128, 256, 131_654_403),
        (32, 256, 8_257_731),
        (32, 128, 6_270_883),
        (32, 64, 6_077_539),
        (32, 32, 5_767_459),
    ],
)
def test_the_unet_has_the_published_parameter_count(channels: int, table: int, count: int) -> None:
    with torch.device("meta"):
        assert parameters(unet(channels, table)) == count


def test_parameter_counts_have_their_closed_forms() -> None:
    with torch.device("meta"):
        for channels in (32, 64, 96, 192):
            count = 8026 * channels**2 + 1222 * channels + 3
            assert parameters(unet(channels, 256)) == count
        assert parameters(SegmentationUNet(6, 1, 64)) == 28_373_569
        assert parameters(SegmentationUNet(6, 1, 8)) == 446_089


@pytest.mark.parametrize(("table", "zeroed", "tensors"), [(256, 59, 566), (32, 45, 416)])
def test_a_fresh_unet_predicts_no_noise_at_all(table: int, zeroed: int, tensors: int) -> None:
    net = unet(32, table)
    silent = [m for m in net.modules() if isinstance(m, nn.Conv2d) and not m.weight.any()]
    assert len(silent) == zeroed
    assert not any(m.bias.any() for m in silent)
    assert len(list(net.parameters())) == tensors
    with torch.inference_mode():
        found = net(x(2, 3, 32, 32), T)
    assert found.shape == (2, 3, 32, 32)
    assert not found.any()


@cache
def small() -> DenoisingUNet:
    return filled(DenoisingUNet(32, (1, 2), (1,), blocks_per_level=1))


@torch.no_grad()
def test_one_pass_over_both_scales_equals_two_passes_and_batches_permute() -> None:
    images, t = x(4, 3, 32, 32), torch.tensor([0, 5, 400, 999])
    whole = small()(images, t)
    halves = torch.cat([small()(images[:2], t[:2]), small()(images[2:], t[2:])])
    torch.testing.assert_close(whole, halves, rtol=0, atol=1e-5)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(small()(images[order], t[order]), whole[order], rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_segmentation_of_a_permuted_batch_is_permuted() -> None:
    net, images = filled(SegmentationUNet(6, 1, 4)).eval(), x(4, 6, 32, 32)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(net(images[order]), net(images)[order], rtol=0, atol=1e-5)


def test_checkpointing_changes_no_output_and_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        net = filled(
            DenoisingUNet(32, (1, 2), (1,), blocks_per_level=1, checkpointing=checkpointing)
        )
        found = net(x(2, 3, 32, 32), T)
        found.square().sum().backward()
        gradients.append([found.detach(), *(p.grad for p in net.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_checkpointing_keeps_fewer_maps_for_the_backward_pass() -> None:
    kept = []
    for checkpointing in (False, True):
        net = DenoisingUNet(32, (1, 2), (1,), blocks_per_level=1, checkpointing=checkpointing)
        sizes: list[int] = []

        def pack(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            net(x(2, 3, 32, 32), T)
        kept.append(sum(sizes))
    assert kept[1] < 0.4 * kept[0]


def test_norms_sum_in_fp32_and_the_noise_comes_out_in_fp32() -> None:
    maps = (100 + x(2, 32, 16, 16)).bfloat16()
    norm = GroupNorm(32)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(norm(maps), norm(maps.double().float()).bfloat16())
        assert norm(maps).dtype == torch.bfloat16
        assert small()(x(2, 3, 32, 32), T).dtype == torch.float32


@torch.no_grad()
def test_attention_does_not_know_where_a_pixel_is() -> None:
    net = filled(Attention(64))
    images = x(1, 64, 4, 4)
    torch.testing.assert_close(net(images.flip(3)), net(images).flip(3), rtol=0, atol=1e-5)
