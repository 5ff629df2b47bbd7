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
from admodels.images.shape import Band, ratios
from admodels.inference.model import map_to_image
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


def run(name: str, method: str, way: str, images: Set, sheets: Path | None) -> str:
    block = YAML(typ="safe").load(Path("presets/cpu.yaml"))["methods"][method] | WAYS[way]
    asked = params.parse(block, methods.detector_class(method).Params, f"methods.{method}")
    learnt = images.rows["train"]
    band: Band | str | None = None
    if asked.pose == "upright":
        band = pose.learn_band([pose.find_part(rgb(row, images)) for row in learnt])
    ratio = ratios(learnt)[1]
    values = asked.resolve_shape(ratio, band if isinstance(band, Band) else None)
    device = runtime.device()
    detector = type_of(method)(
        values, device=device, precision=runtime.precision(values.precision, device)
    )

    def views(row: ManifestRow) -> pose.Views:
        return pose.views(rgb(row, images), values.shape, values.resize, values.band)

    normal = np.stack([views(row).planes[:3] for row in learnt])
    start = time.process_time()
    presets.fit(detector, method, normal, images.kind, SEED)
    fit = time.process_time() - start
    tested = images.rows["test"]
    start = time.process_time()
    seen = [views(row) for row in tested]
    scored = bundles.score_views(detector, [view.planes for view in seen])
    seconds = (time.process_time() - start) / len(tested)
    calibration = bundles.score_views(
        detector, [views(row).planes for row in images.rows["calibration"]]
    ).anomaly_score
    evaluate = params.read("evaluate", Evaluate)
    shape = evaluate.mask_shape(ratio)
    maps = [
        map_to_image(anomaly_map, *shape, view.place)
        for anomaly_map, view in zip(scored.anomaly_map, seen, strict=True)
    ]
    scored_set = ScoredSet(
        image_ids=[row.image_id for row in tested],
        anomalous=np.array([row.label == "anomalous" for row in tested]),
        defect_types=[row.defect_type for row in tested],
        refused=[""] * len(tested),
        anomaly_scores=scored.anomaly_score,
        anomaly_maps=np.stack(maps),
        masks=load_masks(tested, images.root, shape),
    )
    measured = measure.evaluate(scored_set, calibration.astype(np.float64), evaluate)
    if sheets is not None:
        tiles = [figures.tile(rgb(row, images).transpose(2, 0, 1)) for row in tested]
        sheet = figures.overlays(scored_set, measured, tiles, [], 9)
        decode.write_png(sheets / f"{name}-{method}-{way}.png", sheet)
    turned = sum(view.place is not None for view in seen)
    said = band if isinstance(band, str) else f"{turned} of {len(seen)} turned"
    figures_ = [measured.metrics[key] for key in ("image_auroc", "aupro")]
    numbers = " / ".join("n/a" if value is None else f"{value:.3f}" for value in figures_)
    seen_at = "x".join(map(str, values.shape))
    return (
        f"{name:9} {method:9} {way:7} {numbers}  {fit:.1f} {seconds:.3f} CPU-s  {seen_at}  {said}"
    )


def type_of(method: str) -> type[methods.Detector]:
    return methods.detector_class(method)


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
