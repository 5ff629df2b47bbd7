import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from admodels.foundation import manifest
from admodels.foundation.arrays import UInt8
from admodels.foundation.errors import DataError
from admodels.images import rules
from admodels.validation.inspect import learnt_window
from stages import validate

REPO = Path(__file__).parents[1]
RAW = Path("data/raw/tiny")
VALIDATION = Path("data/validation/tiny")
MANIFESTS = Path("data/manifests/tiny")
PARAMS = f"""
seed: 7
run: {{methods: [draem]}}
methods: {{draem: {{aspect: square}}}}
tasks:
  tiny: {{dataset: mvtec_ad, category: '', kind: texture, licence: CC0-1.0,
         source: {{kind: path, location: somewhere, sha256: {"a" * 64}}}}}
split: {{validation_share: 0.25, calibration_share: 0.25, min_normal_images: 11}}
validate:
  orientation: stored
  size_tolerance: 1.25
  ratio_tolerance: 1.05
  max_stretch: 1.25
  min_side_px: 32
  min_brightness: 5.0
  max_brightness: 250.0
  min_contrast: 1.0
  near_duplicate_bits: 10
  max_session_shift: 0.6
  max_oddity: 3.0
  max_mask_share: 0.6
  severity: {{image_decodes: error, mask_present: error, mask_decodes: error, mask_binary: error,
             mask_size: error, mask_not_empty: error, mask_share: warning,
             test_has_both_labels: warning, no_duplicates: warning,
             same_size: warning, kept_ratio: warning, same_mode: warning, same_bit_depth: warning,
             fits_rules: warning, side: error,
             brightness: warning, contrast: warning,
             no_near_duplicates: warning, no_near_leakage: warning, same_session: warning,
             no_likely_defects: warning, enough_for_alpha: warning, licence_stated: warning,
             commercial_use: warning}}
evaluate: {{alpha: 0.25}}
"""
MASK = "ground_truth/hole/000_mask.png"


