"""Train one cell: normal images, synthetic anomalies and weights -> bundle, history, cost."""

import csv
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from admodels import methods
from admodels.bundles import bundle, runtime
from admodels.foundation import files, manifest, params
from admodels.foundation.arrays import Records, UInt8
from admodels.foundation.files import whole_file
from admodels.foundation.params import Kind
from admodels.foundation.progress import Progress
from admodels.images import area as areas
from admodels.images import load, rules
from admodels.images.area import Area
from admodels.images.decode import Reading
from admodels.images.describe import APPEARANCE, appearance, statistics
from admodels.methods import Train
from admodels.methods.parts.backbone_params import keeps_evidence
from admodels.methods.parts.training_data import (
    Rows,
    inspected_masks,
    read_views,
    resolve_shape,
    training_data,
)
from stages import run

GOLDEN_EACH = 2  # calibration images, and synthetic anomalies


class History:
    """Keeps what `fit` reports, for history.csv, and shows how far it is."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._progress: Progress | None = None
        self.rows: list[dict[str, float]] = []

    def __call__(self, step: int, steps: int, values: dict[str, float]) -> None:
        """Record one step."""
        self._progress = self._progress or Progress(steps, self._label)
        self._progress.at(step)
        self.rows.append({"step": step, **values})

    def write(self, path: Path) -> None:
        """One row per step; a cell is empty where a value was not measured."""
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)


def _appearances(rows: Rows, task: str, reading: Reading) -> Records:
    def record(row: manifest.ManifestRow) -> Records:
        rgb = load.load_image(row, Path("data/raw", task), reading).rgb
        return appearance(rgb, statistics(rgb))

    return load.stack_arrays(record, rows, (), APPEARANCE, f"look at images of {task}")


def _calibrate(
    detector: methods.Detector, rows: Rows, task: str, reading: Reading, area: Area | None
) -> tuple[bundle.Scored, list[UInt8], Rows]:
    """The scores of calibration images, their planes, and the rows of those that are inspected."""
    block = detector.params
    seen, inspected = read_views(rows, task, block, reading), None
    if area is not None:
        masks = inspected_masks(area, block.shape, [views.place for views in seen])
        keep = np.flatnonzero(masks.any(axis=(1, 2))).tolist()
        if len(keep) < len(rows):
            sys.stderr.write(f"{task}: {len(rows) - len(keep)} parts lie outside the area\n")
        seen, rows, inspected = [seen[i] for i in keep], [rows[i] for i in keep], list(masks[keep])
    planes = [views.planes for views in seen]
    return bundle.score_views(detector, planes, inspected), planes, rows


def _origin(method: str, task: str, splits: Iterable[Path]) -> bundle.Origin:
    """Where the detector comes from: the hashes of all that it learns from."""
    learnt = Path("data/manifests", task, "image_rules.json")
    area = Path("data/manifests", task, areas.AREA_FILE)
    inputs = (
        learnt,
        area,
        Path("data/synthetic", task, "index.csv"),
        Path("data/textures/textures.json"),
        Path("data/weights", method, "weights.json"),
    )
    return bundle.Origin(
        method=method,
        task=task,
        kind=params.read(f"tasks.{task}.kind", Kind),  # type: ignore[arg-type]
        licence=params.read(f"tasks.{task}.licence", str),
        trained_on={p.as_posix(): files.sha256_of(p) for p in (*splits, *inputs)},
        learnt=rules.read(learnt),
        area=areas.read_written(area),
    )


def main(method: str, task: str) -> None:
    """Fit, freeze, and only then read the calibration images."""
    cost = runtime.Cost()
    torch.set_num_threads(params.read("train", Train).threads)
    cls = methods.detector_class(method)
    split = {s: Path("data/manifests", task, f"{s}.csv") for s in ("train", "calibration")}
    origin = _origin(method, task, split.values())
    reading = origin.learnt.reading
    asked = params.read(f"methods.{method}", cls.Params)
    rows = manifest.read(split["train"])
    block = resolve_shape(asked, task, rows, reading)
    device = runtime.device()
    detector = cls(block, device=device, precision=runtime.precision(block.precision, device))
    weights = {p.stem: p for p in sorted(Path("data/weights", method).iterdir())}
    data = training_data(block, task, rows, reading, weights, origin.area)
    history = History(f"train {method} on {task}")
    checkpoints = Path(".work/checkpoints", method, task)
    seed = params.read("seed", int)
    detector.fit(data, kind=origin.kind, seed=seed, checkpoints=checkpoints, log=history)
    calibrating = manifest.one_of_each_group(manifest.read(split["calibration"]), seed)
    scored, calibration, calibrating = _calibrate(detector, calibrating, task, reading, origin.area)
    bundle.save(
        detector,
        Path("data/models", method, task),
        origin=origin,
        calibration_scores=scored.anomaly_score.tolist(),
        calibration_map_max=scored.map_max.tolist(),
        golden=np.stack(
            [
                *(planes[:3] for planes in calibration[:GOLDEN_EACH]),
                *data.validation.images[:GOLDEN_EACH].numpy(),
            ]
        ),
        reference=_appearances(calibrating, task, reading),
        evidence=data.normal.numpy() if keeps_evidence(block) else None,
    )
    history.write(Path("data/training", method, task, "history.csv"))
    cost.write(Path("data/costs/train", method, f"{task}.json"))
    shutil.rmtree(checkpoints, ignore_errors=True)


if __name__ == "__main__":
    run(main)
