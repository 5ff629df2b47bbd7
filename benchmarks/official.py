"""Train the methods at their official size for a limited time: steps/s, memory, loss, AUROC.

    python -m benchmarks.official prepare FOLDER  # bottle at 256 and 320 px, about 50 MB
    python -m benchmarks.official run FOLDER --out OUT.json [--methods ...] [--seconds 240 180 90]

`prepare` needs ADMODELS_SHARED_DATA. `run` needs this repository on PYTHONPATH, a GPU and no
network; the schedule of a method is shortened to the steps that fit into its seconds, of which it
keeps a fifth for scoring. CPR starts from the packaged backbone, because the paper's would have to
be fetched. DiffusionAD is timed alone: so few steps teach it nothing. On a CPU the networks and
batches are small (`SMALL`) and every twelfth image is read: this shows that it runs, and its
figures say nothing.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from ruamel.yaml import YAML
from sklearn.metrics import roc_auc_score

from admodels import methods
from admodels.bundles import runtime
from admodels.foundation import params
from admodels.foundation.arrays import UInt8
from admodels.foundation.files import write_json
from admodels.methods import Detector, MethodParams, predict
from admodels.methods.cpr.weights import fetch_weights
from benchmarks.methods_promise import DATA, training_data

SIZES_PX = {"draem": 256, "cpr": 320, "diffusionad": 256}
SECONDS = {"draem": 240.0, "cpr": 180.0, "diffusionad": 90.0}
MEASURED = ("draem", "cpr")
PROBE_STEPS = 3  # to learn how long one takes; the first is not counted
PACKAGED = {"backbone": "efficientnet_lite2", "backbone_weights": "packaged", "backbone_sha256": ""}
EVERY_ON_CPU = 12  # of the images one is read
SMALL: dict[str, dict[str, Any]] = {
    "draem": {"reconstructive_width": 4, "discriminative_width": 4, "batch_images": 2},
    "cpr": {"batch_pairs": 2, "references": 2},
    "diffusionad": {
        "base_channels": 32,
        "segmentation_width": 4,
        "batch_images": 2,
        "micro_batch_images": 2,
    },
}


def prepare(folder: Path) -> None:
    bottle = DATA / "mvtec_ad/bottle"
    for px in sorted(set(SIZES_PX.values())):
        for path in sorted([*bottle.glob("train/good/*.png"), *bottle.glob("test/*/*.png")]):
            image = cv2.resize(cv2.imread(str(path)), (px, px), interpolation=cv2.INTER_LINEAR)
            target = folder / str(px) / path.relative_to(bottle).with_suffix(".webp")
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., ::-1]).save(target, lossless=True)


def read(folder: Path, pattern: str) -> tuple[list[Path], UInt8]:
    every = EVERY_ON_CPU if runtime.device().type == "cpu" else 1
    paths = sorted(folder.glob(pattern))[::every]
    images = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    return paths, np.stack(images).transpose(0, 3, 1, 2).copy()


def official(method: str, steps: int, on_cpu: bool) -> MethodParams:
    block = YAML(typ="safe").load(Path("presets/official.yaml"))["methods"][method]
    if method == "cpr":
        block |= PACKAGED | {"steps": {"object": steps, "texture": steps}}
    else:
        block |= {"length": steps, "length_unit": "steps"}
    block |= SMALL[method] if on_cpu else {}
    return params.parse(block, methods.detector_class(method).Params, f"methods.{method}")


def fit(method: str, normal: UInt8, steps: int) -> tuple[Detector, list[float], list[float]]:
    """The detector, and after each step the loss and the time."""
    device = runtime.device()
    values = official(method, steps, device.type == "cpu")
    precision = runtime.precision("auto", device)
    detector = methods.detector_class(method)(values, device=device, precision=precision)
    losses, times = [], []

    def log(step: int, of: int, row: dict[str, float]) -> None:
        losses.append(row["loss"])  # a number on the CPU: the step is over
        times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as place:
        weights = Path(place, "weights")
        weights.mkdir()
        if method == "cpr":
            fetch_weights(values, weights)
        data = training_data(normal, {path.stem: path for path in weights.iterdir()})
        how = {"kind": "object", "seed": 7, "checkpoints": Path(place, "checkpoints")}
        detector.fit(data, **how, log=log)
    return detector, losses, times


def image_auroc(detector: Detector, folder: Path) -> float:
    paths, images = read(folder, "test/*/*.webp")
    scores = predict(detector, torch.from_numpy(images), 4).anomaly_score
    return float(roc_auc_score([path.parent.name != "good" for path in paths], scores))


def run(method: str, folder: Path, seconds: float) -> dict[str, Any]:
    start, home = time.perf_counter(), folder / str(SIZES_PX[method])
    normal = read(home, "train/good/*.webp")[1]
    *_, times = fit(method, normal, PROBE_STEPS)
    spent = time.perf_counter() - start
    per_step = float(np.median(np.diff(times)))
    left = 0.8 * seconds - spent - (spent - PROBE_STEPS * per_step)
    steps = max(PROBE_STEPS, int(left / per_step))
    cost = runtime.Cost()
    detector, losses, times = fit(method, normal, steps)
    return {
        "method": method,
        "device": str(detector.device),
        "is_official_size": detector.device.type != "cpu",
        "precision": str(detector.precision),
        "steps": steps,
        "steps_per_second": 1 / float(np.median(np.diff(times))),
        "loss_first": losses[0],
        "loss_last": float(np.mean(losses[-10:])),
        "image_auroc": image_auroc(detector, home) if method in MEASURED else None,
        **cost.so_far(),
        "seconds_in_all": time.perf_counter() - start,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("do", choices=["prepare", "run"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--methods", nargs="+", choices=SIZES_PX, default=list(SIZES_PX))
    parser.add_argument("--seconds", nargs="+", type=float, help="one for all, or one a method")
    parser.add_argument("--out", type=Path, default=Path("official.json"))
    asked = parser.parse_args()
    if asked.do == "prepare":
        return prepare(asked.folder)
    limits = asked.seconds or [SECONDS[method] for method in asked.methods]
    limits = limits * len(asked.methods) if len(limits) == 1 else limits
    results = []
    for method, seconds in zip(asked.methods, limits, strict=True):
        results.append(run(method, asked.folder, seconds))
        write_json(asked.out, results)  # what is measured stays where a later method runs too long
        sys.stdout.write(json.dumps(results[-1]) + "\n")
    return None


if __name__ == "__main__":
    main()
