"""The scores, states and params of CPR.

The number of the specification's test vector (section 18) stands after a test's name.
"""

import itertools
import json
import logging
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional as F

from admodels import methods
from admodels.foundation import params
from admodels.foundation.arrays import Float32, Float64
from admodels.foundation.errors import BundleError, ConfigurationError
from admodels.methods import TrainingData
from admodels.methods.cpr import retrieval
from admodels.methods.cpr.detector import Detector
from admodels.methods.cpr.heads import RootedTap, unit_vectors
from admodels.methods.cpr.params import Params
from tests import tiny
from tests.test_cpr_retrieval import unfolded_distance

HEADLESS = {
    "head_weights": "none",
    "steps": {"object": 0, "texture": 0},
    "smoothing_cells": {"object": [0.0, 0.0], "texture": [0.7, 2.0]},
}


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


def queries(count: int = 4) -> Tensor:
    return torch.from_numpy(tiny.discs(count, seed=8, defects=True)[0])


def explicit_map(detector: Detector, image: Tensor) -> Float64:
    """Section 12 in plain steps from the state alone, before the blur."""
    p, state = detector.params, detector.state()
    with torch.inference_mode():
        taps = detector.backbone(image[None])
        descriptors = [
            unit_vectors(head.eval()(tap))[0]
            for head, tap in zip(detector.heads, taps, strict=True)
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
        # fp16 in the bank: a cosine may be a little more than 1, which the detector clamps too
        unfolded_distance(query, state[f"bank.{tap}.values"][near].float(), region).clamp_min(0)
        for tap, (query, region) in enumerate(zip(descriptors, p.regions, strict=True))
    ]

    def grown(small: Tensor, to: int) -> Tensor:
        return F.interpolate(small[None, None].double(), (to, to), mode="bilinear")[0, 0]

    first, second = p.tap_weights.object
    distance = grown(first * maps[0] + second * grown(maps[1], side), p.image_px)
    assert 0 <= distance.min() <= distance.max() <= 4
    own = torch.einsum("chw,c->hw", taps[0][0], state["foreground.weight"])
    part = [(own + state["foreground.bias"]).clamp(0, 1), *state["bank.foreground"][near]]
    weight = torch.stack([grown(each, p.image_px) for each in part]).amax(0)
    return (distance * weight).numpy()


@pytest.mark.slow
def test_the_score_is_that_of_the_plain_steps_of_section_12():
    detector, images = fitted(), queries()
    found = detector.score(images)
    assert "foreground.weight" in detector.state()
    for at, image in enumerate(images):
        p = detector.params
        expected = gaussian_filter(
            explicit_map(detector, image), p.blur_sigma_px, mode="mirror", truncate=4
        )
        np.testing.assert_allclose(found.anomaly_map[at], expected, rtol=0, atol=5e-5)
        highest = np.sort(expected.ravel())[-p.score_pixels :].mean()
        assert found.anomaly_score[at].item() == pytest.approx(highest, abs=5e-5)


