"""The stage `evaluate` on a tiny task, whole, and without some or all of its test images."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from admodels.bundles import bundle
from admodels.evaluation.power import Power
from admodels.foundation import manifest
from admodels.foundation.files import sha256_of
from admodels.foundation.manifest import DatasetImage, ManifestRow
from admodels.images import decode, load
from admodels.inference import model
from admodels.validation.inspect import describe_image
from stages import evaluate as evaluate_stage
from tests import cards, tiny

POWER = Power(images=2, diameter_shares=(0.1, 0.5), contrasts=(60.0,))


def row(root: Path, name: str, rgb: np.ndarray, mask: np.ndarray | None) -> ManifestRow:
    """Write one test image (and its mask) and give its manifest row."""
    path, mask_path = f"test/{name}.png", "" if mask is None else f"ground_truth/{name}.png"
    decode.write_png(root / path, rgb.transpose(1, 2, 0))
    if mask is not None:
        decode.write_png(root / mask_path, mask)
    return ManifestRow(
        image_id=f"test/{name}",
        image_path=path,
        image_sha256=sha256_of(root / path),
        width=tiny.PX,
        height=tiny.PX,
        mode="RGB",
        bit_depth=8,
        label="normal" if mask is None else "anomalous",
        defect_type=name.split("/")[0],
        mask_path=mask_path,
        mask_sha256=sha256_of(root / mask_path) if mask_path else "",
        foreground_path="",
        foreground_sha256="",
    )


PARAMS = """
run: {methods: [draem], tasks: [stripes]}
seed: 7
evaluate: {mask_px: 32, ground_truth_rule: nearest, aupro_fpr_limit: 0.3,
           alpha: 0.25, overlay_images: 4,
           power: {images: 2, diameter_shares: [0.5, 0.1], contrasts: [60.0]}}
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a tiny DRAEM, five test images, their test.csv, and the stage run once."""
    here = tmp_path_factory.mktemp("repository")
    (here / "params.yaml").write_text(PARAMS, encoding="utf-8")
    root, mask = here / "data/raw/stripes", np.zeros((tiny.PX, tiny.PX), bool)
    mask[20:36, 24:44] = True
    pictures = tiny.stripes(5, seed=3)
    pictures[3:, :, mask] = 250
    names = ["good/0", "good/1", "good/2", "square/0", "square/1"]
    rows = [
        row(root, name, rgb, mask if "square" in name else None)
        for name, rgb in zip(names, pictures, strict=True)
    ]
    manifest.write(here / "data/manifests/stripes/test.csv", rows)
    more = [row(root, f"good/{i + 3}", rgb, None) for i, rgb in enumerate(tiny.stripes(3, seed=9))]
    manifest.write(here / "data/manifests/stripes/validation.csv", more)
    detector = tiny.fitted("draem", here / "checkpoints", length=1)
    calibration = bundle.score(detector, tiny.stripes(7, seed=6)).anomaly_score
    (here / "data/models/draem").mkdir(parents=True)
    bundle.save(
        detector,
        here / "data/models/draem/stripes",
        origin=bundle.Origin("draem", "stripes", "texture", "CC0", {}, tiny.CONTRACT),
        calibration_scores=calibration.tolist(),
        golden=tiny.stripes(2, seed=8),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        evaluate_stage.main("draem", "stripes")
    return here


def written(here: Path) -> dict[str, bytes]:
    folder = here / "data/evaluation/draem/stripes"
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def test_the_evaluate_stage_writes_its_files_the_same_every_time(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = written(repository)
    assert list(first) == [
        "curves/pr.csv",
        "curves/pro.csv",
        "curves/roc.csv",
        "intervals.json",
        "maps.npz",
        "metrics.json",
        "overlays.png",
        "power.csv",
        "scores.csv",
    ]
    monkeypatch.chdir(repository)
    evaluate_stage.main("draem", "stripes")
    assert written(repository) == first
    assert [p.name for p in (repository / "data/evaluation/draem").iterdir()] == ["stripes"]
    found = json.loads(first["metrics.json"])
    assert first["metrics.json"].decode() == json.dumps(found, indent=2, sort_keys=True) + "\n"
    assert (found["test_normal"], found["test_anomalous"]) == (3, 2)
    assert found["smallest_alpha"] == 0.125
    # three normal images cannot show a share of 1 % or 5 %
    unknown = {name for name, value in found.items() if value is None}
    assert unknown == {"recall_at_1", "recall_at_5", "aupimo"}


def test_the_scores_written_are_those_of_the_bundle(repository: Path) -> None:
    with (repository / "data/evaluation/draem/stripes/scores.csv").open() as file:
        table = list(csv.DictReader(file))
    rows = manifest.read(repository / "data/manifests/stripes/test.csv")
    assert [r["image_id"] for r in table] == [row.image_id for row in rows]
    pixels = load.load_images(
        rows, repository / "data/raw/stripes", (tiny.PX, tiny.PX), "bilinear", decode.STORED
    )
    fitted = bundle.load(repository / "data/models/draem/stripes", torch.device("cpu"))
    expected = bundle.score(fitted.detector, pixels).anomaly_score
    found = np.array([r["anomaly_score"] for r in table], np.float32)
    np.testing.assert_array_equal(found, expected)


def test_an_anomalous_image_without_a_mask_leaves_the_pixels_out(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Path(shutil.copytree(repository, tmp_path / "copy"))
    path = here / "data/manifests/stripes/test.csv"
    *rows, last = manifest.read(path)
    manifest.write(path, [*rows, replace(last, mask_path="", mask_sha256="")])
    monkeypatch.chdir(here)
    evaluate_stage.main("draem", "stripes")
    found = json.loads(written(here)["metrics.json"])
    assert found["pixel_auroc"] is found["pixel_ap"] is found["aupro"] is None
    assert found["image_auroc"] is not None


def test_the_evaluate_stage_writes_what_it_cost_and_of_which_bundle(repository: Path) -> None:
    cost = json.loads((repository / "data/costs/evaluate/draem/stripes.json").read_bytes())
    fitted = bundle.load(repository / "data/models/draem/stripes", torch.device("cpu"))
    assert cost.pop("model_fingerprint") == fitted.model_fingerprint
    assert {"seconds", "cpu_seconds", "images_per_second", "peak_mib"} <= set(cost)
    assert all(value > 0 for value in cost.values())


def without(here: Path, copy: Path, *labels: str) -> dict[str, object]:
    """What the stage writes of a copy of the repository whose test images have none of `labels`."""
    shutil.copytree(here, copy)
    path = copy / "data/manifests/stripes/test.csv"
    manifest.write(path, [row for row in manifest.read(path) if row.label not in labels])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(copy)
        evaluate_stage.main("draem", "stripes")
    content: dict[str, object] = json.loads(written(copy)["metrics.json"])
    return content


COMPARING = ("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "aupro")


def test_a_task_with_only_normal_test_images_gets_all_that_can_be_known(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = without(repository, tmp_path / "copy", "anomalous")
    assert [found[name] for name in (*COMPARING, "recall")] == [None] * 7
    whole = json.loads(written(repository)["metrics.json"])
    same = ("false_alarm_rate", "false_alarm_low", "false_alarm_high", "false_alarm_images")
    assert {name: found[name] for name in same} == {name: whole[name] for name in same}
    assert (found["test_normal"], found["test_anomalous"]) == (3, 0)
    now, before = written(tmp_path / "copy"), written(repository)
    assert now["power.csv"] == before["power.csv"]
    assert now["overlays.png"] != before["overlays.png"]
    assert now["curves/roc.csv"] == b"fpr,tpr\n"
    assert "At least 1 more anomalous image is needed" in capsys.readouterr().err


@pytest.mark.slow
def test_a_task_without_test_images_gets_the_power_curve_and_a_sheet(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = without(repository, tmp_path / "copy", "normal", "anomalous")
    rates = ("false_alarm_rate", "false_alarm_low", "false_alarm_high", "recall")
    assert [found[name] for name in (*COMPARING, *rates)] == [None] * 10
    assert (found["calibration_images"], found["images_missing"]) == (7, 0)
    now, before = written(tmp_path / "copy"), written(repository)
    assert list(now) == list(before)
    assert now["power.csv"] == before["power.csv"]
    assert now["scores.csv"].count(b"\n") == 1
    sheet = decode_sheet(tmp_path / "copy")
    assert sheet.shape[0] > 3 * 192  # the three validation images, highest score first
    assert "There is no normal test image" in capsys.readouterr().err


def decode_sheet(here: Path) -> np.ndarray:
    path = here / "data/evaluation/draem/stripes/overlays.png"
    return decode.decode_image(path.read_bytes(), path, decode.STORED).rgb


def test_a_task_with_only_anomalous_test_images_has_no_false_alarm_rate(
    repository: Path, tmp_path: Path
) -> None:
    found = without(repository, tmp_path / "copy", "normal")
    assert found["false_alarm_rate"] is found["false_alarm_low"] is found["image_auroc"] is None
    assert found["recall"] is not None


def test_a_detector_that_diverged_leaves_its_own_cell_without_figures(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverged(fitted: bundle.Bundle, *images: list[np.ndarray]) -> bundle.Scored:
        scored = score(fitted, *images)
        return replace(scored, anomaly_map=scored.anomaly_map * np.float32("nan"))

    score = model.score_planes
    monkeypatch.setattr(model, "score_planes", diverged)
    found = without(repository, tmp_path / "copy")
    assert str(found["fault"]).endswith("scores are not finite")
    assert all(found[name] is None for name in (*COMPARING, "false_alarm_rate", "recall"))
    assert "overlays.png" not in written(tmp_path / "copy")


def test_the_power_of_a_cell_is_measured_on_its_validation_images(repository: Path) -> None:
    with (repository / "data/evaluation/draem/stripes/power.csv").open() as file:
        table = list(csv.DictReader(file))
    seen = [(r["contrast"], r["diameter_share"], r["diameter_px"], r["images"]) for r in table]
    assert seen == [
        ("0.0", "0.0", "0.0", "2"),
        ("60.0", "0.1", "6.4", "2"),
        ("60.0", "0.5", "32.0", "2"),
    ]
    assert all(float(r["caught_share"]) == int(r["caught"]) / 2 for r in table)


def test_12_bits_are_measured_through_the_window_of_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    raw, fitted = Path("data/raw/grey_cards"), cards.windowed((0, 4095))
    cards.deep_card(raw / "a.png", 70 << 4)
    found = describe_image(DatasetImage("a.png", "normal", "", "", "test"), raw, decode.STORED)[0]
    assert evaluate_stage._score_images(fitted, [found], (32, 32), "nearest", 7)[
        0
    ].anomaly_scores.tolist() == [70]
    for threshold, caught in ((69.9, 1), (70.1, 0)):
        table = evaluate_stage._power(fitted, [found], POWER, threshold, 7)
        assert table.set_index("contrast")["caught"][0] == caught
