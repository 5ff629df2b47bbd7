"""Train one cell: normal images, synthetic anomalies and weights -> bundle, history, cost."""

import csv
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from admodels import methods
from admodels.bundles import bundle, runtime
from admodels.foundation import files, manifest, params
from admodels.foundation.arrays import Bool, Float64, Records, UInt8
from admodels.foundation.files import whole_file
from admodels.foundation.params import Kind
from admodels.foundation.progress import Progress
from admodels.images import area as areas
from admodels.images import load, pose, rules
from admodels.images.area import Area
from admodels.images.decode import Reading
from admodels.images.describe import APPEARANCE, appearance, statistics
from admodels.images.load import load_textures
from admodels.images.pose import Views
from admodels.images.shape import SEVERAL_RATIOS, Band, Shape, ratios
from admodels.methods import MethodParams, Synthetic, Train, TrainingData
from admodels.methods.parts.backbone_params import keeps_evidence
from admodels.synthesis import held_out
from stages import run

GOLDEN_EACH = 2  # calibration images, and synthetic anomalies
Rows = list[manifest.ManifestRow]


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


def _resolve_shape(block: MethodParams, task: str, split: Path, reading: Reading) -> MethodParams:
    """The params for the shape of the images to learn from; images of several shapes are named."""
    rows = manifest.read(split)
    least, usual, greatest = ratios(rows)
    if block.aspect == "keep" and greatest > SEVERAL_RATIOS * least:
        sys.stderr.write(
            f"{task}: width over height of the images is {least:.3g} to {greatest:.3g}; all are "
            f"stretched to {usual:.3g}, that of the image in the middle\n"
        )
    return block.resolve_shape(usual, _learn_band(block, task, rows, reading))


def _learn_band(block: MethodParams, task: str, rows: Rows, reading: Reading) -> Band | None:
    """What is cut out around the parts; None: images stay as they are."""
    if block.pose == "none":
        return None

    def find(row: manifest.ManifestRow) -> pose.Part | None:
        return pose.find_part(load.load_image(row, Path("data/raw", task), reading).rgb)

    parts = load.in_threads(find, rows, f"find the parts of {task}")
    band = pose.learn_band(parts)
    known = sum(piece is not None for piece in parts)
    kept = f"`pose: upright` changes nothing: {band}"
    words = kept if isinstance(band, str) else pose.turned_sentence(known, len(parts))
    sys.stderr.write(f"{task}: {words}\n")
    return None if isinstance(band, str) else band


def _views(rows: Rows, task: str, block: MethodParams, reading: Reading) -> list[Views]:
    def see(row: manifest.ManifestRow) -> Views:
        rgb = load.load_image(row, Path("data/raw", task), reading).rgb
        return pose.views(rgb, block.shape, block.resize, block.band)

    return load.in_threads(see, rows, f"read images of {task}")


def _appearances(rows: Rows, task: str, reading: Reading) -> Records:
    def record(row: manifest.ManifestRow) -> Records:
        rgb = load.load_image(row, Path("data/raw", task), reading).rgb
        return appearance(rgb, statistics(rgb))

    return load.stack_arrays(record, rows, (), APPEARANCE, f"look at images of {task}")


def _training_data(
    block: MethodParams,
    method: str,
    task: str,
    split: Path,
    reading: Reading,
    area: Area | None = None,
) -> TrainingData:
    rows, raw, shape = manifest.read(split), Path("data/raw", task), block.shape
    seen = _views(rows, task, block, reading)
    places = [views.place for views in seen]
    inspected = None if area is None else _inspected(area, shape, places)
    mattes = load.load_foreground(rows, raw, shape, block.resize, places)
    textures = load_textures(Path("data/textures"), shape)
    painted = (Path("data/synthetic", task), shape, block.resize, block.band)
    synthetic, masks = held_out.read(*painted)
    return TrainingData(
        normal=torch.from_numpy(np.stack([views.planes[:3] for views in seen])),
        textures=torch.from_numpy(textures),
        validation=Synthetic(torch.from_numpy(synthetic), torch.from_numpy(masks)),
        foreground=None if mattes is None else torch.from_numpy(mattes),
        weights={p.stem: p for p in sorted(Path("data/weights", method).iterdir())},
        inspected=None if inspected is None else torch.from_numpy(inspected),
    )


def _inspected(area: Area, shape: Shape, places: Sequence[Float64 | None]) -> Bool:
    return np.stack([area.seen(shape, place) for place in places])


def _calibrate(
    detector: methods.Detector, rows: Rows, task: str, reading: Reading, area: Area | None
) -> tuple[bundle.Scored, list[UInt8], Rows]:
    """The scores of calibration images, their planes, and the rows of those that are inspected."""
    block = detector.params
    seen, inspected = _views(rows, task, block, reading), None
    if area is not None:
        masks = _inspected(area, block.shape, [views.place for views in seen])
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
    block = _resolve_shape(asked, task, split["train"], reading)
    device = runtime.device()
    detector = cls(block, device=device, precision=runtime.precision(block.precision, device))
    data = _training_data(block, method, task, split["train"], reading, origin.area)
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
