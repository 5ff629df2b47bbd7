"""The audit of a night: a few images, chosen by hash, that a person marks without seeing a score.

audit/LINE/NIGHT/SHA256.webp   a picture of each image of the set; until the night is closed, of
                               each that was among the smallest ranks when it was scored

The set is drawn once, when the night is closed, and stands in nights/NIGHT.json from then on, with
what was said of each image and what that rests on.
"""

from collections.abc import Collection
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ValidationError

from admodels.foundation.errors import StorageError
from admodels.nights.calibrations import KeptCalibration, calibration_in_force, calibration_of
from admodels.nights.judgements import rows_of_runs
from admodels.nights.promise import AuditImage, AuditNight, Basis
from admodels.scoring.candidates import Candidates, picture_path, rank
from admodels.scoring.ledger import Ledger
from admodels.scoring.lines import folder_name

RESTORE = "restore it from the backup: what a night drew is never drawn again"


class _Line(BaseModel):
    images: int
    audit: tuple[AuditImage, ...] = ()


class _Record(BaseModel):
    """What the audit needs of nights/NIGHT.json."""

    lines: dict[str, _Line]


def candidates(ledger: Ledger, line: str, night: str, count: int) -> Candidates | None:
    """Those of the looks of a night so far, by the pictures that stand; None without an audit."""
    if not count:
        return None
    folder = picture_path(ledger.folder, line, night, "").parent
    return Candidates(line, night, count, (path.stem for path in folder.glob("*.webp")))


def draw(ledger: Ledger, line: str, night: str, count: int) -> list[AuditImage]:
    """The audit set of a night in rank order, over its distinct scored contents.

    For the look that closes the night: pictures of other images of the night are removed.

    Raises:
        StorageError: a file of the ledger is damaged.
    """
    runs = ledger.catalogue.runs_by_night(folder_name(line)).get(night, ())
    rows = rows_of_runs(ledger, line, sorted(runs)).filter(pc.field("p_value").is_valid())
    contents = rows["image_sha256"].unique().to_pylist()
    chosen = sorted(contents, key=lambda sha256: rank(line, night, sha256))[:count]
    said = _said_of(ledger, line, rows, chosen)
    for path in picture_path(ledger.folder, line, night, "").parent.glob("*.webp"):
        if path.stem not in said:
            path.unlink()
    return [said[sha256] for sha256 in chosen]


def what_was_said(
    ledger: Ledger, line: str, image_sha256s: Collection[str], night: str = ""
) -> dict[str, AuditImage]:
    """What was first said of images of a line in the last night that has them, or in `night`.

    An image is left out that has no score there.
    """
    said: dict[str, AuditImage] = {}
    known = [sha256 for sha256 in image_sha256s if ledger.index.knows(sha256)]
    runs = {path.parent.name for path in ledger.parts(line)}
    if night:
        runs &= ledger.catalogue.runs_by_night(folder_name(line)).get(night, set())
    for run in sorted(runs, reverse=True):
        missing = [sha256 for sha256 in known if sha256 not in said]
        if not missing:
            break
        rows = rows_of_runs(ledger, line, [run]).filter(pc.field("p_value").is_valid())
        said |= _said_of(ledger, line, rows, missing)
    return said


def _said_of(
    ledger: Ledger, line: str, rows: pa.Table, image_sha256s: Collection[str]
) -> dict[str, AuditImage]:
    """What the first of the judged `rows` of each image says."""
    wanted = rows.filter(pc.field("image_sha256").isin(pa.array(list(image_sha256s), pa.string())))
    calibrations: dict[str, KeptCalibration | None] = {}
    said: dict[str, AuditImage] = {}
    for row in wanted.to_pylist():
        sha256, digest = row["image_sha256"], row["calibration"]
        if digest not in calibrations:
            calibrations[digest] = _calibration(ledger, line, row)
        kept = calibrations[digest]
        basis = Basis(
            model_fingerprint=row["model_fingerprint"],
            contract_fingerprint=row["contract_fingerprint"],
            calibration=digest,
            calibration_images=len(kept.content.scores) if kept else 0,
            alpha=row["alpha"],
        )
        image = AuditImage(
            image_sha256=sha256,
            path=row["path"],
            basis=basis,
            is_anomalous=row["is_anomalous"],
            is_calibrated_with=kept is not None and sha256 in kept.content.images,
        )
        said.setdefault(sha256, image)
    return said


def _calibration(ledger: Ledger, line: str, row: dict[str, Any]) -> KeptCalibration | None:
    """The calibration of a judged row; an older version kept one by its model's name."""
    digest = row["calibration"] or ""
    if kept := calibration_of(ledger, line, digest):
        return kept
    model = (row["model_fingerprint"], row["contract_fingerprint"])
    in_force = calibration_in_force(ledger, line, *model)
    return in_force if in_force and in_force.sha256 == digest else None


def audit_nights(ledger: Ledger, night: str = "????-??-??") -> dict[str, list[AuditNight]]:
    """The audits of the closed nights of every line in order, or of one night.

    Raises:
        StorageError: the record of a night is damaged.
    """
    nights: dict[str, list[AuditNight]] = {}
    for path in sorted((ledger.folder / "nights").glob(f"{night}.json")):
        try:
            record = _Record.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise StorageError(
                f"a damaged record of a night: {error.errors()[0]['msg']}",
                where=path,
                expected="the record as the night wrote it",
                next_step=RESTORE,
            ) from error
        for name, line in record.lines.items():
            if line.audit:
                nights.setdefault(name, []).append(AuditNight(path.stem, line.images, line.audit))
    return nights
