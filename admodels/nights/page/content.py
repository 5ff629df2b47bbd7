"""What a night left for the person who comes at seven: the rows worth a look, changes, trends.

All of it is read from the ledger, so that the page of any night can be made again. Rows stay in
Arrow's columns; only those that a page has room for become objects.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from admodels.foundation.arrays import Float64
from admodels.foundation.errors import ConfigurationError, StorageError
from admodels.inference.regions import level
from admodels.nights.calibrations import (
    KeptCalibration,
    calibration_in_force,
    calibration_of,
)
from admodels.nights.drift.history import worst_run
from admodels.nights.drift.records import Record, read_records_of
from admodels.nights.history import NightSummary
from admodels.nights.judgements import (
    count_true,
    opinion_of_today,
    rows_of_runs,
)
from admodels.nights.page.changes import Change, changes
from admodels.nights.pictures import LAYERS, pictures_of
from admodels.nights.report import LineReport
from admodels.scoring.discover import NOT_IMAGES, Status
from admodels.scoring.ledger import Ledger, summaries
from admodels.scoring.pictures import pictures_folder
from admodels.scoring.pointing import ALWAYS
from admodels.scoring.region_files import regions_of

LOG = logging.getLogger(__name__)
NIGHTS_MAX = 400  # of the index
ROWS_MAX = 10_000  # on a page, the same number of each line
ROWS_LEAST = 5  # of each line, however many lines there are
UNREADABLE_MAX = 500  # of a line
UNJUDGED = 100  # images that a line shows of which nothing can be promised
TREND_NIGHTS = 30
SHOWN = ["path", "image_sha256", "anomaly_score", "width", "height", "p_value", "is_anomalous"]
SHOWN += ["today", "calibration", "part_id", "lot"]
UNREADABLE = ["path", "status", "reason"]


@dataclass(frozen=True)
class LineRun:
    """What runs/RUN.json holds of a line."""

    run: str
    report: LineReport


@dataclass(frozen=True)
class Picture:
    """Where the layers of an image stand in the ledger, and which there are: none, no picture.

    `base` is the folder of NAME.webp of every layer; of the single layer `panels`, by an older
    version, it is the file: the image, and beside it the image with its map.
    """

    base: str = ""
    layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class LineNight:
    """A line in one night; `rows` are the images that its page shows, the worst first.

    `too_small` flagged ones are not among them: no place in them is as large as what matters.
    `more_today` of its rows would be flagged today and were not, `fewer_today` the other way round.
    `past` are the nights of the line with images before this one, the last first.
    `drift` is the content of drift/LINE/RUN.json, None where nothing was compared.
    """

    name: str
    report: LineReport
    drift: Record | None
    flagged: int | None
    rows: list[dict[str, Any]]
    too_small: int
    unreadable: list[dict[str, Any]]
    unreadable_count: int
    changes: list[Change]
    past: list[LineRun]
    more_today: int
    fewer_today: int

    @property
    def before(self) -> LineRun | None:
        """The last night before this one."""
        return self.past[0] if self.past else None


def read_runs(ledger: Path, run: str | None = None) -> list[NightSummary]:
    """The runs that came to their end, newest first, from `run` on if it is named.

    Those with a damaged summary are left out, with a warning.

    Raises:
        ConfigurationError: there is no such run.
        StorageError: the summary of the named one is damaged, or all are.
    """
    paths = list(dropwhile(lambda path: run not in (None, path.stem), summaries(ledger)))
    if not paths:
        raise ConfigurationError(
            f"no run {run or ''} that came to its end".replace("  ", " "),
            where=ledger / "runs",
            expected="the number of a run, such as 000012",
            next_step="`admodels nightly`, or name another run or ledger",
        )
    nights = {path: NightSummary.of(path.read_bytes()) for path in paths[:NIGHTS_MAX]}
    damaged = [path for path, night in nights.items() if night is None]
    if len(damaged) == len(nights) or (run and paths[0] in damaged):
        raise StorageError(
            f"the summary of run {paths[0].stem} is damaged",
            where=paths[0],
            expected="JSON, as the night wrote it",
            next_step="restore it from the backup, or name another run",
        )
    for path in damaged:
        LOG.warning("run %s is left out, its summary is damaged: %s", path.stem, path)
    return [night for night in nights.values() if night is not None]


def line_nights(ledger: Ledger, nights: list[NightSummary]) -> list[LineNight]:
    """Every line of the first of `nights`, compared with those after it, which are older."""
    reports = nights[0].lines
    most = max(ROWS_LEAST, ROWS_MAX // max(len(reports), 1))
    return [_line_night(ledger, name, nights, most) for name in reports]


def _without_repetition(runs: Iterable[LineRun]) -> Iterator[LineRun]:
    """The runs, newest first, but for those whose rows a later one reports with its own."""
    reported = set[str]()
    for run in runs:
        if run.run not in reported:
            yield run
        reported |= set(run.report.runs)


def _line_night(ledger: Ledger, name: str, nights: list[NightSummary], most: int) -> LineNight:
    runs_of_line = (LineRun(run.run, run.lines[name]) for run in nights if name in run.lines)
    now, *past = _without_repetition(runs_of_line)
    report, runs = now.report, now.report.runs or [now.run]
    past = [then for then in past if then.report.images][:TREND_NIGHTS]
    rows = rows_of_runs(ledger, name, runs)
    rows = rows.append_column("today", opinion_of_today(ledger, name, runs, rows))
    then, today = (pc.fill_null(rows[key], False) for key in ("is_anomalous", "today"))
    unreadable = rows.filter(~pc.field("status").isin([Status.SCORED, *NOT_IMAGES]))
    drifts = read_records_of(ledger, name, runs)
    shown = min(UNREADABLE_MAX, most)
    worst = _worst(ledger, name, report, rows, most)
    large = [row for row in worst if not row["is_too_small"]]
    return LineNight(
        name,
        report,
        worst_run(drifts),
        count_true(rows["is_anomalous"])
        if rows["is_anomalous"].null_count < len(rows)
        else report.flagged,
        large,
        len(worst) - len(large),
        unreadable.sort_by("path").slice(0, shown).select(UNREADABLE).to_pylist(),
        len(unreadable),
        list(changes(ledger, name, report, (past[0].run, past[0].report) if past else None, rows)),
        past,
        count_true(pc.and_not(today, then)),
        count_true(pc.and_not(then, today)),
    )


def _worst(
    ledger: Ledger, line: str, report: LineReport, rows: pa.Table, most: int
) -> list[dict[str, Any]]:
    """What is flagged, and a few more, the worst first; `excess` is comparable between lines.

    It is 0 where half of the normal images of the calibration lie, and 1 at the highest of them.
    """
    if not len(rows):
        return []
    unjudged = rows["is_anomalous"].null_count == len(rows)
    flagged = max(count_true(rows[key]) for key in ("is_anomalous", "today"))
    wanted = min(UNJUDGED if unjudged else flagged + ALWAYS, most)
    order = [("anomaly_score", "descending"), ("path", "ascending"), ("image_sha256", "ascending")]
    worst = rows.take(pc.select_k_unstable(rows, wanted, order))  # sorting all would copy all
    worst = worst.filter(pc.field("anomaly_score").is_valid())
    key = (report.model_fingerprint or "", report.contract_fingerprint or "")
    then = report.calibration_sha256 or ""
    kept = calibration_of(ledger, line, then) or calibration_in_force(ledger, line, *key)
    normal = kept.scores if kept else np.empty(0)
    counts = {kept.sha256: len(normal)} if kept else {}
    normal = normal if len(normal) else rows["anomaly_score"].drop_null().to_numpy()
    excess = _excess(worst["anomaly_score"].to_numpy(), normal)
    shown: list[dict[str, Any]] = worst.select(SHOWN).to_pylist()
    has_level = kept is not None and level(kept.map_max, report.alpha or 1.0) is not None
    places = _regions(ledger, line, worst["run"].unique().to_pylist(), key)
    for row, beyond in zip(shown, excess.tolist(), strict=True):
        row["picture"] = _picture(ledger, line, row["image_sha256"], key)
        row["excess"] = beyond
        regions = places.get((row["path"], row["image_sha256"]), [])
        row["regions"] = [region for region in regions if _matters(region, report)]
        row["is_too_small"] = bool(regions) and not row["regions"]
        row["normal_images"] = counts.get(row["calibration"])
        row["ratio"] = _ratio(row["regions"], kept)
        row["has_level"] = has_level
    return [row for row in shown if row["picture"].layers or _needs_a_row(row)]


def _matters(region: dict[str, Any], report: LineReport) -> bool:
    """Whether a place is as large as a defect that matters, as far as both are known in mm2."""
    area, least = region["area_mm2"], report.smallest_defect_mm2
    return area is None or least is None or area >= least


def _needs_a_row(row: dict[str, Any]) -> bool:
    """Whether the page shows an image without a picture: not one that nothing is said against."""
    return row["is_anomalous"] is not False or bool(row["today"])


def _ratio(regions: list[dict[str, Any]], kept: KeptCalibration | None) -> float | None:
    """How many times the largest map value is that of a usual normal image, where both are known.

    The usual one is the median over the images of the calibration.
    """
    known = np.nan_to_num(kept.map_max, nan=np.inf) if kept else np.empty(0)
    usual = np.median(known) if len(known) else np.inf
    return float(regions[0]["largest"] / usual) if regions and 0 < usual < np.inf else None


def _picture(ledger: Ledger, line: str, image_sha256: str, key: tuple[str, str]) -> Picture:
    """What a night drew of an image."""
    pictures = pictures_of(ledger.folder, line, image_sha256, *key)
    layers = tuple(name for name in LAYERS if getattr(pictures, name))
    if layers:
        return Picture(pictures_folder(line, image_sha256, *key), layers)
    old = pictures.overlay
    return Picture(old.relative_to(ledger.folder).as_posix(), ("panels",)) if old else Picture()


def _regions(
    ledger: Ledger, line: str, runs: list[str], key: tuple[str, str]
) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """By path and image_sha256, the regions of images by a model, the one of the maximum first."""
    places: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for region in regions_of(ledger, line, runs).to_pylist():
        if (region["model_fingerprint"], region["contract_fingerprint"]) == key:
            places.setdefault((region["path"], region["image_sha256"]), []).append(region)
    return places


def _excess(scores: Float64, normal: Float64) -> Float64:
    if not len(scores):
        return scores
    middle, highest = np.median(normal), normal.max()
    return np.asarray((scores - middle) / max(highest - middle, 1e-12))


def worst_first(lines: list[LineNight]) -> list[tuple[int, dict[str, Any]]]:
    """(index of the line, row) of the images of all lines: flagged, without verdict, the others."""
    rows = [(index, row) for index, line in enumerate(lines) for row in line.rows]

    def place(indexed: tuple[int, dict[str, Any]]) -> tuple[int, float]:
        return (True, None, False).index(indexed[1]["is_anomalous"]), -indexed[1]["excess"]

    return sorted(rows, key=place)
