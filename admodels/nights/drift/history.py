"""What the nights of a line look like against its reference, kept in the ledger.

drift/LINE/RUN.json   every statistic of a run, whether its verdicts can be trusted, a likely cause

A line's own calibration images are its reference (`admodels calibrate`), or those of its bundle.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from admodels.foundation.arrays import Float64, Records
from admodels.foundation.files import durable_file, write_json
from admodels.images.describe import read_records
from admodels.nights.drift.hints import hint
from admodels.nights.drift.statistics import PAST_NIGHTS, Finding, judge, values
from admodels.nights.verdicts import Calibration, calibration_path, drift_folder
from admodels.scoring.appearances import APPEARANCES, records
from admodels.scoring.engine import Model
from admodels.scoring.index import part
from admodels.scoring.ledger import Ledger, folder_name
from admodels.scoring.tables import ROWS_PER_GROUP

IMAGES_AT_MOST = 2000  # of a night, evenly spread: more would not make a change any clearer


def watch(ledger: Ledger, line: str, model: Model, calibration: Calibration) -> dict[str, Any]:
    """Judge the runs of tonight, and any that was never judged; what is told of tonight.

    Empty where no image was seen.

    Raises:
        StorageError: a part of the ledger is damaged.
    """
    drift, seen = drift_folder(ledger, line), ledger.appearance / folder_name(line)
    tonight, found = ledger.tonight(line), list[dict[str, Any]]()
    for home in sorted(seen.glob("*")):
        kept = drift / f"{home.name}.json"
        if home.name not in tonight and kept.exists():
            continue
        before = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else None
        told: dict[str, Any] = before or {}
        if not before or home.name == ledger.run or before["images"] != _images_of(home):
            told = _judged(home, drift, model, _reference(ledger, line, model, calibration))
            told |= {"line": line, "run": home.name}
            if before and not before["trusted"] and not told["statistics"]:  # by another model
                told = before | {"images": told["images"]}
            with durable_file(kept) as partial:
                write_json(partial, told)
        found += [told] if home.name in tonight else []
    return worst_run(found) or {}


def worst_run(told: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Of what was found of several runs: the last with an alarm, else the last."""
    return max(told, key=lambda one: (not one["trusted"], one["run"]), default=None)


@dataclass(frozen=True)
class _Reference:
    """Appearances (N,), if there are any, scores (M,), whose they are, and what identifies them."""

    records: Records | None
    scores: Float64
    says: str
    identity: str


def _reference(ledger: Ledger, line: str, model: Model, calibration: Calibration) -> _Reference:
    fingerprints = (model.model_fingerprint, model.contract_fingerprint)
    own = reference_path(ledger, line, *fingerprints)
    found = read_records(own) if own.is_file() else model.reference()
    scores = np.array(calibration.scores, np.float64)
    if found is None:
        return _Reference(None, scores, "", "")
    content = b"".join([found.tobytes(), scores.tobytes(), *map(str.encode, fingerprints)])
    says = f"{len(found)} images of the {'line' if own.is_file() else 'bundle'}"
    return _Reference(found, scores, says, hashlib.sha256(content).hexdigest()[:16])


def _judged(home: Path, drift: Path, model: Model, reference: _Reference) -> dict[str, Any]:
    images, table = _images(home, model)
    findings: dict[str, Finding] = {}
    if reference.records is not None and len(table):
        night = values(records(table), reference.records)
        night["anomaly_score"] = table["anomaly_score"].to_numpy()[:, None]
        ours = values(reference.records, reference.records)
        ours["anomaly_score"] = reference.scores[:, None]
        past = _past(drift, home.name, reference.identity)
        findings = judge(night, ours, past, table["mtime_ns"].to_numpy())
    return {
        "images": images,
        "reference": reference.says,
        "reference_id": reference.identity,
        "trusted": not any(found.alarm for found in findings.values()),
        "hint": hint(findings),
        "not_judged": "" if findings else _why_not(images, reference),
        "statistics": {name: asdict(found) for name, found in findings.items()},
    }


def _why_not(images: int, reference: _Reference) -> str:
    if reference.records is None:
        return "the bundle does not know what its calibration images look like: train again"
    return f"{images} images are too few to compare with {reference.says}"


def _images(home: Path, model: Model) -> tuple[int, pa.Table]:
    """How many images of the model a run has seen, and some of them."""
    count, paths = _images_of(home), sorted(home.glob("*.parquet"))
    step = max(1, -(-count // IMAGES_AT_MOST))
    at, kept = 0, [APPEARANCES.empty_table()]
    for path in paths:
        with part(path, APPEARANCES) as file:
            for batch in file.iter_batches(ROWS_PER_GROUP):
                chosen = pa.array(range(-at % step, len(batch), step), pa.int64())
                kept.append(pa.Table.from_batches([batch]).take(chosen))
                at += len(batch)
    own = pc.field("model_fingerprint") == model.model_fingerprint
    own &= pc.field("contract_fingerprint") == model.contract_fingerprint
    return count, pa.concat_tables(kept).filter(own)


def _images_of(home: Path) -> int:
    count = 0
    for path in home.glob("*.parquet"):
        with part(path, APPEARANCES) as file:
            count += file.metadata.num_rows
    return count


def _past(drift: Path, run: str, reference: str) -> dict[str, list[tuple[float, float]]]:
    """Median and effect in the last trusted nights with the same reference, by statistic."""
    paths = sorted((p for p in drift.glob("*.json") if p.stem < run), reverse=True)
    told = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
    same = (one for one in told if one["trusted"] and one["reference_id"] == reference)
    nights = list(islice(same, PAST_NIGHTS[1]))
    past: dict[str, list[tuple[float, float]]] = {}
    for night in reversed(nights):
        for name, found in night["statistics"].items():
            past.setdefault(name, []).append((found["night"], found["effect"]))
    return past


def reference_path(ledger: Ledger, line: str, model: str, contract: str) -> Path:
    """Where the appearances of a line's own calibration images stand."""
    return calibration_path(ledger, line, model, contract).with_suffix(".safetensors")
