"""What the nights of a line look like against its reference, kept in the ledger.

drift/LINE/RUN.json   every statistic of a run, whether its verdicts can be trusted, a likely cause

A line's own calibration images are its reference (`admodels calibrate`), or those of its bundle.
Refused images are left out: what they look like is why they were refused, and no score is of them.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, tzinfo
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from admodels.foundation.arrays import Float64, Records
from admodels.images.describe import read_records
from admodels.nights.calibrations import KeptCalibration
from admodels.nights.drift.hints import hint
from admodels.nights.drift.records import (
    Record,
    drift_folder,
    read_record,
    read_records_of,
    records_before,
    runs_before,
)
from admodels.nights.drift.repeats import repeats
from admodels.nights.drift.statistics import PAST_NIGHTS, Comparison, judge, values
from admodels.scoring.appearances import APPEARANCES, records
from admodels.scoring.engine import Model
from admodels.scoring.index import open_part
from admodels.scoring.ledger import Ledger
from admodels.scoring.lines import folder_name
from admodels.scoring.tables import batches

IMAGES_AT_MOST = 2000  # of a night, evenly spread: more would not make a change any clearer


def judge_runs(
    ledger: Ledger, line: str, model: Model, calibration: KeptCalibration, zone: tzinfo = UTC
) -> Record:
    """Judge the runs of tonight, and late ones without a record; the record of tonight.

    Times in words are of `zone`. Empty where no image was seen.

    Raises:
        StorageError: a part of the ledger is damaged.
    """
    drift, tonight = drift_folder(ledger, line), ledger.tonight(line)
    of_tonight = list[Record]()
    for home in _homes_to_judge(ledger, line, drift, tonight):
        before = read_record(drift / f"{home.name}.json") if home.name in tonight else None
        record: Record = before or {}
        if not before or home.name == ledger.run or before["images"] != _images_of(home):
            reference = _reference(model, calibration)
            record = _judge_run(home, drift, model, reference, zone)
            record |= {"line": line, "run": home.name}
            if before and not before["trusted"] and not record["statistics"]:  # by another model
                record = before | {"images": record["images"]}
            ledger.store_json(drift / f"{home.name}.json", record)
        of_tonight += [record] if home.name in tonight else []
    return worst_run(of_tonight) or {}


def _homes_to_judge(
    ledger: Ledger, line: str, drift: Path, tonight: Sequence[str]
) -> Iterator[Path]:
    """The appearances of tonight's runs, and of late ones whose record is lost, oldest first."""
    seen = ledger.appearance / folder_name(line)
    for run in [*reversed(list(runs_before(ledger.run))), ledger.run]:
        is_open = run in tonight or not (drift / f"{run}.json").exists()
        if is_open and (seen / run).is_dir():
            yield seen / run


def runs_in_drift(ledger: Ledger, line: str) -> set[str]:
    """The runs of tonight in which the line did not look or score like its reference."""
    records = read_records_of(ledger, line, ledger.tonight(line))
    return {record["run"] for record in records if not record["trusted"]}


def worst_run(runs: list[Record]) -> Record | None:
    """Of the records of several runs: the last with an alarm, else the last."""
    return max(runs, key=lambda record: (not record["trusted"], record["run"]), default=None)


@dataclass(frozen=True)
class _Reference:
    """Appearances (N,), if there are any, scores (M,), whose they are, and what identifies them."""

    records: Records | None
    scores: Float64
    says: str
    identity: str


def _reference(model: Model, calibration: KeptCalibration) -> _Reference:
    fingerprints = (model.model_fingerprint, model.contract_fingerprint)
    own, scores = calibration.reference, calibration.scores
    appearances = read_records(own) if own.is_file() else model.reference()
    if appearances is None:
        return _Reference(None, scores, "", "")
    content = b"".join([appearances.tobytes(), scores.tobytes(), *map(str.encode, fingerprints)])
    says = f"{len(appearances)} images of the {'line' if own.is_file() else 'bundle'}"
    return _Reference(appearances, scores, says, hashlib.sha256(content).hexdigest()[:16])


def _judge_run(
    home: Path, drift: Path, model: Model, reference: _Reference, zone: tzinfo
) -> Record:
    images, scored = _images(home, model)
    repeated = repeats(scored["image_sha256"].to_pylist(), scored["mtime_ns"].to_numpy())
    table = _distinct(scored)
    comparisons: dict[str, Comparison] = {}
    if reference.records is not None and len(table):
        night = values(records(table), reference.records)
        night["anomaly_score"] = table["anomaly_score"].to_numpy()[:, None]
        ours = values(reference.records, reference.records)
        ours["anomaly_score"] = reference.scores[:, None]
        past = _past(drift, home.name, reference.identity)
        comparisons = judge(night, ours, past, table["mtime_ns"].to_numpy())
    is_alarm = any(comparison.alarm for comparison in comparisons.values())
    return {
        "images": images,
        "compared": len(table),
        "reference": reference.says,
        "reference_id": reference.identity,
        "trusted": not is_alarm and repeated is None,
        "hint": hint(comparisons, repeated, zone),
        "not_judged": "" if comparisons else _why_not(images, len(table), reference),
        "timezone": str(zone),
        "repeats": repeated and asdict(repeated),
        "statistics": {name: asdict(comparison) for name, comparison in comparisons.items()},
    }


def _why_not(images: int, compared: int, reference: _Reference) -> str:
    if reference.records is None:
        return "the bundle does not know what its calibration images look like: train again"
    count = "1 image is" if compared == 1 else f"{compared} images are"
    left_out = f"; {images} were seen, refused and repeated ones are left out"
    return f"{count} too few to compare with {reference.says}{left_out * (compared < images)}"


def _images(home: Path, model: Model) -> tuple[int, pa.Table]:
    """How many images a run has seen, and some of those that the model gave a score."""
    count, paths = _images_of(home), sorted(home.glob("*.parquet"))
    step = max(1, -(-count // IMAGES_AT_MOST))
    seen, kept = 0, [APPEARANCES.empty_table()]
    for path in paths:
        with open_part(path, APPEARANCES) as file:
            for batch in batches(file, APPEARANCES):
                chosen = pa.array(range(-seen % step, len(batch), step), pa.int64())
                kept.append(pa.Table.from_batches([batch]).take(chosen))
                seen += len(batch)
    own = pc.field("model_fingerprint") == model.model_fingerprint
    own &= pc.field("contract_fingerprint") == model.contract_fingerprint
    own &= pc.field("anomaly_score").is_valid()
    return count, pa.concat_tables(kept, promote_options="default").filter(own)


def _distinct(table: pa.Table) -> pa.Table:
    """The first row of each content: a copy is no further evidence."""
    first = np.unique(table["image_sha256"].to_numpy(), return_index=True)[1]
    return table.take(np.sort(first))


def _images_of(home: Path) -> int:
    count = 0
    for path in home.glob("*.parquet"):
        with open_part(path, APPEARANCES) as file:
            count += file.metadata.num_rows
    return count


def _past(drift: Path, run: str, reference: str) -> dict[str, list[tuple[float, float]]]:
    """Median and effect in the last trusted nights with the same reference, by statistic."""
    records = records_before(drift, run)
    same = (run for run in records if run["trusted"] and run["reference_id"] == reference)
    nights = list(islice(same, PAST_NIGHTS[1]))
    past: dict[str, list[tuple[float, float]]] = {}
    for night in reversed(nights):
        for name, comparison in night["statistics"].items():
            past.setdefault(name, []).append((comparison["night"], comparison["effect"]))
    return past
