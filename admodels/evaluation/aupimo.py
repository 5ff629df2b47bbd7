"""AUPIMO: the share of each defect's pixels above thresholds that normal images hardly reach.

Bertoldo et al. 2024, AUPIMO: Redefining Visual Anomaly Detection Benchmarks with High Speed and Low
Tolerance, section 3: the shared false-positive rate of a threshold is the mean, over the normal
images, of the share of their pixels at or above it; the area is that of an image's own recall over
the logarithm of that rate, divided by the width. The definition asks for maps in the size of the
annotations, so images are added one at a time, and of each only what can count is kept.
"""

import math
from collections.abc import Sequence

import numpy as np

from admodels.foundation.arrays import Bool, Float32, Float64

LOW, HIGH = 1e-5, 1e-4  # the bounds of the shared false-positive rate in the paper


class Aupimo:
    """Collects the maps of a test set with `normal` normal images."""

    def __init__(self, normal: int) -> None:
        self._normal = normal
        self._tops: list[Float32] = []
        self._sizes: list[int] = []
        self._inside: list[Float32] = []

    def add(self, anomaly_map: Float32, mask: Bool | None) -> None:
        """The map (H, W) of an image, and its mask (H, W); None: the image is normal."""
        if mask is not None:
            self._inside.append(np.sort(anomaly_map[mask]))
            return
        values = anomaly_map.ravel()
        # A threshold with a shared rate of HIGH lets this many pixels of one image pass at most.
        kept = min(values.size, math.floor(self._normal * HIGH * values.size) + 1)
        self._tops.append(np.partition(values, values.size - kept)[values.size - kept :])
        self._sizes.append(values.size)

    def areas(self) -> Float64 | None:
        """The AUPIMO of each anomalous image, in the order in which they were added, 0..1.

        None where nothing can be said: without images of both sides, or with too few normal pixels
        to show a rate of LOW.
        """
        if not self._tops or not self._inside:
            return None
        thresholds, rates = self._shared_rates()
        if rates[0] > LOW:
            return None
        edges = np.log(np.clip(np.append(0.0, rates), LOW, HIGH))
        widths = np.diff(edges) / math.log(HIGH / LOW)
        return np.array([_recalls(inside, thresholds) @ widths for inside in self._inside])

    def _shared_rates(self) -> tuple[Float32, Float64]:
        """The distinct scores of the normal pixels, falling, and the shared rate at each."""
        scores = np.concatenate(self._tops)
        shares = [np.full(len(t), 1 / s) for t, s in zip(self._tops, self._sizes, strict=True)]
        order = np.argsort(-scores, kind="stable")
        falling = scores[order]
        rates = np.cumsum(np.concatenate(shares)[order]) / self._normal
        last = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))
        return falling[last], rates[last]


def _recalls(inside: Float32, thresholds: Float32) -> Float64:
    """The share of `inside` (rising) above each threshold, where the rate is still the last one."""
    above: Float64 = 1 - np.searchsorted(inside, thresholds, side="right") / len(inside)
    return above


def spread(areas: Sequence[float] | Float64 | None, of: Bool) -> Float64:
    """The areas of the anomalous images of a set, NaN for the others; `of` (N,) bool."""
    values = np.full(len(of), np.nan)
    if areas is not None:
        values[of] = areas
    return values
