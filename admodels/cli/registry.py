"""Commands that choose which bundle of MLflow's registry scores."""

from pathlib import Path
from typing import Annotated

import typer

from admodels.cli.options import MODELS

app = typer.Typer()
bundle_app = typer.Typer(help="Bundles as folders.", no_args_is_help=True)

TASK = typer.Argument(help="a task of params.yaml")
ALIAS = typer.Option(help="of the registered model admodels-TASK")


@app.command()
def promote(
    method: Annotated[str, typer.Argument(help="e.g. draem")],
    task: Annotated[str, TASK],
    alias: Annotated[str, ALIAS] = "champion",
    models: Annotated[Path, MODELS] = Path("data/models"),
    force: Annotated[
        bool, typer.Option("--force", help="also where a gate fails or nothing is committed")
    ] = False,
    why: Annotated[str, typer.Option(help="kept with the version")] = "",
) -> None:
    """Put a bundle into the registry, for `admodels deploy LINE models:/admodels-TASK@ALIAS`."""
    from admodels.tracking import registry

    typer.echo(registry.promote(Path(), models / method / task, alias, why=why, force=force))


@app.command()
def rollback(task: Annotated[str, TASK], alias: Annotated[str, ALIAS] = "champion") -> None:
    """Use the bundle that was promoted before; a second call undoes the first."""
    from admodels.tracking import registry

    typer.echo(registry.rollback(Path(), task, alias))


@bundle_app.command("export")
def export(
    method: Annotated[str, typer.Argument(help="e.g. draem")],
    task: Annotated[str, TASK],
    folder: Annotated[Path, typer.Argument(help="a new folder")],
    models: Annotated[Path, MODELS] = Path("data/models"),
) -> None:
    """Copy a bundle, and beside it what its test images showed, for gates on another machine."""
    from admodels.tracking.evidence import NAME, export_bundle

    is_known = export_bundle(models / method / task, folder)
    typer.echo(
        f"{folder}: the bundle of {method} on {task}, {'with' if is_known else 'without'} {NAME}"
    )
