"""Whether regions lie on defects, on five real sets, and whether the level keeps alpha.

    python -m benchmarks.regions [--sets SET ...] [--variants NAME ...] [--seed 7]
    python -m benchmarks.regions --simulate

The first needs ADMODELS_SHARED_DATA, and trains each cell as benchmarks.presets does. A defect is
one connected place of a mask; it is met where a region of its image, which must be flagged, covers
any pixel of it. The second draws exchangeable maps and counts how many normal images have a pixel
above the level, and how many have a region, which only flagged ones get.
"""

import argparse
import sys

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter

from admodels.inference.conformal import threshold
from admodels.inference.regions import find_regions, level
from benchmarks.presets import SETS, VARIANTS, Cell, score_cell

ALPHA = 0.05
HEAD = (
    "| variant | set | defects | met | anomalous images flagged | normal images with a region |"
    " false regions a normal image | a flagged anomalous image | level |\n" + "|---" * 9 + "|\n"
)
ROUNDS, SIDE = 2000, 24


def figures(cell: Cell) -> list[str]:
    """Of a trained cell: one text a column, from the third on."""
    limit = threshold(cell.calibration_scores, ALPHA)
    height = level(cell.calibration_map_max, ALPHA)
    assert limit is not None
    assert cell.scored.masks is not None
    flagged = cell.scored.anomaly_scores > limit
    met, false = [], np.zeros(len(flagged))
    images = zip(flagged, cell.scored.anomaly_maps, cell.scored.masks, strict=True)
    for index, (is_flagged, anomaly_map, mask) in enumerate(images):
        count, defects = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        labels = find_regions(anomaly_map, height)[1] * is_flagged
        met += [bool(labels[defects == number].any()) for number in range(1, count)]
        false[index] = len(np.setdiff1d(np.unique(labels), [0, *np.unique(labels[mask])]))
    normal = ~cell.scored.anomalous
    worst = flagged & ~normal
    return [
        f"{len(met)}",
        f"{np.mean(met):.3f}",
        f"{flagged[~normal].mean():.3f}",
        f"{(flagged & normal).sum() / normal.sum():.3f}",
        f"{false[normal].mean():.3f}",
        f"{false[worst].mean() if worst.any() else 0:.3f}",
        "none" if height is None else f"{height:.4g}",
    ]


def simulate() -> str:
    """A table: for each number of calibration images, the shares over rounds."""
    rng = np.random.default_rng(7)
    lines = ["| calibration images | alpha | above the level | with a region |", "|---" * 4 + "|"]
    for count in (19, 39, 100):
        above, shown = [], []
        for _ in range(ROUNDS):
            noise = rng.standard_normal((count + 50, SIDE, SIDE))
            maps = np.abs(gaussian_filter(noise, (0, 2, 2))).astype(np.float32)
            largest = maps.max(axis=(1, 2)).astype(np.float64)
            scores = np.sort(maps.reshape(len(maps), -1), axis=1)[:, -SIDE:].mean(axis=1)
            limit = threshold(scores[:count].astype(np.float64), ALPHA)
            height = level(largest[:count], ALPHA)
            assert limit is not None
            assert height is not None
            above.append(np.mean(largest[count:] > height))
            shown.append(np.mean(scores[count:] > limit))
        shares = [f"{np.mean(v):.4f} +- {np.std(v) / ROUNDS**0.5:.4f}" for v in (above, shown)]
        lines.append(f"| {count} | {ALPHA} | {shares[0]} | {shares[1]} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["patchcore", "cpr"])
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--simulate", action="store_true", help="the level alone, without data")
    asked = parser.parse_args()
    if asked.simulate:
        sys.stdout.write(simulate() + "\n")
        return
    sys.stdout.write(HEAD)
    for variant in asked.variants:
        for name in asked.sets:
            texts = figures(score_cell(name, variant, asked.seed))
            sys.stdout.write(" | ".join([f"| {variant}", name, *texts]) + " |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
