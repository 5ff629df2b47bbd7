"""What the splits of a task decide: how its images are read, its rules, and where copies stand."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from admodels.foundation import params
from admodels.foundation.manifest import DatasetImage, Split
from admodels.images.decode import STORED
from admodels.validation.checks import Validate
from admodels.validation.examine import Examination, examine

ROOT = Path(__file__).parents[1]
SPLIT = Split(validation_share=0.15, calibration_share=0.2, min_normal_images=11)
COUNT, SEEDS = 24, 12


def write_images(folder: Path) -> list[DatasetImage]:
    """Images of 16 bits: number 0 is wider and brighter, numbers 1 and 2 are near copies."""
    rng = np.random.default_rng(2)
    paths = [f"good/{i:02}.png" for i in range(COUNT)]
    (folder / "good").mkdir()
    copied = rng.integers(9000, 20_000, (40, 48), dtype=np.uint16)
    for index, path in enumerate(paths):
        width, most = (60, 60_000) if index == 0 else (48, 20_000)
        values = rng.integers(9000, most, (40, width), dtype=np.uint16)
        Image.fromarray(copied + np.uint16(index) if index in (1, 2) else values).save(
            folder / path
        )
    return [DatasetImage(path, "normal", "", "", "learn") for path in paths]


def split_of(images: Examination, path: str) -> str:
    return next(n for n, rows in images.splits.items() if path in {r.image_path for r in rows})


@pytest.mark.slow
def test_what_is_held_out_shapes_no_rule_and_near_copies_stand_together(tmp_path: Path) -> None:
    listed = write_images(tmp_path)
    bounds = params.read("validate", Validate, ROOT / "params.yaml")
    seen = set()
    for seed in range(SEEDS):
        images = examine(listed, tmp_path, "tiny", STORED, bounds, SPLIT, 0.25, seed)
        assert sum(len(rows) for rows in images.splits.values()) == COUNT
        home = split_of(images, "good/00.png")
        assert images.rules is not None
        assert images.reading.window is not None
        assert (images.rules.width_px[1] == 60) == (home != "test")
        assert (images.reading.window[1] > 50_000) == (home in ("train", "validation"))
        assert split_of(images, "good/01.png") == split_of(images, "good/02.png")
        seen.add(home)
    assert {"test", "train", "calibration"} <= seen
