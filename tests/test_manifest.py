"""Rows, hashes and the four splits."""

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from admodels.foundation import files, manifest
from admodels.foundation.errors import DataError
from admodels.foundation.manifest import DatasetImage, ManifestRow, Split

SPLIT = Split(validation_share=0.25, calibration_share=0.2, min_normal_images=11)


def pair(name, part="learn", label="normal", content=None):
    found = DatasetImage(name, label, "" if label == "normal" else "scratch", "", part)
    digest = hashlib.sha256((content or name).encode()).hexdigest()
    image_id = name.rsplit(".", 1)[0]
    row = ManifestRow(
        image_id, name, digest, 8, 9, "RGB", 8, label, found.defect_type, "", "", "", ""
    )
    return found, row


def learnable(count):
    return [pair(f"train/good/{i:03}.png") for i in range(count)]


def paths(rows):
    return {row.image_path for row in rows}


def test_a_manifest_comes_back_as_it_was_written_sorted_by_path(tmp_path):
    rows = [replace(pair(name)[1], mode='P,"x"') for name in ("b.png", "a, b.png", "ä.png")]
    path = tmp_path / "new/train.csv"
    manifest.write(path, rows)
    assert manifest.read(path) == sorted(rows, key=lambda row: row.image_path)
    assert [p.name for p in path.parent.iterdir()] == ["train.csv"]
    head = path.read_bytes().split(b"\n")[0].decode()
    assert head == (
        "image_id,image_path,image_sha256,width,height,mode,bit_depth,label,defect_type,"
        "mask_path,mask_sha256,foreground_path,foreground_sha256"
    )
    assert b"\r" not in path.read_bytes()


def test_an_empty_manifest_comes_back_empty(tmp_path):
    manifest.write(tmp_path / "test.csv", [])
    assert manifest.read(tmp_path / "test.csv") == []


