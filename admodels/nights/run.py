"""Many lines in one night: each by itself, one summary, one exit code."""

import logging
import os
import shlex
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any

from admodels.bundles.bundle import PACKAGES
from admodels.foundation.errors import (
    ALARM,
    BUG,
    DONE,
    SIGNALLED,
    AdmodelsError,
    StorageError,
)
from admodels.foundation.files import sha256_of
from admodels.nights import pictures as overlays
from admodels.nights import verdicts
from admodels.nights.deploy import Pinned
from admodels.nights.drift import history
from admodels.nights.limits import Limit, expected_images
from admodels.nights.page import content, render
from admodels.scoring.discover import files, shown
from admodels.scoring.engine import Counts, Engine, LineImages, Model, local, score_line
from admodels.scoring.ledger import Ledger, open_ledger
from admodels.scoring.lines import Line
from admodels.scoring.stopping import Stop, on_signals

LOG = logging.getLogger(__name__)
WORST_FIRST = (1, 74, 4, 3, 2, 69, 5)  # which exit code stands for a night with several
WATCHED_PARTS = 64  # of one line, before a watch makes them one
WATCHED_SECONDS = 86_400.0  # after which a watch begins another night


@dataclass(frozen=True)
class Options:
    """How a night is run; nothing of this changes a score."""

    models: Path
    settle_seconds: float
    rehash: bool = False
    limits: Sequence[Limit] = ()
    pictures: int = 500  # of a line and a night, at most
    engine: Engine = local


@dataclass
class LineReport:
    """A line's night, of the rows of `runs`: `images` are those of what should be an image.

    `unreadable` of them have no score; `flagged` is None where nothing can be promised. `drift` is
    the likely cause if the line did not look or score like its reference.
    """

    folder: str = ""
    alpha: float | None = None
    runs: list[str] = field(default_factory=list)
    found: int = 0
    old: int = 0
    unsettled: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    images: int = 0
    unreadable: int = 0
    reused: int = 0
    flagged: int | None = None
    expected_false_alarms: float | None = None
    listed: int | None = None
    listed_false_alarms: float | None = None  # to be expected, at most
    pictures: int = 0
    drift: str = ""
    drift_not_judged: str = ""
    median_score: float | None = None
    calibration: str | None = None
    calibration_sha256: str | None = None
    bundle: str | None = None
    model_fingerprint: str | None = None
    contract_fingerprint: str | None = None
    seconds: float = 0.0
    exit_code: int = 0
    told: list[str] = field(default_factory=list)

    def take(self, counts: Counts, untold: Counter[str]) -> None:
        """What the engine counted, and the statuses of rows that no run has told of yet."""
        self.found, self.old = len(counts.paths), counts.old
        self.unsettled, self.reused = counts.unsettled, counts.reused
        self.statuses = dict(sorted((counts.statuses + untold).items()))
        self.images, self.unreadable = expected_images(self.statuses)


def nightly(lines: Mapping[str, Line], folder: Path, options: Options) -> dict[str, Any]:
    """Score what is new of every line into the ledger `folder`; the summary, exit code included.

    Raises:
        BusyError: another run is at work on the ledger.
        StorageError: the ledger cannot be used at all.
    """
    with on_signals() as stop, open_ledger(folder) as ledger:
        told = _pass(ledger, lines, options, Pinned(options.models, folder), stop, {})
        _finish(ledger, told, stop)
        return told


def _finish(ledger: Ledger, told: dict[str, Any], stop: Stop) -> None:
    """The summary, then the page, which reads it: only with both has the run told of its rows."""
    ledger.finish(told | {"whole": False})
    if stop():
        told |= {"whole": False, "exit_code": SIGNALLED + stop.signal}
    else:
        _write_page(ledger, told)
    ledger.finish(told)


def _write_page(ledger: Ledger, told: dict[str, Any]) -> None:
    """The page of the night, whose failure is told as that of a line is."""
    report = LineReport()
    with _isolated("page", report):
        told["page"] = shown(str(render.write(ledger, told["run"]).resolve()))
    told["page_faults"], told["whole"] = report.told, not report.told
    told["exit_code"] = _worst({told["exit_code"], report.exit_code})


