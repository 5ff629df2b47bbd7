"""What DVC knows of the cells of a revision, as the content of MLflow runs."""

import csv
import hashlib
import io
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from admodels.tracking import outs

METRICS_FILE = "reports/metrics.json"
COST_FILE = "reports/cost.json"
TRAINING_FILE = "reports/plots/training.csv"
CURVES = ("roc", "pr", "pro")  # reports/plots/*.csv, kept as files: their x is no step
MEAN = "mean"  # what reports/metrics.json calls the mean over tasks: no cell, no run
NOT_OF_A_CELL = ("run", "folders", "lines")  # the last in older revisions
KEY = ("dvc.rev", "admodels.method", "admodels.task")  # tags that say which cell a run is of


@dataclass(frozen=True)
class Cell:
    """What one MLflow run holds: `curves` are (name, step, value) points, `tables` CSV texts.

    `files`: name in the run -> file; DVC's cache names a file by its content. `datasets`: (name,
    md5, purpose). `start` and `end` are milliseconds since 1970.
    """

    tags: dict[str, str]
    name: str
    params: dict[str, str]
    metrics: dict[str, float]
    curves: list[tuple[str, int, float]]
    tables: dict[str, str]
    files: dict[str, str]
    datasets: list[tuple[str, str, str]]
    start: int
    end: int

    @property
    def rev(self) -> str:
        """The revision of DVC."""
        return self.tags[KEY[0]]

    def digest(self) -> str:
        """The sha256 of the content, 64 hex digits; not of times and places, which may differ."""
        content = {**vars(self), "files": {n: Path(f).parts[-2:] for n, f in self.files.items()}}
        del content["start"], content["end"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def cells_of(repo: Path, cache: Path, revision: dict[str, Any]) -> Iterator[Cell]:
    """The cells of a revision as `dvc exp show` describes it; none where it has no metrics."""
    metrics = revision.get("metrics", {}).get(METRICS_FILE, {}).get("data") or {}
    if not metrics:
        return
    rev = revision["rev"]
    params = revision["params"].get("params.yaml", {}).get("data", {})
    cost = json.loads(_text_of(repo, rev, COST_FILE) or "{}")
    training = list(csv.DictReader(io.StringIO(_text_of(repo, rev, TRAINING_FILE))))
    texts = {name: _text_of(repo, rev, f"reports/plots/{name}.csv") for name in CURVES}
    tables = {name: text for name, text in texts.items() if text}
    short = rev if rev == "workspace" else rev[:7]
    name = revision.get("experiment") or revision.get("branch") or short
    title = name if name == short else f"{name} {short}"
    for method, tasks in metrics.items():
        for task, figures in tasks.items():
            if task == MEAN:
                continue
            tags = {"dvc.rev": rev, "admodels.method": method, "admodels.task": task}
            if "experiment" in revision:
                tags["dvc.exp_name"] = revision["experiment"] or short
            bundle = revision["outs"].get(f"data/models/{method}/{task}")
            if bundle:
                tags["dvc.bundle_md5"] = bundle["hash"]
            costs = cost.get(method, {}).get(task, {})
            fingerprint = costs.get("evaluate", {}).get("model_fingerprint")
            if fingerprint:
                tags["admodels.model_fingerprint"] = fingerprint
            files = {n: str(f) for n, f in outs.files_of(cache, revision["outs"], method, task)}
            end = _end(repo, revision)
            yield Cell(
                tags=tags,
                name=f"{method} {task} {title}",
                params=_params(params, method, task),
                metrics=_numbers(figures) | _numbers({"cost": costs, "interval": _ends(files)}),
                curves=list(_curve(training, method, task)),
                tables={name: _rows_of(text, method, task) for name, text in tables.items()},
                files=files,
                datasets=list(outs.datasets_of(revision["outs"], task)),
                start=end - int(1000 * costs.get("train", {}).get("seconds", 0)),
                end=end,
            )


def _end(repo: Path, revision: dict[str, Any]) -> int:
    """When the figures of a revision were there, in ms: its commit, or its file's own time."""
    if revision.get("timestamp"):
        return int(1000 * datetime.fromisoformat(revision["timestamp"]).timestamp())
    return int(1000 * (repo / METRICS_FILE).stat().st_mtime)


def _ends(files: dict[str, str]) -> dict[str, Any]:
    """Both ends of the interval of each figure that has one."""
    path = files.get("evaluation/intervals.json")
    limits = json.loads(Path(path).read_bytes()) if path else {}
    pairs = {name: pair for name, pair in limits.items() if pair}
    return {name: dict(zip(("low", "high"), pair, strict=True)) for name, pair in pairs.items()}


def _params(params: dict[str, Any], method: str, task: str) -> dict[str, str]:
    """What concerns the cell: its own method and task, and everything that all cells share."""
    own = {key: value for key, value in params.items() if key not in NOT_OF_A_CELL}
    own["methods"] = {method: params.get("methods", {}).get(method, {})}
    own["tasks"] = {task: params.get("tasks", {}).get(task, {})}
    return {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in _leaves(own)
    }


def _numbers(nested: dict[str, Any]) -> dict[str, float]:
    """The numbers by dotted name; undefined ones (null) have no point in MLflow."""
    return {
        key: float(value)
        for key, value in _leaves(nested)
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _leaves(nested: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in nested.items():
        # MLflow refuses other characters in names; a defect type is any folder's name.
        name = prefix + re.sub(r"[^\w.\- :/]", "_", str(key))
        if isinstance(value, dict):
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def _curve(
    training: list[dict[str, str]], method: str, task: str
) -> Iterator[tuple[str, int, float]]:
    for row in training:
        if (row["method"], row["task"]) != (method, task):
            continue
        for column, text in row.items():
            if column not in ("method", "task", "step") and text:
                yield f"training.{column}", int(row["step"]), float(text)


def _rows_of(text: str, method: str, task: str) -> str:
    """The header and the cell's own rows of a table of all cells."""
    header, *rows = text.splitlines()
    own = [row for row in rows if row.startswith(f"{method},{task},")]
    return "\n".join([header, *own]) + "\n"


def _text_of(repo: Path, rev: str, path: str) -> str:
    """A git-tracked file as it is at `rev`; empty where it does not exist."""
    if rev == "workspace":
        file = repo / path
        return file.read_text(encoding="utf-8") if file.is_file() else ""
    command = ["git", "show", f"{rev}:./{path}"]
    done = subprocess.run(command, cwd=repo, capture_output=True, check=False)
    return done.stdout.decode("utf-8") if done.returncode == 0 else ""
