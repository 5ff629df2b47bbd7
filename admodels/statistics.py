"""What an image looks like in a few numbers: one definition for validation, scoring and drift."""

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

THUMBNAIL_PX = 16
COARSE_PX = 128  # before: in whole grey levels, whose rounding averages out


@dataclass(frozen=True)
class Statistics:
    """Of the grey image: `brightness` (mean) and `contrast` (standard deviation) in 0..255.

    `sharpness` is the variance of its Laplacian, 0 or more.
    """

    brightness: float
    contrast: float
    sharpness: float


def _grey(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)


def _mean_and_variance(values: NDArray[Any]) -> tuple[float, float]:
    # In whole numbers, so that no order of summing shows in a last digit.
    count, total = values.size, round(cv2.sumElems(values)[0])
    squares = round(cv2.norm(values, cv2.NORM_L2SQR))
    return total / count, (count * squares - total**2) / count**2


def statistics(rgb: NDArray[np.uint8]) -> Statistics:
    """Of (H, W, 3) uint8, at the resolution it was stored in."""
    grey = _grey(rgb)
    brightness, variance = _mean_and_variance(grey)
    edges = cv2.Laplacian(grey, cv2.CV_16S)  # within +-1020
    return Statistics(brightness, math.sqrt(variance), _mean_and_variance(edges)[1])


def thumbnail(rgb: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Of (H, W, 3) uint8: (16, 16) mean grey levels times 256."""
    coarse = cv2.resize(_grey(rgb), (COARSE_PX, COARSE_PX), interpolation=cv2.INTER_AREA)
    side = COARSE_PX // THUMBNAIL_PX
    cells = coarse.reshape(THUMBNAIL_PX, side, THUMBNAIL_PX, side).mean(axis=(1, 3))
    return np.asarray(np.rint(cells * 256), dtype=np.uint16)
