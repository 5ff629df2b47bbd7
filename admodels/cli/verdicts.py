"""Commands of verdicts: print, export and change them; no score changes."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from admodels.cli.options import LEDGER, PLANT, ledger_folder, plant_folder

app = typer.Typer()
regions_app = typer.Typer(help="The places that verdicts point at.", no_args_is_help=True)

LINE_NAME = typer.Argument(metavar="LINE", help="a line of the plant")
NIGHTS = typer.Option(formats=["%Y-%m-%d"], help="may be repeated; default: all nights")


@app.command()
def calibrate(
    name: Annotated[str, LINE_NAME],
    folder: Annotated[
        Path | None, typer.Argument(help="normal images, approved by a person; default: audits")
    ] = None,
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
    night: Annotated[list[datetime] | None, NIGHTS] = None,
    alpha: Annotated[
        float | None, typer.Option(min=1e-9, max=1, help="default: the budget of the line")
    ] = None,
    why: Annotated[str, typer.Option(help="kept with the judgement; without it: a preview")] = "",
    plant: Annotated[Path | None, PLANT] = None,
) -> None:
    """Judge rows anew by what counts today, beside what was said; no score changes."""
    from admodels.nights import places
    from admodels.nights import rejudge as rejudging
    from admodels.nights.plant import read_plant
    from admodels.scoring.ledger import read_ledger

    place = read_plant(plant_folder(plant))
    budget = place.line(name).alpha if alpha is None else alpha
    nights = {day.date() for day in night or ()}
    with read_ledger(place.ledger) as held:
        typer.echo(rejudging.rejudge(held, name, budget, nights, why))
        if why:
            typer.echo(places.point_again(held, place, name, nights))
    typer.echo("a new judgement is kept" if why else "a preview: `--why TEXT` keeps it")


@app.command()
def verdicts(
    name: Annotated[str, LINE_NAME],
    csv: Annotated[Path, typer.Option(help="the file to write")],
    night: Annotated[list[datetime] | None, NIGHTS] = None,
    plant: Annotated[Path | None, PLANT] = None,
    ledger: Annotated[Path | None, LEDGER] = None,
) -> None:
    """Write every image of a line with its last verdict, part, lot and time as CSV."""
    from admodels.nights import export
    from admodels.scoring.ledger import read_ledger

    with read_ledger(ledger_folder(plant, ledger)) as held:
        count = export.export_verdicts(held, name, csv, _is_one_of(night))
    typer.echo(f"{count} rows are in {csv}")


@regions_app.command("export")
def export_regions(
    name: Annotated[str, LINE_NAME],
    coco: Annotated[Path | None, typer.Option(help="the file to write, as COCO JSON")] = None,
    csv: Annotated[Path | None, typer.Option(help="the file to write, a region a row")] = None,
    night: Annotated[list[datetime] | None, NIGHTS] = None,
    plant: Annotated[Path | None, PLANT] = None,
    ledger: Annotated[Path | None, LEDGER] = None,
) -> None:
    """Write the regions of the flagged images of a line, with the last verdict on each image."""
    from admodels.nights import places
    from admodels.scoring.ledger import read_ledger

    if not (coco or csv):
        raise typer.BadParameter("name a file: `--coco FILE`, `--csv FILE` or both")
    with read_ledger(ledger_folder(plant, ledger)) as held:
        regions = places.judged_regions(held, name, _is_one_of(night))
    for target, write in ((coco, places.write_coco), (csv, places.write_csv)):
        if target:
            write(regions, target)
            typer.echo(f"{len(regions)} regions are in {target}")


@app.command()
def parts(
    lot: Annotated[str | None, typer.Option(help="default: all lots")] = None,
    night: Annotated[list[datetime] | None, NIGHTS] = None,
    most: Annotated[int, typer.Option(min=1, help="print at most so many")] = 20,
    csv: Annotated[Path | None, typer.Option(help="write all of them to this file, too")] = None,
    plant: Annotated[Path | None, PLANT] = None,
    ledger: Annotated[Path | None, LEDGER] = None,
) -> None:
    """Print what was said of parts, the worst first: of a lot, of a night, or of all."""
    from admodels.nights import export
    from admodels.scoring.ledger import read_ledger

    with read_ledger(ledger_folder(plant, ledger)) as held:
        table = export.parts_of(held, lot, _is_one_of(night))
    for text in export.sentences(table[:most]):
        typer.echo(text)
    if csv:
        export.export_parts(table, csv)
    flags = table["is_anomalous"].to_pylist()
    counts = f"{flags.count(True)} flagged, {flags.count(None)} undecided"
    where = f" of lot {lot}" if lot else ""
    typer.echo(f"{len(flags)} parts{where}, {counts}" if flags else f"no part{where} was judged")


def _is_one_of(nights: list[datetime] | None) -> Callable[[str], bool]:
    dates = {night.date().isoformat() for night in nights or ()}
    return lambda night: not dates or night in dates


@app.command()
def feedback(
    table: Annotated[
        Path, typer.Argument(help="CSV: line, path or image_sha256, verdict, section and night")
    ],
    plant: Annotated[Path | None, PLANT] = None,
) -> None:
    """Keep what people said of images: fine, defect or unsure; all rows of the table or none."""
    from admodels.nights import marks
    from admodels.nights.plant import read_plant
    from admodels.scoring.ledger import read_ledger

    place = read_plant(plant_folder(plant))
    with read_ledger(place.ledger) as held:
        counts = marks.append(held, table, place.lines)
    for name, count in counts.items():
        typer.echo(f"{name}: {count} marks are kept; see `admodels promise {name}`")
    if not counts:
        words = f"{', '.join(marks.VERDICTS[:-1])} or {marks.VERDICTS[-1]}"
        typer.echo(f"no row of {table} has a verdict ({words}): nothing is kept")


@app.command()
def promise(
    name: Annotated[str, LINE_NAME],
    plant: Annotated[Path | None, PLANT] = None,
    ledger: Annotated[Path | None, LEDGER] = None,
) -> None:
    """Print what the promise of a line was worth: false alarms and missed defects of its audit."""
    from admodels.nights.marks import figures_of
    from admodels.scoring.ledger import read_ledger

    with read_ledger(ledger_folder(plant, ledger)) as held:
        known = figures_of(held, [name])[name]
    for each in known:
        typer.echo("\n  ".join([str(each), *each.sentences()]))
    if not known:
        typer.echo(f"{name}: no night was audited yet, and no alarm is marked")


@app.command()
def collect(
    name: Annotated[str, LINE_NAME],
    folder: Annotated[Path, typer.Argument(help="the source of a task, of layout `folder`")],
    plant: Annotated[Path | None, PLANT] = None,
) -> None:
    """Add the images that people called fine to those that a task learns from."""
    from admodels.nights import marks
    from admodels.nights.plant import read_plant
    from admodels.scoring.ledger import read_ledger

    place = read_plant(plant_folder(plant))
    place.line(name)
    with read_ledger(place.ledger) as held:
        kept, gone = marks.collect(held, name, place.inbox(name), folder)
    typer.echo(f"{kept} images are in {folder / 'normal'}, {gone} are no longer to be found")
    typer.echo("`admodels task refresh` of its task, then `dvc repro`, learns from them")
