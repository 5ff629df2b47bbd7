"""Three lines of Python say of an image what a scored folder says of it."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import admodels
from admodels.foundation.errors import BundleError, DataError
from tests import cards, tiny

ALPHA = 0.2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = tmp_path_factory.mktemp("bundles") / "stripes"
    cards.save_draem(bundle)
    return bundle


@pytest.fixture(scope="module")
def model(folder: Path) -> admodels.Model:
    return admodels.load(folder)


def test_every_file_has_the_score_or_the_refusal_that_it_has_in_a_scored_folder(
    model: admodels.Model, tmp_path: Path
) -> None:
    images = cards.inbox(tmp_path)
    cards.run(images, tmp_path / "out", model.bundle)
    rows = cards.table(tmp_path / "out")
    rows = rows[~rows.status.isin(["not_an_image", "outside_folder"])]  # said of names, not bytes
    verdicts = model.score([images / path for path in rows.path], ALPHA)
    assert set(rows.status) == {"scored", "truncated", "empty", "vanished", "undecodable"}
    for (_, row), verdict in zip(rows.iterrows(), verdicts, strict=True):
        if row.status == "scored":
            assert (verdict.anomaly_score, verdict.refused) == (row.anomaly_score, "")
            assert verdict.anomaly_map.shape == (row.height, row.width)
        else:
            assert verdict.refused.startswith(row.status)
            assert verdict.anomaly_score is verdict.is_anomalous is verdict.anomaly_map is None


def test_a_path_bytes_a_picture_and_an_array_are_one_image(
    model: admodels.Model, tmp_path: Path
) -> None:
    rgb = tiny.stripes(1, seed=4)[0].transpose(1, 2, 0)
    path = tmp_path / "a.png"
    Image.fromarray(rgb).save(path)
    sources = [path, str(path), path.read_bytes(), Image.open(path), rgb]
    verdicts = model.score(sources, ALPHA)
    assert len({verdict.anomaly_score for verdict in verdicts}) == 1
    assert verdicts[0] != model.score(rgb[::-1], ALPHA)
    assert model.score([], ALPHA) == []


def test_sixteen_bits_are_read_as_the_file_of_a_camera(tmp_path: Path) -> None:
    model = admodels.Model(cards.windowed((0, 4095)))
    deep = (np.arange(32 * 32, dtype=np.uint16) * 4).reshape(32, 32)
    cv2.imwrite(str(tmp_path / "a.png"), deep)
    from_file, from_array = model.score([tmp_path / "a.png", deep], ALPHA)
    assert from_file.anomaly_score == from_array.anomaly_score is not None
    assert 100 < from_array.anomaly_score < 150  # the window is half used


def test_a_verdict_is_that_of_the_calibration(model: admodels.Model) -> None:
    calibration = model.bundle.calibration_scores
    for pixels in tiny.stripes(5, seed=6):
        verdict = model.score(pixels.transpose(1, 2, 0), ALPHA)
        at_least = int((calibration >= verdict.anomaly_score).sum())
        assert verdict.p_value == (1 + at_least) / (len(calibration) + 1)
        promised = ALPHA * (len(calibration) + 1) >= 1
        assert verdict.is_anomalous == (verdict.p_value <= ALPHA if promised else None)
        assert model.score(pixels.transpose(1, 2, 0), 1e-6).is_anomalous is None


@pytest.mark.parametrize(
    ("image", "word"),
    [
        (np.zeros((8, 8, 4), np.uint8), r"shape \(8, 8, 4\)"),
        (np.zeros((8, 8, 3), np.float32), "float32"),
        (7, "int"),
    ],
)
def test_what_is_no_image_is_refused_with_what_it_is(
    model: admodels.Model, image: object, word: str
) -> None:
    with pytest.raises(DataError, match=word):
        model.score(image, ALPHA)


def test_what_is_missing_or_no_bundle_or_no_budget_is_said(
    model: admodels.Model, tmp_path: Path
) -> None:
    assert model.score(tmp_path / "no.png", ALPHA).refused == "vanished: no such file"
    os.mkfifo(tmp_path / "pipe")
    assert model.score(tmp_path / "pipe", ALPHA).refused.startswith("unreadable: ")
    for alpha in (0, 1, float("nan")):
        with pytest.raises(DataError, match="alpha is"):
            model.score(b"", alpha)
    with pytest.raises(BundleError, match="no readable bundle"):
        admodels.load(tmp_path)


def test_importing_the_package_imports_nothing_that_is_slow() -> None:
    code = "import sys, admodels; print(len({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
    assert admodels.__version__[0].isdigit()
    assert set(admodels.__all__) <= set(dir(admodels))
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = admodels.lod
