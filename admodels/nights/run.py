"""Many lines in one night: each by itself, one summary, one exit code."""

import logging
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from admodels.bundles.bundle import PACKAGES
from admodels.foundation.errors import (
    ALARM,
    DONE,
    SIGNALLED,
    ConfigurationError,
    StorageError,
)
from admodels.inference.conformal import images_missing
from admodels.nights import audit, intake, parts, pictures
from admodels.nights.calendar import AHEAD, NightOfLook, utc_now
from admodels.nights.calibrations import ensure_calibration
from admodels.nights.close import (
    NightRecord,
    close_nights,
    closed_nights,
    first_run,
    write_records,
)
from admodels.nights.deploy import Deployed, area_of
from admodels.nights.drift import history
from admodels.nights.history import last
from admodels.nights.judge_parts import judge_all_parts
from admodels.nights.judgements import judge_look, write_list
from admodels.nights.limits import Limit
from admodels.nights.page import render
from admodels.nights.plant import PLANT_FILE, Plant, read_plant
from admodels.nights.report import LineReport, Reports, isolate
from admodels.scoring import integrity
from admodels.scoring.discover import path_text
from admodels.scoring.engine import Counts, Engine, LineImages, Model, local, score_line
from admodels.scoring.ledger import Ledger, open_ledger
from admodels.scoring.pointing import Pointing
from admodels.scoring.stopping import Stop, on_signals

LOG = logging.getLogger(__name__)
PARTS = 64  # of a line and a night, before a look makes them one
CLOCK_IS_BACK = (
    "the clock says a night that is closed; this look counts for the night {}. Correct the clock "
    "of this machine; if it is right, it ran ahead before, or `timezone` or `day_ends` in "
    "plant.yaml was changed: nothing is to be done"
)
WORST_FIRST = (1, 74, 4, 3, 2, 69, 5)  # which exit code stands for a night with several


@dataclass(frozen=True)
class Options:
    """How a night is run; nothing of this changes a score."""

    settle_seconds: float
    rehash: bool = False
    limits: Sequence[Limit] = ()
    pictures: int = 500  # of a line and a night, at most
    engine: Engine = local
    clock: Callable[[], datetime] = utc_now


def nightly(folder: Path, options: Options) -> dict[str, Any]:
    """Score what is new of every line of the plant in `folder`; the summary, exit code included.

    Raises:
        BusyError: another run is at work on the ledger.
        ConfigurationError: there is no plant, or its file cannot be used.
        StorageError: the ledger cannot be used at all.
    """
    plant = read_plant(folder)
    check_place(plant)
    with on_signals() as stop, open_ledger(plant.ledger) as ledger:
        tonight = night_of_look(plant, options)
        summary, closed = look(ledger, plant, options, stop, Reports(), tonight)
        finish(ledger, summary, stop, closed)
        return summary


def night_of_look(plant: Plant, options: Options) -> NightOfLook:
    """The night that a look of now belongs to."""
    now, before = options.clock(), last(plant.ledger)
    if before and before.started > now + AHEAD:
        LOG.warning(
            "the last look was at %s, later than now: correct the clock of this machine, unless it "
            "ran ahead then",
            before.started_text,
        )
    return plant.calendar.night_of_look(now, closed_nights(plant.ledger))


def check_place(plant: Plant) -> None:
    """Refuse a plant without lines, and a ledger inside an inbox.

    Raises:
        ConfigurationError: an empty plant.yaml would be a night without faults; pictures of a
            ledger inside an inbox would be scored as images.
    """
    if not plant.lines:
        raise ConfigurationError(
            "the plant has no line",
            where=plant.folder / PLANT_FILE,
            expected="a line for each inbox that a night scores",
            next_step="`admodels line add`, or restore plant.yaml from the backup",
        )
    place = plant.ledger.resolve()
    for name in plant.lines:
        if place.is_relative_to(plant.inbox(name).resolve()):
            raise ConfigurationError(
                f"the ledger stands inside the folder of line `{name}`",
                where=plant.ledger,
                expected="a plant outside all inboxes: its pictures would be scored as images",
                next_step="move the plant, or correct the `folder` of the line",
            )


