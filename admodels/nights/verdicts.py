"""Verdicts from scores and calibration: derived, so they can be made again at any time.

calibration/LINE/MODEL-CONTRACT.json   the scores of normal images that a verdict compares with
verdicts/LINE.parquet                  one row for each row of `scores`
lists/RUN/LINE.csv                     the Benjamini-Hochberg list of a night
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
from pydantic import Field

from admodels.foundation.arrays import Float64
from admodels.foundation.errors import ConfigurationError, StorageError
from admodels.foundation.files import durable_file, read_json
from admodels.foundation.params import Strict, parse
from admodels.inference.conformal import benjamini_hochberg, images_missing
from admodels.nights.drift.records import Record, drift_folder, read_record
from admodels.scoring import tables
from admodels.scoring.engine import Model
from admodels.scoring.ledger import Ledger
from admodels.scoring.lines import folder_name

LOG = logging.getLogger(__name__)
CALIBRATE = (
    "restore it from the backup, or `admodels calibrate` the line again; where it was only a copy "
    "of the bundle's, delete it"
)


class Calibration(Strict):
    """Ascending scores of normal images that nothing was learnt from, and whose they are.

    `bundle`: of the task's calibration images; `line`: of images that the line itself took and a
    person approved, which is what its promise should rest on. `images`: their sha256.
    """

    origin: Literal["bundle", "line"]
    scores: tuple[float, ...] = Field(strict=False)
    images: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tally:
    """Of the rows that a rebuild judged: all of them and those of one run."""

    scored: int = 0
    flagged: int = 0
    run_scored: int = 0
    run_flagged: int = 0


def calibration_path(ledger: Ledger, line: str, model: str, contract: str) -> Path:
    """Where the calibration of a line and a model stands."""
    return ledger.folder / "calibration" / folder_name(line) / f"{model}-{contract}.json"


def read_calibration(path: Path) -> Calibration | None:
    """The calibration at `path`, if there is one.

    Raises:
        StorageError: it is not as it was written; nothing else says what was promised.
    """
    if not path.is_file():
        return None
    try:
        return parse(read_json(path, CALIBRATE), Calibration, "", path)
    except ConfigurationError as error:
        raise StorageError(
            f"a damaged calibration: {error.fault}",
            where=path,
            expected="the scores that the line was calibrated with",
            next_step=CALIBRATE,
        ) from error


def ensure_calibration(ledger: Ledger, line: str, model: Model) -> Calibration:
    """The line's own calibration of this model, or that of the bundle, which is kept then."""
    path = calibration_path(ledger, line, model.model_fingerprint, model.contract_fingerprint)
    kept = read_calibration(path)
    if kept is not None and kept.origin == "line":
        return kept
    of_bundle = Calibration(origin="bundle", scores=tuple(model.calibration_scores.tolist()))
    if kept != of_bundle:
        keep_calibration(ledger, path, of_bundle)
    return of_bundle


def keep_calibration(ledger: Ledger, path: Path, calibration: Calibration) -> None:
    """Write it, whole or not at all."""
    ledger.store_json(path, calibration.model_dump(mode="json"))


def judge_group(
    ledger: Ledger, line: str, alpha: float, runs: tuple[str, ...] = ("*",)
) -> Iterator[tuple[str, pa.Table, pa.Table]]:
    """(run, scores, verdicts) of all rows of a line, or those of some runs, a group at a time."""
    drifted = drifted_runs(ledger, line)
    calibrations: dict[tuple[str, str], Float64] = {}
    for run, group in chain.from_iterable(ledger.groups(line, run) for run in runs):
        key = tables.model_of(group)
        if key not in calibrations:
            calibrations[key] = _calibration_of(ledger, line, key)
        yield run, group, tables.verdicts(group, calibrations[key], alpha, run not in drifted)


def read_drift(folder: Path) -> dict[str, Record]:
    """The record of each run of a line in order; a damaged one is left out, with a warning."""
    paths = sorted(path for path in folder.glob("*.json") if path.stem.isdigit())
    records = ((path.stem, read_record(path)) for path in paths)
    return {run: record for run, record in records if record is not None}


def drifted_runs(ledger: Ledger, line: str) -> set[str]:
    """The runs in which the line did not look or score like its reference."""
    records = read_drift(drift_folder(ledger, line))
    return {run for run, record in records.items() if not record["trusted"]}


def _calibration_of(ledger: Ledger, line: str, key: tuple[str, str]) -> Float64:
    calibration = read_calibration(calibration_path(ledger, line, *key))
    return np.array(calibration.scores if calibration else (), np.float64)


