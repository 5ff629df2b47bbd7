"""Pictures of what a person should look at: the image, and beside it map and contour on it.

One colour scale for a line and a model, from the calibration scores: black is what half of the
normal images reach, yellow lies beyond all of them. A stretch per image would paint noise.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as Pillow

from admodels.bundles.bundle import Bundle
from admodels.evaluation import figures
from admodels.foundation.arrays import Float32, UInt8
from admodels.foundation.files import whole_file
from admodels.images.sheets import outline
from admodels.inference.model import decode_image, map_to_image, prepare_image, score_planes
from admodels.nights.verdicts import Calibration, judge_group, picture_path
from admodels.scoring import tables, tiling
from admodels.scoring.candidates import shrink
from admodels.scoring.engine import LineImages, Model
from admodels.scoring.inbox import same_contents
from admodels.scoring.ledger import Ledger
from admodels.scoring.stopping import Stop

IMAGES_AT_ONCE = 16
MAP_OPACITY = 0.5
QUALITY = 90  # of a JPEG
ALWAYS = 5  # the worst of a night get a picture though they are not flagged


@dataclass(frozen=True)
class PictureRow:
    """A row that should have a picture."""

    path: str
    image_sha256: str


def draw(
    ledger: Ledger,
    source: LineImages,
    model: Model,
    calibration: Calibration,
    alpha: float,
    most: int,
    stop: Stop,
) -> int:
    """Draw what this run flagged, and its worst ALWAYS; at most `most`, the worst first.

    The map is not kept when an image is scored, so these few are scored once more.
    """
    fingerprints = (model.model_fingerprint, model.contract_fingerprint)
    todo: dict[Path, PictureRow] = {}
    for row in _rows_to_draw(ledger, source.line, fingerprints, alpha, most):
        path = ledger.folder / picture_path(source.line, row.image_sha256, *fingerprints)
        if not path.exists():
            todo.setdefault(path, row)
    if not todo:
        return 0
    bundle = model.load()
    at_once = 1 if source.tile else min(bundle.params.score_chunk_images, IMAGES_AT_ONCE)
    drawn = 0
    for start in range(0, len(todo), at_once):
        if not stop():
            chunk = list(todo.items())[start : start + at_once]
            drawn += _draw(chunk, source, bundle, _limits(calibration))
    return drawn


def _draw(
    chunk: list[tuple[Path, PictureRow]],
    source: LineImages,
    bundle: Bundle,
    limits: tuple[float, float],
) -> int:
    canvases: dict[Path, UInt8] = {}
    maps, planes = [], []
    for target, row in chunk:
        rgb = _rgb(source, row, bundle)
        if rgb is not None:
            canvases[target] = shrink(rgb)
            if source.tile is not None:
                maps.append(tiling.score_tiles(bundle, rgb, source.tile, with_map=True)[1])
            else:
                planes.append(prepare_image(rgb, bundle.contract))
    if planes:
        maps += list(score_planes(bundle, planes).anomaly_map)
    for (target, canvas), anomaly_map in zip(canvases.items(), maps, strict=True):
        with whole_file(target) as partial:
            picture = panels(canvas, anomaly_map, *limits)
            Pillow.fromarray(picture).save(partial, format="JPEG", quality=QUALITY)
    return len(canvases)


def _rows_to_draw(
    ledger: Ledger, line: str, fingerprints: tuple[str, str], alpha: float, most: int
) -> list[PictureRow]:
    """Rows of tonight by this model: a killed run may have had another."""

    def candidates() -> Iterator[tuple[bool, float, str, str]]:
        for _, scores, verdicts in judge_group(ledger, line, alpha, ledger.tonight(line)):
            if tables.model_of(scores) == fingerprints:
                columns = (
                    verdicts["is_anomalous"].to_pylist(),
                    *(scores[n].to_pylist() for n in ("anomaly_score", "path", "image_sha256")),
                )
                for flagged, score, path, sha256 in zip(*columns, strict=True):
                    if score is not None:
                        yield bool(flagged), score, path, sha256

    worst = heapq.nlargest(most, candidates())
    kept = [image for rank, image in enumerate(worst) if image[0] or rank < ALWAYS]
    return [PictureRow(path, sha256) for _, _, path, sha256 in kept]


def _rgb(source: LineImages, row: PictureRow, bundle: Bundle) -> UInt8 | None:
    """The image, unless the file has changed since it was scored."""
    data = same_contents(source.inbox, row.path, row.image_sha256)
    return None if data is None else decode_image(data, row.path, bundle.contract).rgb


def _limits(calibration: Calibration) -> tuple[float, float]:
    """Black and yellow."""
    scores = np.array(calibration.scores or (0.0, 0.5))
    middle, highest = float(np.median(scores)), float(scores.max())
    return middle, highest + (highest - middle)


def panels(image: UInt8, anomaly_map: Float32, low: float, high: float) -> UInt8:
    """(H, 2 W, 3) of (H, W, 3): the image, and beside it the image with map and contour.

    The contour goes around what is higher than on any normal image of the calibration.
    """
    resized = map_to_image(anomaly_map, *image.shape[:2])
    heat = figures.colour_map(resized, low, high)
    mixed = cv2.addWeighted(image, 1 - MAP_OPACITY, heat, MAP_OPACITY, 0)
    region = resized > (low + high) / 2
    return np.concatenate([image, outline(np.asarray(mixed), region, figures.ALARM)], axis=1)