def watch(
    lines: Mapping[str, Line],
    folder: Path,
    options: Options,
    every_seconds: float,
    tell: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """A night after the other, each of many looks, until a signal; `tell` hears of what is new."""
    with on_signals() as stop:
        while True:
            with open_ledger(folder) as ledger:
                told = _watched(ledger, lines, options, every_seconds, tell, stop)
            if stop():
                return told


def _watched(
    ledger: Ledger,
    lines: Mapping[str, Line],
    options: Options,
    every_seconds: float,
    tell: Callable[[dict[str, Any]], None],
    stop: Stop,
) -> dict[str, Any]:
    pinned, reports = Pinned(options.models, ledger.folder), dict[str, LineReport]()
    known, began = dict[str, Any](), time.monotonic()
    while True:
        told = _pass(ledger, lines, options, pinned, stop, reports, WATCHED_PARTS)
        each = {name: (one.statuses, one.exit_code, one.told) for name, one in reports.items()}
        news = {name: one for name, one in each.items() if any(one)}
        if news != known and not stop():
            tell(told)
            known = news
        if stop() or time.monotonic() - began >= WATCHED_SECONDS:
            break
        _pause(every_seconds, stop)
        if stop():
            break
    _finish(ledger, told, stop)
    for name in lines:
        with _isolated(name, LineReport()):
            ledger.compact(name)
    return told


def _pause(seconds: float, stop: Stop) -> None:
    until = time.monotonic() + seconds
    while not stop() and time.monotonic() < until:
        time.sleep(min(0.2, seconds))


def _pass(
    ledger: Ledger,
    lines: Mapping[str, Line],
    options: Options,
    pinned: Pinned,
    stop: Stop,
    reports: dict[str, LineReport],
    parts: int = 1,
) -> dict[str, Any]:
    """One look at every line; `reports` has those of the look before and gets those of this."""
    start, began = time.monotonic(), datetime.now(UTC)
    pinned.look_up(lines.values())
    # Lines of one bundle follow each other, so that it is loaded once.
    for name, line in sorted(lines.items(), key=lambda item: item[1].bundle):
        if not stop():
            before = reports.get(name)
            reports[name] = report = LineReport(line.folder, line.alpha, list(ledger.tonight(name)))
            with _isolated(name, report):
                model, report.bundle, note = pinned.of(line)
                source = _source(name, line, options)
                _score(ledger, source, model, options, stop, report)
                ledger.compact(name, parts)  # first: judging reads all parts, several times
                if before and before.exit_code in DONE and before.statuses == report.statuses:
                    reports[name] = replace(  # nothing new: what was judged stands
                        before, found=report.found, old=report.old, unsettled=report.unsettled
                    )
                else:
                    _judge(ledger, source, model, line, options, stop, report, note)
    code = _worst({report.exit_code for report in reports.values()})
    return {
        "run": ledger.run,
        "whole": not stop(),
        "exit_code": SIGNALLED + stop.signal if stop() else code,
        "command": shown(shlex.join(sys.orig_argv)),
        "directory": shown(str(Path.cwd())),
        "versions": {name: version(name) for name in PACKAGES},
        "started": began.isoformat(timespec="seconds"),
        "host": os.uname().nodename,
        "seconds": round(time.monotonic() - start, 2),
        "unclaimed": _unclaimed(lines),
        "lines": {name: asdict(reports[name]) for name in lines if name in reports},
    }


def _worst(codes: set[int]) -> int:
    return next((code for code in WORST_FIRST if code in codes), 0)


@contextmanager
def _isolated(name: str, report: LineReport) -> Iterator[None]:
    """One line's failure is its own; that of the ledger's index is everybody's."""
    try:
        yield
    except sqlite3.Error:
        raise
    except (AdmodelsError, OSError) as error:
        known = StorageError.of(error) if isinstance(error, OSError) else error
        LOG.error("%s: %s: %s", name, type(known).__name__, known)
        report.exit_code = known.exit_code
        report.told.append(known.fault)
    except Exception as error:  # a bug on one line must not cost the others their night
        LOG.exception("%s: a bug", name)
        report.exit_code = BUG
        report.told.append(f"{type(error).__name__}: {error}")


def _source(name: str, line: Line, options: Options) -> LineImages:
    folder, settle_seconds = Path(line.folder), options.settle_seconds
    return LineImages(name, folder, line.pattern, settle_seconds, options.rehash, line.tile)


def _score(
    ledger: Ledger,
    source: LineImages,
    model: Model,
    options: Options,
    stop: Stop,
    report: LineReport,
) -> None:
    start = time.monotonic()
    report.model_fingerprint = model.model_fingerprint
    report.contract_fingerprint = model.contract_fingerprint
    try:
        untold = ledger.untold(source.line)
        report.take(score_line(ledger, source, model, stop, options.engine), untold)
    finally:
        report.seconds = round(time.monotonic() - start, 3)


def _judge(
    ledger: Ledger,
    source: LineImages,
    model: Model,
    line: Line,
    options: Options,
    stop: Stop,
    report: LineReport,
    note: str,
) -> None:
    name, alpha = source.line, line.alpha
    calibration = verdicts.ensure_calibration(ledger, name, model)
    drift = history.watch(ledger, name, model, calibration)
    report.drift, report.drift_not_judged = drift.get("hint", ""), drift.get("not_judged", "")
    if report.images:
        kept = (calibration, alpha, options.pictures, stop)
        report.pictures = overlays.draw(ledger, source, model, *kept)
    tally = verdicts.rebuild(ledger, name, alpha)
    report.median_score = content.median_score(ledger, name)
    report.calibration = f"{len(calibration.scores)} images of the {calibration.origin}"
    report.calibration_sha256 = sha256_of(
        verdicts.calibration_path(ledger, name, model.model_fingerprint, model.contract_fingerprint)
    )
    if (len(calibration.scores) + 1) * alpha >= 1:
        report.flagged = tally.run_flagged
        report.expected_false_alarms = round(alpha * tally.run_scored, 2)
    if line.fdr is not None:
        report.listed = verdicts.write_list(ledger, name, alpha, line.fdr)
        report.listed_false_alarms = round(line.fdr * report.listed, 2)
    report.told += [*_alarms(report, options.limits), *filter(None, [note])]
    report.exit_code = ALARM if report.told else 0


def _alarms(report: LineReport, limits: Sequence[Limit]) -> Iterator[str]:
    for limit in limits:
        if limit.is_exceeded(report.images, asdict(report)):
            yield f"more than allowed: {limit}"
    if report.drift:
        yield f"drift: {report.drift}"


def _unclaimed(lines: Mapping[str, Line]) -> int:
    """How many files of the lines' folders match no line's pattern; a lost folder is told there."""
    patterns: dict[str, list[str]] = {}
    for line in lines.values():
        patterns.setdefault(line.folder, []).append(line.pattern or "*")
    count = 0
    for folder, wanted in patterns.items():
        if "*" not in wanted:
            with suppress(AdmodelsError, OSError):
                names = map(shown, files(Path(folder)))
                count += sum(not any(fnmatchcase(name, p) for p in wanted) for name in names)
    return count
