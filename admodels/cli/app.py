"""The `admodels` command; what is slow to import is imported by the commands that need it."""

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from admodels.cli import areas, folders, nights, plants, registry, tasks, verdicts
from admodels.cli.options import LEDGER, PLANT, ledger_folder
from admodels.foundation import errors
from admodels.foundation.errors import ConfigurationError

app = typer.Typer(
    help="Batch scoring a factory trusts for visual anomaly detection.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
track_app = typer.Typer(help="Copy what DVC knows into MLflow.", no_args_is_help=True)
for group in (nights, verdicts, registry):
    app.add_typer(group.app)
app.command("start")(tasks.start)
app.add_typer(tasks.app, name="task")
app.add_typer(plants.app, name="plant")
app.add_typer(plants.line_app, name="line")
app.command("deploy")(plants.deploy)
app.add_typer(folders.app, name="folder")
app.add_typer(verdicts.regions_app, name="regions")
app.add_typer(areas.app, name="area")
app.add_typer(registry.bundle_app, name="bundle")
app.add_typer(track_app, name="track")


@app.command()
def textures(
    location: Annotated[str, typer.Argument(help="a folder, an archive or a URL")],
) -> None:
    """Pin the source of the textures that synthetic anomalies are painted with."""
    from admodels.cli import adding, editing

    source = adding.texture_block(location)
    with editing.edit_params() as document:
        editing.merge(document, {"textures": source})
    typer.echo(f"the textures are pinned to {source['sha256'][:12]}")


@app.command()
def preset(name: Annotated[str, typer.Argument(help="quick, cpu or official")]) -> None:
    """Write the blocks of presets/NAME.yaml into params.yaml, comments kept."""
    from admodels.cli import editing

    editing.preset(name)
    typer.echo(f"params.yaml has the values of presets/{name}.yaml")


@app.command()
def check() -> None:
    """Check params.yaml: every key, value and name in it; every problem is printed."""
    from admodels.cli.check import check as check_params

    check_params()
    typer.echo("params.yaml is valid")


@app.command()
def repro(
    jobs: Annotated[
        int | None, typer.Option(min=1, help="stages at a time; as many as cores are idle")
    ] = None,
) -> None:
    """Run `dvc repro`, with independent stages side by side."""
    from admodels.cli.repro import repro as repro_stages

    repro_stages(jobs)


@app.command()
def plan(
    presets: Annotated[
        list[str] | None, typer.Argument(help="names of presets; default: quick and cpu")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="CPU minutes there are: which preset fits?")
    ] = None,
) -> None:
    """Print what every cell of `run` would cost here, by fits that are cut short."""
    from admodels.cli import plan as planning

    costs = list(planning.plan(presets or ["quick", "cpu"]))
    typer.echo(planning.table(costs))
    for line in planning.verdict(costs, minutes):
        typer.echo(line)


@app.command()
def verify_repro() -> None:
    """Train every cell of `run` twice for a few steps and compare the weights; 5 if they differ."""
    from admodels.cli import verify_repro as verifying

    same = True
    for is_same, words in verifying.verify():
        same &= is_same
        typer.echo(words)
    typer.echo(verifying.MACHINES)
    if not same:
        raise typer.Exit(errors.ALARM)


@app.command()
def codes() -> None:
    """Print what every exit code means, and what to do, as a table."""
    typer.echo(errors.exit_codes_table())


@track_app.command("sync")
def track_sync() -> None:
    """Update MLflow to what `dvc exp show` says."""
    from admodels.tracking import sync

    typer.echo(sync.sync(Path()))


@track_app.command("migrate")
def track_migrate() -> None:
    """Create or upgrade MLflow's database; once, before the first sync."""
    from admodels.tracking import sync

    sync.migrate(Path())


@app.command()
def report() -> None:
    """Render the report of the last `dvc repro`, print its table and compare it with the commit."""
    from admodels.report import committed
    from admodels.report import page as reporting

    page = reporting.write_report(Path())
    typer.echo(reporting.summary_table(Path()))
    comparison = committed.comparison(Path())
    typer.echo(f"\n{comparison}\n" if comparison else "")
    typer.echo(f"report: {page}")


