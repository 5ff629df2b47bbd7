"""Is the false-alarm promise kept? Real normal images, every method there is.

    python -m benchmarks.promise          # needs ADMODELS_SHARED_DATA

Each method learns from 200 normal magnetic tiles; the other 280 are scored once and split at random
200 times into halves to calibrate with and to judge. The detectors are tiny: the promise does not
depend on how good they are.
"""

import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from admodels import bundle as bundles
from admodels import images, methods
from admodels.calibration import images_missing, p_values
from tests import tiny

SPLITS, LEARNT = 200, 200
DATA = Path(os.environ.get("ADMODELS_SHARED_DATA", "/work/shared/data"))


def prepared(folder: Path) -> np.ndarray:
    read = (images.decoded(f.read_bytes(), f).rgb for f in sorted(folder.iterdir()))
    return np.stack([images.resized(rgb, tiny.PX, "area").transpose(2, 0, 1) for rgb in read])


def main() -> None:
    tile = DATA / "magnetic_tile"
    normal = np.concatenate([prepared(tile / "train/good"), prepared(tile / "test/good")])
    order = np.random.default_rng(7).permutation(len(normal))
    for method in methods.available():
        detector = tiny.detector(method)
        data = tiny.training_data()
        data = replace(data, normal=torch.from_numpy(normal[order[:LEARNT]]))
        with tempfile.TemporaryDirectory() as place:
            detector.fit(data, kind="texture", seed=5, checkpoints=Path(place), log=lambda *_: None)
        scores = bundles.score(detector, normal[order[LEARNT:]]).anomaly_score
        rng, told = np.random.default_rng(1), {}
        halves = [rng.permutation(len(scores)) for _ in range(SPLITS)]
        middle = len(scores) // 2
        for alpha in (0.05, 0.01):
            rates = [
                (p_values(scores[half[middle:]], scores[half[:middle]]) <= alpha).mean()
                for half in halves
            ]
            error = float(np.std(rates) / SPLITS**0.5)
            kept = bool(np.mean(rates) <= alpha + error)
            told[alpha] = {"mean": round(float(np.mean(rates)), 4), "error": round(error, 4)}
            told[alpha] |= {"kept": kept}
        sys.stdout.write(f"{method}: {json.dumps(told)}\n")
        sys.stdout.flush()
    count = len(list((DATA / "mvtec_ad/bottle/test/good").iterdir()))
    missing = images_missing(count, 0.01)
    sys.stdout.write(f"bottle: 1 % with its {count} normal test images: {missing} are missing\n")


if __name__ == "__main__":
    main()
