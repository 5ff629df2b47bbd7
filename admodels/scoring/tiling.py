"""Large images in windows that overlap: one score and one map for the whole image.

A window has the pixels of a square of `tile_px` and the ratio of what the detector sees.

With an inspected area, which has the size of the image, a window sees what of it lies in the
window; one in which nothing is inspected is not scored.

The map is a weighted mean of the windows' maps. A window's weight falls to nearly nothing at its
edge, so no edge shows in the sum, and windows that agree give exactly what they agree on.
"""

import hashlib
from collections.abc import Iterator

import cv2
import numpy as np

from admodels import methods
from admodels.bundles import bundle as bundles
from admodels.bundles.bundle import Bundle
from admodels.bundles.card import Preparation
from admodels.foundation.arrays import Bool, Float32, UInt8
from admodels.images.area import shrink
from admodels.images.shape import SHORTEST_PX
from admodels.inference import model
from admodels.scoring.lines import Tile

MAP_PX_MAX = 2048  # the longest side of a map, which bounds its memory


def fingerprint(contract: str, tile: Tile) -> str:
    """The fingerprint of a preparation of images (`contract`) that cuts them into these tiles."""
    return hashlib.sha256(f"{contract} {tile!r}".encode()).hexdigest()[:16]


def axes(tile: Tile, preparation: Preparation) -> tuple[Tile, Tile]:
    """The tile along the height and along the width: a square as it is, else as long as wanted."""
    height, width = preparation.shape
    ratios = (height / width) ** 0.5, (width / height) ** 0.5
    sides = [max(SHORTEST_PX, round(tile.tile_px * ratio)) for ratio in ratios]
    tall, wide = (
        Tile(tile_px=side, overlap_px=tile.overlap_px * side // tile.tile_px) for side in sides
    )
    return tall, wide


def starts(length: int, tile: Tile) -> list[int]:
    """Where the windows along an axis begin: the first at 0, the last ends with the image."""
    step = tile.tile_px - tile.overlap_px
    count = 1 + max(0, -(-(length - tile.tile_px) // step))
    return [round(start) for start in np.linspace(0, max(0, length - tile.tile_px), count).tolist()]


def score_tiles(bundle: Bundle, rgb: UInt8, tile: Tile) -> tuple[float, Float32]:
    """The highest score of a window of (H, W, 3) uint8, and the map (h, w), at most MAP_PX_MAX.

    An image smaller than a window is mirrored at its edges to fill one.
    """
    height, width = rgb.shape[:2]
    window = axes(tile, bundle.contract)
    below, beside = max(0, window[0].tile_px - height), max(0, window[1].tile_px - width)
    padded, inspected = rgb, bundle.area.inside if bundle.area else None
    if inspected is not None:
        inspected = np.pad(inspected, ((0, below), (0, beside)))
    if below or beside:
        padded = np.asarray(cv2.copyMakeBorder(rgb, 0, below, 0, beside, cv2.BORDER_REFLECT))
    scale = min(1.0, MAP_PX_MAX / max(padded.shape[:2]))
    shape = [round(side * scale) for side in padded.shape[:2]]
    total, weights = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    best = -np.inf
    for place, anomaly_map, score in _windows(bundle, padded, window, inspected):
        best = max(best, score) if np.isfinite(score) else np.nan
        _add(total, weights, anomaly_map, place, window, scale)
    np.divide(total, weights, out=total, where=weights > 0)
    if inspected is not None:
        total *= shrink(inspected, total.shape)
    return best, total[: round(height * scale), : round(width * scale)]


def _windows(
    bundle: Bundle, rgb: UInt8, window: tuple[Tile, Tile], inspected: Bool | None
) -> Iterator[tuple[tuple[int, int], Float32, float]]:
    """Each window's place, map and score; no more of them in memory than the detector takes."""
    chunk = methods.images_at_once(bundle.detector)
    preparation = bundle.contract.model_copy(update={"band": None})  # a window shows no whole part
    rows, columns = (starts(*side) for side in zip(rgb.shape[:2], window, strict=True))
    tall, wide = (side.tile_px for side in window)
    places = [(top, left) for top in rows for left in columns]
    if inspected is not None:
        places = [(y, x) for y, x in places if inspected[y : y + tall, x : x + wide].any()]
    for start in range(0, len(places), chunk):
        chosen = places[start : start + chunk]
        cuts = (rgb[y : y + tall, x : x + wide] for y, x in chosen)
        planes = [model.prepare_image(cut, preparation) for cut in cuts]
        masks = None
        if inspected is not None:
            seen = (inspected[y : y + tall, x : x + wide] for y, x in chosen)
            masks = [shrink(cut, preparation.shape) for cut in seen]
        scored = bundles.score_views(bundle.detector, planes, masks)
        yield from zip(chosen, scored.anomaly_map, scored.anomaly_score.tolist(), strict=True)


def _add(
    total: Float32,
    weights: Float32,
    anomaly_map: Float32,
    place: tuple[int, int],
    window: tuple[Tile, Tile],
    scale: float,
) -> None:
    ends = [
        (round(start * scale), min(round((start + side.tile_px) * scale), length))
        for start, length, side in zip(place, total.shape, window, strict=True)
    ]
    (top, bottom), (left, right) = ends
    resized = model.map_to_image(anomaly_map, bottom - top, right - left)
    weight = np.outer(_ramp(bottom - top), _ramp(right - left))
    total[top:bottom, left:right] += resized * weight
    weights[top:bottom, left:right] += weight


def _ramp(length: int) -> Float32:
    """Up from the edge to the middle and down again; never 0, so every pixel has a weight."""
    distance = np.arange(1, length + 1, dtype=np.float32)
    return np.minimum(distance, distance[::-1])
