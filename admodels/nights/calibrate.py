"""The scores of a line's own normal images: what its false-alarm promise should rest on."""

import math
from pathlib import Path

import numpy as np

from admodels.foundation import manifest
from admodels.foundation.arrays import Records
from admodels.foundation.errors import DataError, Interrupted
from admodels.foundation.files import names_text
from admodels.foundation.progress import progress
from admodels.nights import feedback
from admodels.nights.calibrations import Calibration, keep_calibration
from admodels.scoring.discover import Status
from admodels.scoring.engine import Model
from admodels.scoring.inbox import Folder
from admodels.scoring.ledger import Ledger
from admodels.scoring.lines import Tile
from admodels.scoring.rows import rows
from admodels.scoring.stopping import Stop

LEARNT_FROM = ("train", "validation")


def calibrate(
    ledger: Ledger,
    line: str,
    model: Model,
    approved: Path,
    manifests: Path,
    stop: Stop,
    tile: Tile | None = None,
) -> Calibration:
    """Keep the scores of the images in `approved` as the line's calibration of this model.

    Images that people called fine count too: they had been flagged, so they can only raise the
    threshold, and the promise holds. Those called a defect are left out, and so are those that the
    model has learnt from since.

    Raises:
        DataError: an image cannot be scored, the model learnt from it, or none is left.
        Interrupted: by a signal.
    """
    scores, looks = _scores(ledger, line, model, approved, stop, tile)
    learnt = _learnt(manifests / model.task)
    if known := [learnt[sha256] for sha256 in scores.keys() & learnt.keys()]:
        reason = f"the model learnt from {len(known)} of the images: {names_text(known)}"
        raise _refusal(reason, approved, "images that training has not seen")
    fingerprints = (model.model_fingerprint, model.contract_fingerprint)
    for sha256, verdict in feedback.read(feedback.path_of(ledger, line)).items():
        score = ledger.index.score(sha256, *fingerprints)
        if verdict == feedback.DEFECT:
            scores.pop(sha256, None)
            looks.pop(sha256, None)
        elif sha256 not in learnt and score is not None and math.isfinite(score):
            scores[sha256] = score
    if not scores:
        raise _refusal("no image to calibrate with", approved, "normal images of this line")
    ordered = sorted(scores.items(), key=lambda item: (item[1], item[0]))
    calibration = Calibration(
        origin="line",
        scores=tuple(score for _, score in ordered),
        images=tuple(sha256 for sha256, _ in ordered),
    )
    reference = np.stack([looks[sha256] for sha256 in sorted(looks)]) if looks else None
    why = f"`admodels calibrate` with {approved}"
    keep_calibration(ledger, line, fingerprints, calibration, reference, why=why)
    return calibration


def _scores(
    ledger: Ledger, line: str, model: Model, approved: Path, stop: Stop, tile: Tile | None
) -> tuple[dict[str, float], dict[str, Records]]:
    """image_sha256 -> score, and appearance, of every image; what is known is not scored again."""
    bundle, names = model.load(), Folder(approved).files().names
    scores: dict[str, float] = {}
    looks: dict[str, Records] = {}
    bad: list[str] = []
    fingerprints = (bundle.model_fingerprint, bundle.contract_fingerprint)

    def known(sha256: str) -> float | None:
        return scores.get(sha256, ledger.index.score(sha256, *fingerprints))

    read = rows(Folder(approved), names, bundle, line, known, stop, tile)
    for result in progress(read, len(names), f"calibrate {line}"):
        row = result.row
        if row is not None and row.anomaly_score is not None:
            scores[row.image_sha256] = row.anomaly_score
            if result.appearance is not None:
                looks[row.image_sha256] = result.appearance
        elif row is None or row.status != Status.NOT_AN_IMAGE:
            bad.append(row.path if row else "a file that is being written")
    if stop():
        raise Interrupted(stop.signal, approved)
    if bad:
        raise _refusal(f"{len(bad)} images cannot be scored: {names_text(bad)}", approved, "images")
    return scores, looks


def _learnt(folder: Path) -> dict[str, str]:
    """image_sha256 -> path of what a detector knows: its scores there are too low to promise by."""
    paths = [folder / f"{split}.csv" for split in LEARNT_FROM]
    rows = (row for path in paths if path.is_file() for row in manifest.read(path))
    return {row.image_sha256: row.image_path for row in rows}


def _refusal(reason: str, where: Path, expected: str) -> DataError:
    return DataError(
        reason,
        where=where,
        expected=expected,
        next_step="choose other images, then calibrate again",
    )
