"""What is read of an image and its mask, each file once."""

import hashlib
from pathlib import Path

import numpy as np

from admodels.foundation.manifest import DatasetImage
from admodels.images import decode
from admodels.validation.inspect import describe_image, inspect_images

GREY = np.random.default_rng(0).integers(0, 256, (20, 30), np.uint8)


def planted(root: Path, name: str) -> DatasetImage:
    decode.write_png(root / name, GREY)
    return DatasetImage(name, "normal", "", "", "learn")


def test_a_row_describes_its_image_and_mask(tmp_path: Path) -> None:
    planted(tmp_path, "in/a.b.png")
    decode.write_png(tmp_path / "masks/m.png", np.arange(30)[None, :].repeat(20, 0) < 3)
    found = DatasetImage("in/a.b.png", "anomalous", "crack", "masks/m.png", "test")
    row, facts = describe_image(found, tmp_path, decode.STORED)
    assert (row.image_id, row.image_path) == ("in/a.b", "in/a.b.png")
    assert (row.label, row.defect_type, row.mask_path) == ("anomalous", "crack", "masks/m.png")
    assert (row.width, row.height, row.mode, row.bit_depth) == (30, 20, "L", 8)
    assert row.image_sha256 == hashlib.sha256((tmp_path / "in/a.b.png").read_bytes()).hexdigest()
    assert row.mask_sha256 == hashlib.sha256((tmp_path / "masks/m.png").read_bytes()).hexdigest()
    assert (facts.mask_problem, facts.mask_area_share) == ("", 0.1)
    assert facts.brightness == round(float(GREY.mean()), 4)


def test_without_a_mask_file_there_is_no_hash_and_a_promised_one_is_missing(tmp_path: Path) -> None:
    row, facts = describe_image(planted(tmp_path, "a.png"), tmp_path, decode.STORED)
    assert (row.mask_sha256, facts.mask_problem, facts.mask_area_share) == ("", "", None)
    promised = DatasetImage("a.png", "anomalous", "crack", "masks/a.png", "test")
    row, facts = describe_image(promised, tmp_path, decode.STORED)
    assert (row.mask_sha256, facts.mask_problem, facts.mask_area_share) == ("", "missing", None)


def test_unreadable_images_are_collected_and_the_others_keep_their_order(tmp_path: Path) -> None:
    found = [planted(tmp_path, f"{i}.png") for i in range(5)]
    (tmp_path / "1.png").write_bytes(b"")
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:500])
    readable, unreadable = inspect_images(found, tmp_path, decode.STORED)
    assert [one.image_path for one, _, _ in readable] == ["0.png", "2.png", "4.png"]
    assert [row.image_path for _, row, _ in readable] == ["0.png", "2.png", "4.png"]
    assert [(e.where, e.reason) for e in unreadable] == [("1.png", "empty"), ("3.png", "truncated")]