def picture_path(line: str, image_sha256: str, model: str, contract: str) -> str:
    """Where a picture stands in the ledger: by content, so that no two images of one name meet."""
    return f"overlays/{folder_name(line)}/{image_sha256[:32]}-{model[:8]}{contract[:8]}.jpg"


def _with_pictures(verdicts: pa.Table, held: set[str]) -> pa.Table:
    names = ("line", "image_sha256", "model_fingerprint", "contract_fingerprint")
    keys = zip(*(verdicts[name].to_pylist() for name in names), strict=True)
    paths = [path if (path := picture_path(*key)) in held else "" for key in keys]
    column = verdicts.schema.get_field_index("overlay_path")
    return verdicts.set_column(column, verdicts.schema.field(column), pa.array(paths, pa.string()))


def rebuild(ledger: Ledger, line: str, alpha: float) -> Tally:
    """Write the verdicts of a line anew, whole or not at all."""
    counts, tonight = np.zeros(4, int), ledger.tonight(line)
    held = {
        path.relative_to(ledger.folder).as_posix()
        for path in (ledger.folder / "overlays" / folder_name(line)).glob("*.jpg")
    }

    def groups() -> Iterator[pa.Table]:
        for run, _, verdicts in judge_group(ledger, line, alpha):
            scored, flagged = _counts(verdicts)
            counts[:2] += scored, flagged
            if run in tonight:
                counts[2:] += scored, flagged
            yield _with_pictures(verdicts, held) if held else verdicts

    target = ledger.folder / "verdicts" / f"{folder_name(line)}.parquet"
    with ledger.commit(), durable_file(target) as partial:
        tables.write(partial, tables.VERDICTS, groups())
    return Tally(*counts.tolist())


@dataclass(frozen=True)
class AlphaChange:
    """What another alpha does to a line's verdicts.

    `missing` normal images more would be needed for the last model's calibration to promise it.
    """

    line: str
    flagged: int
    more: int
    fewer: int
    missing: int

    def __str__(self) -> str:
        if self.missing:
            return f"{self.line}: {self.missing} more normal images are needed to promise that"
        return f"{self.line}: {self.flagged} flagged, {self.more} more and {self.fewer} fewer"


def change_of_alpha(ledger: Ledger, line: str, alpha: float) -> AlphaChange:
    """What `rebuild` with this alpha would change, against the verdicts that stand."""
    path = ledger.folder / "verdicts" / f"{folder_name(line)}.parquet"
    before: set[tuple[object, ...]] = set()
    for group in tables.read(path) if path.is_file() else ():
        before |= _flagged_keys(group)
    flagged = more = missing = 0
    for _, scores, verdicts in judge_group(ledger, line, alpha):
        now = _flagged_keys(verdicts)
        flagged, more = flagged + len(now), more + len(now - before)
        calibration = _calibration_of(ledger, line, tables.model_of(scores))
        missing = images_missing(len(calibration), alpha)
    return AlphaChange(line, flagged, more, len(before) - (flagged - more), missing)


def _flagged_keys(verdicts: pa.Table) -> set[tuple[object, ...]]:
    keys = verdicts.filter(pc.field("is_anomalous")).select([f.name for f in tables.KEY])
    return set(zip(*(column.to_pylist() for column in keys.columns), strict=True))


def _counts(verdicts: pa.Table) -> tuple[int, int]:
    """How many rows have a p-value, and how many are flagged."""
    flagged = pc.sum(verdicts["is_anomalous"]).as_py() or 0
    return len(verdicts) - verdicts["p_value"].null_count, flagged


def write_list(ledger: Ledger, line: str, alpha: float, fdr: float) -> int:
    """The night's Benjamini-Hochberg list as CSV, worst first; how many it names.

    At most the share `fdr` of what it names is expected to be false alarms.
    """
    tonight = [
        pa.table(
            [scores["path"], scores["image_sha256"], scores["anomaly_score"], verdicts["p_value"]],
            ["path", "image_sha256", "anomaly_score", "p_value"],
        ).drop_null()
        for _, scores, verdicts in judge_group(ledger, line, alpha, ledger.tonight(line))
    ]
    if not tonight:
        return 0
    table = pa.concat_tables(tonight)
    cut = benjamini_hochberg(table["p_value"].to_numpy(), fdr)
    table = table.filter(pc.field("p_value") <= cut).sort_by([("anomaly_score", "descending")])
    with durable_file(ledger.folder / "lists" / ledger.run / f"{folder_name(line)}.csv") as partial:
        pa_csv.write_csv(table, partial)
    return len(table)
