"""PatchCore beside anomalib's on the same taps, input size and coreset share, on real sets.

    python -m benchmarks.patchcore --anomalib SITE_PACKAGES [--sets SET ...] [--px PX] [--share S]

needs ADMODELS_SHARED_DATA, and a folder with anomalib 2.7.0 and what it imports (a virtual
environment's `site-packages`, installed with `pip install --no-deps`), which is put behind this
project's own packages. Of anomalib everything is used but its network: means, concatenation,
projection, coreset, search, image score and map. Both draw the start of the coreset and the
projection at random, so the figures are means over seeds. Given our bank, anomalib has our scores
up to rounding; its map differs, because it repeats cells where the authors' code, and ours,
interpolates. Set MALLOC_MMAP_THRESHOLD_=1000000, or the heap grows by 20 MB with every patch that
anomalib chooses (measured: out of 20 GB at 1,400).
"""

import argparse
import importlib
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from admodels.bundles import bundle
from admodels.evaluation import measure
from admodels.evaluation.measure import Evaluate, ScoredSet
from admodels.foundation import params
from admodels.foundation.manifest import ManifestRow
from admodels.images.decode import STORED
from admodels.images.load import load_images, load_masks
from admodels.inference.model import map_to_image
from admodels.methods.patchcore.detector import Detector
from benchmarks import presets
from benchmarks.methods_promise import DATA

SPLIT_SEED = 7
SETS = ["bottle", "fabric", "capsules"]
NAMES = ("layer2", "layer3")  # anomalib looks for them in the network that it makes


class SameTaps(nn.Module):
    """Our frozen network in the place of anomalib's: images as floats 0..255 to named taps."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return dict(zip(NAMES, self.backbone(images), strict=True))


def anomalib_model(detector: Detector) -> Any:
    module = importlib.import_module("anomalib.models.image.patchcore.torch_model")
    model = module.PatchcoreModel(NAMES, backbone="resnet18", pre_trained=False)
    model.feature_extractor = SameTaps(detector.backbone)
    return model


def scored_by(model: Any, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    model.eval()
    scores, maps = [], []
    for image in images:
        with torch.no_grad():
            prediction = model(torch.from_numpy(image)[None].float())
        scores.append(float(prediction.pred_score))
        maps.append(prediction.anomaly_map[0, 0].numpy())
    return np.array(scores), np.stack(maps)


def figures(rows: list[ManifestRow], root: Path, scores: np.ndarray, maps: np.ndarray) -> list:
    evaluate = params.read("evaluate", Evaluate)
    side = evaluate.mask_px
    measured = measure.evaluate(
        ScoredSet(
            image_ids=[row.image_id for row in rows],
            anomalous=np.array([row.label == "anomalous" for row in rows]),
            defect_types=[row.defect_type for row in rows],
            refused=[""] * len(rows),
            anomaly_scores=scores,
            anomaly_maps=np.stack([map_to_image(m, side, side) for m in maps]),
            masks=load_masks(rows, root, (side, side)),
        ),
        np.empty(0),
        evaluate,
    ).metrics
    return [measured[name] for name in ("image_auroc", "pixel_auroc", "aupro")]


def show(label: str, figures_of_seeds: list[list[float]], rest: str) -> None:
    values = np.array(figures_of_seeds)
    spread = values.std(axis=0, ddof=1) if len(values) > 1 else values[0] * np.nan
    pairs = zip(values.mean(axis=0), spread, strict=True)
    texts = (f"{mean:.4f} ({deviation:.4f})" for mean, deviation in pairs)
    print(f"  {label:22} {' / '.join(texts)}, {rest}", flush=True)


def fit_anomalib(model: Any, normal: np.ndarray, share: float, seed: int) -> float:
    """CPU-seconds of it."""
    torch.manual_seed(seed)
    start = time.process_time()
    model.train()
    for image in normal:
        model(torch.from_numpy(image)[None].float())
    model.subsample_embedding(share)
    return time.process_time() - start


def compare(name: str, px: int, share: float, seeds: list[int]) -> None:
    root, kind = DATA / presets.SETS[name][2], presets.SETS[name][3]
    rows = presets.split_rows(name, SPLIT_SEED)
    changes = {
        "image_px": px,
        "aspect": "square",
        "coreset_share": share,
        "pool_cells": 10**7,
        "precision": "fp32",
    }
    detector = presets.detector_of("patchcore", **changes)
    normal, test = (
        load_images(rows[split], root, (px, px), detector.params.resize, STORED)
        for split in ("train", "test")
    )
    ours, theirs, given_ours, seconds, apart = [], [], [], [], 0.0
    for seed in seeds:
        start = time.process_time()
        presets.fit(detector, "patchcore", normal, kind, seed)
        fitted = time.process_time() - start
        prediction = bundle.score(detector, test)
        model = anomalib_model(detector)
        seconds.append((fitted, fit_anomalib(model, normal, share, seed)))
        assert len(model.memory_bank) == len(detector.bank)
        theirs.append(figures(rows["test"], root, *scored_by(model, test)))
        model.memory_bank = detector.bank
        same = scored_by(model, test)
        given_ours.append(figures(rows["test"], root, *same))
        ours.append(figures(rows["test"], root, prediction.anomaly_score, prediction.anomaly_map))
        difference = np.abs(same[0] - prediction.anomaly_score).max()
        apart = max(apart, difference / prediction.anomaly_score.max())
    our_seconds, their_seconds = np.mean(seconds, axis=0)
    print(f"{name}, {px} px, share {share}, {len(detector.bank)} patches, {len(seeds)} seeds: mean")
    print("(deviation) of image AUROC / pixel AUROC / AUPRO")
    show("ours", ours, f"fitted in {our_seconds:.1f} CPU-s")
    show("anomalib", theirs, f"fitted in {their_seconds:.1f} CPU-s")
    show("anomalib with our bank", given_ours, f"image scores apart by at most {apart:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--anomalib", required=True)
    parser.add_argument(
        "--sets", nargs="+", choices=presets.SETS, default=["bottle", "fabric", "capsules"]
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--px", type=int, default=128)
    parser.add_argument("--share", type=float, default=0.02)
    asked = parser.parse_args()
    sys.path.append(asked.anomalib)  # behind ours: our torch, torchvision, numpy
    for name in asked.sets:
        compare(name, asked.px, asked.share, asked.seeds)


if __name__ == "__main__":
    main()
