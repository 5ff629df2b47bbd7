"""Pictures of what a person should look at: the image, and beside it map and contour on it.

One colour scale for a line and a model, from the calibration scores: black is what half of the
normal images reach, yellow lies beyond all of them. A stretch per image would paint noise.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image as Pillow

from admodels.bundles.bundle import Bundle
from admodels.evaluation import figures
from admodels.foundation.arrays import Float32, UInt8
from admodels.foundation.files import whole_file
from admodels.images.pose import Views
from admodels.images.sheets import outline
from admodels.inference.model import decode_image, map_to_image, prepare_views, score_planes
from admodels.nights.calibrations import KeptCalibration
from admodels.nights.judgements import JudgedRows, picture_path
from admodels.scoring import tiling
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
    ledger: Ledger, source: LineImages, model: Model, judged: JudgedRows, most: int, stop: Stop
) -> int:
    """Draw what tonight flagged, and its worst ALWAYS; at most `most`, the worst first.

    The map is not kept when an image is scored, so these few are scored once more.
    """
    fingerprints = (model.model_fingerprint, model.contract_fingerprint)
    todo: dict[Path, PictureRow] = {}
    for row in rows_to_draw(judged.rows, fingerprints, most):
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
            drawn += _draw(chunk, source, bundle, _limits(judged.calibration))
    return drawn


def _draw(
    chunk: list[tuple[Path, PictureRow]],
    source: LineImages,
    bundle: Bundle,
    limits: tuple[float, float],
) -> int:
    canvases: dict[Path, UInt8] = {}
    maps: list[Float32] = []
    seen: list[Views] = []
    for target, row in chunk:
        rgb = _rgb(source, row, bundle)
        if rgb is not None:
            canvases[target] = shrink(rgb)
            if source.tile is not None:
                maps.append(tiling.score_tiles(bundle, rgb, source.tile, with_map=True)[1])
            else:
                seen.append(prepare_views(rgb, bundle.contract))
    if seen:
        planes, places = [views.planes for views in seen], [views.place for views in seen]
        scored = score_planes(bundle, planes, places)
        for canvas, views, band_map in zip(
            canvases.values(), seen, scored.anomaly_map, strict=True
        ):
            maps.append(map_to_image(band_map, canvas.shape[0], canvas.shape[1], views.place))
    for (target, canvas), anomaly_map in zip(canvases.items(), maps, strict=True):
        with whole_file(target) as partial:
            picture = panels(canvas, anomaly_map, *limits)
            Pillow.fromarray(picture).save(partial, format="JPEG", quality=QUALITY)
    return len(canvases)


def rows_to_draw(rows: pa.Table, fingerprints: tuple[str, str], most: int) -> list[PictureRow]:
    """Of judged rows those by this model that need a picture: a killed run may have had another."""
    own = pc.field("model_fingerprint") == fingerprints[0]
    own &= pc.field("contract_fingerprint") == fingerprints[1]
    scored = rows.filter(own & pc.field("anomaly_score").is_valid())
    if not len(scored):
        return []  # Arrow selects none of none with an error
    names = ["is_flagged", "anomaly_score", "path", "image_sha256"]
    scored = scored.append_column("is_flagged", pc.fill_null(scored["is_anomalous"], False))
    order = [(name, "descending") for name in names]
    worst = scored.select(names).take(pc.select_k_unstable(scored, min(most, len(scored)), order))
    return [
        PictureRow(row["path"], row["image_sha256"])
        for rank, row in enumerate(worst.to_pylist())
        if row["is_flagged"] or rank < ALWAYS
    ]


def _rgb(source: LineImages, row: PictureRow, bundle: Bundle) -> UInt8 | None:
    """The image, unless the file has changed since it was scored."""
    data = same_contents(source.inbox, row.path, row.image_sha256)
    return None if data is None else decode_image(data, row.path, bundle.contract).rgb


def _limits(calibration: KeptCalibration) -> tuple[float, float]:
    """Black and yellow."""
    scores = calibration.scores if len(calibration.scores) else np.array((0.0, 0.5))
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
