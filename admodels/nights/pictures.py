"""What a line's night points at: who is flagged, from which level, and where the pictures stand."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from admodels.inference.conformal import threshold
from admodels.inference.regions import level
from admodels.nights.calibrations import KeptCalibration
from admodels.nights.judgements import picture_path
from admodels.nights.plant import PlantLine
from admodels.scoring.engine import Model
from admodels.scoring.ledger import Ledger
from admodels.scoring.pictures import Scale, pictures_folder
from admodels.scoring.pointing import Pointing

LAYERS = ("image", "map", "regions", "crop", "reference")


def pointing_of(
    ledger: Ledger,
    line: str,
    settings: PlantLine,
    model: Model,
    calibration: KeptCalibration,
    pictures: int,
) -> Pointing:
    """What decides tonight which images of a line get regions and pictures, `pictures` at most."""
    limit = threshold(calibration.scores, settings.alpha)
    highest = _highest_scores(ledger, line, model, pictures)
    values = calibration.map_max
    known = values if np.isfinite(values).any() else calibration.scores
    return Pointing(
        limit,
        level(values, settings.alpha),
        colour_scale(known[np.isfinite(known)]),
        settings.mm_per_px,
        pictures,
        highest,
    )


def _highest_scores(ledger: Ledger, line: str, model: Model, most: int) -> list[float]:
    """The highest scores that tonight's runs have given so far, ascending."""
    own = pc.field("model_fingerprint") == model.model_fingerprint
    own &= pc.field("contract_fingerprint") == model.contract_fingerprint
    scores = [
        group.filter(own)["anomaly_score"].drop_null().to_numpy()
        for run in ledger.tonight(line)
        for _, group in ledger.groups(line, run)
    ]
    together = np.sort(np.concatenate([np.empty(0), *scores]))
    return [float(score) for score in together[-most:]] if most else []


def colour_scale(values: np.ndarray) -> Scale:
    """Clear is what half of the normal images reach, the strongest lies beyond all of them."""
    if not len(values):
        return 0.0, 1.0
    middle, highest = float(np.median(values)), float(values.max())
    return middle, highest + (highest - middle)


@dataclass(frozen=True)
class Pictures:
    """The pictures of an image in the ledger, None where there is none; see `scoring.pictures`.

    `overlay`: image and map side by side, as an older version drew them.
    """

    image: Path | None
    map: Path | None
    regions: Path | None
    crop: Path | None
    reference: Path | None
    overlay: Path | None


def pictures_of(ledger: Path, line: str, image_sha256: str, model: str, contract: str) -> Pictures:
    """The pictures that there are of an image by the model that scored it; `ledger` its folder."""
    folder = ledger / pictures_folder(line, image_sha256, model, contract)
    old = ledger / picture_path(line, image_sha256, model, contract)
    paths = [folder / f"{name}.webp" for name in LAYERS]
    return Pictures(*(path if path.is_file() else None for path in (*paths, old)))