def finish(
    ledger: Ledger, summary: dict[str, Any], stop: Stop, closed: Sequence[NightRecord]
) -> None:
    """Write the summary, the records of the nights it closes, then the page, which reads them.

    Only with all of them is the run `whole`.
    """
    ledger.finish(summary | {"whole": False})
    if stop():
        summary |= {"whole": False, "closes": False, "exit_code": SIGNALLED + stop.signal}
    else:
        write_records(ledger, closed)
        _write_page(ledger, summary)
    ledger.finish(summary)
    for record in closed if summary["whole"] else ():
        for name in record.lines:
            with isolate(name, LineReport()):
                ledger.merge_judgements(name, record.night.isoformat())
        for name in parts.kinds_of_parts(ledger, record.night.isoformat()):
            with isolate(name, LineReport()):
                ledger.merge_judgements(name, record.night.isoformat(), kind=parts.FOLDER)


def _write_page(ledger: Ledger, summary: dict[str, Any]) -> None:
    """Write the page of the night; its failure is reported as that of a line is."""
    report = LineReport()
    with isolate("page", report):
        summary["page"] = path_text(str(render.write(ledger, summary["run"]).resolve()))
    summary["page_faults"], summary["whole"] = report.messages, not report.messages
    summary["exit_code"] = _worst({summary["exit_code"], report.exit_code})


def look(
    ledger: Ledger,
    plant: Plant,
    options: Options,
    stop: Stop,
    reports: Reports,
    tonight: NightOfLook,
    at_most: int = 1,
) -> tuple[dict[str, Any], list[NightRecord]]:
    """Look once at every line; the summary, and the records of the nights that the look closes."""
    reports.news.clear()
    start, began, night = time.monotonic(), options.clock(), tonight.night.isoformat()
    to_check = tonight.night if tonight.closes else plant.calendar.before(tonight.night)
    deployed, checked = Deployed(plant), integrity.check_daily(ledger, to_check)
    unclaimed = intake.files_of_no_line(plant)
    if tonight.closes:
        ledger.first_run = first_run(ledger, tonight.night)
    # Lines of one bundle follow each other, so that it is loaded once.
    for name in sorted(plant.lines, key=deployed.bundle):
        if not stop():
            line, before = plant.lines[name], reports.lines.get(name)
            report = LineReport(line.folder, line.alpha, list(ledger.tonight(name)))
            report.smallest_defect_mm2 = line.smallest_defect_mm2
            reports.lines[name] = report
            with isolate(name, report):
                checked.refuse(ledger.folder, name)
                model, report.bundle = deployed.of(name)
                pointing = _pointing(ledger, plant, name, model, options)
                source = replace(_source(ledger, plant, name, night, options), pointing=pointing)
                counts = _score(ledger, source, model, options, stop, report)
                report.intake = list(intake.alarms(counts, line, unclaimed))
                is_same = before and before.exit_code in DONE and before.runs == report.runs
                if before and is_same and not counts.statuses:
                    reports.lines[name] = before.with_files_of(report)  # what was judged stands
                else:
                    ledger.compact(name, at_most)
                    reports.news.add(name)
                    _judge(ledger, source, model, plant, night, options, report)
    closed = _judge_night(ledger, plant, options, stop, reports, tonight, checked)
    summary = _summary(ledger, plant, tonight, reports, checked, closed, stop) | {
        "started": began.isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - start, 2),
        "unclaimed": sum(unclaimed.values()),
    }
    return summary, closed


def _judge_night(
    ledger: Ledger,
    plant: Plant,
    options: Options,
    stop: Stop,
    reports: Reports,
    tonight: NightOfLook,
    checked: integrity.Check,
) -> list[NightRecord]:
    """Judge the parts, whose views are of several lines; the records of the nights that close."""
    if not stop():
        judge_all_parts(ledger, plant, tonight, checked, reports)
    if stop() or not tonight.closes:
        return []
    return close_nights(ledger, plant, tonight, reports.lines, options.clock())


