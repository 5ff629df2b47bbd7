"""The scores of a line's own normal images: what its false-alarm promise should rest on."""

import logging
import math
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from admodels.foundation import manifest
from admodels.foundation.arrays import Records
from admodels.foundation.errors import DataError, Interrupted
from admodels.foundation.files import names_text
from admodels.foundation.progress import progress
from admodels.nights import marks
from admodels.nights.audit import audit_nights, what_was_said
from admodels.nights.calibrations import Calibration, keep_calibration
from admodels.nights.promise import fine_of_audit
from admodels.scoring.discover import Status
from admodels.scoring.engine import Model
from admodels.scoring.inbox import Folder
from admodels.scoring.ledger import Ledger
from admodels.scoring.lines import Tile
from admodels.scoring.rows import rows
from admodels.scoring.stopping import Stop
from admodels.scoring.tables import Answer

LOG = logging.getLogger(__name__)
LEARNT_FROM = ("train", "validation")


def calibrate(
    ledger: Ledger,
    line: str,
    model: Model,
    approved: Path | None,
    manifests: Path,
    stop: Stop,
    tile: Tile | None = None,
) -> Calibration:
    """Calibrate a line's model with `approved`, a folder of images, and with its audited nights.

    Both are chosen regardless of their score, which the promise needs. Of complete audit nights
    only what people marked as fine counts, and nothing that the model has learnt from since.

    Raises:
        DataError: an image cannot be scored, the model learnt from it, people chose it by a mark,
            or none is left.
        Interrupted: by a signal.
    """
    scores, looks = dict[str, Answer](), dict[str, Records]()
    learnt = _learnt(manifests / model.task)
    if approved is not None:
        scores, looks = _scores(ledger, line, model, approved, stop, tile)
        if known := [learnt[sha256] for sha256 in scores.keys() & learnt.keys()]:
            reason = f"the model learnt from {len(known)} of the images: {names_text(known)}"
            raise _refusal(reason, approved, "images that training has not seen")
        _refuse_marked(ledger, line, scores, approved)
        _warn_of_choice(ledger, line, scores, approved)
    fingerprints = (model.model_fingerprint, model.contract_fingerprint)
    approved_count = len(scores)
    for sha256 in set(_fine_of_audit(ledger, line)) - learnt.keys():
        answer = ledger.index.answer(sha256, *fingerprints)
        if answer is not None and math.isfinite(answer.score):
            scores[sha256] = answer
    if not scores:
        where = approved or ledger.folder / "nights"
        raise _refusal("no image to calibrate with", where, "normal images of this line")
    calibration = _calibration_of(scores)
    reference = np.stack([looks[sha256] for sha256 in sorted(looks)]) if looks else None
    audited = len(scores) - approved_count
    why = f"`admodels calibrate` with {approved or 'no folder'}, {audited} images of audits"
    keep_calibration(ledger, line, fingerprints, calibration, reference, why=why)
    return calibration


def _calibration_of(scores: Mapping[str, Answer]) -> Calibration:
    ordered = sorted(scores, key=lambda sha256: (scores[sha256].score, sha256))
    return Calibration(
        origin="line",
        scores=tuple(scores[sha256].score for sha256 in ordered),
        images=tuple(ordered),
        map_max=tuple(scores[sha256].map_max for sha256 in ordered),
    )


def _refuse_marked(ledger: Ledger, line: str, images: Collection[str], approved: Path) -> None:
    """Refuse a folder that holds images which marks have chosen."""
    marked = marks.images_with_marks(ledger) | marks.read(ledger, [line])[line].of(
        "defect", "unsure"
    )
    copied = {Path(name).stem for name in Folder(approved).files().names}  # as `collect` names them
    if chosen := (marked | copied).intersection(images):
        raise DataError(
            f"people marked {len(chosen)} of the images, or `admodels collect` copied them: "
            "whoever marks an image has seen its score",
            where=approved,
            expected="images that were taken regardless of their score, such as all of one shift",
            next_step="take another folder; to leave out these images alone would choose, too",
        )


def _warn_of_choice(ledger: Ledger, line: str, images: Collection[str], approved: Path) -> None:
    """Warn where the ledger has judged images of the folder and flagged none of them."""
    said = what_was_said(ledger, line, images).values()
    judged = [image for image in said if image.is_anomalous is not None]
    if judged and not any(image.is_anomalous for image in judged):
        chance = math.prod(1 - image.basis.alpha for image in judged)
        LOG.warning(
            "%s: the ledger has judged %d of the images and flagged none, which chance does in "
            "%.1f %% of all cases: if verdicts chose them, more will be flagged than promised",
            *(approved, len(judged), 100 * chance),
        )


def _fine_of_audit(ledger: Ledger, line: str) -> list[str]:
    """What people marked as fine in complete audit nights, while no night is marked in part."""
    own = marks.read(ledger, [line])[line].audit
    fine, begun = fine_of_audit(audit_nights(ledger).get(line, []), own)
    if begun:
        LOG.warning(
            "%s: no audited night counts while the set of %s is marked in part: people choose by "
            "looks which sets they complete. Complete it, then calibrate again",
            *(line, names_text(begun)),
        )
    unsure = [verdict for said in own.values() for verdict in said.values()].count("unsure")
    if fine and unsure:
        LOG.warning(
            "%s: %d images of audits are marked `unsure` and do not calibrate: if all are fine and "
            "odd, up to %.1f %% of the fine images will be flagged beyond the budget",
            *(line, unsure, 100 * unsure / (len(fine) + unsure)),
        )
    return fine


def _scores(
    ledger: Ledger, line: str, model: Model, approved: Path, stop: Stop, tile: Tile | None
) -> tuple[dict[str, Answer], dict[str, Records]]:
    """image_sha256 -> score, and appearance, of every image; what is known is not scored again."""
    bundle, names = model.load(), Folder(approved).files().names
    scores: dict[str, Answer] = {}
    looks: dict[str, Records] = {}
    bad: list[str] = []
    fingerprints = (bundle.model_fingerprint, bundle.contract_fingerprint)

    def known(sha256: str) -> Answer | None:
        return scores.get(sha256, ledger.index.answer(sha256, *fingerprints))

    read = rows(Folder(approved), names, bundle, line, known, stop, tile)
    for result in progress(read, len(names), f"calibrate {line}"):
        row = result.row
        if row is not None and row.anomaly_score is not None:
            scores[row.image_sha256] = Answer(row.anomaly_score, row.map_max)
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
