"""The commands of the night: scoring, verdicts, feedback, alerts, models of the registry."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from admodels.foundation.errors import ALARM, ConfigurationError
from admodels.foundation.logs import log_as

if TYPE_CHECKING:
    from admodels.scoring.engine import Engine

app = typer.Typer()

LEDGER = typer.Option(envvar="ADMODELS_LEDGER", help="the folder of scores and verdicts")
LINES = typer.Option(help="a file with a block `lines:`, e.g. the inboxes of a plant")
MODELS = typer.Option(help="holds a bundle as METHOD/TASK")
SETTLE = typer.Option(min=0, help="younger files wait for the next run")
LOG = typer.Option(envvar="ADMODELS_LOG", help="the form of stderr; json for a log collector")
ALIAS = typer.Option(help="of the registered model admodels-TASK")
FAIL_IF = typer.Option(help=f"e.g. 'unreadable>2%' or 'flagged>20': it then ends with {ALARM}")
ENGINE = typer.Option(help="`ray`: by the workers of a Ray cluster")
ADDRESS = typer.Option(envvar="RAY_ADDRESS", help="of a cluster; default: one that starts here")
WORKERS = typer.Option(min=1, help="default: as many as fit")


@app.command()
def score(
    folder: Annotated[Path, typer.Argument(help="the images")],
    bundle: Annotated[Path, typer.Option(help="e.g. data/models/draem/sample_brick")],
    out: Annotated[Path, typer.Option(help="gets the tables and the summary")],
    alpha: Annotated[float | None, typer.Option(help="default: evaluate.alpha of params")] = None,
    line: Annotated[str | None, typer.Option(help="default: the folder's name")] = None,
    csv: Annotated[bool, typer.Option(help="write CSV beside Parquet")] = False,
    fail_if: Annotated[list[str], FAIL_IF] = ["unreadable>2%"],  # noqa: B006  typer wants it
    engine: Annotated[Literal["local", "ray"], ENGINE] = "local",
    ray_address: Annotated[str | None, ADDRESS] = None,
    ray_workers: Annotated[int | None, WORKERS] = None,
) -> None:
    """Score a folder of images with a bundle, without DVC; the last line is a summary as JSON."""
    from dataclasses import asdict

    from admodels.nights.limits import Limit, expected_images
    from admodels.scoring.discover import shown
    from admodels.scoring.engine import LineImages, Model
    from admodels.scoring.single import score_folder

    limits = [Limit.of(text) for text in fail_if]
    budget = _default_alpha() if alpha is None else alpha
    source = LineImages(shown(line or folder.resolve().name), folder)
    model = Model.at(bundle)
    with _engine(engine, ray_address, ray_workers) as chosen:
        summary = score_folder(source, model, out, alpha=budget, csv=csv, engine=chosen)
    typer.echo(summary)
    images, unreadable = expected_images(summary.statuses)
    counts = asdict(summary) | {"images": images, "unreadable": unreadable}
    code = ALARM if any(limit.is_exceeded(images, counts) for limit in limits) else 0
    _print_json(counts | {"exit_code": code})
    raise typer.Exit(code)


@app.command()
def nightly(
    lines: Annotated[Path, LINES] = Path("params.yaml"),
    ledger: Annotated[Path, LEDGER] = Path("ledger"),
    models: Annotated[Path, MODELS] = Path("data/models"),
    fail_if: Annotated[list[str], FAIL_IF] = ["unreadable>2%"],  # noqa: B006  typer wants it
    settle_seconds: Annotated[float, SETTLE] = 60,
    rehash: Annotated[bool, typer.Option(help="read also what looks unchanged")] = False,
    pictures: Annotated[int, typer.Option(min=0, help="at most, of a line")] = 500,
    log: Annotated[Literal["plain", "json"], LOG] = "plain",
    engine: Annotated[Literal["local", "ray"], ENGINE] = "local",
    ray_address: Annotated[str | None, ADDRESS] = None,
    ray_workers: Annotated[int | None, WORKERS] = None,
) -> None:
    """Score what is new on every line; the last line of the output is a summary as JSON."""
    log_as(log)
    from admodels.nights import run as night
    from admodels.nights.limits import Limit
    from admodels.scoring import lines as params

    limits = [Limit.of(text) for text in fail_if]
    with _engine(engine, ray_address, ray_workers) as chosen:
        options = night.Options(models, settle_seconds, rehash, limits, pictures, chosen)
        summary = night.nightly(params.lines(lines), ledger, options)
    _print_json(summary)
    raise typer.Exit(summary["exit_code"])


@app.command()
def page(
    run: Annotated[str | None, typer.Option(help="e.g. 000012; default: the last")] = None,
    ledger: Annotated[Path, LEDGER] = Path("ledger"),
) -> None:
    """Write the page of a night and the index over nights, from the ledger alone."""
    from admodels.nights.page import render as morning_page
    from admodels.scoring.ledger import open_ledger

    with open_ledger(ledger) as held:
        typer.echo(morning_page.write(held, run))


@app.command()
def watch(
    lines: Annotated[Path, LINES] = Path("params.yaml"),
    ledger: Annotated[Path, LEDGER] = Path("ledger"),
    models: Annotated[Path, MODELS] = Path("data/models"),
    settle_seconds: Annotated[float, SETTLE] = 5,
    every_seconds: Annotated[float, typer.Option(min=0.1, help="between two looks")] = 10,
    log: Annotated[Literal["plain", "json"], LOG] = "plain",
) -> None:
    """Score files as they arrive, until a signal; a line of JSON of the day so far for all news."""
    log_as(log)
    from admodels.nights import run as night
    from admodels.scoring import lines as params

    options = night.Options(models, settle_seconds)
    summary = night.watch(params.lines(lines), ledger, options, every_seconds, _print_json)
    _print_json(summary)
    raise typer.Exit(summary["exit_code"])


@app.command()
def calibrate(
    name: Annotated[str, typer.Argument(metavar="LINE")],
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
    from admodels.scoring.ledger import open_ledger
    from admodels.scoring.stopping import on_signals

    line = params.find_line(name, lines)
    with on_signals() as stop, open_ledger(ledger) as held:
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
    from admodels.scoring.ledger import open_ledger

    names = [name] if name else list(params.lines(lines))
    with open_ledger(ledger) as held:
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
    from admodels.scoring.ledger import open_ledger

    with open_ledger(ledger) as held:
        for name in said.take(held, table):
            typer.echo(said.count_false_alarms(held, name, params.find_line(name, lines).alpha))
            typer.echo(f"kept in {said.path_of(held, name)}; `admodels calibrate` uses it")


@app.command()
def alert(
    ledger: Annotated[Path, LEDGER] = Path("ledger"),
    log: Annotated[
        Path | None, typer.Option("--from", help="a log of the night, instead of the ledger")
    ] = None,
    code: Annotated[
        str, typer.Option(envvar="MONITOR_EXIT_STATUS", help="how the scheduler saw it end")
    ] = "",
    always: Annotated[bool, typer.Option(help="also report a night without faults")] = False,
) -> None:
    """Report a night that needs people (ADMODELS_ALERT_WEBHOOK, _SMTP); ends with 0."""
    from admodels.nights import alerts

    for fault in alerts.alert(ledger, log, code, always):
        typer.echo(f"alert: {fault}", err=True)


@app.command()
def collect(
    name: Annotated[str, typer.Argument(metavar="LINE")],
    folder: Annotated[Path, typer.Argument(help="the source of a task, of layout `folder`")],
    lines: Annotated[Path, LINES] = Path("params.yaml"),
    ledger: Annotated[Path, LEDGER] = Path("ledger"),
) -> None:
    """Add the images that people called fine to those that a task learns from."""
    from admodels.nights import feedback as said
    from admodels.scoring import lines as params
    from admodels.scoring.ledger import open_ledger

    line = params.find_line(name, lines)
    with open_ledger(ledger) as held:
        kept, gone = said.collect(held, name, Path(line.folder), folder)
    typer.echo(f"{kept} images are in {folder / 'normal'}, {gone} are no longer to be found")
    typer.echo("`admodels task refresh` of its task, then `dvc repro`, learns from them")


@app.command()
def promote(
    method: str,
    task: str,
    alias: Annotated[str, ALIAS] = "champion",
    models: Annotated[Path, MODELS] = Path("data/models"),
) -> None:
    """Put a bundle into MLflow's registry as models:/admodels-TASK@ALIAS, for lines to name."""
    from admodels.tracking import registry

    typer.echo(registry.promote(Path(), models / method / task, alias))


@app.command()
def rollback(task: str, alias: Annotated[str, ALIAS] = "champion") -> None:
    """Use the bundle that was promoted before; a second call undoes the first."""
    from admodels.tracking import registry

    typer.echo(registry.rollback(Path(), task, alias))


def _engine(
    name: str, address: str | None, workers: int | None
) -> "AbstractContextManager[Engine]":
    if name == "local":
        from admodels.scoring.engine import local

        return nullcontext(local)
    from admodels.scoring.ray import on_cluster

    return on_cluster(address, workers)


def _print_json(summary: dict[str, Any]) -> None:
    import json

    typer.echo(json.dumps(summary, sort_keys=True))


def _default_alpha() -> float:
    from admodels.foundation import params

    if not params.PARAMS_FILE.is_file():
        raise ConfigurationError(
            "no false-alarm budget: there is no params.yaml here to take it from",
            where=Path.cwd(),
            expected="`--alpha`, or a run in the repository root",
            next_step="add the share of normal images that may be flagged, e.g. `--alpha 0.01`",
        )
    return params.read("evaluate.alpha", float)
