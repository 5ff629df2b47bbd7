"""`admodels check`: the whole of params.yaml, in under a second, without torch."""

import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, create_model

from admodels import datasets, methods
from admodels.evaluation.measure import Evaluate
from admodels.foundation.errors import ConfigurationError
from admodels.foundation.manifest import Split
from admodels.foundation.params import PARAMS_FILE, Run, Strict, load, parse
from admodels.scoring.folders import FixedFolder
from admodels.sources.source import Source, Task
from admodels.synthesis.params import Synthesize
from admodels.tracking.gates import Gates
from admodels.validation.checks import Validate

NAME = re.compile(r"[a-z][a-z0-9_]*")  # DVC joins the parts of a cell's name with `-`
RESERVED = "mean"
MOVED = {
    "assets": "write what stands below `assets.textures` below `textures`, and no `assets`",
    "lines": "name this key `folders` (`admodels folder add`); inboxes of a plant stand in "
    "its plant.yaml, and `admodels plant init --from FILE` takes them over",
}
OPTIONAL = ("gates",)  # older files have none
SAMPLE = "sample"  # the dataset and the kind of source that are drawn here


def roots() -> dict[str, Any]:
    """The type of every root key of params.yaml; a block `methods.NAME` has that folder's own."""
    blocks: dict[str, Any] = {
        name: (import_module(f"admodels.methods.{name}.params").Params, None)
        for name in methods.available()
    }
    return {
        "seed": Annotated[int, Field(ge=0)],
        "run": Run,
        "tasks": dict[str, Task],
        "textures": Source,
        "split": Split,
        "validate": Validate,
        "synthesize": Synthesize,
        "train": methods.Train,
        "methods": create_model("Methods", __base__=Strict, **blocks),
        "evaluate": Evaluate,
        "folders": dict[str, FixedFolder],
        "gates": Gates,
    }


def problems(content: Mapping[str, Any]) -> list[str]:
    """What is wrong with the plain values of a params file, each with its key path."""
    models = roots()
    unknown = sorted(set(content) - set(models))
    faults = [f"{key}: {MOVED.get(key, 'no such root key')}" for key in unknown]
    faults += [
        f"{key}: this root key is missing" for key in models if key not in {*content, *OPTIONAL}
    ]
    typed: dict[str, Any] = {}
    for key in models.keys() & content.keys():
        try:
            typed[key] = parse(content[key], models[key], key)
        except ConfigurationError as error:
            faults.append(error.fault)
    return sorted(faults) or list(_contradictions(typed))


def _contradictions(typed: Mapping[str, Any]) -> Iterator[str]:
    run: Run = typed["run"]
    tasks: dict[str, Task] = typed["tasks"]
    for key in ("tasks", "folders"):
        yield from (
            f"{key}.{name}: a name is lower-case letters, digits and `_`, a letter first"
            for name in typed[key]
            if not NAME.fullmatch(name)
        )
    for name, task in tasks.items():
        if name == RESERVED:
            yield f"tasks.{name}: the report uses this name for the mean over tasks"
        if task.dataset not in datasets.layouts():
            yield f"tasks.{name}.dataset: no `{task.dataset}` in admodels/datasets/"
        if (task.dataset == SAMPLE) != (task.source.kind == SAMPLE):
            yield (
                f"tasks.{name}.source.kind: dataset `{task.dataset}` cannot come from a source of "
                f"kind `{task.source.kind}`; `{SAMPLE}` goes with `{SAMPLE}` only"
            )
    blocks = [name for name in methods.available() if getattr(typed["methods"], name) is not None]
    yield from _cells_without_block("methods", run.methods, blocks)
    yield from _cells_without_block("tasks", run.tasks, list(tasks))
    for name, folder in typed["folders"].items():
        if folder.method not in run.methods or folder.task not in run.tasks:
            yield f"folders.{name}: `run` trains no {folder.method} on {folder.task}"


def _cells_without_block(key: str, names: tuple[str, ...], blocks: list[str]) -> Iterator[str]:
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield f"run.{key}: `{name}` is named twice"
        if name not in blocks:
            yield f"run.{key}: there is no block `{key}.{name}`"


def check(path: Path = PARAMS_FILE, where: Path | None = None) -> None:
    """Refuse a params file that a stage would refuse later; errors name it as `where`.

    Raises:
        ConfigurationError: names every problem.
    """
    faults = problems(load(path))
    if faults:
        raise ConfigurationError(
            "\n  ".join([f"{len(faults)} problem{'s' * (len(faults) > 1)} in the params", *faults]),
            where=where or path,
            expected="the keys of presets/*.yaml with their types and bounds, names that exist",
            next_step="correct these keys, then `admodels check`",
        )
