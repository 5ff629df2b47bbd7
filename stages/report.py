"""Gather the results of every cell into reports/: three JSONs of figures and plots/*.csv."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from admodels.evaluation.table import BY_SIZE, BY_TYPE, METRICS, MORE, round_figure
from admodels.foundation import params
from admodels.foundation.errors import DataError
from admodels.foundation.files import write_json, write_text
from stages import run

TRAINING_POINTS = 200
Rows = list[dict[str, str]]
Texts = dict[str, dict[str, str]]  # method -> task -> the text of one of the cell's files


def _texts(block: params.Run, pattern: str, stage: str) -> Texts:
    """One file of every cell that params.yaml names; others on the disk are not looked at.

    Raises:
        DataError: a cell's file is missing.
    """
    return {
        method: {
            task: _text(Path(pattern.format(method=method, task=task)), stage)
            for task in block.tasks
        }
        for method in block.methods
    }


def _text(path: Path, stage: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"a result of the {stage} stage cannot be read: {error.strerror}",
            where=path.as_posix(),
            expected="one for every method and task under `run:` in params.yaml",
            next_step=f"dvc repro {stage}",
        ) from None


def _metrics(texts: Texts) -> dict[str, Any]:
    cells = {m: {task: _figures(text) for task, text in of.items()} for m, of in texts.items()}
    return {m: {**of, "mean": _mean(list(of.values()))} for m, of in cells.items()}


def _figures(text: str) -> dict[str, Any]:
    """What of a cell can be better or worse; its counts of images and its intervals stay there."""
    cell = json.loads(text)
    keys = (*(metric.key for metric in (*METRICS, *MORE)), BY_TYPE, BY_SIZE)
    return {key: cell.get(key) for key in keys}


def _mean(cells: list[dict[str, Any]]) -> dict[str, float | None]:
    """The mean of each headline number over the tasks where it is defined."""
    keys = [metric.key for metric in (*METRICS, *MORE)]
    defined = {key: [cell[key] for cell in cells if cell[key] is not None] for key in keys}
    return {key: round_figure(sum(v) / len(v)) if v else None for key, v in defined.items()}


def _costs(train: Texts, evaluate: Texts) -> dict[str, Any]:
    return {
        method: {
            task: {"train": json.loads(text), "evaluate": json.loads(evaluate[method][task])}
            for task, text in cells.items()
        }
        for method, cells in train.items()
    }


def _worth_keeping(rows: Rows) -> Rows:
    """About `TRAINING_POINTS` steps, and all at which the held-out loss was measured."""
    every = max(1, len(rows) // TRAINING_POINTS)
    return [row for i, row in enumerate(rows) if i % every == 0 or row.get("validation_loss")]


def _table(texts: Texts, kept: Callable[[Rows], Rows] = list) -> str:
    """The CSVs one below the other; a column that a method does not have is empty for it."""
    rows = [
        {"method": method, "task": task, **row}
        for method, cells in texts.items()
        for task, text in cells.items()
        for row in kept(list(csv.DictReader(io.StringIO(text))))
    ]
    columns = dict.fromkeys(["method", "task", *(key for row in rows for key in row)])
    table = io.StringIO()
    writer = csv.DictWriter(table, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()


def main() -> None:
    """Read every cell, then write; a missing cell leaves the last report whole."""
    block = params.read("run", params.Run)
    evaluation = "data/evaluation/{method}/{task}/"
    trained = _texts(block, "data/costs/train/{method}/{task}.json", "train")
    evaluated = _texts(block, "data/costs/evaluate/{method}/{task}.json", "evaluate")
    synthesis = {
        task: json.loads(_text(Path("data/synthetic", task, "statistics.json"), "synthesize"))
        for task in block.tasks
    }
    metrics = _metrics(_texts(block, evaluation + "metrics.json", "evaluate"))
    tables = {
        curve: _table(_texts(block, f"{evaluation}curves/{curve}.csv", "evaluate"))
        for curve in ("roc", "pr", "pro")
    }
    tables["power"] = _table(_texts(block, f"{evaluation}power.csv", "evaluate"))
    history = "data/training/{method}/{task}/history.csv"
    tables["training"] = _table(_texts(block, history, "train"), _worth_keeping)
    reports = Path("reports")
    write_json(reports / "metrics.json", metrics)
    write_json(reports / "synthesis.json", synthesis)
    write_json(reports / "cost.json", _costs(trained, evaluated))
    for name, table in tables.items():
        write_text(reports / f"plots/{name}.csv", table)


if __name__ == "__main__":
    run(main)
