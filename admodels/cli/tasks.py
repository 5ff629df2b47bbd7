"""`admodels start` and `admodels task`: what is learnt, and from which images."""

from typing import Annotated, Any, Literal

import typer

app = typer.Typer(help="Dataset categories to learn.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="e.g. bottle: lower-case letters, digits and `_`")]
Kind = Literal["object", "texture"]
KindOption = Annotated[Kind, typer.Option(help="a part with a shape, or a surface")]
Licence = Annotated[str | None, typer.Option(help="of the images; every bundle states it")]
Normal = Annotated[
    list[str] | None,
    typer.Option(help="a folder of normal images not called good or normal; may be repeated"),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(help="a pattern of files that are no images of it; may be repeated"),
]
Group = Annotated[
    str | None,
    typer.Option(help="a regular expression that finds in a path which piece the image shows"),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="look and print, change nothing")]


def start(
    name: Name,
    folder: Annotated[str, typer.Argument(help="the images: a folder or an archive")],
    kind: KindOption = "object",
    method: Annotated[str, typer.Option(help="what learns it")] = "patchcore",
    licence: Licence = None,
    normal: Normal = None,
    exclude: Exclude = None,
    group: Group = None,
    dry_run: DryRun = False,
) -> None:
    """Add one task from a folder and train only it; `dvc repro` does the rest.

    FOLDER holds normal images, right in it or in `good/`, and at will a folder of images for each
    defect; or it has the layout of MVTec AD, VisA or DAGM.

    Example: admodels start bottle /images/bottles
    """
    from admodels.cli import adding

    block = _block(name, kind, licence, normal, exclude, group)
    adding.start_task(name, block, folder, method, dry_run=dry_run)
    if not dry_run:
        typer.echo(f"kind: {kind}; {_other_kind(kind)}")
        typer.echo("next: dvc repro, then admodels report")


@app.command("add")
def add(
    name: Name,
    dataset: Annotated[str, typer.Option(help="the layout: a module of admodels/datasets/")],
    category: Annotated[str, typer.Option(help="e.g. bottle")],
    kind: KindOption,
    source: Annotated[str, typer.Option(help="a folder, archive, URL, NAME.urls, or `official`")],
    mirror: Annotated[list[str] | None, typer.Option(help="another URL of the same bytes")] = None,
    licence: Licence = None,
    normal: Normal = None,
    exclude: Exclude = None,
    group: Group = None,
    textures: Annotated[str | None, typer.Option(help="also set the texture source")] = None,
    run: Annotated[bool, typer.Option(help="add it to run.tasks")] = True,
    dry_run: DryRun = False,
) -> None:
    """Look at a source, pin it and add it to params.yaml; `dvc repro` then trains on it.

    Example: admodels task add cap --dataset folder --category cap --kind object --source ./caps
    """
    from admodels.cli import adding

    origin = adding.origin_of(source, dataset, mirror or ())
    block = _block(category, kind, licence or origin.licence, normal, exclude, group)
    adding.add_task(name, {"dataset": dataset, **block}, origin, textures, run=run, dry_run=dry_run)


def _block(
    category: str,
    kind: Kind,
    licence: str | None,
    normal: list[str] | None,
    exclude: list[str] | None,
    group: str | None,
) -> dict[str, Any]:
    from admodels.foundation.licences import NOT_STATED

    more = {"exclude": exclude, "normal_folders": normal, "group": group}
    block = {"category": category, "kind": kind, "licence": licence or NOT_STATED}
    return block | {key: value for key, value in more.items() if value}


def _other_kind(kind: Kind) -> str:
    if kind == "object":
        return "for a surface such as cloth or leather, run this again with `--kind texture`"
    return "for a part with a shape, run this again with `--kind object`"


@app.command("refresh")
def refresh(name: Name) -> None:
    """Pin the source of a task as it is now; what depends on it reruns with `dvc repro`."""
    from admodels.cli import adding

    adding.refresh_task(name)


@app.command("list")
def list_() -> None:
    """Print the tasks: whether `run` trains on them, their layout, kind, licence and source."""
    from admodels.cli import showing

    for line in showing.table():
        typer.echo(line)


@app.command("show")
def show(name: Name) -> None:
    """Print one task: what params.yaml says of it, who uses it, and what its images are."""
    from admodels.cli import showing

    for line in showing.task_lines(name):
        typer.echo(line)


@app.command("use")
def use(
    names: Annotated[list[str], typer.Argument(help="the tasks to train on")],
) -> None:
    """Train on exactly these tasks."""
    from admodels.cli import choosing

    folders = choosing.use_tasks(names)
    typer.echo(f"run.tasks: {', '.join(names)}{choosing.folders_text(folders)}")


@app.command("remove")
def remove(
    name: Name,
    from_run: Annotated[
        bool, typer.Option("--from-run", help="also where `run` trains on it")
    ] = False,
) -> None:
    """Remove a task from params.yaml; what was made of it stays in DVC's cache."""
    from admodels.cli import choosing

    folders = choosing.remove_task(name, from_run=from_run)
    typer.echo(f"tasks.{name} is removed from params.yaml{choosing.folders_text(folders)}")
