"""Commands that change verdicts, never scores: calibration, thresholds, what people said."""

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
    """Calibrate a line with its own normal images, and compute all its verdicts anew."""
    from admodels.inference.conformal import smallest_alpha
    from admodels.nights import calibrate as calibrating
    from admodels.nights import verdicts
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
        verdicts.rebuild(held, name, line.alpha)
    count = len(calibration.scores)
    typer.echo(f"{name}: {count} images, the smallest alpha is {smallest_alpha(count):.3g}")


@app.command()
def rethreshold(
    alpha: Annotated[float, typer.Option(min=1e-9, max=1, help="the false-alarm budget")],
    name: Annotated[str | None, typer.Option("--line", help="default: all lines")] = None,
    write: Annotated[bool, typer.Option(help="write the verdicts, not only the preview")] = False,
    plant: Annotated[Path | None, PLANT] = None,
) -> None:
    """Print what another budget changes, from the ledger alone; nothing is scored."""
    from admodels.nights import verdicts
    from admodels.nights.plant import read_plant
    from admodels.scoring.ledger import read_ledger

    place = read_plant(plant_folder(plant))
    names = [name] if name else list(place.lines)
    with read_ledger(place.ledger) as held:
        for each in names:
            typer.echo(verdicts.change_of_alpha(held, each, alpha))
            if write:
                verdicts.rebuild(held, each, alpha)
    typer.echo(
        f"written; set `alpha: {alpha:g}` in plant.yaml to keep it" if write else "a preview"
    )


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
