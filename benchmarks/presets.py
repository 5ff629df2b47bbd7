"""How well and how fast the methods are on five real sets, one cell at a time; resumable.

    python -m benchmarks.presets [--sets SET ...] [--variants NAME ...] [--seeds 7 ...] [--table]
    python -m benchmarks.presets --variants NAME NAME ... --leave-one-out

needs ADMODELS_SHARED_DATA. A cell is a set, a variant of the preset `cpu` and a seed, which draws
the splits as `validate` does, and trains. Its figures stand in .work/presets/
as one JSON; a cell that has one is not run again, so remove the file of a variant whose code or
values have changed. The table at the end has the means over the seeds there are. No cell chooses
anything by its test images, but whoever chooses a variant by this table does. What such a choice is
worth elsewhere is what --leave-one-out prints: for each set, the figures there of the variant that
is best on the mean of the other sets, by image AUROC plus AUPRO.
"""

import argparse
import dataclasses
import json
import re
import sys
import tempfile
import time
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ruamel.yaml import YAML

from admodels import methods
from admodels.bundles import bundle, runtime
from admodels.datasets import read_layout
from admodels.evaluation import measure
from admodels.evaluation.measure import Evaluate, ScoredSet
from admodels.foundation import params
from admodels.foundation.files import write_json
from admodels.foundation.manifest import Split
from admodels.images.decode import STORED
from admodels.images.load import load_images, load_masks, load_textures
from admodels.images.reading import DECODER, Reading
from admodels.images.shape import ratios
from admodels.inference.model import map_to_image
from admodels.methods import Detector
from admodels.validation.checks import Validate
from admodels.validation.groups import name_groups, near_copies
from admodels.validation.inspect import Inspected, inspect_images
from admodels.validation.splits import Rows, share_out
from benchmarks.methods_promise import DATA, training_data