@app.command()
def import_scores(
    task: Annotated[str, typer.Argument(help="a task whose test images were scored")],
    table: Annotated[Path, typer.Argument(help="a CSV with the columns path, score[, map]")],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, no table")] = False,
) -> None:
    """Measure the scores of another tool as `dvc repro evaluate` measures those of a bundle."""
    import json

    from admodels.evaluation.imported import evaluate_table

    imported = evaluate_table(table, task)
    lines = [json.dumps(imported.figures(), indent=2)] if as_json else imported.lines()
    for line in lines:
        typer.echo(line)


@app.command()
def compare(
    before: Annotated[str, typer.Argument(help="REVISION, REVISION:METHOD, or a CSV of scores")],
    after: Annotated[str, typer.Argument(help="the same; `workspace` is what is here now")],
    task: Annotated[str | None, typer.Option(help="only this task")] = None,
    html: Annotated[Path | None, typer.Option(help="a folder to write a page to")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, no table")] = False,
) -> None:
    """Say whether AFTER is better or worse than BEFORE, or inside the noise; nothing is scored."""
    import json

    from admodels.report.comparison import page, verdicts

    comparison = verdicts.compare(Path(), before, after, task)
    content = [json.dumps(verdicts.content(comparison), indent=2)]
    for line in content if as_json else verdicts.lines(comparison):
        typer.echo(line)
    if html is not None:
        typer.echo(f"page: {page.write_page(comparison, html)}", err=as_json)


@app.command()
def doctor(
    max_age: Annotated[
        str | None,
        typer.Option(help=f"e.g. 8h: ask only whether a night ended since; else {errors.ALARM}"),
    ] = None,
    plant: Annotated[Path | None, PLANT] = None,
    ledger: Annotated[Path | None, LEDGER] = None,
) -> None:
    """Verify the ledger of a plant that is named; print what this machine is and what it lacks."""
    if max_age is not None:
        _dead_man(ledger_folder(plant, ledger), max_age)
    code = 0 if not plant and not ledger else _check_ledger(ledger_folder(plant, ledger))
    from admodels.cli import doctor as checks

    for what, how in checks.machine():
        typer.echo(f"{what:22} {how}")
    missing = [*checks.differences(plant), *checks.lines_without_rhythm(plant)] if plant else []
    if Path("params.yaml").is_file() or not plant:
        missing += checks.missing()
    for line in missing:
        typer.echo(f"- {line}")
    if not missing:
        typer.echo("nothing is missing")
    raise typer.Exit(code)


def _check_ledger(folder: Path) -> int:
    from admodels.nights import marks
    from admodels.scoring.integrity import check
    from admodels.scoring.ledger import open_ledger

    if not folder.is_dir():
        raise ConfigurationError(
            "no ledger to verify",
            where=folder,
            expected="the folder of a ledger",
            next_step="correct `--ledger`, `--plant` or ADMODELS_PLANT",
        )
    with open_ledger(folder) as held:
        result, count = check(held), marks.count(held)
    for name, fault in result.faults.items():
        typer.echo(f"- {name}: {fault}")
    for note in result.notes:
        typer.echo(f"- {note}")
    damaged = f"{len(result.faults)} damaged"
    typer.echo(f"{folder}: {result.files} files and {count} marks verified, {damaged}")
    return errors.StorageError.exit_code if result.faults else errors.ALARM if result.notes else 0


def _dead_man(ledger: Path, max_age: str) -> NoReturn:
    from admodels.nights import history

    is_well, verdict = history.dead_man(ledger, history.age_of(max_age))
    typer.echo(verdict)
    raise typer.Exit(0 if is_well else errors.ALARM)


def main() -> None:
    """Run the command that the words name."""
    errors.run(app)


if __name__ == "__main__":
    main()
