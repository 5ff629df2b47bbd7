"""Commands that choose which bundle of MLflow's registry scores."""

from pathlib import Path
from typing import Annotated

import typer

from admodels.cli.options import MODELS

app = typer.Typer()

TASK = typer.Argument(help="a task of params.yaml")
ALIAS = typer.Option(help="of the registered model admodels-TASK")


@app.command()
def promote(
    method: Annotated[str, typer.Argument(help="e.g. draem")],
    task: Annotated[str, TASK],
    alias: Annotated[str, ALIAS] = "champion",
    models: Annotated[Path, MODELS] = Path("data/models"),
) -> None:
    """Put a bundle into the registry, for `admodels deploy LINE models:/admodels-TASK@ALIAS`."""
    from admodels.tracking import registry

    typer.echo(registry.promote(Path(), models / method / task, alias))


@app.command()
def rollback(task: Annotated[str, TASK], alias: Annotated[str, ALIAS] = "champion") -> None:
    """Use the bundle that was promoted before; a second call undoes the first."""
    from admodels.tracking import registry

    typer.echo(registry.rollback(Path(), task, alias))
