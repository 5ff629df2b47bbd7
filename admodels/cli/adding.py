"""Tasks that come into params.yaml: looked at, then pinned, then written in one piece."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import typer

from admodels import datasets, methods
from admodels.cli import choosing, editing
from admodels.cli.check import NAME, RESERVED
from admodels.cli.look import look
from admodels.foundation.errors import ConfigurationError
from admodels.foundation.licences import NOT_STATED, is_stated, licence_text
from admodels.foundation.params import PARAMS_FILE, load, parse, read
from admodels.sources.download import URL_SCHEMES
from admodels.sources.fetch import pin_source
from admodels.sources.source import Source, Task
from admodels.sources.textures import pin_textures
from admodels.validation.groups import name_groups

OFFICIAL = "official"
UNCHANGED = "params.yaml is as it was: this was a dry run"
Block = dict[str, Any]


class Origin(NamedTuple):
    """Where a task's images come from; `sha256` is empty where it is not known yet."""

    location: str
    mirrors: tuple[str, ...] = ()
    sha256: str = ""
    licence: str = NOT_STATED

    def pin(self, category: str, exclude: Sequence[str] = ()) -> Source:
        """The source as it is now; a release whose hash is known is not downloaded."""
        if not self.sha256:
            return pin_source(self.location, category, self.mirrors, exclude)
        return Source(kind="url", location=self.location, sha256=self.sha256, mirrors=self.mirrors)


def origin_of(source: str, dataset: str, mirrors: Sequence[str]) -> Origin:
    """What `--source` means; `official` is the dataset's own release.

    Raises:
        ConfigurationError: there is no such layout, or no release of it is known.
    """
    datasets.layout_module(dataset)
    if source != OFFICIAL:
        return Origin(source, tuple(mirrors))
    release = datasets.official(dataset)
    first, *others = release.urls
    return Origin(first, tuple(others), release.sha256, release.licence)


def add_task(
    name: str, block: Block, origin: Origin, textures: str | None, *, run: bool, dry_run: bool
) -> None:
    """Write the task `name`, its name to `run.tasks` with `run`, and the source of the textures.

    Raises:
        AdmodelsError: the name or the source cannot be used; nothing is written.
    """
    _refuse_name(name)
    _refuse_taken(name)
    pinned = _pinned_block(name, block, origin, dry_run=dry_run)
    if pinned is None:
        return
    painted = {"textures": texture_block(textures)} if textures else {}
    with editing.edit_params() as document:
        editing.add(document, "tasks", name, pinned)
        editing.merge(document, painted)
        if run:
            document["run"]["tasks"].append(name)
    _report(name, pinned)


def start_task(name: str, block: Block, location: str, method: str, *, dry_run: bool) -> None:
    """Write the task `name` with the layout that its source shows; `run` names only this cell.

    A method that `run` did not name gets the values of presets/cpu.yaml: those of `quick` are for a
    demonstration. A task of this name from the same location gets the new values.

    Raises:
        AdmodelsError: the name, the method or the source cannot be used; nothing is written.
    """
    _refuse_name(name)
    known = load()["tasks"].get(name)
    is_known = known is not None and Path(known["source"]["location"]) == Path(location)
    if not is_known:
        _refuse_taken(name)
    choosing.refuse_unknown([method], methods.available(), "method", "admodels/methods/")
    is_new = not is_known or method not in load()["run"]["methods"]
    folders = choosing.folders_to_remove([method], [name])
    pinned = _pinned_block(name, block, Origin(location), dry_run=dry_run)
    if pinned is None:
        return
    with editing.edit_params(without=[("folders", folder) for folder in folders]) as document:
        if is_known:
            editing.merge(document, {"tasks": {name: pinned}})
        else:
            editing.add(document, "tasks", name, pinned)
        if is_new:
            values = load(editing.PRESETS / "cpu.yaml")["methods"][method]
            editing.merge(document, {"methods": {method: values}})
        choosing.set_run(document, [method], [name])
    _report(name, pinned)
    typer.echo(f"run: {method} on {name}, and nothing else{choosing.folders_text(folders)}")
    if is_new:
        typer.echo(f"methods.{method}: the values of presets/cpu.yaml")


