"""The manifest as a file, and its hashes."""

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from admodels.foundation import files, manifest
from admodels.foundation.errors import DataError
from admodels.foundation.manifest import ManifestRow


def row(path: str, **changes: str) -> ManifestRow:
    digest = hashlib.sha256(path.encode()).hexdigest()
    cells = (path.rsplit(".", 1)[0], path, digest, 8, 9, "RGB", 8, "normal", "", "", "", "", "")
    return replace(ManifestRow(*cells), **changes)


def test_a_manifest_comes_back_as_it_was_written_sorted_by_path(tmp_path):
    rows = [row(name, mode='P,"x"') for name in ("b.png", "a, b.png", "ä.png")]
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


def test_groups_are_a_last_column_that_a_manifest_without_them_lacks(tmp_path):
    rows = [row("a.png", group='piece "1"'), row("b.png")]
    manifest.write(tmp_path / "with.csv", rows)
    manifest.write(tmp_path / "without.csv", rows[1:])
    assert manifest.read(tmp_path / "with.csv") == rows
    assert manifest.read(tmp_path / "without.csv") == rows[1:]
    with_groups, without = ((tmp_path / f"{n}.csv").read_text() for n in ("with", "without"))
    assert with_groups.splitlines()[0] == without.splitlines()[0] + ",group"
    assert with_groups.splitlines()[2] == without.splitlines()[1] + ","


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
    manifest.write(path, [row("a.png")])
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=complaint) as refusal:
        manifest.read(path)
    assert "train.csv" in str(refusal.value)


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert files.sha256_of(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()


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
