"""Commands that change verdicts, never scores: calibration, thresholds, what people said."""

from pathlib import Path
from typing import Annotated

import typer

from admodels.cli.options import LEDGER, LINES, MODELS

app = typer.Typer()

LINE_NAME = typer.Argument(metavar="LINE", help="a name in the block `lines:`")


@app.command()
def calibrate(
    name: Annotated[str, LINE_NAME],
    folder: Annotated[Path, typer.Argument(help="normal images of the line, approved by a person")],
    lines: Annotated[Path, LINES] = Path("params.yaml"),
    ledger: Annotated[Path, LEDGER] = Path("ledger"),
    models: Annotated[Path, MODELS] = Path("data/models"),
) -> None:
    """Calibrate a line with its own normal images, and compute all its verdicts anew."""
    from admodels.inference.conformal import smallest_alpha
    from admodels.nights import calibrate as calibrating
    from admodels.nights import verdicts
    from admodels.nights.deploy import BundleChoice
    from admodels.scoring import lines as params
    from admodels.scoring.ledger import read_ledger
    from admodels.scoring.stopping import on_signals

    line = params.find_line(name, lines)
    with on_signals() as stop, read_ledger(ledger) as held:
        bundles = BundleChoice(models, ledger)
        bundles.look_up([line])
        model, _, _ = bundles.of(line)
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
    lines: Annotated[Path, LINES] = Path("params.yaml"),
    ledger: Annotated[Path, LEDGER] = Path("ledger"),
) -> None:
    """Print what another budget changes, from the ledger alone; nothing is scored."""
    from admodels.nights import verdicts
    from admodels.scoring import lines as params
    from admodels.scoring.ledger import read_ledger

    names = [name] if name else list(params.lines(lines))
    with read_ledger(ledger) as held:
        for each in names:
            typer.echo(verdicts.change_of_alpha(held, each, alpha))
            if write:
                verdicts.rebuild(held, each, alpha)
    typer.echo(f"written; set `alpha: {alpha:g}` in {lines} to keep it" if write else "a preview")


@app.command()
def feedback(
    table: Annotated[Path, typer.Argument(help="CSV: line, path or image_sha256, verdict")],
    lines: Annotated[Path, LINES] = Path("params.yaml"),
    ledger: Annotated[Path, LEDGER] = Path("ledger"),
) -> None:
    """Keep what people said of images (fine, defect); print the false-alarm rate that it shows."""
    from admodels.nights import feedback as said
    from admodels.scoring import lines as params
    from admodels.scoring.ledger import read_ledger

    with read_ledger(ledger) as held:
        for name in said.take(held, table):
            typer.echo(said.count_false_alarms(held, name, params.find_line(name, lines).alpha))
            typer.echo(f"kept in {said.path_of(held, name)}; `admodels calibrate` uses it")


@app.command()
def collect(
    name: Annotated[str, LINE_NAME],
    folder: Annotated[Path, typer.Argument(help="the source of a task, of layout `folder`")],
    lines: Annotated[Path, LINES] = Path("params.yaml"),
    ledger: Annotated[Path, LEDGER] = Path("ledger"),
) -> None:
    """Add the images that people called fine to those that a task learns from."""
    from admodels.nights import feedback as said
    from admodels.scoring import lines as params
    from admodels.scoring.ledger import read_ledger

    line = params.find_line(name, lines)
    with read_ledger(ledger) as held:
        kept, gone = said.collect(held, name, Path(line.folder), folder)
    typer.echo(f"{kept} images are in {folder / 'normal'}, {gone} are no longer to be found")
    typer.echo("`admodels task refresh` of its task, then `dvc repro`, learns from them")
