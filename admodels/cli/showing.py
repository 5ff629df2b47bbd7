"""The tasks of params.yaml, for people."""

from collections.abc import Iterator
from pathlib import Path

from admodels.cli import choosing
from admodels.cli.adding import licence_sentence
from admodels.cli.look import layout_lines
from admodels.datasets import read_layout
from admodels.foundation.params import PARAMS_FILE, Run, load, read
from admodels.sources.source import Task

HEAD = ("run", "name", "layout", "category", "kind", "licence", "source")
RAW = Path("data/raw")


def table() -> Iterator[str]:
    """Every task on a line, in columns."""
    run, tasks = read("run", Run), read("tasks", dict[str, Task])
    rows = [HEAD]
    for name, task in tasks.items():
        cells = (name, task.dataset, task.category, task.kind, task.licence, task.source.location)
        rows.append(("yes" if name in run.tasks else "no", *cells))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def task_lines(name: str) -> Iterator[str]:
    """One task: its block, who uses it, and what its layout makes of the images fetched.

    Raises:
        ConfigurationError: there is no such task.
    """
    content = load()
    choosing.refuse_unknown([name], content["tasks"], "task", f"{PARAMS_FILE}, tasks")
    task = read(f"tasks.{name}", Task)
    folders = [key for key, block in content["folders"].items() if block.get("task") == name]
    trained = ", ".join(content["run"]["methods"]) if name in content["run"]["tasks"] else "no"
    yield f"{name}: the layout `{task.dataset}`, category {task.category}, kind {task.kind}"
    yield f"source: {task.source.kind} {task.source.location}, pinned to {task.source.sha256[:12]}"
    yield licence_sentence(task.licence)
    yield f"trained: {trained}; folders: {', '.join(folders) or 'none'}"
    if not (RAW / name).is_dir():
        yield f"images: not fetched yet: `dvc repro fetch@{name}`"
        return
    yield f"images, in {RAW / name}:"
    layout = read_layout(
        *(task.dataset, task.category, RAW / name, task.exclude, task.normal_folders),
        is_copy=True,
    )
    for line in layout_lines(layout):
        yield f"  {line}"
