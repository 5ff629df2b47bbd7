"""PatchCore beside anomalib's on the same taps, input size and coreset share, on real sets.

    python -m benchmarks.patchcore --anomalib SITE_PACKAGES [--sets SET ...] [--px 256] [--share S]

needs ADMODELS_SHARED_DATA, and a folder with anomalib 2.7.0 and what it imports (a virtual
environment's `site-packages`, installed with `pip install --no-deps`), which is put behind this
project's own packages. Of anomalib everything is used but its network: means, concatenation,
projection, coreset, search, image score and map. Also printed is how far scores are apart where
anomalib is given our bank: that is rounding, and the map alone differs, because anomalib repeats
cells where the authors' code, and ours, interpolates.
"""

import argparse
import importlib
import sys
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from admodels.bundles import bundle
from admodels.evaluation import measure
from admodels.evaluation.measure import Evaluate, ScoredSet
from admodels.foundation import params
from admodels.foundation.manifest import ManifestRow, Split, splits
from admodels.images.decode import STORED
from admodels.images.load import load_images, load_masks
from admodels.inference.model import map_to_image
from admodels.methods.patchcore.detector import Detector
from benchmarks import presets
from benchmarks.promise import DATA

SEED = 7
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


def figures(rows: list[ManifestRow], root: Any, scores: np.ndarray, maps: np.ndarray) -> str:
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
            masks=load_masks(rows, root, side),
        ),
        np.empty(0),
        evaluate,
    ).metrics
    return " / ".join(f"{measured[n]:.4f}" for n in ("image_auroc", "pixel_auroc", "aupro"))


def compare(name: str, px: int, share: float) -> None:
    root, kind = DATA / presets.SETS[name][2], presets.SETS[name][3]
    rows = splits(presets.set_rows(name), params.read("split", Split), SEED, name)
    detector = presets.detector_of(
        "patchcore", image_px=px, coreset_share=share, pool_cells=10**7, precision="fp32"
    )
    normal, test = (
        load_images(rows[part], root, px, detector.params.resize, STORED)
        for part in ("train", "test")
    )
    start = time.process_time()
    presets.fit(detector, "patchcore", normal, kind, SEED)
    ours_seconds = time.process_time() - start
    ours = bundle.score(detector, test)

    model = anomalib_model(detector)
    torch.manual_seed(SEED)
    start = time.process_time()
    model.train()
    for image in normal:
        model(torch.from_numpy(image)[None].float())
    model.subsample_embedding(share)
    theirs_seconds = time.process_time() - start
    bank = model.memory_bank
    theirs = scored_by(model, test)
    model.memory_bank = detector.bank
    given_ours = scored_by(model, test)

    apart = np.abs(given_ours[0] - ours.anomaly_score).max() / ours.anomaly_score.max()
    print(f"{name}, {px} px, share {share}: image / pixel AUROC / AUPRO, CPU-s of fit")
    print(f"  ours     {figures(rows['test'], root, ours.anomaly_score, ours.anomaly_map)}", end="")
    print(f", {ours_seconds:.1f}, {len(detector.bank)} patches")
    print(f"  anomalib {figures(rows['test'], root, *theirs)}, {theirs_seconds:.1f}", end="")
    print(f", {len(bank)} patches")
    print(f"  anomalib with our bank {figures(rows['test'], root, *given_ours)}", end="")
    print(f"; image scores at most {apart:.1e} of the largest apart", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--anomalib", required=True)
    parser.add_argument("--sets", nargs="+", choices=presets.SETS, default=["bottle", "tile"])
    parser.add_argument("--px", type=int, default=256)
    parser.add_argument("--share", type=float, default=0.01)
    asked = parser.parse_args()
    sys.path.append(asked.anomalib)  # behind ours: our torch, torchvision, numpy
    for name in asked.sets:
        compare(name, asked.px, asked.share)


if __name__ == "__main__":
    main()
