"""`admodels folder`: fixed folders that the DVC stage `score` scores."""

from pathlib import Path
from typing import Annotated

import typer

from admodels.foundation.errors import ConfigurationError

app = typer.Typer(help="Fixed folders that `dvc repro` scores.", no_args_is_help=True)


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="a new name, e.g. press_3")],
    folder: Annotated[str, typer.Option(help="the images to score")],
    task: Annotated[str, typer.Option(help="a task of `run.tasks`")],
    method: Annotated[str, typer.Option(help="a method of `run.methods`")],
    alpha: Annotated[float, typer.Option(help="the false-alarm budget, e.g. 0.05")],
) -> None:
    """Add a folder of images that `dvc repro` scores with the bundle of a method and a task."""
    from admodels.cli import editing

    if not Path(folder).is_dir():
        raise ConfigurationError(
            "the folder is missing",
            where=folder,
            expected="an existing folder, as seen from the repository root",
            next_step="create or mount it: `dvc repro` needs it to be there",
        )
    block = {"folder": folder, "task": task, "method": method, "alpha": alpha}
    with editing.edit_params() as document:
        editing.add(document, "folders", name, block)
    typer.echo(f"folders.{name} is in params.yaml")


@app.command("remove")
def remove(name: str) -> None:
    """Remove a folder from params.yaml; the scores of its images stay where they are."""
    from admodels.cli import choosing, editing
    from admodels.foundation import params

    folders = params.load()["folders"]
    choosing.refuse_unknown([name], folders, "folder", f"{params.PARAMS_FILE}, folders")
    with editing.edit_params(without=[("folders", name)]):
        pass
    typer.echo(f"folders.{name} is removed from params.yaml")
