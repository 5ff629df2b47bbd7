"""Measure the scores of another tool on the test images of a task, as those of a bundle are.

Its table is a CSV with the columns `path` and `score`, and `map` where it has anomaly maps: grey
PNG files of 8 or 16 bits whose brighter pixels are more anomalous, all on one scale.
"""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from admodels.evaluation import measure
from admodels.evaluation.aupimo import Aupimo
from admodels.evaluation.measure import Evaluate, Evaluation, ScoredSet
from admodels.evaluation.table import METRICS, MORE, figure_with_interval
from admodels.foundation import manifest, params
from admodels.foundation.arrays import Float32, Float64
from admodels.foundation.errors import DataError
from admodels.foundation.files import names_text
from admodels.images.decode import STORED, check_header
from admodels.images.load import load_masks
from admodels.images.shape import Shape, ratios
from admodels.inference.model import map_to_image

COLUMNS = ("path", "score", "map")


@dataclass(frozen=True)
class Imported:
    """A table as a scored set and its evaluation.

    `unused` of its `rows` are no test or calibration image.
    """

    scored: ScoredSet
    evaluation: Evaluation
    calibration_images: int
    calibration_missing: int
    unused: int
    rows: int

    def figures(self) -> dict[str, Any]:
        """What is written as JSON."""
        limits = self.evaluation.intervals
        return {"metrics": self.evaluation.metrics, "intervals": limits, "unused": self.unused}

    def lines(self) -> Iterable[str]:
        """A figure a line, and what the table lacks."""
        figures, limits = self.evaluation.metrics, dict[str, Any](self.evaluation.intervals)
        if figures["false_alarm_low"] is not None:
            alarms = (figures["false_alarm_low"], figures["false_alarm_high"])
            limits["false_alarm_rate"] = alarms
        for metric in (*METRICS, *MORE):
            text = figure_with_interval(figures[metric.key], limits.get(metric.key))
            yield f"{' '.join(metric.title).strip():20} {text}"
        yield f"{figures['test_normal']} normal and {figures['test_anomalous']} anomalous images"
        if self.calibration_missing:
            yield (
                f"the table lacks {self.calibration_missing} of {self.calibration_images} "
                "calibration images: without their scores there is no threshold"
            )
        if self.unused:
            of = f"{self.unused} of {self.rows} rows of the table"
            yield f"not used: {of}, of no test or calibration image"


def evaluate_table(table: Path, task: str) -> Imported:
    """Measure the scores in `table` on the images of `task`, in the working folder.

    Raises:
        DataError: the table is not one, lacks a test image or has a score that is no number.
    """
    block, seed = params.read("evaluate", Evaluate), params.read("seed", int)
    rows, calibrating = (
        manifest.read(Path("data/manifests", task, f"{split}.csv"))
        for split in ("test", "calibration")
    )
    raw = Path("data/raw", task)
    lines = read_table(table, raw)
    missing = [row.image_path for row in rows if row.image_path not in lines]
    if missing:
        raise _refusal(
            table, f"{len(missing)} of {len(rows)} test images have no row", names_text(missing)
        )
    calibrating = manifest.one_of_each_group(calibrating, seed)
    known = [lines[row.image_path][0] for row in calibrating if row.image_path in lines]
    lacking = len(calibrating) - len(known)
    calibration = np.sort(np.array([] if lacking else known, np.float64))
    names = [lines[row.image_path][1] for row in rows]
    shape = block.mask_shape(ratios(rows)[1])
    maps = [read_map(table.parent / name, shape) for name in names if all(names)]
    scored = measure.scored_set(
        rows,
        raw,
        block.ground_truth_rule,
        seed,
        scores=np.array([lines[row.image_path][0] for row in rows]),
        refused=[""] * len(rows),
        maps=np.stack(maps) if maps else None,
    )
    used = sum(row.image_path in lines for row in (*rows, *calibrating))
    if scored.masks is not None:
        scored = replace(scored, aupimo=_aupimo(rows, raw, table.parent, names))
    return Imported(
        scored,
        measure.evaluate(scored, calibration, block),
        len(calibrating),
        lacking,
        len(lines) - used,
        len(lines),
    )


def _aupimo(
    rows: list[manifest.ManifestRow], raw: Path, folder: Path, names: list[str]
) -> Float64 | None:
    """AUPIMO of the anomalous images, each map in the size of its image."""
    collected = Aupimo(sum(row.label == "normal" for row in rows))
    for row, name in zip(rows, names, strict=True):
        shape = (row.height, row.width)
        mask = None if row.label == "normal" else load_masks([row], raw, shape)[0]
        collected.add(read_map(folder / name, shape), mask)
    return collected.areas()


def read_table(table: Path, raw: Path) -> dict[str, tuple[float, str]]:
    """The score and the map of each path below `raw`; a path may also be whole.

    Raises:
        DataError: columns are missing, a path stands twice, or a score is no finite number.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            return _read_rows(csv.DictReader(file), table, raw)
    except (UnicodeDecodeError, csv.Error) as error:
        raise _refusal(table, f"it cannot be read as a CSV: {error}", "UTF-8") from None


def _read_rows(
    reader: "csv.DictReader[str]", table: Path, raw: Path
) -> dict[str, tuple[float, str]]:
    if not {"path", "score"} <= set(reader.fieldnames or ()):
        raise _refusal(table, f"its columns are {reader.fieldnames}", "the first line")
    lines: dict[str, tuple[float, str]] = {}
    for row in reader:
        where, name = f"line {reader.line_num}", _below(Path(row["path"] or ""), raw)
        try:
            score = float(row["score"])
        except (TypeError, ValueError):
            score = math.nan
        if not math.isfinite(score):
            raise _refusal(table, f"the score {row['score']!r} is no finite number", where)
        if name in lines:
            raise _refusal(table, f"{name} stands twice", where)
        lines[name] = (score, row.get("map") or "")
    return lines


def _below(path: Path, raw: Path) -> str:
    for folder in (raw, raw.resolve()):
        if path.is_relative_to(folder):
            return path.relative_to(folder).as_posix()
    return path.as_posix()


def read_map(path: Path, shape: Shape) -> Float32:
    """A grey PNG of 8 or 16 bits as an anomaly map of (height, width) float32.

    Raises:
        DataError: it is something else.
    """
    data = path.read_bytes()
    header = check_header(data, path, STORED)
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if header else None
    if values is None or values.ndim != 2:
        raise _refusal(path, "not a grey PNG", "an anomaly map")
    return map_to_image(values.astype(np.float32), *shape)


def _refusal(where: Path, fault: str, place: str) -> DataError:
    return DataError(
        fault,
        where=f"{where}, {place}",
        expected=f"a CSV with the columns {', '.join(COLUMNS[:2])} and, if there are maps, "
        f"{COLUMNS[2]}: one row for every test image, its path as below data/raw/TASK",
        next_step="correct the table, then `admodels import-scores` again",
    )
