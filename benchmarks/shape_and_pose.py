"""What `aspect: keep` and `pose: upright` are worth, where they matter and where they do not.

    python -m benchmarks.shape_and_pose [--methods patchcore cpr] [--sets SET ...] [--parts FOLDER]

needs ADMODELS_SHARED_DATA; FOLDER is what `benchmarks.single_parts` wrote, and adds the sets
`capsule` (turned at random) and `upright` (the same, aligned). The preset `cpu`, seed 7; the splits
of known sets are those of `benchmarks.presets`. Prints image AUROC, AUPRO, CPU-seconds of the fit
and of an image, the shape, and how many images were turned; with --sheets FOLDER also overlays.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML

from admodels import methods
from admodels.bundles import bundle as bundles
from admodels.bundles import runtime
from admodels.datasets import read_layout
from admodels.evaluation import figures, measure
from admodels.evaluation.measure import Evaluate, ScoredSet
from admodels.foundation import params
from admodels.foundation.manifest import ManifestRow, Split
from admodels.images import decode, pose
from admodels.images.decode import STORED
from admodels.images.load import load_image, load_masks
from admodels.images.shape import Band, Shape, ratios
from admodels.inference.model import map_to_image
from admodels.methods import Detector
from admodels.validation.inspect import inspect_images
from admodels.validation.splits import share_out
from benchmarks import presets

SEED = 7
WAYS = {
    "square": {"aspect": "square", "pose": "none"},
    "keep": {"aspect": "keep", "pose": "none"},
    "upright": {"aspect": "keep", "pose": "upright"},
}


@dataclass(frozen=True)
class Set:
    """The images of a set by split, below a folder."""

    root: Path
    kind: str
    rows: dict[str, list[ManifestRow]]


def read_set(name: str, parts: Path | None) -> Set:
    if name in presets.SETS:
        _, _, folder, kind, *_ = presets.SETS[name]
        return Set(presets.DATA / folder, kind, presets.split_rows(name, SEED))
    root = parts / name
    images = read_layout("mvtec_ad", "", root).images
    rows = [(image, row) for image, row, _ in inspect_images(images, root, STORED)[0]]
    split = params.read("split", Split)
    return Set(root, "object", share_out(rows, split, 0.05, SEED, name)[0])


def detector_for(method: str, way: str, images: Set) -> tuple[Detector, Band | str | None]:
    """A detector that has learnt nothing yet, and the band or why there is none."""
    block = YAML(typ="safe").load(Path("presets/cpu.yaml"))["methods"][method] | WAYS[way]
    cls = methods.detector_class(method)
    asked = params.parse(block, cls.Params, f"methods.{method}")
    learnt = images.rows["train"]
    band: Band | str | None = None
    if asked.pose == "upright":
        band = pose.learn_band([pose.find_part(rgb(row, images)) for row in learnt])
    values = asked.resolve_shape(ratios(learnt)[1], band if isinstance(band, Band) else None)
    device = runtime.device()
    return cls(values, device=device, precision=runtime.precision(values.precision, device)), band


def views(split: str, images: Set, detector: Detector) -> list[pose.Views]:
    p = detector.params
    return [pose.views(rgb(row, images), p.shape, p.resize, p.band) for row in images.rows[split]]


def scored_set(
    images: Set, seen: list[pose.Views], scored: bundles.Scored, shape: Shape
) -> ScoredSet:
    rows = images.rows["test"]
    maps = [
        map_to_image(anomaly_map, *shape, view.place)
        for anomaly_map, view in zip(scored.anomaly_map, seen, strict=True)
    ]
    return ScoredSet(
        image_ids=[row.image_id for row in rows],
        anomalous=np.array([row.label == "anomalous" for row in rows]),
        defect_types=[row.defect_type for row in rows],
        refused=[""] * len(rows),
        anomaly_scores=scored.anomaly_score,
        anomaly_maps=np.stack(maps),
        masks=load_masks(rows, images.root, shape),
    )


def run(name: str, method: str, way: str, images: Set, sheets: Path | None) -> str:
    detector, band = detector_for(method, way, images)
    normal = np.stack([view.planes[:3] for view in views("train", images, detector)])
    start = time.process_time()
    presets.fit(detector, method, normal, images.kind, SEED)
    fit_seconds, start = time.process_time() - start, time.process_time()
    seen = views("test", images, detector)
    scored = bundles.score_views(detector, [view.planes for view in seen])
    seconds = (time.process_time() - start) / len(seen)
    held_out = [view.planes for view in views("calibration", images, detector)]
    calibration = bundles.score_views(detector, held_out).anomaly_score.astype(np.float64)
    evaluate = params.read("evaluate", Evaluate)
    shape = evaluate.mask_shape(ratios(images.rows["train"])[1])
    tested = scored_set(images, seen, scored, shape)
    measured = measure.evaluate(tested, calibration, evaluate)
    if sheets is not None:
        tiles = [figures.tile(rgb(r, images).transpose(2, 0, 1)) for r in images.rows["test"]]
        sheet = figures.overlays(tested, measured, tiles, [], 9)
        decode.write_png(sheets / f"{name}-{method}-{way}.png", sheet)
    turned = sum(view.place is not None for view in seen)
    note = band if isinstance(band, str) else f"{turned} of {len(seen)} turned"
    values = [measured.metrics[key] for key in ("image_auroc", "aupro")]
    numbers = " / ".join("n/a" if value is None else f"{value:.3f}" for value in values)
    size = "x".join(map(str, detector.params.shape))
    costs = f"{fit_seconds:.1f} {seconds:.3f} CPU-s"
    return f"{name:9} {method:9} {way:7} {numbers}  {costs}  {size}  {note}"


def rgb(row: ManifestRow, images: Set) -> np.ndarray:
    return load_image(row, images.root, STORED).rgb


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=["patchcore", "cpr"])
    parser.add_argument("--sets", nargs="+", default=["bottle", "fabric", "macaroni1"])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--parts", type=Path)
    parser.add_argument("--sheets", type=Path)
    asked = parser.parse_args()
    for name in asked.sets:
        images = read_set(name, asked.parts)
        for method in asked.methods:
            for way in asked.ways:
                sys.stdout.write(run(name, method, way, images, asked.sheets) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
