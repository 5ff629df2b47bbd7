"""Exact AUPRO, and its interval, against a sweep over 200 thresholds.

    python -m benchmarks.aupro

prints CPU-seconds for 100 maps of 256 px, half of them with two defects.
"""

import time
from collections.abc import Callable
from functools import partial

import numpy as np
from scipy import ndimage

from admodels.evaluation import metrics, resampling
from admodels.foundation.arrays import Bool, Float32

IMAGES, PX, LIMIT, THRESHOLDS = 100, 256, 0.3, 200


def example() -> tuple[Float32, Bool]:
    rng = np.random.default_rng(0)
    masks = np.zeros((IMAGES, PX, PX), bool)
    for mask in masks[::2]:
        for height, width in ((40, 30), (10, 10)):
            y, x = rng.integers(0, PX - 50, 2)
            mask[y : y + height, x : x + width] = True
    return (rng.standard_normal(masks.shape) + masks).astype(np.float32), masks


def exact(maps: Float32, masks: Bool) -> float | None:
    return metrics.aupro(metrics.ranking(maps, masks, metrics.region_weights(masks)), LIMIT)


def sweep(maps: Float32, masks: Bool) -> float:
    regions = []
    for image, mask in enumerate(masks):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [(image, labels == number) for number in range(1, count + 1)]
    points = []
    for threshold in np.linspace(maps.max(), maps.min(), THRESHOLDS):
        hit = maps >= threshold
        covered = np.mean([hit[image][region].mean() for image, region in regions])
        points.append((hit[~masks].mean(), covered))
    rate, share = np.array(points).T
    inside = rate <= LIMIT
    return float(np.trapezoid(share[inside], rate[inside])) / LIMIT


def interval(maps: Float32, masks: Bool) -> resampling.Interval | None:
    ranks = metrics.ranking(maps, masks, metrics.region_weights(masks))
    assert ranks is not None
    counts = resampling.draw(masks.any(axis=(1, 2)))
    figures = {"aupro": partial(metrics.aupro, limit=LIMIT)}
    return resampling.pixel_intervals(maps, masks, ranks, counts, figures)["aupro"]


def main() -> None:
    maps, masks = example()
    seconds = {}
    for work in (exact, interval, sweep):
        call: Callable[[Float32, Bool], object] = work
        call(maps, masks)
        start = time.process_time()
        result = call(maps, masks)
        seconds[work] = time.process_time() - start
        print(f"{work.__name__}: {result}, {seconds[work]:.3f} CPU-s")
    print(f"the sweep takes {seconds[sweep] / seconds[exact]:.0f} times as long as the exact one")


if __name__ == "__main__":
    main()
