"""A night of many looks: `admodels nightly --every` scores files as they arrive.

No lock is held between two looks, so other commands have their turn; where one of them was a run,
the looks go on under a number of their own. The look that closes a night ends its run; the next one
has another number, so that no run spans two nights.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from admodels.foundation.errors import BusyError, ConfigurationError
from admodels.nights.calendar import NightOfLook
from admodels.nights.close import NightRecord
from admodels.nights.plant import Plant, read_plant
from admodels.nights.report import LineReport, Reports, isolate
from admodels.nights.run import (
    PARTS,
    Options,
    check_place,
    finish,
    look,
    night_of_look,
)
from admodels.scoring.ledger import Ledger, open_ledger
from admodels.scoring.stopping import Stop, on_signals

LOG = logging.getLogger(__name__)
Publish = Callable[[dict[str, Any]], None]


@dataclass
class _Night:
    """What is kept from look to look, under one number of a run."""

    run: str
    night: date
    reports: Reports = field(default_factory=Reports)
    published: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    closed: list[NightRecord] = field(default_factory=list)


def look_every(folder: Path, options: Options, seconds: float, publish: Publish) -> dict[str, Any]:
    """Look again and again until a signal; `publish` gets what is new; the last summary.

    While another run is at work no look is taken. Each look reads plant.yaml and the deployments.

    Raises:
        ConfigurationError: there is no plant, its ledger stands inside an inbox, or others may
            write to it.
        StorageError: the ledger cannot be used at all.
    """
    plant = _read_valid(folder)
    night: _Night | None = None
    with on_signals() as stop:
        while True:
            is_over = is_last = False
            try:
                tonight = night_of_look(plant, options)
                run = night.run if night and night.night == tonight.night else None
                with open_ledger(plant.ledger, run) as ledger:
                    if night is None or night.run != ledger.run:
                        night = _Night(ledger.run, tonight.night)
                    if not stop() or not night.summary:
                        _look_once(ledger, night, plant, options, seconds, publish, stop, tonight)
                    is_over, is_last = tonight.closes, bool(stop())
                    if is_last or is_over:
                        _close(ledger, night, plant, stop)
            except BusyError as error:
                LOG.warning("no look: %s", error.fault)
                is_last = bool(stop())
            if is_last:  # a signal that came later ends the next round
                return night.summary if night else {}
            if is_over:
                night = None
                continue
            pause(seconds, stop)
            plant = _plant_now(plant)


def _read_valid(folder: Path) -> Plant:
    plant = read_plant(folder)
    check_place(plant)
    return plant


def _plant_now(plant: Plant) -> Plant:
    """The plant as its file is now; as it was where the file cannot be used."""
    try:
        return _read_valid(plant.folder)
    except (ConfigurationError, OSError) as error:
        LOG.error("the lines stay as they were: %s", error)
        return plant


def _look_once(
    ledger: Ledger,
    night: _Night,
    plant: Plant,
    options: Options,
    seconds: float,
    publish: Publish,
    stop: Stop,
    tonight: NightOfLook,
) -> None:
    is_first = not night.summary
    reports = night.reports
    night.summary, night.closed = look(ledger, plant, options, stop, reports, tonight, PARTS)
    night.summary |= {"every_seconds": seconds, "whole": False}
    contents = {name: report.content() for name, report in reports.lines.items()}
    states = {n: [c[key] for key in ("statuses", "exit_code", "told")] for n, c in contents.items()}
    news: dict[str, Any] = {name: state for name, state in states.items() if any(state)}
    news |= {f"parts {name}": asdict(report) for name, report in reports.parts.items()}
    if stop():
        return
    if is_first or news != night.published:
        ledger.finish(night.summary)  # which keeps the number of the run, too
    if news != night.published:
        publish(night.summary)
        night.published = news


def _close(ledger: Ledger, night: _Night, plant: Plant, stop: Stop) -> None:
    finish(ledger, night.summary, stop, night.closed)
    for name in plant.lines:
        with isolate(name, LineReport()):
            ledger.compact(name)


def pause(seconds: float, stop: Stop) -> None:
    """Wait, unless a signal comes."""
    until = time.monotonic() + seconds
    while not stop() and time.monotonic() < until:
        time.sleep(min(0.2, seconds))
