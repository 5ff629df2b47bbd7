"""Commands of a plant: the folder, its lines, and which bundle scores each of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from admodels.cli.options import MODELS, PLANT, VARIABLE, plant_folder

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
    timezone: Annotated[str, typer.Option(help="of the plant, e.g. Europe/Berlin")],
    here: Annotated[bool, typer.Option("--here", help="also inside a git repository")] = False,
    lines: Annotated[
        Path | None, typer.Option("--from", help="take over the `lines:` of a version before")
    ] = None,
    ledger: Annotated[Path | None, typer.Option(help="with --from: a ledger to copy")] = None,
    models: Annotated[Path, MODELS] = Path("data/models"),
) -> None:
    """Make a plant: without lines, or of the lines, bundles and ledger of a version before."""
    from admodels.nights import founding

    if lines is None:
        founding.make_plant(folder, timezone, here=here)
    else:
        for note in founding.take_over(folder, timezone, lines, ledger, models, here=here):
            typer.echo(f"- {note}")
    typer.echo(f"{folder} is a plant; next: `export {VARIABLE}={folder.absolute()}`, then")
    typer.echo("`admodels line add`, `admodels deploy` and `admodels plant check`")


@app.command("check")
def check(plant: PlantOption = None) -> None:
    """Print what should be corrected before the next night; 5 if there is anything."""
    from admodels.foundation.errors import ALARM
    from admodels.nights.plant import read_plant
    from admodels.nights.readiness import warnings

    place = read_plant(plant_folder(plant))
    faults = list(warnings(place))
    for text in faults:
        typer.echo(f"- {text}")
    if faults:
        raise typer.Exit(ALARM)
    typer.echo(f"{place.folder} is ready: {len(place.lines)} lines")


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
    home, inbox = plant_folder(plant), _new_inbox(plant_folder(plant), folder)
    block = {"folder": str(inbox), "alpha": alpha}
    block |= {key: value for key, value in more.items() if value is not None}
    with edit_plant(home) as document:
        editing.add(document, "lines", name, block)
    typer.echo(f"{name} is in plant.yaml; next: `admodels deploy {name} BUNDLE`")
    typer.echo(_promise(alpha))
    if not inbox.is_dir():
        typer.echo(f"the inbox {inbox} is missing: create or mount it")


def _new_inbox(plant: Path, folder: str) -> Path:
    from admodels.foundation.errors import ConfigurationError

    inbox, is_empty = Path(folder).absolute(), not folder.strip()
    if is_empty or plant.resolve().is_relative_to(inbox.resolve()):
        raise ConfigurationError(
            "`--folder` is empty" if is_empty else "the plant stands inside the inbox",
            where="--folder" if is_empty else inbox,
            expected="a folder of images beside the plant: no line is scored by a night that "
            "would take the pictures of the ledger for images",
            next_step="name the folder that the camera writes to",
        )
    return inbox


def _promise(alpha: float) -> str:
    from admodels.inference.conformal import images_needed, images_within

    return (
        f"alpha {alpha:g} needs {images_needed(alpha)} normal images to calibrate with, and is the "
        f"mean over calibrations; with {images_within(alpha, 2)} the false-alarm rate of one stays "
        f"between {alpha / 2:g} and {alpha * 2:g}"
    )


@line_app.command("remove")
def line_remove(name: Name, plant: PlantOption = None) -> None:
    """Remove a line from plant.yaml; its rows stay in the ledger."""
    from admodels.nights.plant import read_plant

    place = read_plant(plant_folder(plant))
    place.line(name)
    with edit_plant(place.folder, [("lines", name)]):
        pass
    typer.echo(f"{name} is removed from plant.yaml")


@line_app.command("list")
def line_list(plant: PlantOption = None) -> None:
    """Print the lines: inbox, budget, and the bundle that scores them."""
    from admodels.nights.deploy import Deployed
    from admodels.nights.plant import read_plant

    place = read_plant(plant_folder(plant))
    deployed = Deployed(place)
    rows = [("line", "alpha", "bundle", "inbox", "")]
    for name, line in place.lines.items():
        paused = f"paused until {line.paused_until}" if line.paused_until else ""
        bundle = deployed.bundle(name) or "none: `admodels deploy`"
        rows.append((name, f"{line.alpha:g}", bundle, line.folder, paused))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(f"{c:{w}}" for c, w in zip(row, widths, strict=True)).rstrip())


@line_app.command("show")
def line_show(name: Name, plant: PlantOption = None) -> None:
    """Print one line: what plant.yaml says of it, its deployments, and what its budget needs."""
    from admodels.nights.deploy import history
    from admodels.nights.plant import read_plant

    place = read_plant(plant_folder(plant))
    line = place.line(name)
    for key, value in line.model_dump(mode="json", exclude_defaults=True, by_alias=True).items():
        typer.echo(f"{key}: {value}")
    typer.echo(_promise(line.alpha))
    for entry in history(place.folder, name):
        why = f": {entry['why']}" if entry["why"] else ""
        done = f"{entry['do']} {entry['bundle']} from {entry['origin']}"
        typer.echo(f"{entry['at']} {entry['who']}: {done}{why}")


@line_app.command("pause")
def line_pause(
    name: Name,
    until: Annotated[
        datetime, typer.Option(formats=["%Y-%m-%d"], help="the first day with images")
    ],
    plant: PlantOption = None,
) -> None:
    """Say that no images are meant before a day; today ends a pause."""
    from admodels.nights.plant import read_plant

    place = read_plant(plant_folder(plant))
    place.line(name)
    with edit_plant(place.folder) as document:
        document["lines"][name]["paused_until"] = f"{until:%Y-%m-%d}"
    typer.echo(f"{name}: no images are no alarm before {until:%Y-%m-%d}")


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
        bool,
        typer.Option(
            "--force", help="also where a gate fails, or its calibration cannot hold the budget"
        ),
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
