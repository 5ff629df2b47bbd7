"""The scores of normal images that verdicts compare with, each kept for good by its content.

calibration/LINE/SHA256.json            the scores, and of which images; never overwritten
calibration/LINE/SHA256.safetensors     what these images look like, where the line took them
calibration/LINE/in_force/NNNN.json     from then on it counts for a model; the last record counts

An older version kept calibration/LINE/MODEL-CONTRACT.json; it counts until there is a record.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from pydantic import Field

from admodels.foundation.arrays import Float64, Records
from admodels.foundation.errors import ConfigurationError, StorageError
from admodels.foundation.files import read_json, sha256_of, write_json
from admodels.foundation.params import Strict, parse
from admodels.images.describe import write_records
from admodels.scoring.engine import Model
from admodels.scoring.journal import user
from admodels.scoring.layout import WRITING
from admodels.scoring.ledger import Ledger
from admodels.scoring.lines import folder_name

CALIBRATE = (
    "restore it from the backup, or `admodels calibrate` the line again; where it was only a copy "
    "of the bundle's, delete it"
)


class Calibration(Strict):
    """Ascending scores of normal images that nothing was learnt from, and whose they are.

    `bundle`: of the task's calibration images; `line`: of images that the line itself took and a
    person approved, which is what its promise should rest on. `images`: their sha256. `map_max`:
    the largest map value of each, None where it is not known; older calibrations have none.
    """

    origin: Literal["bundle", "line"]
    scores: tuple[float, ...] = Field(strict=False)
    images: tuple[str, ...] = ()
    map_max: tuple[float | None, ...] = Field(default=(), strict=False)

    def __str__(self) -> str:
        return f"{len(self.scores)} images of the {self.origin}"


class InForce(Strict):
    """A record that a calibration counts from then on."""

    model: str
    contract: str
    calibration: str
    at: str
    who: str
    why: str


M = TypeVar("M", Calibration, InForce)


@dataclass(frozen=True)
class KeptCalibration:
    """A calibration in the ledger; `sha256` is that of its file."""

    path: Path
    sha256: str
    content: Calibration

    @property
    def scores(self) -> Float64:
        """Ascending."""
        return np.array(self.content.scores, np.float64)

    @property
    def map_max(self) -> Float64:
        """The largest map value of each image, NaN where it is not known."""
        return np.array(self.content.map_max or [None] * len(self.content.scores), np.float64)

    @property
    def reference(self) -> Path:
        """Where the appearances of its images stand, if they are known."""
        return self.path.with_suffix(".safetensors")


def folder_of(ledger: Ledger, line: str) -> Path:
    """Where the calibrations of a line stand."""
    return ledger.folder / "calibration" / folder_name(line)


def read_calibration(path: Path) -> KeptCalibration:
    """The calibration at `path`; the name of a new one is the SHA-256 of its file.

    Raises:
        StorageError: it is not as it was written; nothing else says what was promised.
    """
    expected = "the scores that the line was calibrated with"
    kept = KeptCalibration(path, sha256_of(path), _read(path, Calibration, expected))
    if len(path.stem) == len(kept.sha256) and path.stem != kept.sha256:
        raise StorageError(
            f"a damaged calibration, of SHA-256 {kept.sha256}",
            where=path,
            expected=expected,
            next_step=CALIBRATE,
        )
    return kept


def calibration_in_force(
    ledger: Ledger, line: str, model: str, contract: str
) -> KeptCalibration | None:
    """The calibration that counts for a model and how its images are prepared, if there is one.

    Raises:
        StorageError: it, or a record, is not as it was written.
    """
    folder = folder_of(ledger, line)
    for path in reversed(_records(folder)):
        record = _read(path, InForce, "which calibration counts")
        if (record.model, record.contract) == (model, contract):
            return read_calibration(folder / f"{record.calibration}.json")
    old = folder / f"{model}-{contract}.json"
    return read_calibration(old) if old.is_file() else None


def calibration_of(ledger: Ledger, line: str, sha256: str) -> KeptCalibration | None:
    """The calibration of that hash, if it was kept by it."""
    path = folder_of(ledger, line) / f"{sha256}.json"
    return read_calibration(path) if sha256 and path.is_file() else None


def _records(folder: Path) -> list[Path]:
    paths = (folder / "in_force").glob("*.json")
    return sorted((p for p in paths if p.stem.isdigit()), key=lambda path: int(path.stem))


def _read(path: Path, kind: type[M], expected: str) -> M:
    try:
        return parse(read_json(path, CALIBRATE), kind, "", path)
    except (ConfigurationError, FileNotFoundError) as error:
        fault = error.fault if isinstance(error, ConfigurationError) else "it is gone"
        raise StorageError(
            f"a damaged calibration: {fault}", where=path, expected=expected, next_step=CALIBRATE
        ) from error


def ensure_calibration(ledger: Ledger, line: str, model: Model) -> KeptCalibration:
    """The line's own calibration of this model, or that of the bundle, which is kept then."""
    fingerprints = (model.model_fingerprint, model.contract_fingerprint)
    kept = calibration_in_force(ledger, line, *fingerprints)
    of_bundle = Calibration(
        origin="bundle",
        scores=tuple(model.calibration_scores.tolist()),
        map_max=tuple(model.calibration_map_max.tolist()),
    )
    if kept and (kept.content.origin == "line" or kept.content == of_bundle):
        return kept
    return keep_calibration(ledger, line, fingerprints, of_bundle, why="that of the bundle")


def keep_calibration(
    ledger: Ledger,
    line: str,
    fingerprints: tuple[str, str],
    calibration: Calibration,
    reference: Records | None = None,
    *,
    why: str,
) -> KeptCalibration:
    """Keep a calibration, and that it counts for the model from now on.

    `reference`: (N,) appearances of its images. `fingerprints`: of the model and the contract.
    """
    folder = folder_of(ledger, line)
    with ledger.commit():
        draft = ledger.folder / WRITING / "calibration"
        write_json(draft, calibration.model_dump(mode="json"))
        sha256 = sha256_of(draft)
        path = folder / f"{sha256}.json"
        if not path.exists():
            with ledger.store(path) as (partial,):
                draft.replace(partial)
        draft.unlink(missing_ok=True)
        kept = KeptCalibration(path, sha256, calibration)
        if reference is not None and not kept.reference.exists():
            with ledger.store(kept.reference) as (partial,):
                write_records(partial, reference)
        model, contract = fingerprints
        now = datetime.now(UTC).isoformat(timespec="seconds")
        record = InForce(
            model=model, contract=contract, calibration=sha256, at=now, who=user(), why=why
        )
        records = _records(folder)
        number = int(records[-1].stem) + 1 if records else 1
        ledger.store_json(folder / "in_force" / f"{number:04d}.json", record.model_dump())
    return kept
