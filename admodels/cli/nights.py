"""Commands that score: a folder, a night, files as they arrive; page and alert of a night."""

import json
import logging
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from admodels.cli.options import LEDGER, PLANT, ledger_folder, plant_folder
from admodels.foundation.errors import ALARM, ConfigurationError
from admodels.foundation.logs import log_as

if TYPE_CHECKING:
    from admodels.scoring.engine import Engine

LOGGER = logging.getLogger(__name__)
app = typer.Typer()

SETTLE = typer.Option(min=0, help="files changed more recently wait for the next run")
LOG = typer.Option(envvar="ADMODELS_LOG", help="the form of stderr; json for a log collector")
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
    from admodels.scoring.discover import path_text
    from admodels.scoring.engine import LineImages, Model
    from admodels.scoring.single import score_folder

    limits = [Limit.of(text) for text in fail_if]
    budget = _default_alpha() if alpha is None else alpha
    source = LineImages(path_text(line or folder.resolve().name), folder)
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
    plant: Annotated[Path | None, PLANT] = None,
    fail_if: Annotated[list[str], FAIL_IF] = ["unreadable>2%"],  # noqa: B006  typer wants it
    settle_seconds: Annotated[float, SETTLE] = 60,
    rehash: Annotated[bool, typer.Option(help="read also files that look unchanged")] = False,
    pictures: Annotated[int, typer.Option(min=0, help="draw at most so many for a line")] = 500,
    every: Annotated[
        str | None, typer.Option(help="look again each time this has passed, e.g. 60s")
    ] = None,
    log: Annotated[Literal["plain", "json"], LOG] = "plain",
    engine: Annotated[Literal["local", "ray"], ENGINE] = "local",
    ray_address: Annotated[str | None, ADDRESS] = None,
    ray_workers: Annotated[int | None, WORKERS] = None,
) -> None:
    """Score what is new on every line of a plant; the last line of stdout is a summary as JSON."""
    log_as(log)
    from admodels.nights import run as night
    from admodels.nights.every import look_every
    from admodels.nights.history import age_of
    from admodels.nights.limits import Limit

    folder, limits = plant_folder(plant), [Limit.of(text) for text in fail_if]
    with _engine(engine, ray_address, ray_workers) as chosen:
        options = night.Options(settle_seconds, rehash, limits, pictures, chosen)
        if every is None:
            summary = night.nightly(folder, options)
        else:
            seconds = age_of(every, "--every").total_seconds()
            summary = look_every(folder, options, seconds, _print_night)
    _print_night(summary)
    raise typer.Exit(summary["exit_code"])


@app.command()
def page(
    run: Annotated[str | None, typer.Option(help="e.g. 000012; default: the last")] = None,
    plant: Annotated[Path | None, PLANT] = None,
    ledger: Annotated[Path | None, LEDGER] = None,
) -> None:
    """Write the page of a night and the index over nights, from the ledger alone."""
    from admodels.nights.page import render as morning_page
    from admodels.scoring.ledger import read_ledger

    with read_ledger(ledger_folder(plant, ledger)) as held:
        typer.echo(morning_page.write(held, run))


@app.command()
def prune(
    older_than: Annotated[str, typer.Option(help="e.g. 180d")],
    plant: Annotated[Path | None, PLANT] = None,
    ledger: Annotated[Path | None, LEDGER] = None,
    yes: Annotated[bool, typer.Option("--yes", help="delete; else print what would go")] = False,
) -> None:
    """Remove the rows, pictures and pages of old nights; no image of theirs is scored again."""
    from datetime import UTC, datetime

    from admodels.nights import prune as pruning
    from admodels.nights.history import age_of
    from admodels.scoring.ledger import open_ledger

    before = datetime.now(UTC) - age_of(older_than, "--older-than")
    with open_ledger(ledger_folder(plant, ledger)) as held:
        for night in pruning.old_nights(held, before):
            typer.echo(night)
            if yes:
                pruning.prune(held, night)
        for parts in pruning.old_parts(held, before):
            typer.echo(parts)
            if yes:
                pruning.prune_parts(held, parts)
    typer.echo("deleted" if yes else "nothing is deleted: `--yes` does it")


@app.command()
def alert(
    plant: Annotated[Path | None, PLANT] = None,
    ledger: Annotated[Path | None, LEDGER] = None,
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

    place, url = ledger_folder(plant, ledger), None
    try:
        url = None if ledger else _page_url(place.parent)
    except ConfigurationError as error:  # no reason to be silent
        typer.echo(f"alert: no link to the page: {error.fault}", err=True)
    for fault in alerts.alert(place, log, code, always, url):
        typer.echo(f"alert: {fault}", err=True)


def _page_url(plant: Path) -> str | None:
    from admodels.nights.plant import read_plant, with_environment

    url = read_plant(plant).page_url
    return with_environment(url, "page_url") if url else None


def _engine(
    name: str, address: str | None, workers: int | None
) -> "AbstractContextManager[Engine]":
    if name == "local":
        from admodels.scoring.engine import local

        return nullcontext(local)
    from admodels.scoring.ray import on_cluster

    return on_cluster(address, workers)


def _print_night(summary: dict[str, Any]) -> None:
    """A few words for people on stderr, then the whole of it on stdout."""
    from admodels.nights.alerts import summary_text
    from admodels.nights.history import NightSummary

    text = json.dumps(summary, sort_keys=True)
    if night := NightSummary.of(text):
        LOGGER.info("%s", summary_text(night))
    typer.echo(text)


def _print_json(summary: dict[str, Any]) -> None:
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
