"""Which tasks and methods `run` names, and the folders that need one of its cells."""

from collections.abc import Collection, Sequence
from typing import Any

from admodels.cli import editing
from admodels.cli.check import SAMPLE
from admodels.datasets import nearest
from admodels.foundation.errors import ConfigurationError
from admodels.foundation.params import PARAMS_FILE, load


def use_tasks(names: Sequence[str]) -> list[str]:
    """Set `run.tasks` to exactly `names`; return the folders of samples that this removes.

    Raises:
        ConfigurationError: there is no such task, or a folder needs another.
    """
    content = load()
    refuse_unknown(names, content["tasks"], "task", f"{PARAMS_FILE}, tasks")
    folders = folders_to_remove(content["run"]["methods"], names)
    with editing.edit_params(without=[("folders", folder) for folder in folders]) as document:
        set_run(document, content["run"]["methods"], names)
    return folders


def remove_task(name: str, *, from_run: bool) -> list[str]:
    """Remove the block `tasks.NAME`; return the folders of samples that this removes.

    Raises:
        ConfigurationError: there is no such task, or `run.tasks` or a folder needs it.
    """
    content = load()
    refuse_unknown([name], content["tasks"], "task", f"{PARAMS_FILE}, tasks")
    used = content["run"]["tasks"]
    kept = [task for task in used if task != name]
    if name in used and not (from_run and kept):
        others = [task for task in content["tasks"] if task != name]
        raise ConfigurationError(
            f"run.tasks names `{name}`" if kept else f"run.tasks names only `{name}`",
            where=PARAMS_FILE,
            expected="a task that is not trained",
            next_step=f"`admodels task remove {name} --from-run`"
            if kept
            else f"`admodels task use {others[0] if others else 'OTHER'}`, then run this again",
        )
    folders = folders_to_remove(content["run"]["methods"], kept)
    without = [("tasks", name), *(("folders", folder) for folder in folders)]
    with editing.edit_params(without=without) as document:
        set_run(document, content["run"]["methods"], kept)
    return folders


def folders_to_remove(run_methods: Collection[str], run_tasks: Collection[str]) -> list[str]:
    """The folders of sample tasks whose cell `run` would no longer train.

    Raises:
        ConfigurationError: a folder of another task would lose its cell.
    """
    content: dict[str, Any] = load()
    lost = [
        name
        for name, folder in (content["folders"] or {}).items()
        if folder.get("task") not in run_tasks or folder.get("method") not in run_methods
    ]
    own = [name for name in lost if not _is_of_sample(content, name)]
    if own:
        cells = ", ".join(f"{name}: {_cell(content['folders'][name])}" for name in own)
        raise ConfigurationError(
            f"folders need a cell that `run` would no longer train ({cells})",
            where=f"{PARAMS_FILE}, folders",
            expected="only folders whose method and task are trained",
            next_step="keep the tasks (`admodels task add` adds one beside them), or "
            + ", ".join(f"`admodels folder remove {name}`" for name in own),
        )
    return lost


def _is_of_sample(content: dict[str, Any], folder: str) -> bool:
    task = content["tasks"].get(content["folders"][folder].get("task"), {})
    return bool(task.get("dataset") == SAMPLE)


def _cell(folder: dict[str, Any]) -> str:
    return f"{folder.get('method')} on {folder.get('task')}"


def set_run(
    document: editing.Document, run_methods: Sequence[str], run_tasks: Sequence[str]
) -> None:
    """Let `run` name exactly these, in place."""
    editing.merge(
        document, {"run": {"methods": [*run_methods], "tasks": [*dict.fromkeys(run_tasks)]}}
    )


def refuse_unknown(names: Sequence[str], known: Collection[str], what: str, where: object) -> None:
    """Refuse names that are not known.

    Raises:
        ConfigurationError: names those that are.
    """
    for name in names:
        if name not in known:
            raise ConfigurationError(
                f"no {what} named `{name}`{nearest(name, known)}",
                where=where,
                expected=f"one of {', '.join(known)}",
                next_step="run this again with one of these names",
            )


def folders_text(folders: Sequence[str]) -> str:
    """As `; folders of sample tasks removed: a, b`, or nothing."""
    return f"; folders of sample tasks removed: {', '.join(folders)}" if folders else ""
