"""Checkpoints of DRAEM's authors: built here with their key names, scored as they score (BGR)."""

from collections import OrderedDict, defaultdict
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from admodels.foundation.errors import ConfigurationError, DataError
from admodels.foundation.files import sha256_of
from admodels.foundation.params import parse
from admodels.methods import TrainingData, predict
from admodels.methods.diffusionad.params import Params as DiffusionAdParams
from admodels.methods.draem.official import read_official
from admodels.methods.draem.params import OFFICIAL_FILES, Params
from stages import weights as weights_stage
from tests import cards, tiny
from tests.test_weights import fetch

WIDTH = 4


def two_convs(channels_in: int, inner: int, channels_out: int) -> nn.Sequential:
    layers = []
    for i, o in ((channels_in, inner), (inner, channels_out)):
        layers += [nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU()]
    return nn.Sequential(*layers)


def up(channels_in: int, channels_out: int) -> nn.Sequential:
    double = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
    conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)
    return nn.Sequential(double, conv, nn.BatchNorm2d(channels_out), nn.ReLU())


class OfficialReconstruction(nn.Module):
    """ReconstructiveSubNetwork: names and widths of the authors' code, up and db in turn."""

    def __init__(self, b: int) -> None:
        super().__init__()
        encoder, decoder = OrderedDict(), OrderedDict()
        for level, (i, o) in enumerate(pairwise([3, b, 2 * b, 4 * b, 8 * b, 8 * b]), 1):
            encoder[f"block{level}"] = two_convs(i, o, o)
        for level, (i, o) in enumerate(pairwise([8 * b, 4 * b, 2 * b, b, b]), 1):
            decoder[f"up{level}"], decoder[f"db{level}"] = up(i, i), two_convs(i, i, o)
        decoder["fin_out"] = nn.Sequential(nn.Conv2d(b, 3, 3, padding=1))
        self.encoder, self.decoder = nn.Sequential(encoder), nn.Sequential(decoder)

    def forward(self, x: Tensor) -> Tensor:
        for level, block in enumerate(self.encoder):
            x = block(F.max_pool2d(x, 2) if level else x)
        return self.decoder(x)