CELLS = Path(".work/presets")
SETS = {  # dataset, category, folder below the shared data, kind, what names a group in a path
    "bottle": ("mvtec_ad", "bottle", "mvtec_ad", "object", ""),
    "tile": ("mvtec_ad", "magnetic_tile", "", "texture", ""),
    "fabric": ("mvtec_ad", "fabric_03", "aitex", "texture", r"/(\d{4}_\d{3})_"),
    "macaroni1": ("visa", "macaroni1", "visa", "object", ""),
    "capsules": ("visa", "capsules", "visa", "object", ""),
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {  # method, what differs from the preset `cpu`
    "cpr": ("cpr", {}),
    "patchcore": ("patchcore", {}),
    "draem": ("draem", {}),
    "diffusionad": ("diffusionad", {}),
    "cpr-128px": (  # the preset until November 2026
        "cpr",
        {
            "head_weights": "none",
            "image_px": 128,
            "regions": [3, 3],
            "smoothing_cells": {"object": [0.0, 0.0], "texture": [0.8, 2.0]},
            "tap_weights": {"object": [1.0, 1.0], "texture": [0.25, 1.0]},
            "reference_foreground": "max",
        },
    ),
    "cpr-rooted": ("cpr", {"head_weights": "none"}),
    "cpr-10": ("cpr", {"head_weights": "none", "references": 10}),
    "cpr-keep": ("cpr", {"head_weights": "none", "aspect": "keep"}),
    "patchcore-square": ("patchcore", {"aspect": "square"}),
    "patchcore-384px": ("patchcore", {"image_px": 384}),
    "patchcore-512px": ("patchcore", {"image_px": 512}),
    "patchcore-share0.02": ("patchcore", {"coreset_share": 0.02}),
    "patchcore-share0.1": ("patchcore", {"coreset_share": 0.1}),
    "patchcore-256px-share0.1": ("patchcore", {"image_px": 256, "coreset_share": 0.1}),
    "patchcore-128px-share0.1": ("patchcore", {"image_px": 128, "coreset_share": 0.1}),
}
FIGURES = {"image_auroc": 3, "aupro": 3, "pixel_auroc": 3, "false_alarm_rate": 3, "recall": 3}
COSTS = {"fit_cpu_seconds": 1, "image_cpu_seconds": 3, "model_mib": 1}


@cache
def inspected(name: str) -> list[Inspected]:
    """The images of a set, named by group where a name says which piece an image shows."""
    dataset, category, folder, _, group = SETS[name]
    root, bounds = DATA / folder, params.read("validate", Validate)
    pattern = re.compile(group) if group else None
    images = name_groups(read_layout(dataset, category, root).images, pattern, name)
    reading = Reading(window=None, orientation=bounds.orientation, decoder=DECODER, page=None)
    return inspect_images(images, root, reading)[0]


def split_rows(name: str, seed: int) -> Rows:
    """The splits that the stage `validate` makes with this seed."""
    split, alpha = params.read("split", Split), params.read("evaluate.alpha", float)
    bits = params.read("validate", Validate).near_duplicate_bits
    rows = [(image, row) for image, row, _ in inspected(name)]
    copies = near_copies(inspected(name), bits).clusters
    return share_out(rows, split, alpha, seed, name, copies)[0]


def detector_of(variant: str, ratio: float = 1.0, **more: object) -> Detector:
    method, changes = VARIANTS[variant]
    cls = methods.detector_class(method)
    block = YAML(typ="safe").load(Path("presets/cpu.yaml"))["methods"][method]
    values = params.parse(block | changes | more, cls.Params, f"methods.{method}").resolve_shape(
        ratio
    )
    device = runtime.device()
    return cls(values, device=device, precision=runtime.precision(values.precision, device))


def fit(detector: Detector, variant: str, normal: np.ndarray, kind: str, seed: int) -> None:
    method = VARIANTS[variant][0]
    with tempfile.TemporaryDirectory() as place:
        weights = Path(place, "weights")
        weights.mkdir()
        if find_spec(f"admodels.methods.{method}.weights"):
            fetching = import_module(f"admodels.methods.{method}.weights")
            fetching.fetch_weights(detector.params, weights)
        data = training_data(normal, {p.stem: p for p in weights.iterdir()})
        textures = torch.from_numpy(load_textures(DATA / "dtd/images", normal.shape[2:]))
        data = dataclasses.replace(data, textures=textures)
        how = {"kind": kind, "seed": seed, "checkpoints": Path(place, "checkpoints")}
        detector.fit(data, **how, log=lambda *_: None)


@dataclasses.dataclass(frozen=True)
class Cell:
    """A trained detector, its scores of the test set, and CPU-seconds of both."""

    detector: Detector
    scored: ScoredSet
    calibration_scores: np.ndarray
    calibration_map_max: np.ndarray
    fit_cpu_seconds: float
    image_cpu_seconds: float


def score_cell(name: str, variant: str, seed: int) -> Cell:
    *_, folder, kind, _ = SETS[name]
    root, evaluate = DATA / folder, params.read("evaluate", Evaluate)
    rows = split_rows(name, seed)
    ratio = ratios(rows["train"])[1]
    detector = detector_of(variant, ratio)

    def pixels(split: str) -> np.ndarray:
        p = detector.params
        return load_images(rows[split], root, p.shape, p.resize, STORED)

    normal = pixels("train")
    start = time.process_time()
    fit(detector, variant, normal, kind, seed)
    fitted = time.process_time() - start
    calibration = bundle.score(detector, pixels("calibration"))
    test = pixels("test")
    start = time.process_time()
    scored = bundle.score(detector, test)
    scoring = time.process_time() - start
    shape = evaluate.mask_shape(ratio)
    test_set = ScoredSet(
        image_ids=[row.image_id for row in rows["test"]],
        anomalous=np.array([row.label == "anomalous" for row in rows["test"]]),
        defect_types=[row.defect_type for row in rows["test"]],
        refused=[""] * len(test),
        anomaly_scores=scored.anomaly_score,
        anomaly_maps=np.stack([map_to_image(m, *shape) for m in scored.anomaly_map]),
        masks=load_masks(rows["test"], root, shape),
    )
    known = calibration.anomaly_score, calibration.map_max
    return Cell(detector, test_set, *known, fitted, scoring / len(test))


def run_cell(name: str, variant: str, seed: int) -> dict[str, Any]:
    cell, evaluate = score_cell(name, variant, seed), params.read("evaluate", Evaluate)
    calibration = cell.calibration_scores.astype(np.float64)
    return {
        **measure.evaluate(cell.scored, calibration, evaluate).metrics,
        "fit_cpu_seconds": cell.fit_cpu_seconds,
        "image_cpu_seconds": cell.image_cpu_seconds,
        "model_mib": sum(t.nbytes for t in cell.detector.state().values()) / 2**20,
        "params": cell.detector.params.model_dump(mode="json"),
    }


def path_of(name: str, variant: str, seed: int) -> Path:
    return CELLS / f"{name}.{variant}.{seed}.json"


def table(sets: list[str], variants: list[str], seeds: list[int]) -> str:
    """A row for each set and variant that has a cell, and one of the means over whole rows."""
    columns = FIGURES | COSTS
    lines = ["| variant | set | seeds | " + " | ".join(columns) + " |", "|---" * 11 + "|"]
    for variant in variants:
        means = []
        for name in sets:
            paths = [p for p in (path_of(name, variant, seed) for seed in seeds) if p.exists()]
            cells = [json.loads(path.read_text()) for path in paths]
            if cells:
                means.append({column: mean([cell[column] for cell in cells]) for column in columns})
                lines.append(row(variant, name, len(cells), means[-1]))
        if len(means) == len(sets):
            whole = {column: mean([cells[column] for cells in means]) for column in columns}
            lines.append(row(variant, "mean", len(means), whole))
    return "\n".join(lines)


def leave_one_out(sets: list[str], variants: list[str], seed: int) -> str:
    """Of each set, the figures of the variant that the other sets choose; and their means."""
    cells = {
        (variant, name): json.loads(path_of(name, variant, seed).read_text())
        for variant in variants
        for name in sets
    }
    lines, kept = ["| left out | chosen | image_auroc | aupro |", "|---|---|---|---|"], []
    for name in sets:
        others = [other for other in sets if other != name]
        chosen = max(
            variants,
            key=lambda v, o=others: sum(
                cells[v, s]["image_auroc"] + cells[v, s]["aupro"] for s in o
            ),
        )
        kept.append([cells[chosen, name][figure] for figure in ("image_auroc", "aupro")])
        lines.append(f"| {name} | {chosen} | {kept[-1][0]:.3f} | {kept[-1][1]:.3f} |")
    auroc, aupro = np.mean(kept, axis=0)
    return "\n".join([*lines, f"| mean | | {auroc:.3f} | {aupro:.3f} |"])


def mean(values: list[float | None]) -> float | None:
    return None if None in values else float(np.mean(values))


def row(variant: str, name: str, count: int, means: dict[str, float | None]) -> str:
    decimals = FIGURES | COSTS
    texts = ["n/a" if v is None else f"{v:.{decimals[c]}f}" for c, v in means.items()]
    return f"| {variant} | {name} | {count} | " + " | ".join(texts) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["cpr", "patchcore"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[7])
    parser.add_argument("--table", action="store_true", help="of the cells there are; run none")
    parser.add_argument("--leave-one-out", action="store_true", help="of the cells there are")
    asked = parser.parse_args()
    if asked.leave_one_out:
        sys.stdout.write(leave_one_out(asked.sets, asked.variants, asked.seeds[0]) + "\n")
        return
    for seed in () if asked.table else asked.seeds:
        for variant in asked.variants:
            for name in asked.sets:
                path = path_of(name, variant, seed)
                if not path.exists():
                    write_json(path, run_cell(name, variant, seed))
                    sys.stderr.write(f"{path}\n")
    sys.stdout.write(table(asked.sets, asked.variants, asked.seeds) + "\n")


if __name__ == "__main__":
    main()
