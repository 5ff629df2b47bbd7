"""Sheets of captioned tiles to be looked at; numpy and OpenCV only, the same bytes every time.

A map has one colour scale per sheet, stated on it: a stretch per image would paint the noise of a
normal image like a defect.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from admodels.evaluation.measure import Evaluation, ScoredSet
from admodels.foundation.arrays import Bool, Float32, UInt8
from admodels.images.sheets import TILE_PX, beside, frame, outline, text, tile_shape
from admodels.inference.model import map_to_image

SMALLEST_RANGE = 1e-12  # a constant map is black, not a division by zero
TRUTH = (0, 200, 0)
ALARM = (255, 0, 0)
VERDICTS = {
    (True, True): "found",
    (True, False): "missed",
    (False, True): "false alarm",
    (False, False): "passed",
}


@dataclass(frozen=True)
class Case:
    """One row of an overlay sheet.

    `image` and `reconstruction` (or None): as `tile` makes them; `anomaly_map` (h, w) float32;
    `mask` (h, w) bool or None.
    """

    caption: str
    image: UInt8
    anomaly_map: Float32
    mask: Bool | None
    reconstruction: UInt8 | None


def worst_and_best(anomaly_scores: NDArray[np.floating], anomalous: Bool, count: int) -> list[int]:
    """The indices of at most `count` images worth a look, in the order to look at them.

    A third each: anomalous images with the lowest scores (the missed ones first), normal images
    with the highest (the false alarms first), anomalous images with the highest.
    """
    order = np.argsort(anomaly_scores, kind="stable")
    anomalies, normals = order[anomalous[order]], order[~anomalous[order]][::-1]
    third = max(1, count // 3)
    wanted = [*anomalies[:third], *normals[:third], *anomalies[::-1], *normals]
    return [int(index) for index in dict.fromkeys(wanted)][:count]


def colour_range(maps: Float32, threshold: float | None) -> tuple[float, float]:
    """The map values that are black and yellow: lowest and highest of all maps.

    Yellow begins sooner where the threshold would lie in the lower third of that range: what
    raises an alarm must be bright.
    """
    low, high = float(maps.min()), float(maps.max())
    if threshold is None or threshold <= low:
        return low, high
    return low, min(high, low + 3 * (threshold - low))


def tile(planes: UInt8 | Float32) -> UInt8:
    """(3, H, W) RGB, uint8 or float32 in 0..1, as (h, w, 3) uint8, its longer side TILE_PX."""
    if planes.dtype != np.uint8:
        planes = np.rint(planes.clip(0, 1) * 255).astype(np.uint8)
    (height, width), interleaved = tile_shape(*planes.shape[1:]), planes.transpose(1, 2, 0)
    how = cv2.INTER_AREA if planes.shape[1] > height else cv2.INTER_LINEAR
    resized = cv2.resize(interleaved, (width, height), interpolation=how)
    return np.asarray(resized)


def colour_map(anomaly_map: Float32, low: float, high: float) -> UInt8:
    """(h, w) as a picture (h, w, 3): black is `low` or less, yellow `high` or more."""
    share = np.clip((anomaly_map - low) / max(high - low, SMALLEST_RANGE), 0, 1)
    levels = np.rint(share * 255).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[..., ::-1])


def draw_outlines(case: Case, threshold: float | None) -> UInt8:
    """The image with the outlines of `anomaly_map > threshold` (red) and of the mask (green)."""
    canvas = case.image.copy()
    alarm = None if threshold is None else case.anomaly_map > threshold
    for region, colour in ((alarm, ALARM), (case.mask, TRUTH)):
        if region is not None:
            levels, how = region.astype(np.uint8), cv2.INTER_NEAREST_EXACT
            resized = cv2.resize(levels, canvas.shape[1::-1], interpolation=how)
            canvas = outline(canvas, np.asarray(resized), colour)
    return canvas


def overlay_sheet(
    cases: Sequence[Case], *, low: float, high: float, threshold: float | None
) -> UInt8:
    """One row per case: image, map coloured from `low` to `high`, outlines, reconstruction.

    Either all cases have a reconstruction or none.
    """
    heads = ["image", "anomaly map", "outlines", "reconstruction"]
    rows = []
    for case in cases:
        painted = colour_map(map_to_image(case.anomaly_map, *case.image.shape[:2]), low, high)
        rebuilt = [] if case.reconstruction is None else [case.reconstruction]
        row = [case.image, painted, draw_outlines(case, threshold), *rebuilt]
        rows.append([frame(picture) for picture in row])
    header = beside([text(head, TILE_PX) for head in heads[: len(rows[0])]])
    width = header.shape[1]
    limit = "none: too few calibration images" if threshold is None else f"{threshold:.4g}"
    sheet = [
        text(f"anomaly map: black {low:.4g} or less, yellow {high:.4g} or more", width),
        text(f"outlines: green ground truth, red map > threshold ({limit})", width),
        header,
    ]
    for case, row in zip(cases, rows, strict=True):
        sheet += [text(case.caption, width), beside(row)]
    return np.concatenate(sheet)


def overlays(
    scored: ScoredSet,
    measured: Evaluation,
    images: Sequence[UInt8],
    reconstructions: Sequence[UInt8],
    count: int,
    note: str = "",
) -> UInt8 | None:
    """The overlay sheet of the `count` worst and best images of a set, under a `note`.

    `images` N tiles, `reconstructions` N tiles or none. None where the set could not be measured.
    """
    if not len(measured.images):
        return None
    cases = [
        Case(
            _caption(scored, measured, index),
            images[index],
            scored.anomaly_maps[index],
            None if scored.masks is None else scored.masks[index],
            reconstructions[index] if reconstructions else None,
        )
        for index in worst_and_best(scored.anomaly_scores, scored.anomalous, count)
    ]
    low, high = colour_range(scored.anomaly_maps, measured.threshold)
    sheet = overlay_sheet(cases, low=low, high=high, threshold=measured.threshold)
    return np.concatenate([text(note, sheet.shape[1]), sheet]) if note else sheet


def _caption(scored: ScoredSet, measured: Evaluation, index: int) -> str:
    score, anomalous = float(scored.anomaly_scores[index]), bool(scored.anomalous[index])
    t, p_value = measured.threshold, measured.images["p_value"].iloc[index]
    label = "anomalous" if anomalous else "normal"
    verdict = label if t is None else VERDICTS[anomalous, score > t]
    return f"{verdict}: {scored.image_ids[index]}  score {score:.4g}  p {p_value:.3g}"
