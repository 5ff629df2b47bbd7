"""Commands of a plant: the folder, its lines, and which bundle scores each of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from admodels.cli.options import PLANT, plant_folder

if TYPE_CHECKING:
    from admodels.cli.editing import Document

app = typer.Typer(help="The folder of all that production owns.", no_args_is_help=True)
line_app = typer.Typer(help="The lines of a plant.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="LINE", help="e.g. press_3")]
PlantOption = Annotated[Path | None, PLANT]
Why = Annotated[str, typer.Option(help="kept in the history of deployments")]


@app.command("init")
def init(
    folder: Annotated[Path, typer.Argument(help="a new folder, outside every git repository")],
    timezone: Annotated[str, typer.Option(help="of the plant, e.g. Europe/Berlin")] = "UTC",
    here: Annotated[bool, typer.Option("--here", help="also inside a git repository")] = False,
) -> None:
    """Make a plant without lines."""
    from admodels.nights import founding

    founding.make_plant(folder, timezone, here=here)
    typer.echo(f"{folder} is a plant; next: `admodels line add LINE --plant {folder} ...`")


@line_app.command("add")
def line_add(
    name: Name,
    folder: Annotated[str, typer.Option(help="the inbox: where the images arrive")],
    alpha: Annotated[float, typer.Option(help="the false-alarm budget, e.g. 0.05")],
    pattern: Annotated[str | None, typer.Option(help="of paths below the folder")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="a pattern; may be repeated")] = None,
    page: Annotated[int | None, typer.Option(min=0, help="of TIFF files, from 0")] = None,
    plant: PlantOption = None,
) -> None:
    """Add a line to plant.yaml."""
    from admodels.cli import editing

    more = {"pattern": pattern, "exclude": exclude, "page": page}
    block = {"folder": folder, "alpha": alpha}
    block |= {key: value for key, value in more.items() if value is not None}
    with edit_plant(plant_folder(plant)) as document:
        editing.add(document, "lines", name, block)
    typer.echo(f"{name} is in plant.yaml; next: `admodels deploy {name} BUNDLE`")


@line_app.command("remove")
def line_remove(name: Name, plant: PlantOption = None) -> None:
    """Remove a line from plant.yaml; its rows stay in the ledger."""
    from admodels.nights.plant import read_plant

    place = read_plant(plant_folder(plant))
    place.line(name)
    with edit_plant(place.folder, [("lines", name)]):
        pass
    typer.echo(f"{name} is removed from plant.yaml")


@contextmanager
def edit_plant(folder: Path, without: Sequence[tuple[str, str]] = ()) -> "Iterator[Document]":
    """The document of plant.yaml to change; written back, whole, only if it is then valid.

    Raises:
        ConfigurationError: there is no plant, or what the edit would make of it is refused.
    """
    from admodels.cli import editing
    from admodels.nights.plant import PLANT_FILE, read_plant
    from admodels.scoring.locks import commit_lock

    def check(draft: Path, _: Path) -> Any:
        return read_plant(folder, draft)

    ledger = read_plant(folder).ledger
    ledger.mkdir(mode=0o750, exist_ok=True)
    with commit_lock(ledger), editing.edit(folder / PLANT_FILE, check, without) as document:
        yield document


def deploy(
    name: Name,
    bundle: Annotated[str | None, typer.Argument(help="a folder, or models:/NAME@ALIAS")] = None,
    undo: Annotated[bool, typer.Option("--undo", help="use the bundle from before")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="also where its calibration cannot hold the budget")
    ] = False,
    why: Why = "",
    plant: PlantOption = None,
) -> None:
    """Copy a bundle into the plant; it scores the line from the next look on."""
    from admodels.foundation.errors import ConfigurationError
    from admodels.nights import deploy as deploying
    from admodels.nights.plant import read_plant

    place = read_plant(plant_folder(plant))
    if (bundle is None) != undo:
        raise ConfigurationError(
            "a bundle and --undo" if undo else "neither a bundle nor --undo",
            where="admodels deploy",
            expected="one of the two",
            next_step=f"`admodels deploy {name} BUNDLE` or `admodels deploy {name} --undo`",
        )
    place.line(name)
    if bundle is None:
        deployed = deploying.undo(place, name, why=why)
    else:
        deployed = deploying.deploy(place, name, bundle, why=why, force=force)
    typer.echo(f"{name}: {deployed.bundle} from {deployed.origin}, from the next look on")