class OfficialSegmentation(nn.Module):
    """DiscriminativeSubNetwork: `_segment` in the names, up_b and db_b before up1 and db1."""

    def __init__(self, c: int) -> None:
        super().__init__()
        encoder, decoder = OrderedDict(), OrderedDict()
        for level, (i, o) in enumerate(pairwise([6, c, 2 * c, 4 * c, 8 * c, 8 * c, 8 * c]), 1):
            encoder[f"block{level}"] = two_convs(i, o, o)
        sizes = [8 * c, 8 * c, 4 * c, 2 * c, c, c]
        skips = [8 * c, 8 * c, 4 * c, 2 * c, c]
        for name, (i, o), skip in zip(("_b", *"1234"), pairwise(sizes), skips, strict=True):
            decoder[f"up{name}"] = up(i, o)
            decoder[f"db{name}"] = two_convs(o + skip, o, o)
        decoder["fin_out"] = nn.Sequential(nn.Conv2d(c, 2, 3, padding=1))
        self.encoder_segment = nn.Sequential(encoder)
        self.decoder_segment = nn.Sequential(decoder)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for level, block in enumerate(self.encoder_segment):
            x = block(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        skips.pop()
        *steps, head = self.decoder_segment
        for rise, merge in zip(steps[::2], steps[1::2], strict=True):
            x = merge(torch.cat([rise(x), skips.pop()], dim=1))
        return head(x)


@pytest.fixture
def authors() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(3)
    nets = reconstruct, segment = OfficialReconstruction(WIDTH), OfficialSegmentation(WIDTH)
    for net in nets:
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0  # statistics of images, else colours hardly reach the score
    noise = torch.rand(8, 3, tiny.PX, tiny.PX)
    with torch.no_grad():
        segment(torch.cat([reconstruct(noise), noise], dim=1))
    return nets


@pytest.fixture
def files(authors, tmp_path):
    paths = {name.removesuffix(".pth"): tmp_path / name for name in OFFICIAL_FILES}
    for path, net in zip(paths.values(), authors, strict=True):
        torch.save(net.state_dict(), path)
    return paths


def start(files):
    return {
        "initial_weights": tuple(map(str, files.values())),
        "initial_sha256": tuple(map(sha256_of, files.values())),
        "length": 0,
        "ema_decay": 0.0,
    }


def data_with(weights):
    data = tiny.training_data(8)
    return TrainingData(data.normal, data.textures, data.validation, None, weights)


def fit(detector, weights, folder, seed=1):
    kept = {"kind": "object", "seed": seed, "checkpoints": folder, "log": lambda *_: None}
    detector.fit(data_with(weights), **kept)


def test_the_state_dicts_have_the_sizes_of_the_published_files(authors):
    assert [len(net.state_dict()) for net in authors] == [156, 191]


@torch.inference_mode()
def as_the_authors_score(nets, images):
    """Reconstruction (BGR), map and score of RGB images, by the formulas of their code."""
    reconstruct, segment = (net.eval() for net in nets)
    bgr = images.flip(1).float() / 255
    painted = reconstruct(bgr)
    probability = segment(torch.cat([painted, bgr], dim=1)).softmax(1)[:, 1]
    return painted, probability, F.avg_pool2d(probability[:, None], 21, 1, 10).amax((1, 2, 3))


@torch.inference_mode()
def test_a_checkpoint_of_the_authors_scores_as_their_code_scores(authors, files, tmp_path):
    detector = tiny.detector("draem", **start(files))
    fit(detector, files, tmp_path)
    images = tiny.training_data(8).normal[:4]
    ours = predict(detector, images, 4)

    painted, probability, score = as_the_authors_score(authors, images)
    close = {"rtol": 0, "atol": 1e-3}  # rounding; turned colours are 40 times as far
    torch.testing.assert_close(ours.anomaly_map, probability, **close)
    torch.testing.assert_close(ours.anomaly_score, score, rtol=1e-4, atol=0)
    torch.testing.assert_close(ours.reconstruction, painted.flip(1).clamp(0, 1), **close)


@pytest.mark.slow
def test_the_command_scores_a_folder_with_a_checkpoint_of_the_authors(
    authors, files, tmp_path, cli
):
    detector = tiny.detector("draem", **start(files))
    fit(detector, files, tmp_path / "checkpoints")
    images, inbox = tiny.training_data(8).normal, tmp_path / "inbox"
    inbox.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(inbox / f"{index}.png")
    cards.save_bundle(detector, tmp_path / "bundle")
    words = ("score", inbox, "--bundle", tmp_path / "bundle", "--out", tmp_path / "out")
    code, _, stderr = cli(*map(str, words), "--alpha", "0.2")
    assert code == 0, stderr
    score = as_the_authors_score(authors, images)[2]
    scored = cards.table(tmp_path / "out")["anomaly_score"]
    assert scored.tolist() == pytest.approx(score.tolist(), rel=1e-4)


def test_files_in_the_wrong_order_are_refused(files):
    swapped = {
        "reconstructive": files["discriminative"],
        "discriminative": files["reconstructive"],
    }
    with pytest.raises(DataError, match=r"encoder_segment[\s\S]*_seg"):
        read_official(swapped)


def test_a_container_with_more_than_tensors_is_never_unpickled(files):
    class Payload:
        def __reduce__(self):
            return (exit, (7,))

    for content in (defaultdict(str, {"weights": Payload()}), {"epoch": 3}):
        torch.save(content, files["reconstructive"])
        with pytest.raises(DataError, match=r"initial_weights"):
            read_official(files)


def test_a_checkpoint_of_other_widths_is_refused_with_the_setting(files, tmp_path):
    detector = tiny.detector("draem", **start(files), reconstructive_width=8)
    with pytest.raises(DataError, match=r"initial_weights"):
        fit(detector, files, tmp_path)


def test_the_stage_fetches_both_files_by_their_pins(files, tmp_path, monkeypatch):
    home = tmp_path / "repository"
    home.mkdir()
    listing = fetch("draem", tiny.PARAMS["draem"] | start(files), home, monkeypatch)
    hashes = map(sha256_of, files.values())
    assert listing == {"method": "draem"} | dict(zip(OFFICIAL_FILES, hashes, strict=True))
    torch.save({}, files["reconstructive"])
    with pytest.raises(DataError, match="initial_sha256"):
        weights_stage.main("draem")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["draem", "diffusionad"])
def test_a_training_can_start_from_another_detector(method, tmp_path):
    first = tiny.detector(method)
    fit(first, {}, tmp_path / "a")
    initial = tmp_path / "initial.safetensors"
    save_file(first.state(), initial)
    second = tiny.detector(method, **start({"initial": initial}))
    fit(second, {"initial": initial}, tmp_path / "b", seed=2)
    states = first.state(), second.state()
    differ = {key for key in states[0] if not torch.equal(states[0][key], states[1][key])}
    assert differ == ({"noise"} if method == "diffusionad" else set())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"initial_sha256": ()}, "one entry for each file"),
        ({"initial_sha256": ("abc", "def")}, "no sha256"),
        ({"initial_weights": (), "initial_sha256": ()}, "length: 0 trains nothing"),
        ({"initial_weights": ("a", "b", "c"), "initial_sha256": ("0" * 64,) * 3}, "two files"),
    ],
)
def test_params_that_cannot_be_meant_are_refused(files, changes, message):
    with pytest.raises(ConfigurationError, match=message):
        parse(
            tiny.PARAMS["draem"] | start(files) | changes,
            Params,
            "methods.draem",
            Path("params.yaml"),
        )


def test_a_pickle_of_diffusionad_is_refused_with_the_lines_that_save_its_tensors():
    block = tiny.PARAMS["diffusionad"] | {
        "initial_weights": ("params-last.pt",),
        "initial_sha256": ("0" * 64,),
    }
    with pytest.raises(ConfigurationError, match=r"weights_only=False[\s\S]*save_file"):
        parse(block, DiffusionAdParams, "methods.diffusionad", Path("params.yaml"))