@pytest.mark.parametrize("region", [3, "whole"])
def test_the_maximum_of_a_map_names_the_reference_cell_that_is_nearest_there(region):
    detector = tiny.detector("cpr")
    detector.params = detector.params.model_copy(update={"regions": (region, region)})
    detector.restore(fitted().state())
    images, state = queries(), detector.state()
    prediction = detector.score(images)
    with torch.inference_mode():
        heads = detector.heads.eval()
        values = unit_vectors(heads[0](detector.backbone(images)[0]))
    bank = state["bank.0.values"].float()
    for number, (index, y, x) in enumerate(prediction.compared.tolist()):
        row, column = divmod(int(prediction.anomaly_map[number].argmax()), 64)
        cell = row // 4, column // 4
        near = detector._references(detector.backbone(images[number][None])[0][0])
        reach = 1 if region == 3 else 16
        top, left = (max(0, place - reach) for place in cell)
        around = bank[near][:, top : cell[0] + reach + 1, left : cell[1] + reach + 1]
        largest = (around @ values[number][cell]).max().item()
        cosine = (bank[index, y // 4, x // 4] @ values[number][cell]).item()
        assert index in near
        assert cosine == pytest.approx(largest, abs=1e-5)
        assert max(abs(y // 4 - cell[0]), abs(x // 4 - cell[1])) <= reach


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


@pytest.mark.parametrize(("counts", "is_seen"), [("max", True), ("median", False)])
def test_what_few_references_take_for_the_part_counts_by_the_largest_alone(counts, is_seen):
    detector = tiny.detector("cpr", reference_foreground=counts)
    state = dict(fitted().state())
    state["foreground.weight"] = torch.zeros_like(state["foreground.weight"])
    state["foreground.bias"] = torch.tensor(-1.0)
    state["bank.foreground"] = torch.zeros_like(state["bank.foreground"])
    near = nearest_of_bank(detector, state)
    state["bank.foreground"][near[0]] = 1  # one of the references of the first query
    detector.restore(state)
    assert (detector.score(queries()[:1]).anomaly_map.max() > 0) == is_seen
    state["bank.foreground"][near] = 1
    detector.restore(state)
    assert detector.score(queries()[:1]).anomaly_map.max() > 0


def nearest_of_bank(detector: Detector, state: dict[str, Tensor]) -> Tensor:
    """The references of the first query."""
    detector.restore(state)
    features = detector._backbone_for_scoring().compute(queries()[:1])[0][0]
    return detector._references(features)


@pytest.mark.parametrize("is_padded", [True, False])
def test_a_query_is_cut_into_the_blocks_that_its_bank_was_cut_into(is_padded):
    blocks = 5  # of 16 cells, so that padded blocks differ
    detector, state = tiny.detector("cpr", histogram_blocks=blocks), dict(fitted().state())
    taps = detector_of(state)._backbone_for_scoring().compute(disc_data().normal)
    words = [retrieval.nearest_words(tap, state["codebook"]) for tap in taps[0]]
    count = len(state["codebook"])
    bank = [retrieval.histograms(w, blocks, count, is_padded=is_padded) for w in words]
    state["histograms"] = torch.stack(bank)
    detector.restore(state)
    assert isinstance(detector, Detector)
    for own, tap in enumerate(taps[0]):
        dropped = detector.params.dropped_blocks
        wanted = retrieval.distances(bank[own], state["histograms"], dropped).argsort(stable=True)
        found = detector._references(tap)
        assert torch.equal(found, wanted[: detector.params.references])


def detector_of(state: dict[str, Tensor]) -> Detector:
    detector = tiny.detector("cpr")
    detector.restore(state)
    assert isinstance(detector, Detector)
    return detector


def with_exact_bank(detector: Detector) -> Detector:
    """The same bank, unpacked to float32 and computed from the images once more."""
    state, exact = dict(detector.state()), tiny.detector("cpr")
    normal = disc_data().normal
    with torch.inference_mode():
        for tap, head in enumerate(detector.heads):
            state[f"bank.{tap}.values"] = unit_vectors(head.eval()(detector.backbone(normal)[tap]))
    exact.restore(state)
    assert isinstance(exact, Detector)
    return exact


def test_an_image_of_the_bank_scores_next_to_nothing():  # V21
    found = with_exact_bank(fitted()).score(disc_data().normal)
    assert found.anomaly_map.max() < 1e-5  # 1e-6 and what merging the norms costs
    assert found.anomaly_score.max() < 1e-3
    assert fitted().score(disc_data().normal).anomaly_map.max() < 1e-3  # fp16


def test_the_bank_in_half_precision_scores_as_an_exact_one():  # V23
    exact = with_exact_bank(fitted()).score(queries())
    found = fitted().score(queries())
    torch.testing.assert_close(found.anomaly_map, exact.anomaly_map, rtol=0, atol=1e-3)
    assert fitted().state()["bank.0.values"].dtype == torch.float16


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


@pytest.mark.slow
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
        ("histograms", lambda t: t[0, 0, 0]),
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


def test_a_state_whose_words_are_of_another_backbone_is_refused():
    state = dict(fitted().state())
    for key in ("codebook", "foreground.weight"):
        state[key] = state[key][..., :-1]
    with pytest.raises(BundleError, match="codebook has not the shape"):
        tiny.detector("cpr").restore(state)


@pytest.mark.slow
def test_a_detector_that_refuses_a_state_and_one_that_learns_on_leave_the_others_alone():
    first, second = tiny.detector("cpr"), tiny.detector("cpr")
    first.restore(fitted().state())
    before = first.score(queries()).anomaly_map
    other = {k: v for k, v in fitted().state().items() if k != "histograms"}
    other["heads.0.0.weight"] = torch.zeros_like(other["heads.0.0.weight"])
    with pytest.raises(BundleError):
        first.restore(other)
    state = first.state()
    second.restore(state)
    assert torch.equal(second.score(queries()).anomaly_map, before)
    assert isinstance(second, Detector)
    with torch.no_grad():
        taken = second.state()
        second.heads[0][0].weight.zero_()
    assert torch.equal(taken["heads.0.0.weight"], state["heads.0.0.weight"])


def test_a_state_of_another_bank_or_with_more_in_it_is_refused():
    state = fitted().state()
    with pytest.raises(BundleError, match=r"bank\.0\.values"):
        tiny.detector("cpr").restore(state | {"bank.0.values": state["bank.0.values"][..., 1:]})
    with pytest.raises(BundleError, match="surprise"):
        tiny.detector("cpr").restore(fitted().state() | {"surprise": torch.zeros(1)})


def gaussian_means(maps: Float32, sigma: float) -> Float32:
    """The mean around every cell of (C, h, w), cell by cell."""
    (_, height, width), found = maps.shape, maps.copy()
    for y, x in itertools.product(range(height), range(width)):
        away = (np.arange(height)[:, None] - y) ** 2 + (np.arange(width) - x) ** 2
        weights = np.exp(-away / (2 * sigma**2))
        found[:, y, x] = (weights * maps).sum((1, 2)) / weights.sum()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["object", "texture"])
def test_without_heads_the_bank_holds_smoothed_roots_of_taps(kind, tmp_path):
    detector = fit(tiny.detector("cpr", **HEADLESS), tmp_path, disc_data(), kind)
    taps = detector._backbone_for_scoring().compute(disc_data().normal[:4])
    for tap, sigmas in enumerate([(), (0.7, 2) if kind == "texture" else ()]):
        wanted = taps[tap][2].numpy()
        wanted = gaussian_means(wanted, sigmas[0]) if sigmas else wanted
        wanted = np.sign(wanted) * np.sqrt(np.abs(wanted))
        wanted = gaussian_means(wanted, sigmas[1]) if sigmas else wanted
        found = detector.state()[f"bank.{tap}.values"][2].permute(2, 0, 1)
        np.testing.assert_allclose(
            found.float(), wanted / np.linalg.norm(wanted, axis=0), rtol=0, atol=1e-3
        )


def test_roots_and_means_are_fp32_and_channels_last_whatever_surrounds_them():
    tap = torch.randn(2, 12, 5, 9).to(memory_format=torch.channels_last)
    net = RootedTap(0.7, 2)
    plain = net(tap)
    with torch.autocast("cpu", torch.bfloat16):
        found = net(tap)
    assert found.dtype == torch.float32
    assert torch.equal(found, plain)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(net(tap[1:]), plain[1:])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "heads"),
    [(torch.float32, "none"), (torch.bfloat16, "none"), (torch.bfloat16, "whitened")],
)
def test_without_heads_a_detector_keeps_the_contract(precision, heads, tmp_path):
    def made() -> Detector:
        return tiny.detector("cpr", precision, **HEADLESS | {"head_weights": heads})

    detector, again = fit(made(), tmp_path, disc_data()), made()
    again.restore(detector.state())
    together, restored = (methods.predict(each, queries(), 4) for each in (detector, again))
    assert torch.equal(restored.anomaly_map, together.anomaly_map)
    for at, image in enumerate(queries()):
        alone = methods.predict(detector, image[None], 4)
        assert torch.equal(alone.anomaly_score[0], together.anomaly_score[at])
    before = detector.state()
    after = fit(detector, tmp_path, disc_data()).state()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.slow
def test_without_heads_another_state_is_refused(tmp_path):
    headless = fit(tiny.detector("cpr", **HEADLESS), tmp_path, disc_data()).state()
    with pytest.raises(BundleError, match="does not fit"):
        tiny.detector("cpr").restore(headless)
    with pytest.raises(BundleError, match="does not fit"):
        tiny.detector("cpr", **HEADLESS).restore(fitted().state())
    for tap, sigmas in ((0, [0.7, 2.0]), (1, [0.7, 1.5]), (1, [[0.7, 2.0]] * 2)):
        other = {f"heads.{tap}.sigmas": torch.tensor(sigmas, dtype=torch.float64)}
        with pytest.raises(BundleError, match="smoothed otherwise"):
            tiny.detector("cpr", **HEADLESS).restore(headless | other)


@pytest.mark.slow
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
        ({"regions": ["whole", 3]}, "heads learn that far places differ"),
        (
            HEADLESS | {"smoothing_cells": {"object": [0.0, -1.0], "texture": [0.0, 0.0]}},
            r"smoothing_cells\.object.*greater than or equal to 0",
        ),
        (
            {"smoothing_cells": {"object": [0.0, 0.0], "texture": [0.0, 1.0]}},
            "where there are heads write zeros",
        ),
        ({"head_weights": "none", "steps": {"object": 0, "texture": 1}}, "nothing to train"),
        ({"head_weights": "packaged"}, "head_sha256"),
        ({"backbone_weights": "none"}, "backbone_sha256"),
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
        params.parse(tiny.PARAMS["cpr"] | changes, Params, "methods.cpr")