def refresh_task(name: str) -> None:
    """Pin the source of the task `name` as it is now; where it changed, it is looked at first.

    Raises:
        AdmodelsError: there is no such task, or its source can no longer be used.
    """
    task = read(f"tasks.{name}", Task)
    origin = Origin(task.source.location, task.source.mirrors)
    source = origin.pin(task.category, task.exclude)
    if source.sha256 == task.source.sha256:
        typer.echo(f"tasks.{name} is unchanged")
        return
    block = task.model_dump(mode="json")
    look(name, source.location, source.sha256, lambda root: _layout_of(block, root))
    with editing.edit_params() as document:
        editing.merge(document, {"tasks": {name: {"source": plain(source)}}})
    typer.echo(f"tasks.{name} is pinned to {source.sha256[:12]}")


def texture_block(location: str) -> Block:
    """The pinned source of textures as params.yaml holds it."""
    return plain(pin_textures(location))


def _pinned_block(name: str, block: Block, origin: Origin, *, dry_run: bool) -> Block | None:
    """The block with `dataset` and `source`, once the source was looked at; None if dry."""
    source, category, exclude = None, block["category"], block.get("exclude", ())
    if origin.location.startswith(URL_SCHEMES) and not dry_run:
        source = origin.pin(category, exclude)  # what is in the cache of downloads can be looked at
    layout = look(
        name,
        origin.location,
        source.sha256 if source else origin.sha256,
        lambda root: _layout_of(block, root),
    )
    if dry_run:
        typer.echo(UNCHANGED)
        return None
    dataset = block.get("dataset") or (layout and layout.dataset)
    if not dataset:
        raise ConfigurationError(
            "the layout of a source that nobody has fetched yet cannot be guessed",
            where=origin.location,
            expected="a folder or an archive",
            next_step="name its layout: `admodels task add --dataset`",
        )
    source = source or origin.pin(category, exclude)
    return {"dataset": dataset, **block, "source": plain(source)}


def _layout_of(block: Block, root: Path) -> datasets.Layout:
    exclude, normal = block.get("exclude", ()), block.get("normal_folders", ())
    if "dataset" in block:
        layout = datasets.read_layout(block["dataset"], block["category"], root, exclude, normal)
    else:
        layout = datasets.guess_layout(root, block["category"], exclude, normal)
    pattern: Any = re.Pattern[str] | None
    group = parse(block.get("group"), pattern, "group", Path("--group"))
    return replace(layout, images=name_groups(layout.images, group, layout.category))


def _refuse_name(name: str) -> None:
    if NAME.fullmatch(name) and name != RESERVED:
        return
    word = re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")
    word = word if NAME.fullmatch(word) and word != RESERVED else f"task_{word}".strip("_")
    raise ConfigurationError(
        f"`{name}` cannot name a task"
        + (": the report uses it for the mean over tasks" if name == RESERVED else ""),
        where="the name of the task",
        expected="lower-case letters, digits and `_`, a letter first",
        next_step=f"run this again with `{word}`",
    )


def _refuse_taken(name: str) -> None:
    if name in load()["tasks"]:
        raise ConfigurationError(
            f"tasks.{name} exists already",
            where=PARAMS_FILE,
            expected="a new name",
            next_step=f"choose another name, or `admodels task remove {name}` first; "
            f"`admodels task show {name}` says what it is, `admodels task refresh {name}` pins "
            "its source as it is now",
        )


def _report(name: str, block: Block) -> None:
    typer.echo(f"tasks.{name} is in params.yaml, pinned to {block['source']['sha256'][:12]}")
    typer.echo(licence_sentence(block["licence"]))


def licence_sentence(licence: str) -> str:
    """What is known of the licence of a task's images."""
    if is_stated(licence):
        return f"licence of the images: {licence_text(licence)}"
    return (
        "licence of the images: not stated, and every bundle and report says so; "
        "`--licence` states it"
    )


def plain(source: Source) -> Block:
    """The source as params.yaml holds it."""
    block: Block = source.model_dump(mode="json", exclude_defaults=True)
    return block