def _summary(
    ledger: Ledger,
    plant: Plant,
    tonight: NightOfLook,
    reports: Reports,
    checked: integrity.Check,
    closed: Sequence[NightRecord],
    stop: Stop,
) -> dict[str, Any]:
    notes = [
        *checked.notes,
        *([CLOCK_IS_BACK.format(tonight.night)] if tonight.clock_is_back else []),
    ]
    silences = [record.silence for record in closed if record.silence]
    lines, of_parts = reports.lines, reports.parts
    codes = {report.exit_code for report in lines.values()}
    codes |= {report.exit_code for report in of_parts.values()}
    codes |= {StorageError.exit_code} if checked.faults else set()
    code = _worst(codes | ({ALARM} if notes or silences else set()))
    return _origin() | {
        "run": ledger.run,
        "night": tonight.night.isoformat(),
        "closes": bool(closed),
        "whole": not stop(),
        "exit_code": SIGNALLED + stop.signal if stop() else code,
        "timezone": plant.timezone,
        "ledger": [*notes, *(f"{n}: {why}" for n, why in checked.faults.items())],
        "silence": silences,
        "lines": {name: lines[name].content() for name in plant.lines if name in lines},
        "parts": {name: asdict(of_parts[name]) for name in plant.parts if name in of_parts},
    }


def _origin() -> dict[str, Any]:
    """What runs, and where."""
    return {
        "command": path_text(shlex.join(sys.orig_argv)),
        "directory": path_text(str(Path.cwd())),
        "versions": {name: version(name) for name in PACKAGES},
        "host": os.uname().nodename,
    }


def _worst(codes: set[int]) -> int:
    return next((code for code in WORST_FIRST if code in codes), 0)


def _source(ledger: Ledger, plant: Plant, name: str, night: str, options: Options) -> LineImages:
    line = plant.lines[name]
    return LineImages(
        name,
        plant.inbox(name),
        line.pattern,
        options.settle_seconds,
        options.rehash,
        line.tile,
        line.exclude,
        line.page,
        audit.candidates(ledger, name, night, plant.audit),
        line.ignore_case,
        plant.part_names(name),
        area_of(plant, name),
    )


def _pointing(
    ledger: Ledger, plant: Plant, name: str, model: Model, options: Options
) -> Pointing | None:
    try:
        calibration = ensure_calibration(ledger, name, model)
    except StorageError:  # images are scored all the same; what judges them reports it
        return None
    line = plant.lines[name]
    return pictures.pointing_of(ledger, name, line, model, calibration, options.pictures)


def _score(
    ledger: Ledger,
    source: LineImages,
    model: Model,
    options: Options,
    stop: Stop,
    report: LineReport,
) -> Counts:
    start = time.monotonic()
    report.model_fingerprint = model.model_fingerprint
    report.contract_fingerprint = model.contract_fingerprint
    try:
        counts = score_line(ledger, source, model, stop, options.engine)
        report.take(counts)
        return counts
    finally:
        report.seconds = round(time.monotonic() - start, 3)


def _judge(
    ledger: Ledger,
    source: LineImages,
    model: Model,
    plant: Plant,
    night: str,
    options: Options,
    report: LineReport,
) -> None:
    name, line = source.line, plant.lines[source.line]
    calibration = ensure_calibration(ledger, name, model)
    drift = history.judge_runs(ledger, name, model, calibration, plant.calendar.timezone)
    report.drift, report.drift_not_judged = drift.get("hint", ""), drift.get("not_judged", "")
    drifted = history.runs_in_drift(ledger, name)
    rows = judge_look(ledger, name, night, line.alpha, calibration, drifted)
    ledger.merge_judgements(name, night, PARTS)
    report.take_rows(rows)
    if line.fdr is not None:
        report.listed = write_list(ledger, rows, line.fdr)
        report.listed_false_alarms = round(line.fdr * report.listed, 2)
    images = rows.images
    report.without_part, unnamed = intake.unknown_parts(images, line)
    report.messages += [*unnamed, *intake.wrong_times(images, line, options.clock())]
    report.messages += _alarms(report, options.limits)
    missing = images_missing(len(calibration.scores), line.alpha)
    report.messages += intake.no_verdicts(
        name, missing, line.alpha, is_meant=line.verdicts == "none"
    )
    report.judge_alarms()


def _alarms(report: LineReport, limits: Sequence[Limit]) -> Iterator[str]:
    for limit in limits:
        if limit.is_exceeded(report.images, asdict(report)):
            yield f"more than allowed: {limit}"
    yield from intake.no_images(report.statuses)
    if report.drift:
        yield f"drift: {report.drift}"