def test_a_missing_manifest_says_which_stage_to_run(tmp_path):
    with pytest.raises(DataError, match=r"missing[\s\S]*train\.csv[\s\S]*dvc repro validate"):
        manifest.read(tmp_path / "train.csv")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("image_id,", "id,", "columns"),
        (",8,9,", ",8,-9,", "height"),
        (",RGB,8,", ",RGB,eight,", "bit_depth"),
        (",normal,", ",good,", "label"),
        (",normal,", ",", "12 cells"),
    ],
)
def test_a_malformed_manifest_is_refused_with_its_line(tmp_path, old, new, complaint):
    path = tmp_path / "train.csv"
    manifest.write(path, [pair("a.png")[1]])
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=complaint) as refusal:
        manifest.read(path)
    assert "train.csv" in str(refusal.value)


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert files.sha256_of(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.parametrize(
    ("count", "calibration", "validation"), [(11, 2, 3), (12, 2, 3), (20, 4, 5), (209, 42, 52)]
)
def test_counts_are_rounded_half_up_and_every_image_is_in_one_split(count, calibration, validation):
    test = [pair("test/good/0.png", "test"), pair("test/scratch/0.png", "test", "anomalous")]
    shared_out = manifest.splits(learnable(count) + test, SPLIT, 7, "tiny")
    assert tuple(shared_out) == manifest.SPLITS
    assert len(shared_out["calibration"]) == calibration
    assert len(shared_out["validation"]) == validation
    assert len(shared_out["train"]) == count - calibration - validation
    assert paths(shared_out["test"]) == {"test/good/0.png", "test/scratch/0.png"}
    assert set.union(*map(paths, shared_out.values())) == paths(
        row for _, row in learnable(count) + test
    )


def test_a_tiny_share_still_gives_one_image():
    split = Split(validation_share=0.001, calibration_share=0.001, min_normal_images=11)
    shared_out = manifest.splits(learnable(11), split, 7, "tiny")
    assert [len(rows) for rows in shared_out.values()] == [9, 1, 1, 0]


def test_the_order_is_the_documented_hash_of_seed_and_content():
    rows = [row for _, row in learnable(20)]
    ordered = sorted(rows, key=lambda r: hashlib.sha256(f"7:{r.image_sha256}".encode()).digest())
    shared_out = manifest.splits(learnable(20), SPLIT, 7, "tiny")
    assert shared_out["calibration"] == ordered[:4]
    assert shared_out["train"] == ordered[4:15]
    assert shared_out["validation"] == ordered[15:]


def test_the_split_depends_on_content_and_seed_and_not_on_order_or_names():
    first = manifest.splits(learnable(40), SPLIT, 7, "tiny")
    assert manifest.splits(learnable(40)[::-1], SPLIT, 7, "tiny") == first
    assert manifest.splits(learnable(40), SPLIT, 8, "tiny") != first
    renamed = [pair(f"r/{i:03}.png", content=f"train/good/{i:03}.png") for i in range(40)]
    hashes = {row.image_sha256 for row in manifest.splits(renamed, SPLIT, 7, "tiny")["train"]}
    assert hashes == {row.image_sha256 for row in first["train"]}


def test_changing_the_test_part_leaves_the_other_splits_as_they_were():
    before = manifest.splits([*learnable(20), pair("test/good/0.png", "test")], SPLIT, 7, "tiny")
    after = manifest.splits([*learnable(20), pair("test/good/1.png", "test")], SPLIT, 7, "tiny")
    assert {k: v for k, v in before.items() if k != "test"} == {
        k: v for k, v in after.items() if k != "test"
    }


def test_a_calibration_part_of_the_dataset_is_used_instead_of_a_share():
    brought = [pair(f"calibration/good/{i}.png", "calibration") for i in range(3)]
    shared_out = manifest.splits(learnable(20) + brought, SPLIT, 7, "tiny")
    assert paths(shared_out["calibration"]) == paths(row for _, row in brought)
    assert len(shared_out["train"]) == 15
    assert len(shared_out["validation"]) == 5


def test_fewer_than_eleven_normal_images_are_refused_and_eleven_are_not():
    with pytest.raises(DataError, match=r"10 normal images[\s\S]*at least 11[\s\S]*refresh tiny`"):
        manifest.splits(learnable(10), SPLIT, 7, "tiny")
    manifest.splits(learnable(11), SPLIT, 7, "tiny")


@pytest.mark.parametrize("part", ["learn", "calibration"])
def test_an_anomalous_image_outside_test_is_refused_by_name(part):
    wrong = pair("train/good/bad.png", part, "anomalous")
    with pytest.raises(DataError, match=r"anomalous[\s\S]*train/good/bad\.png"):
        manifest.splits([*learnable(20), wrong], SPLIT, 7, "tiny")


def test_the_same_image_in_two_splits_is_refused_and_both_are_named():
    copy = pair("test/good/copy.png", "test", content="train/good/003.png")
    with pytest.raises(DataError, match="same image in two splits") as refusal:
        manifest.splits([*learnable(20), copy], SPLIT, 7, "tiny")
    assert "train/good/003.png" in str(refusal.value)
    assert "test/good/copy.png (test)" in str(refusal.value)


def test_the_same_image_twice_in_one_split_is_allowed():
    copies = [pair(f"test/good/{i}.png", "test", content="same") for i in range(2)]
    assert len(manifest.splits(learnable(20) + copies, SPLIT, 7, "tiny")["test"]) == 2


def test_two_images_that_differ_in_their_extension_are_refused():
    twins = [pair("test/good/a.png", "test"), pair("test/good/a.jpg", "test")]
    with pytest.raises(DataError, match=r"test/good/a\.png and test/good/a\.jpg"):
        manifest.splits(learnable(20) + twins, SPLIT, 7, "tiny")


@pytest.mark.parametrize(
    "block",
    [
        {"validation_share": 0.0, "calibration_share": 0.2, "min_normal_images": 11},
        {"validation_share": 0.5, "calibration_share": 0.2, "min_normal_images": 11},
        {"validation_share": 0.2, "calibration_share": 0.8, "min_normal_images": 11},
        {"validation_share": 0.2, "calibration_share": 0.2, "min_normal_images": 10},
        {"validation_share": 0.4, "calibration_share": 0.55, "min_normal_images": 11},
    ],
)
def test_shares_out_of_bounds_are_refused(block):
    with pytest.raises(ValidationError):
        Split(**block)


def test_the_widest_shares_leave_something_to_train_at_every_count():
    split = Split(validation_share=0.45, calibration_share=0.45, min_normal_images=11)
    for count in range(11, 60):
        assert manifest.splits(learnable(count), split, 7, "tiny")["train"]


def test_a_long_list_of_names_is_cut_with_a_count():
    assert files.names_text(["b", "a"]) == "a, b"
    assert files.names_text(f"{i:02}" for i in range(23)).endswith("19 and 3 more")


def test_the_manifest_needs_neither_opencv_nor_pillow_nor_torch():
    code = (
        "import sys, admodels.foundation.manifest, admodels.datasets\n"
        "print(sorted({'cv2', 'PIL', 'torch', 'numpy'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("seed", range(5))
def test_copies_of_an_image_never_stand_on_both_sides_of_a_boundary(seed):
    rows = []
    for i in range(12):
        found, row = pair(f"train/good/{i:02}.png")
        for k in range(5):
            copy = replace(row, image_path=f"{i}_{k}.png", image_id=f"{i}_{k}")
            rows.append((replace(found, image_path=copy.image_path), copy))
    shared_out = manifest.splits(
        rows,
        Split(validation_share=0.31, calibration_share=0.29, min_normal_images=11),
        seed,
        "tiny",
    )
    hashes = [{row.image_sha256 for row in shared_out[name]} for name in manifest.SPLITS[:-1]]
    assert sum(map(len, hashes)) == len(set.union(*hashes)) == 12


def test_copies_of_one_image_cannot_be_shared_out():
    found, row = pair("a.png")
    copies = [replace(row, image_path=f"{k}.png", image_id=str(k)) for k in range(15)]
    rows = [(replace(found, image_path=copy.image_path), copy) for copy in copies]
    with pytest.raises(DataError, match=r"no images are left for train[\s\S]*14\.png"):
        manifest.splits(
            rows,
            Split(validation_share=0.2, calibration_share=0.2, min_normal_images=11),
            7,
            "tiny",
        )