def save(path: str, pixels: UInt8) -> None:
    (RAW / path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(RAW / path)


def write_tiny(params: str = PARAMS) -> None:
    """A task in MVTec AD layout: 16 normal images to learn from, 3 to test, 3 with a hole."""
    Path("params.yaml").write_text(params, encoding="utf-8")
    rng = np.random.default_rng(3)
    hole = np.zeros((40, 48), np.uint8)
    hole[10:20, 12:24] = 255
    for folder, count in (("train/good", 16), ("test/good", 3), ("test/hole", 3)):
        for i in range(count):
            pixels = rng.integers(60, 200, (40, 48, 3), dtype=np.uint8)
            if folder == "test/hole":
                pixels[hole > 0] = 20
                save(f"ground_truth/hole/{i:03}_mask.png", hole)
            save(f"{folder}/{i:03}.png", pixels)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the stage runs in, with such a task."""
    monkeypatch.chdir(tmp_path)
    write_tiny()
    return tmp_path


def report() -> dict[str, object]:
    content: dict[str, object] = json.loads((VALIDATION / "report.json").read_text("utf-8"))
    return content


def failed() -> dict[str, list[str]]:
    checks = report()["checks"]
    assert isinstance(checks, list)
    return {check["name"]: check["unexpected"] for check in checks if not check["success"]}


def refused(*named: str) -> str:
    """The message of the refusal: it names the files; what was found can be read, not used."""
    with pytest.raises(DataError) as caught:
        validate.main("tiny")
    for name in named:
        assert name in str(caught.value)
    assert [path.name for path in MANIFESTS.rglob("*.csv")] == ["left_out.csv"]
    assert report()["refused"] == caught.value.fault
    assert (VALIDATION / "index.html").is_file()
    return str(caught.value)


@pytest.mark.slow
def test_a_clean_task_gives_four_manifests_a_report_and_pages(tiny: Path) -> None:
    validate.main("tiny")
    rows = {s: manifest.read(MANIFESTS / f"{s}.csv") for s in manifest.SPLITS}
    assert {s: len(r) for s, r in rows.items()} == {
        "train": 8,
        "validation": 4,
        "calibration": 4,
        "test": 6,
    }
    assert failed() == {}
    found = report()
    assert found["refused"] is None
    assert found["licence"] == "CC0-1.0"
    assert found["splits"] == {s: len(r) for s, r in rows.items()}
    assert found["defect_types"] == {"hole": 3}
    assert sorted(p.name for p in VALIDATION.iterdir()) == [
        *("checks.json", "index.html", "pictures", "report.json", "statistics.csv"),
    ]
    assert [p.name for p in VALIDATION.parent.iterdir()] == ["tiny"]


@pytest.mark.slow
def test_what_is_not_used_stands_in_a_table_and_its_sum_on_the_terminal(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("test/hole/notes.xml", "train/good/Thumbs.db", "overview.png"):
        (RAW / name).write_bytes(b"x")
    (RAW / ".left_out.csv").write_text("path,reason,detail\nlink.png,link_outside,/x\n")
    validate.main("tiny")
    counts = ["1 excluded", "1 link outside", "1 unknown folder", "1 unknown suffix"]
    total, words = capsys.readouterr().err.splitlines()[0].rsplit(": ", 1)
    assert (total, sorted(words.split(", "))) == ("tiny: used 25 of 29 files", counts)
    assert (MANIFESTS / "left_out.csv").read_text("utf-8").splitlines() == [
        "path,reason,detail",
        "link.png,link_outside,/x",
        "overview.png,unknown_folder,",
        "test/hole/notes.xml,unknown_suffix,.xml",
        "train/good/Thumbs.db,excluded,",
    ]


@pytest.mark.slow
def test_statistics_are_those_of_the_pixels(tiny: Path) -> None:
    ramp = np.repeat(np.arange(40, 88, dtype=np.uint8)[None, :, None], 40, axis=0).repeat(3, axis=2)
    save("test/good/000.png", ramp)
    validate.main("tiny")
    lines = (VALIDATION / "statistics.csv").read_text("utf-8").splitlines()
    columns = "image_path,brightness,contrast,sharpness,perceptual_hash,oddity,mask_area_share"
    assert lines[0] == columns
    assert len(lines) == 1 + 22
    by_path = {line.split(",")[0]: line.split(",")[1:] for line in lines[1:]}
    brightness, contrast, _, perceptual_hash, oddity, share = by_path["test/good/000.png"]
    assert float(brightness) == 63.5
    assert float(contrast) == pytest.approx(np.arange(48).std(), abs=1e-4)
    assert len(perceptual_hash) == 64
    assert (oddity, share) == ("", "")
    assert 0 < float(by_path["train/good/000.png"][-2]) < 2.5
    assert float(by_path["test/hole/000.png"][-1]) == 0.0625  # 10 x 12 of 40 x 48 pixels


@pytest.mark.slow
def test_the_outputs_are_the_same_bytes_on_a_second_run(tiny: Path) -> None:
    def contents() -> dict[str, bytes]:
        outputs = (*VALIDATION.rglob("*"), *MANIFESTS.rglob("*"))
        return {str(p): p.read_bytes() for p in outputs if p.is_file()}

    validate.main("tiny")
    first = contents()
    shutil.rmtree("data/validation")
    shutil.rmtree("data/manifests")
    validate.main("tiny")
    assert contents() == first
    assert sum(path.endswith((".html", ".webp")) for path in first) > 10


@pytest.mark.slow
def test_corrupt_truncated_and_empty_images_are_named_with_the_others_still_judged(
    tiny: Path,
) -> None:
    good = (RAW / "train/good/000.png").read_bytes()
    (RAW / "train/good/001.png").write_bytes(b"no image at all")
    (RAW / "train/good/002.png").write_bytes(good[: len(good) // 2])
    (RAW / "train/good/003.png").write_bytes(b"")
    names = [f"train/good/00{i}.png" for i in (1, 2, 3)]
    refused(*names)
    assert failed() == {"image_decodes": names}
    page = (VALIDATION / "index.html").read_text("utf-8")
    for reason in ("undecodable", "truncated", "empty"):
        assert reason in page
    assert (VALIDATION / "statistics.csv").read_text("utf-8").count("\n") == 1 + 22


@pytest.mark.slow
def test_a_missing_mask_is_refused_and_the_image_named(tiny: Path) -> None:
    (RAW / MASK).unlink()
    refused("mask_present", "test/hole/000.png")
    assert failed() == {"mask_present": ["test/hole/000.png"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pixels", "check"),
    [
        (np.eye(20, 24, dtype=np.uint8) * 255, "mask_size"),
        (np.arange(40 * 48, dtype=np.uint8).reshape(40, 48), "mask_binary"),
        (np.zeros((40, 48), np.uint8), "mask_not_empty"),
        (None, "mask_decodes"),
    ],
)
def test_a_mask_of_another_size_not_binary_empty_or_broken_is_named(
    pixels: UInt8 | None, check: str, tiny: Path
) -> None:
    (RAW / MASK).write_bytes(b"broken")
    if pixels is not None:
        save(MASK, pixels)
    refused(check, "test/hole/000.png")
    assert failed() == {check: ["test/hole/000.png"]}


@pytest.mark.slow
def test_the_same_image_in_train_and_test_is_refused_and_both_are_named(tiny: Path) -> None:
    shutil.copy(RAW / "train/good/004.png", RAW / "test/good/copy.png")
    refused("train/good/004.png", "test/good/copy.png")
    assert failed() == {"no_split_leakage": ["test/good/copy.png", "train/good/004.png"]}


@pytest.mark.slow
def test_images_that_are_all_the_same_cannot_be_split_and_are_refused(tiny: Path) -> None:
    for i in range(1, 16):
        shutil.copy(RAW / "train/good/000.png", RAW / f"train/good/{i:03}.png")
    refused("train/good/015.png")
    assert list(failed()) == ["no_duplicates"]


@pytest.mark.slow
def test_an_anomalous_image_in_train_is_refused_and_named(tiny: Path) -> None:
    (RAW / "train/hole").mkdir()
    shutil.copy(RAW / "test/hole/000.png", RAW / "train/hole/000.png")
    refused("only_normal_to_learn", "train/hole/000.png")
    assert failed()["only_normal_to_learn"] == ["train/hole/000.png"]


@pytest.mark.slow
def test_ten_normal_images_are_refused(tiny: Path) -> None:
    for i in range(10, 16):
        (RAW / f"train/good/{i:03}.png").unlink()
    assert "at least 11" in refused("There are 10 readable normal images")


def plant_what_one_run_can_find() -> dict[str, list[str]]:
    """Spoil a file each; every check that must complain, with the names that it must name."""
    rng = np.random.default_rng(8)
    pixels = rng.integers(60, 200, (40, 48, 3), dtype=np.uint8)
    whole = (RAW / "train/good/000.png").read_bytes()
    learnt = [f"train/good/{i:03}.png" for i in range(40)]
    for path in learnt[16:]:
        save(path, rng.integers(60, 200, (40, 48, 3), dtype=np.uint8))
    (RAW / learnt[0]).write_bytes(b"no image")
    (RAW / learnt[1]).write_bytes(whole[: len(whole) // 2])
    (RAW / learnt[2]).write_bytes(b"")
    save(learnt[3], rng.integers(60, 200, (50, 48, 3), dtype=np.uint8))
    save(learnt[4], pixels[:, :, 0])
    Image.fromarray(rng.integers(20_000, 40_000, (40, 48), dtype=np.uint16)).save(RAW / learnt[5])
    save(learnt[6], rng.integers(60, 200, (40, 20, 3), dtype=np.uint8))
    save(learnt[7], rng.integers(0, 9, (40, 48, 3), dtype=np.uint8))
    save(learnt[8], rng.integers(250, 256, (40, 48, 3), dtype=np.uint8))
    save(learnt[9], np.full((40, 48, 3), 128, np.uint8))
    shutil.copy(RAW / learnt[10], RAW / learnt[11])
    near = np.asarray(Image.open(RAW / "test/good/000.png"))
    save("test/good/near.png", near + (rng.random(near.shape) < 0.3))
    for i in range(3, 8):
        save(f"test/hole/{i:03}.png", rng.integers(60, 200, (40, 48, 3), dtype=np.uint8))
    masks = {i: f"ground_truth/hole/{i:03}_mask.png" for i in range(8)}
    hole = np.asarray(Image.open(RAW / masks[0]))
    (RAW / masks[4]).write_bytes(b"broken")
    save(masks[5], (hole // 255 * np.arange(48) * 5).astype(np.uint8))
    save(masks[6], hole[:20])
    save(masks[7], hole * 0)
    save(masks[2], 255 - hole)
    bad = {i: f"test/hole/{i:03}.png" for i in range(8)}
    return {
        "image_decodes": learnt[:3],
        "same_size": [learnt[3], learnt[6]],
        "kept_ratio": [learnt[6]],
        "same_mode": learnt[4:6],
        "same_bit_depth": [learnt[5]],
        "side": [learnt[6]],
        "brightness": learnt[7:9],
        "contrast": [learnt[9]],
        "no_duplicates": learnt[10:12],
        "no_near_duplicates": ["test/good/000.png", "test/good/near.png"],
        "mask_present": [bad[3]],
        "mask_decodes": [bad[4]],
        "mask_binary": [bad[5]],
        "mask_size": [bad[6]],
        "mask_not_empty": [bad[7]],
        "mask_share": [bad[2]],
        "enough_for_alpha": [],
        "commercial_use": [],
    }


@pytest.mark.slow
def test_every_planted_fault_is_found_and_blamed_on_its_file_alone(tiny: Path) -> None:
    planted = plant_what_one_run_can_find()
    text = PARAMS.replace("alpha: 0.25", "alpha: 0.01").replace("CC0-1.0", "CC BY-NC-SA 4.0")
    Path("params.yaml").write_text(text, encoding="utf-8")
    refused()
    assert failed() == planted
    assert report()["non_commercial"] is True


@pytest.mark.slow
def test_a_camera_of_12_bits_is_seen_through_the_window_that_its_contract_keeps(tiny: Path) -> None:
    for path in (*RAW.glob("train/*/*.png"), *RAW.glob("test/*/*.png")):
        values = np.asarray(Image.open(path).convert("L")).astype(np.uint16) << 4
        Image.fromarray(values).save(path)
    validate.main("tiny")
    assert failed() == {}
    learnt = rules.read(MANIFESTS / "image_rules.json")
    assert learnt.reading.window is not None
    assert 4000 > learnt.reading.window[1] > 3200  # 200 << 4, and a margin
    assert (learnt.bit_depths, learnt.channels) == ((16,), "grey")
    assert (learnt.width_px, learnt.height_px) == ((48, 48), (40, 40))
    lines = (VALIDATION / "statistics.csv").read_text("utf-8").splitlines()[1:]
    assert all(80 < float(line.split(",")[1]) < 180 for line in lines)
    plain = np.random.default_rng(1).integers(60, 200, (40, 48), dtype=np.uint8)
    save("test/good/plain.png", plain)
    validate.main("tiny")
    assert failed()["fits_rules"] == ["test/good/plain.png"]


@pytest.mark.slow
def test_what_calibrates_or_tests_does_not_shape_the_window(tiny: Path) -> None:
    for i, path in enumerate(sorted((*RAW.glob("train/*/*.png"), *RAW.glob("test/*/*.png")))):
        values = np.asarray(Image.open(path).convert("L")).astype(np.uint16)
        Image.fromarray(values + 1000 * i).save(path)
    validate.main("tiny")
    rows = {s: manifest.read(MANIFESTS / f"{s}.csv") for s in manifest.SPLITS}
    window = rules.read(MANIFESTS / "image_rules.json").reading.window
    learnt = [*rows["train"], *rows["validation"]]
    assert window == learnt_window(learnt, RAW)
    for split in ("validation", "calibration", "test"):  # each has an image beyond the others
        others = [row for name in {"train", "validation"} - {split} for row in rows[name]]
        assert learnt_window(others + rows[split] * (split != "validation"), RAW) != window


@pytest.mark.slow
def test_names_of_any_kind_are_names_and_what_is_no_image_is_passed_over(tiny: Path) -> None:
    names = ["Gr\u00fc\u00dfe \u65e5\u672c", "=cmd", 'a,"b"', "<b>&amp;", "x" * 251, "\u65e5" * 83]
    for i, name in enumerate(names):
        (RAW / f"train/good/{i:03}.png").rename(RAW / f"train/good/{name}.png")
    for name in ("._000.png", "Thumbs.db", ".DS_Store", "notes.txt"):
        (RAW / "train/good" / name).write_bytes(b"no image")
    validate.main("tiny")
    assert failed() == {}
    rows = [row for s in manifest.SPLITS for row in manifest.read(MANIFESTS / f"{s}.csv")]
    assert len(rows) == 22
    assert {f"train/good/{name}" for name in names} < {row.image_id for row in rows}


@pytest.mark.slow
def test_images_of_two_sizes_are_a_warning_unless_params_say_error(tiny: Path) -> None:
    save("train/good/000.png", np.full((40, 60, 3), 90, np.uint8) + np.arange(3, dtype=np.uint8))
    validate.main("tiny")
    assert set(failed()) == {"same_size", "kept_ratio", "contrast"}
    text = PARAMS.replace("same_size: warning", "same_size: error")
    Path("params.yaml").write_text(text, encoding="utf-8")
    refused("train/good/000.png")


@pytest.mark.slow
def test_what_is_missing_for_the_budget_is_said_on_the_terminal(
    tiny: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    text = PARAMS.replace("alpha: 0.25", "alpha: 0.05")
    Path("params.yaml").write_text(text, encoding="utf-8")
    with caplog.at_level("WARNING"):
        validate.main("tiny")
    assert "4 images calibrate" in caplog.text
    assert "14 more normal images are missing" in caplog.text  # 19 and 11, and there are 16
    assert "tiny: 8 train, 4 validation, 4 calibration, 6 test\n" in capsys.readouterr().err
    assert report()["shortage"] == {"unit": "images", "to_calibrate": 14, "to_test": 0}


@pytest.mark.slow
def test_pieces_stand_in_one_split_and_their_number_is_what_is_missing(
    tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Path("params.yaml").write_text(PARAMS.replace("tiny: {", "tiny: {group: '[0-9]+', "), "utf-8")
    refused_by_name = r"3 groups stand on both sides[\s\S]*000: train/good/000\.png \(learn\)"
    with pytest.raises(DataError, match=refused_by_name):
        validate.main("tiny")
    for path in [*RAW.glob("train/good/*.png")]:
        piece, image = divmod(int(path.stem), 2)
        path.rename(path.with_name(f"piece{piece}_{image}.png"))
    text = PARAMS.replace("tiny: {", "tiny: {group: 'piece[0-9]+|test.*', ")
    Path("params.yaml").write_text(text.replace("alpha: 0.25", "alpha: 0.05"), "utf-8")
    with caplog.at_level("WARNING"):
        validate.main("tiny")
    splits = {s: manifest.read(MANIFESTS / f"{s}.csv") for s in manifest.SPLITS}
    assert [len(rows) for rows in splits.values()] == [8, 4, 4, 6]
    assert len({row.group for row in splits["calibration"]}) == 2
    assert "2 groups calibrate" in caplog.text
    assert "more normal groups are missing" in caplog.text


@pytest.mark.slow
def test_manifests_of_an_earlier_run_do_not_outlive_a_refusal(tiny: Path) -> None:
    validate.main("tiny")
    assert (MANIFESTS / "train.csv").is_file()
    (RAW / "train/good/003.png").write_bytes(b"")
    refused("train/good/003.png")


@pytest.mark.slow
def test_the_command_exits_with_3_and_says_what_to_do(tiny: Path) -> None:
    (RAW / "train/good/003.png").write_bytes(b"")
    done = subprocess.run(
        [sys.executable, "-m", "stages.validate", "tiny"],
        env=os.environ | {"PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[:2] == ["tiny: used 25 of 25 files", "tiny: 1 error"]
    assert "train/good/003.png" in lines[2]
    assert lines[3:5] == [
        "  page: data/validation/tiny/index.html",
        "DataError: task `tiny` fails image_decodes",
    ]
    assert "image_decodes (1): train/good/003.png" in done.stderr
    assert "admodels task refresh tiny" in done.stderr
