"""Turned parts and images that are not square through the stages `train` and `evaluate`."""

import csv
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from admodels.bundles import bundle
from admodels.foundation import manifest
from admodels.foundation.manifest import DatasetImage, ManifestRow
from admodels.images import area as areas
from admodels.images import decode
from admodels.images.area import Area
from admodels.images.shape import shape_of
from admodels.validation.inspect import describe_image
from stages import evaluate, train
from tests import tiny
from tests.imports import ROOT
from tests.test_pose import SIZE, picture

RAW = Path("data/raw/pins")
SPOTS = 4


def write_images() -> None:
    """Pins at random angles, the last SPOTS to test with have a white spot."""
    rng = np.random.default_rng(5)
    for split, count in (("train", 14), ("calibration", 6), ("validation", 2), ("test", 8)):
        rows: list[ManifestRow] = []
        for number in range(count):
            spot = split == "test" and number >= count - SPOTS
            centre = (int(rng.integers(140, 180)), int(rng.integers(110, 130)))
            degrees = float(rng.uniform(-180, 180))
            name, mask = f"{split}/{'spot' if spot else 'good'}/{number}.png", ""
            plain = picture(degrees, centre=centre)
            shown = picture(degrees, centre=centre, spot=spot)
            noise = rng.normal(0, 3, shown.shape)
            decode.write_png(RAW / name, np.clip(shown + noise, 0, 255).astype(np.uint8))
            if spot:
                mask = f"ground_truth/{number}.png"
                decode.write_png(RAW / mask, (shown != plain).any(axis=2))
            image = DatasetImage(
                name, "anomalous" if spot else "normal", "spot" * spot, mask,
                "test" if split == "test" else "learn",
            )  # fmt: skip
            rows.append(describe_image(image, RAW, decode.STORED)[0])
        manifest.write(Path("data/manifests/pins", f"{split}.csv"), rows)


def write_rest(pose: str, border_px: int = 0) -> None:
    """What the stages before `train` leave."""
    rules = json.dumps(tiny.CONTRACT.model_dump(mode="json"))
    Path("data/manifests/pins/image_rules.json").write_text(rules, encoding="utf-8")
    levels = np.zeros(SIZE, np.uint8)
    levels[border_px : SIZE[0] - border_px, border_px : SIZE[1] - border_px] = 255
    areas.write_area(Path("data/manifests/pins/area.png"), Area(levels))
    painted = picture(20, spot=True)
    decode.write_png(Path("data/synthetic/pins/i.png"), painted)
    decode.write_png(Path("data/synthetic/pins/m.png"), (painted != picture(20)).any(axis=2))
    with Path("data/synthetic/pins/index.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image_path", "mask_path"), ("i.png", "m.png")])
    decode.write_png(Path("data/textures/t.png"), tiny.textures()[0].transpose(1, 2, 0))
    Path("data/textures/textures.json").write_text("{}")
    Path("data/weights/patchcore").mkdir(parents=True)
    Path("data/weights/patchcore/weights.json").write_text("{}")
    block = tiny.PARAMS["patchcore"] | {"aspect": "keep", "pose": pose, "neighbours": 2}
    params = {
        "run": {"methods": ["patchcore"], "tasks": ["pins"]},
        "seed": 7,
        "train": {"threads": 1},
        "tasks": {"pins": {"kind": "object", "licence": "CC0-1.0"}},
        "methods": {"patchcore": block},
        "evaluate": {
            "mask_px": 128,
            "ground_truth_rule": "nearest",
            "aupro_fpr_limit": 0.3,
            "alpha": 0.2,
            "overlay_images": 4,
            "power": {"images": 1, "diameter_shares": [0.2], "contrasts": [60.0]},
        },
    }
    Path("params.yaml").write_text(json.dumps(params), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(("pose", "border_px"), [("none", 0), ("upright", 0), ("upright", 20)])
def test_a_cell_of_turned_parts_trains_and_finds_spots(
    pose: str,
    border_px: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images()
    write_rest(pose, border_px)
    train.main("patchcore", "pins")
    fitted = bundle.load(Path("data/models/patchcore/pins"), torch.device("cpu"))
    band, ratio = fitted.contract.band, SIZE[1] / SIZE[0]
    assert (band is None) is (pose == "none")
    seen = ratio if band is None else band.ratio
    assert fitted.contract.shape == shape_of(seen, 64, 16, 32)
    assert (fitted.area is None) is (fitted.contract.area is None) is (border_px == 0)
    said = "14 of 14 images turned upright, 0 stay as they are"
    assert (said in capsys.readouterr().err) is (pose == "upright")
    evaluate.main("patchcore", "pins")
    assert ("8 of 8 images turned upright" in capsys.readouterr().err) is (pose == "upright")
    measured = json.loads(Path("data/evaluation/patchcore/pins/metrics.json").read_text())
    assert measured["pixel_auroc"] > 0.9  # a map that came back to another place has about 0.5


FIT = """
import hashlib, sys, tempfile
from pathlib import Path
import torch
from admodels import methods
from tests import tiny

torch.set_num_threads(1)  # as the stage `train` does, by `train.threads`
digest = hashlib.sha256()
for method in methods.available():
    with tempfile.TemporaryDirectory() as folder:
        fitted = tiny.fitted(method, Path(folder), aspect="keep", shape_px=tiny.WIDE)
    for key, tensor in sorted(fitted.state().items()):
        digest.update(key.encode() + tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
print(digest.hexdigest())
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_every_method_learns_the_same_bytes_with_one_and_with_two_cores() -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("one core is allowed here")
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    running = []
    for allowed in (f"{cores[0]}", f"{cores[0]},{cores[1]}"):
        command = ["taskset", "-c", allowed, sys.executable, "-c", FIT]
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        )
        running.append(process)
    digests = [process.communicate()[0].strip() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert len(digests[0]) == len(hashlib.sha256().hexdigest())
    assert digests[0] == digests[1]
