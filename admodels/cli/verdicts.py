"""Commands that change verdicts, never scores: calibration, thresholds, what people said."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from admodels.cli.options import PLANT, plant_folder

app = typer.Typer()

LINE_NAME = typer.Argument(metavar="LINE", help="a line of the plant")


@app.command()
def calibrate(
    name: Annotated[str, LINE_NAME],
    folder: Annotated[Path, typer.Argument(help="normal images of the line, approved by a person")],
    plant: Annotated[Path | None, PLANT] = None,
) -> None:
    """Calibrate a line with its own normal images, from its next look on."""
    from admodels.inference.conformal import smallest_alpha
    from admodels.nights import calibrate as calibrating
    from admodels.nights.deploy import Deployed
    from admodels.nights.plant import read_plant
    from admodels.scoring.ledger import read_ledger
    from admodels.scoring.stopping import on_signals

    place = read_plant(plant_folder(plant))
    line = place.line(name)
    with on_signals() as stop, read_ledger(place.ledger) as held:
        model, _ = Deployed(place).of(name)
        manifests = Path("data/manifests")
        calibration = calibrating.calibrate(held, name, model, folder, manifests, stop, line.tile)
    count = len(calibration.scores)
    typer.echo(f"{name}: {count} images, the smallest alpha is {smallest_alpha(count):.3g}")


@app.command()
def rejudge(
    name: Annotated[str, LINE_NAME],
    night: Annotated[
        list[datetime] | None, typer.Option(formats=["%Y-%m-%d"], help="default: all nights")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(min=1e-9, max=1, help="default: the budget of the line")
    ] = None,
    why: Annotated[str, typer.Option(help="kept with the judgement; without it: a preview")] = "",
    plant: Annotated[Path | None, PLANT] = None,
) -> None:
    """Judge rows anew by what counts today, beside what was said; nothing is scored."""
    from admodels.nights import rejudge as rejudging
    from admodels.nights.plant import read_plant
    from admodels.scoring.ledger import read_ledger

    place = read_plant(plant_folder(plant))
    budget = place.line(name).alpha if alpha is None else alpha
    nights = {day.date() for day in night or ()}
    with read_ledger(place.ledger) as held:
        typer.echo(rejudging.rejudge(held, name, budget, nights, why))
    typer.echo("a new judgement is kept" if why else "a preview: `--why TEXT` keeps it")


@app.command()
def feedback(
    table: Annotated[Path, typer.Argument(help="CSV: line, path or image_sha256, verdict")],
    plant: Annotated[Path | None, PLANT] = None,
) -> None:
    """Keep what people said of images (fine, defect); print the false-alarm rate that it shows."""
    from admodels.nights import feedback as said
    from admodels.nights.plant import read_plant
    from admodels.scoring.ledger import read_ledger

    place = read_plant(plant_folder(plant))
    with read_ledger(place.ledger) as held:
        for name in said.take(held, table):
            typer.echo(said.count_false_alarms(held, name, place.line(name).alpha))
            typer.echo(f"kept in {said.path_of(held, name)}; `admodels calibrate` uses it")


@app.command()
def collect(
    name: Annotated[str, LINE_NAME],
    folder: Annotated[Path, typer.Argument(help="the source of a task, of layout `folder`")],
    plant: Annotated[Path | None, PLANT] = None,
) -> None:
    """Add the images that people called fine to those that a task learns from."""
    from admodels.nights import feedback as said
    from admodels.nights.plant import read_plant
    from admodels.scoring.ledger import read_ledger

    place = read_plant(plant_folder(plant))
    place.line(name)
    with read_ledger(place.ledger) as held:
        kept, gone = said.collect(held, name, place.inbox(name), folder)
    typer.echo(f"{kept} images are in {folder / 'normal'}, {gone} are no longer to be found")
    typer.echo("`admodels task refresh` of its task, then `dvc repro`, learns from them")
