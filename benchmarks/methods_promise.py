"""Is the false-alarm promise kept? Real normal images, every method there is.

    python -m benchmarks.methods_promise [METHOD ...] [--splits 200 2000]

Needs ADMODELS_SHARED_DATA.

Each method learns, with the values of a preset, from 200 normal magnetic tiles; the other 280 are
scored once and split at random into halves, 200 times or as asked, to calibrate with and to judge.
Of bottle the detector gets the 42 images that the pipeline would calibrate with: too few to promise
1 %.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import torch

from admodels import methods
from admodels.bundles import bundle as bundles
from admodels.bundles import card, runtime
from admodels.foundation import params
from admodels.images import decode
from admodels.inference.conformal import p_values
from admodels.methods import Detector, Synthetic, TrainingData
from admodels.scoring.engine import LineImages, Model
from admodels.scoring.single import score_folder
from tests import tiny

LEARNT, SEED, BOTTLE_CALIBRATION = 200, 7, 42
DATA = Path(os.environ.get("ADMODELS_SHARED_DATA", "../shared/data"))
TILE, BOTTLE = DATA / "magnetic_tile", DATA / "mvtec_ad/bottle"


def prepared(folder: Path, contract: card.Preparation) -> np.ndarray:
    read = (decode.decode_image(f.read_bytes(), f).rgb for f in sorted(folder.iterdir()))
    return np.stack(
        [decode.resize_image(x, contract.shape, contract.resize).transpose(2, 0, 1) for x in read]
    )


def training_data(normal: np.ndarray, weights: dict[str, Path]) -> TrainingData:
    """With noise blocks for textures, and three held-out anomalies: a bright square each."""
    height, width = normal.shape[2:]
    held_out, masks = normal[:3].copy(), np.zeros((3, height, width), dtype=bool)
    masks[:, height // 3 : height // 2, width // 3 : width // 2] = True
    held_out.transpose(0, 2, 3, 1)[masks] = 250
    blocks = tiny.textures().transpose(0, 2, 3, 1)
    textures = np.stack([cv2.resize(x, (width, height)).transpose(2, 0, 1) for x in blocks])
    return TrainingData(
        normal=torch.from_numpy(normal),
        textures=torch.from_numpy(textures),
        validation=Synthetic(torch.from_numpy(held_out), torch.from_numpy(masks)),
        foreground=None,
        weights=weights,
    )


def fitted(method: str, preset: str, normal: Path) -> tuple[Detector, np.ndarray]:
    """The detector, and (280, 3, H, W) that it has not seen."""
    cls = methods.detector_class(method)
    values = params.read(f"methods.{method}", cls.Params, Path("presets", f"{preset}.yaml"))
    device = runtime.device()
    detector = cls(values, device=device, precision=runtime.precision("auto", device))
    contract = bundles.contract_of(values, tiny.CONTRACT)
    halves = [prepared(normal / part / "good", contract) for part in ("train", "test")]
    pixels = np.concatenate(halves)
    pixels = pixels[np.random.default_rng(SEED).permutation(len(pixels))]
    with tempfile.TemporaryDirectory() as place:
        weights, checkpoints = Path(place, "weights"), Path(place, "checkpoints")
        weights.mkdir()
        if find_spec(f"admodels.methods.{method}.weights"):
            import_module(f"admodels.methods.{method}.weights").fetch_weights(values, weights)
        data = training_data(pixels[:LEARNT], {p.stem: p for p in weights.iterdir()})
        how = {"kind": "texture", "seed": SEED, "checkpoints": checkpoints}
        detector.fit(data, **how, log=lambda *_: None)
    return detector, pixels[LEARNT:]


def kept(scores: np.ndarray, alpha: float, splits: int) -> dict[str, object]:
    rng, middle = np.random.default_rng(1), len(scores) // 2
    halves = [rng.permutation(len(scores)) for _ in range(splits)]
    rates = [
        (p_values(scores[half[middle:]], scores[half[:middle]]) <= alpha).mean() for half in halves
    ]
    mean, error = float(np.mean(rates)), float(np.std(rates) / splits**0.5)
    return {"mean": round(mean, 4), "error": round(error, 4), "kept": mean <= alpha + error}


def refused(method: str, detector: Detector) -> str:
    """What `admodels score` says of bottle's test images at 1 %."""
    contract = bundles.contract_of(detector.params, tiny.CONTRACT)
    calibration = prepared(BOTTLE / "train/good", contract)[:BOTTLE_CALIBRATION]
    bundle = bundles.Bundle(
        detector=detector,
        method=method,
        task="bottle",
        kind="object",
        params=detector.params,
        contract=contract,
        calibration_scores=np.sort(bundles.score(detector, calibration).anomaly_score).astype(
            float
        ),
        model_fingerprint="m" * 16,
        contract_fingerprint="c" * 16,
        licence="CC BY-NC-SA 4.0",
    )
    with tempfile.TemporaryDirectory() as place:
        source = LineImages("bottle", BOTTLE / "test/good")
        summary = score_folder(source, Model.of(bundle), Path(place, "out"), alpha=0.01)
    assert summary.flagged is None
    return str(summary)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("methods", nargs="*", default=methods.available())
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--splits", type=int, nargs="*", default=[200])
    asked = parser.parse_args()
    for method in asked.methods:
        start = time.process_time()
        detector, unseen = fitted(method, asked.preset, TILE)
        scores = bundles.score(detector, unseen).anomaly_score
        figures = {
            f"{splits} splits, {alpha}": kept(scores, alpha, splits)
            for splits in asked.splits
            for alpha in (0.05, 0.01)
        }
        figures |= {"different_scores": len(np.unique(scores))}
        figures |= {"cpu_seconds": round(time.process_time() - start)}
        sys.stdout.write(
            f"{method}: {json.dumps(figures)}\n{method}: {refused(method, detector)}\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
