"""What an image looks like in a few numbers: one definition for validation, scoring and drift."""

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

HASH_PX = 8  # rows and comparisons per row: 64 bits


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


def perceptual_hash(rgb: NDArray[np.uint8]) -> str:
    """16 hex digits of (H, W, 3) uint8: is each cell of a coarse grid darker than its right one?

    Two pictures of the same view differ in few bits; this is not a hash of the bytes.
    """
    cells = cv2.resize(_grey(rgb), (HASH_PX + 1, HASH_PX), interpolation=cv2.INTER_AREA)
    return np.packbits(cells[:, :-1] < cells[:, 1:]).tobytes().hex()
