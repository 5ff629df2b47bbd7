"""What is compared: the cells of a revision, or a table of scores of another tool."""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from admodels.evaluation.maps import CodedMaps, code_maps, read_maps
from admodels.foundation import manifest
from admodels.foundation.arrays import Bool, Float64
from admodels.foundation.errors import ConfigurationError
from admodels.foundation.manifest import ManifestRow
from admodels.foundation.params import Run, parse
from admodels.report.comparison.outs import WORKSPACE, Revision

COSTS = {  # title: stage, key of its costs
    "training, CPU-s": ("train", "cpu_seconds"),
    "training, MiB": ("train", "peak_mib"),
    "images/s": ("evaluate", "images_per_second"),
    "evaluation, MiB": ("evaluate", "peak_mib"),
}


@dataclass(frozen=True)
class Cell:
    """One bundle on the test images of a task: N rows, with scores (N,) and verdicts (N,).

    `verdicts` are those at the false-alarm budget, None without a threshold; `aupimo` (N,) is NaN
    where it is not defined; `maps` is None where none were kept.
    """

    side: str
    method: str
    task: str
    rows: list[ManifestRow]
    scores: Float64
    verdicts: Bool | None
    aupimo: Float64
    maps: CodedMaps | None
    cost: dict[str, float]

    @property
    def name(self) -> str:
        """What people call it."""
        return f"{self.side}:{self.method}" if self.method else self.side


@dataclass(frozen=True)
class Side:
    """`word` as it was given; of a revision, with the methods and tasks that it can show."""

    word: str
    revision: Revision | None
    methods: tuple[str, ...]
    tasks: tuple[str, ...]

    def cell(self, method: str, task: str) -> Cell:
        """The cell of a method on a task; a table has one."""
        if self.revision is None:
            return _table_cell(Path(self.word), task)
        return _revision_cell(self.revision, method, task)


def side(repo: Path, word: str, task: str | None) -> Side:
    """`REVISION`, `REVISION:METHOD`, or a CSV of scores on the images of `task`.

    Raises:
        ConfigurationError: it is none of these, or a table comes without a task.
    """
    if word.endswith(".csv") and Path(word).is_file():
        if task is None:
            raise ConfigurationError(
                "a table of scores does not say of which task it is",
                where=word,
                expected="the name of a task",
                next_step="add `--task TASK`",
            )
        return Side(word, None, (), (task,))
    name, _, method = word.partition(":")
    revision = Revision(repo, name or WORKSPACE)
    run = parse(revision.params.get("run"), Run, f"run of {name or WORKSPACE}")
    methods = (method,) if method else run.methods
    return Side(word, revision, methods, tuple(t for t in run.tasks if task in (None, t)))


def pairs(before: Side, after: Side) -> list[tuple[str, str, str]]:
    """Method before, method after and task of all that can be compared.

    Two revisions share their methods, unless each names one.

    Raises:
        ConfigurationError: no task or no method is common, or a table is set beside many methods.
    """
    tasks = [task for task in after.tasks if task in before.tasks]
    methods = list(_pairs_of_methods(before.methods, after.methods))
    if not tasks or not methods:
        raise ConfigurationError(
            f"`{before.word}` and `{after.word}` have no cell in common",
            where=f"methods {_list(before.methods)} and {_list(after.methods)}, "
            f"tasks {_list(before.tasks)} and {_list(after.tasks)}",
            expected="the same task, and the same method or one named on each side",
            next_step="name the methods: `admodels compare REVISION:METHOD REVISION:METHOD`",
        )
    return [(early, late, task) for early, late in methods for task in tasks]


def _pairs_of_methods(before: Sequence[str], after: Sequence[str]) -> Iterator[tuple[str, str]]:
    if len(before) <= 1 and len(after) <= 1:
        yield (*before, "")[0], (*after, "")[0]
    elif before and after:
        yield from ((method, method) for method in after if method in before)


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _revision_cell(revision: Revision, method: str, task: str) -> Cell:
    folder = f"data/evaluation/{method}/{task}"
    tested = manifest.read(revision.file(f"data/manifests/{task}/test.csv"))
    rows = {row.image_id: row for row in tested}
    with revision.file(f"{folder}/scores.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    kept = f"{folder}/maps.npz"
    costs = {
        stage: json.loads(revision.file(f"data/costs/{stage}/{method}/{task}.json").read_bytes())
        for stage in ("train", "evaluate")
    }
    return Cell(
        side=revision.name,
        method=method,
        task=task,
        rows=[rows[line["image_id"]] for line in lines],
        scores=np.array([line["anomaly_score"] for line in lines], np.float64),
        verdicts=_verdicts([line["is_anomalous"] for line in lines]),
        aupimo=np.array([line.get("aupimo") or "nan" for line in lines], np.float64),
        maps=read_maps(revision.file(kept)) if revision.exists(kept) else None,
        cost={
            title: costs[stage][key] for title, (stage, key) in COSTS.items() if key in costs[stage]
        },
    )


def _verdicts(words: Sequence[str]) -> Bool | None:
    return np.array([word == "True" for word in words]) if all(words) else None


def _table_cell(table: Path, task: str) -> Cell:
    from admodels.evaluation.imported import evaluate_table

    imported = evaluate_table(table, task)
    images, scored = imported.evaluation.images, imported.scored
    verdicts = None if imported.evaluation.threshold is None else images["is_anomalous"]
    return Cell(
        side=table.name,
        method="",
        task=task,
        rows=manifest.read(Path("data/manifests", task, "test.csv")),
        scores=scored.anomaly_scores.astype(np.float64),
        verdicts=None if verdicts is None else verdicts.to_numpy(bool),
        aupimo=images["aupimo"].to_numpy(np.float64),
        maps=None if scored.masks is None else code_maps(scored.anomaly_maps, scored.masks),
        cost={},
    )
