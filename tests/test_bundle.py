"""A bundle restores what was saved and refuses everything else."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from admodels.bundles import bundle
from admodels.bundles.card import _digest, fingerprints, read_card
from admodels.foundation.errors import BundleError
from tests import tiny

CPU = torch.device("cpu")


def save(folder: Path, checkpoints: Path) -> bundle.Detector:
    detector = tiny.fitted("draem", checkpoints)
    bundle.save(
        detector,
        folder,
        origin=bundle.Origin(
            "draem", "stripes", "texture", "CC0", {"train": "0" * 64}, tiny.CONTRACT
        ),
        calibration_scores=[0.3, 0.1, 0.2],
        golden=tiny.stripes(3, seed=8),
    )
    return detector


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bundle.Detector]:
    folder = tmp_path_factory.mktemp("bundle") / "stripes"
    return folder, save(folder, tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture
def copied(saved: tuple[Path, bundle.Detector], tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved[0], tmp_path / "copy"))


def test_a_loaded_bundle_scores_bit_for_bit_like_the_detector_saved(saved) -> None:
    folder, detector = saved
    loaded = bundle.load(folder, CPU)
    pixels = tiny.stripes(5, seed=4)
    a, b = bundle.score(detector, pixels), bundle.score(loaded.detector, pixels)
    np.testing.assert_array_equal(a.anomaly_score, b.anomaly_score)
    np.testing.assert_array_equal(a.anomaly_map, b.anomaly_map)
    assert loaded.calibration_scores.tolist() == [0.1, 0.2, 0.3]
    assert loaded.licence == "CC0"
    assert json.loads((folder / "bundle.json").read_text("utf-8"))["non_commercial"] is False


@pytest.mark.slow
def test_two_trainings_alike_give_the_same_bytes(saved, tmp_path: Path) -> None:
    save(tmp_path / "again", tmp_path / "checkpoints")
    files = sorted(p.relative_to(saved[0]) for p in saved[0].rglob("*") if p.is_file())
    assert len(files) == 5
    for file in files:
        assert (saved[0] / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


def test_no_file_of_a_bundle_is_a_pickle_or_names_this_machine(saved) -> None:
    files = [file for file in saved[0].rglob("*") if file.is_file()]
    suffixes = Counter(file.suffix for file in files)
    assert suffixes == {".json": 1, ".png": 3, ".safetensors": 1}
    for file in files:
        data = file.read_bytes()
        assert not data.startswith((b"PK", b"\x80"))
        assert str(Path.cwd()).encode() not in data


@pytest.mark.parametrize("name", ["model.safetensors", "golden/01.png", "bundle.json"])
def test_one_changed_byte_is_refused(copied: Path, name: str) -> None:
    data = bytearray((copied / name).read_bytes())
    at = data.index(b"0.2") + 2 if name == "bundle.json" else len(data) - 20
    data[at] = data[at] ^ 1
    (copied / name).write_bytes(bytes(data))
    with pytest.raises(BundleError, match="changed"):
        bundle.load(copied, CPU)


@pytest.mark.parametrize("name", ["model.safetensors", "golden/00.png", "bundle.json"])
def test_a_missing_file_is_refused(copied: Path, name: str) -> None:
    (copied / name).unlink()
    with pytest.raises(BundleError):
        bundle.load(copied, CPU)


def reseal(folder: Path, **changes: object) -> None:
    content = json.loads((folder / "bundle.json").read_text())
    del content["sha256"]
    content |= changes
    text = json.dumps({**content, "sha256": _digest(content)})
    (folder / "bundle.json").write_text(text)


def test_a_golden_image_that_scores_differently_is_refused(copied: Path) -> None:
    golden = json.loads((copied / "bundle.json").read_text())["golden"]
    golden[1]["anomaly_score"] += 0.01
    reseal(copied, golden=golden)
    with pytest.raises(BundleError, match="golden images score differently"):
        bundle.load(copied, CPU)


def test_a_bundle_cannot_point_outside_its_folder(copied: Path) -> None:
    (copied.parent / "outside.png").write_bytes((copied / "golden/00.png").read_bytes())
    files = json.loads((copied / "bundle.json").read_text())["files"]
    reseal(copied, files=files | {"../outside.png": files["golden/00.png"]})
    with pytest.raises(BundleError, match="contradicts itself"):
        bundle.load(copied, CPU)


@pytest.mark.parametrize(
    "changes",
    [
        {"schema_version": 1},
        {"method": "nothing"},
        {"surprise": 1},
        {"golden": []},
        {"files": {}},
        {"golden_tolerance": float("inf")},
        {"calibration_scores": [0.3, 0.1]},
        {"calibration_scores": [float("nan")]},
        {
            "contract": {
                "image_px": 128,
                "resize": "bilinear",
                "learnt": tiny.CONTRACT.model_dump(mode="json"),
            }
        },
    ],
)
def test_a_bundle_of_another_kind_is_refused(copied: Path, changes: dict[str, object]) -> None:
    reseal(copied, **changes)
    with pytest.raises(BundleError):
        bundle.load(copied, CPU)


def test_a_bundle_that_is_no_mapping_is_refused(copied: Path) -> None:
    (copied / "bundle.json").write_text("[]")
    with pytest.raises(BundleError, match="no readable bundle"):
        bundle.load(copied, CPU)


def test_a_detector_whose_scores_are_not_finite_is_not_kept(saved, tmp_path: Path) -> None:
    detector, state = tiny.detector("draem"), saved[1].state()
    nan = float("nan")
    detector.restore({k: v * nan if v.is_floating_point() else v for k, v in state.items()})
    with pytest.raises(ValidationError):
        bundle.save(
            detector,
            tmp_path / "broken",
            origin=bundle.Origin("draem", "stripes", "texture", "CC0", {}, tiny.CONTRACT),
            calibration_scores=[0.1],
            golden=tiny.stripes(1, seed=8),
        )
    assert not (tmp_path / "broken").exists()


@pytest.mark.slow
def test_the_model_fingerprint_follows_weights_and_precision(saved, copied: Path) -> None:
    first = bundle.load(saved[0], CPU)
    assert bundle.load(copied, CPU).model_fingerprint == first.model_fingerprint
    card = read_card(copied)
    other = card.model_copy(update={"precision": "bfloat16"})
    assert fingerprints(other)[0] != first.model_fingerprint
    other = card.model_copy(update={"files": card.files | {"model.safetensors": "0" * 64}})
    assert fingerprints(other)[0] != first.model_fingerprint


def with_evidence(folder: Path, checkpoints: Path) -> np.ndarray:
    normal = tiny.stripes(4, seed=5)
    detector = tiny.fitted("draem", checkpoints)
    origin = bundle.Origin("draem", "stripes", "texture", "CC0", {}, tiny.CONTRACT)
    more = {"golden": tiny.stripes(1, seed=8), "evidence": normal}
    bundle.save(detector, folder, origin=origin, calibration_scores=[0.3], **more)
    return normal


def test_the_pictures_of_normal_images_change_no_fingerprint_and_may_be_removed(
    saved, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    normal = with_evidence(tmp_path / "b", tmp_path / "checkpoints")
    card = read_card(tmp_path / "b")
    assert fingerprints(card) == fingerprints(read_card(saved[0]))
    pictures = bundle.load(tmp_path / "b", CPU).evidence
    for index, planes in enumerate(normal):
        difference = pictures.image(index).astype(int) - planes.transpose(1, 2, 0)
        assert np.abs(difference).mean() < 8  # lossy, and the image of this place
    assert pictures.size_bytes() == sum(p.stat().st_size for p in tmp_path.glob("b/evidence/*"))
    assert pictures.image(4) is None
    (tmp_path / "b/evidence/0001.webp").write_bytes(b"RIFF")
    assert (pictures.image(1), "0001.webp was changed" in caplog.text) == (None, True)
    shutil.rmtree(tmp_path / "b/evidence")
    assert bundle.load(tmp_path / "b", CPU).evidence.image(0) is None
    assert bundle.load(saved[0], CPU).evidence.image(0) is None
