"""Where in an image a verdict points at: the connected places of its map above a level.

The level follows from the largest map values of the calibration images as the threshold follows
from their scores, so that a normal image has any pixel above it with a probability of at most
alpha. The verdict on an image is that of its score alone.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from admodels.foundation.arrays import Bool, Float32, Int64
from admodels.inference.conformal import levels_within

REGIONS_MOST = 100  # of an image; those with the largest values
HALF = 0.5  # of the maximum: how far the region goes of which no level is known


@dataclass(frozen=True)
class Region:
    """One connected place of an image; lengths in pixels of the image.

    `left`, `top`, `width` and `height` are its box, `x` and `y` its centroid. `area` is in square
    pixels, `share` what it is of the inspected area. `largest` and `mean` are values of the map.
    `zone`: of the area, where most of it lies.
    """

    left: int
    top: int
    width: int
    height: int
    x: float
    y: float
    area: float
    share: float
    largest: float
    mean: float
    zone: str = ""

    def scale(self, across: float, down: float) -> "Region":
        """The region in an image that is so many times as wide and as high."""
        left, top = round(self.left * across), round(self.top * down)
        right = round((self.left + self.width) * across)
        bottom = round((self.top + self.height) * down)
        return replace(
            self,
            left=left,
            top=top,
            width=max(1, right - left),
            height=max(1, bottom - top),
            x=(self.x + 0.5) * across - 0.5,
            y=(self.y + 0.5) * down - 0.5,
            area=self.area * across * down,
        )


def level(map_max: ArrayLike, alpha: float) -> float | None:
    """What the map of a normal image exceeds anywhere with a probability of at most `alpha`.

    `map_max` (n,): the largest map value of each calibration image; one that is not known (NaN)
    counts as infinite. None where no finite level keeps alpha.
    """
    values = np.asarray(map_max, np.float64)
    ascending = np.sort(np.where(np.isnan(values), np.inf, values))
    count = levels_within(len(ascending), alpha)
    limit = float(ascending[len(ascending) - count]) if count else np.inf
    return limit if np.isfinite(limit) else None


def find_regions(
    anomaly_map: Float32, limit: float | None, inspected: Bool | None = None
) -> tuple[list[Region], NDArray[np.int32]]:
    """The regions of a map (H, W) above `limit`, the largest value first, and their pixels.

    There is at least one: where nothing lies above the limit, or none is known, that is the place
    around the maximum down to half of it. The second result (H, W) int32 has the number of each
    region from 1, 0 elsewhere. No more than REGIONS_MOST are kept. `inspected` (H, W) bool.
    """
    inside = np.ones(anomaly_map.shape, np.bool_) if inspected is None else inspected
    values = np.where(inside & np.isfinite(anomaly_map), anomaly_map, -np.inf)
    if not np.isfinite(values.max()):
        return [], np.zeros(values.shape, np.int32)
    if limit is not None and values.max() > limit:
        labels = _components(values > limit)
    else:
        peak = np.unravel_index(int(values.argmax()), values.shape)
        near = _components(values >= min(values[peak], HALF * values[peak]))
        labels = np.where(near == near[peak], np.int32(1), np.int32(0))
    return _describe(values, labels, int(inside.sum()))


def _components(pixels: Bool) -> NDArray[np.int32]:
    _, labels = cv2.connectedComponents(pixels.astype(np.uint8), connectivity=8)
    return np.asarray(labels, np.int32)


def _describe(
    values: Float32, labels: NDArray[np.int32], inspected: int
) -> tuple[list[Region], NDArray[np.int32]]:
    rows, columns = np.nonzero(labels)
    own, value = labels[rows, columns], values[rows, columns].astype(np.float64)
    count = int(labels.max()) + 1
    pixels = np.bincount(own, minlength=count)
    largest = np.full(count, -np.inf)
    np.maximum.at(largest, own, value)
    box = _boxes(rows, columns, own, count)
    sums = [np.bincount(own, weights, minlength=count) for weights in (columns, rows, value)]
    order = 1 + np.argsort(-largest[1:], kind="stable")[:REGIONS_MOST]
    regions = []
    for number in order.tolist():
        x, y, mean = (float(total[number] / pixels[number]) for total in sums)
        left, top, right, bottom = box[number].tolist()
        regions.append(
            Region(
                *(left, top, right - left + 1, bottom - top + 1, x, y, float(pixels[number])),
                *(float(pixels[number] / inspected), float(largest[number]), mean),
            )
        )
    renamed = np.zeros(count, np.int32)
    renamed[order] = np.arange(1, len(order) + 1)
    return regions, renamed[labels]


def _boxes(rows: Int64, columns: Int64, own: NDArray[np.int32], count: int) -> Int64:
    """(count, 4): left, top, right and bottom of each label, all inside it."""
    box = np.array([[np.iinfo(np.int64).max] * 2 + [-1] * 2] * count)
    for side, (values, keep) in enumerate(
        [(columns, np.minimum), (rows, np.minimum), (columns, np.maximum), (rows, np.maximum)]
    ):
        keep.at(box[:, side], own, values)
    return box
