"""False alarms on new pieces where several images show one piece, with and without its group.

    python -m benchmarks.groups [--repeats 1000]

Every repeat draws PIECES pieces with IMAGES images each, shares them out as `validate` does, and
scores one image of each of NEW_PIECES pieces that nobody has seen. An image is a point: sqrt(icc)
times its piece, plus sqrt(1 - icc) times noise of its own, icc the intra-class correlation. Two
detectors score it: `effect` by its first coordinate, which learns nothing, and `nearest` by the
distance to the nearest image of train, which knows the pieces that it has learnt from.

The rules: `images` are shared out one by one; `groups` are shared out whole, and one image of each
calibrates, as we do it; with `all_of_groups` all images of these groups calibrate.
"""

import argparse
import json
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from admodels.foundation.manifest import (
    DatasetImage,
    ManifestRow,
    Split,
    one_of_each_group,
)
from admodels.inference.conformal import threshold
from admodels.validation.splits import share_out

PIECES, IMAGES, NEW_PIECES = 40, 6, 200
COORDINATES = 8
CORRELATIONS = (0.0, 0.3, 0.7)
RULES = ("images", "groups", "all_of_groups")
ALPHA = 0.05
SPLIT = Split(validation_share=0.15, calibration_share=0.2, min_normal_images=11)
Points = NDArray[np.float64]


def image_rows(has_groups: bool) -> list[tuple[DatasetImage, ManifestRow]]:
    """The images to learn from, and one to test with, so that none is held out."""
    paths = [f"{piece:03}/{image}.png" for piece in range(PIECES) for image in range(IMAGES)]
    rows = []
    for path in [*paths, "test.png"]:
        group = path.split("/")[0] if has_groups else ""
        use = "test" if path == "test.png" else "learn"
        image = DatasetImage(path, "normal", "", "", use, group=group)  # type: ignore[arg-type]
        cells = (sha256(path.encode()).hexdigest(), 1, 1, "L", 8, "normal", "", "", "", "", "")
        rows.append((image, ManifestRow(path[:-4], path, *cells, group=group)))  # type: ignore[arg-type]
    return rows


def points(pieces: int, images: int, icc: float, rng: np.random.Generator) -> Points:
    """(pieces * images, COORDINATES), one piece after the other."""
    piece = np.repeat(rng.standard_normal((pieces, COORDINATES)), images, axis=0)
    own = rng.standard_normal((pieces * images, COORDINATES))
    return np.asarray(icc**0.5 * piece + (1 - icc) ** 0.5 * own)


def nearest(queries: Points, learnt: Points) -> Points:
    """The distance of each query to the nearest of `learnt`."""
    squares = (queries**2).sum(1)[:, None] + (learnt**2).sum(1) - 2 * queries @ learnt.T
    return np.asarray(np.sqrt(squares.min(axis=1).clip(0)))


def false_alarms(icc: float, repeats: int, rule: str) -> dict[str, Points]:
    """The share of the new pieces above the threshold, by detector and repeat."""
    rows = image_rows(has_groups=rule != "images")
    place = {row.image_path: index for index, (_, row) in enumerate(rows)}
    rates: dict[str, list[float]] = {"effect": [], "nearest": []}
    for seed in range(repeats):
        rng = np.random.default_rng([seed, round(icc * 10)])
        images, new = points(PIECES, IMAGES, icc, rng), points(NEW_PIECES, 1, icc, rng)
        splits, _ = share_out(rows, SPLIT, ALPHA, seed, "pieces")
        calibrating = splits["calibration"]
        if rule == "groups":
            calibrating = one_of_each_group(calibrating, seed)
        calibration = images[[place[row.image_path] for row in calibrating]]
        learnt = images[[place[row.image_path] for row in splits["train"]]]
        scores = {
            "effect": (calibration[:, 0], new[:, 0]),
            "nearest": (nearest(calibration, learnt), nearest(new, learnt)),
        }
        for name, (calibrated, scored) in scores.items():
            limit = threshold(calibrated, ALPHA)
            rates[name].append(float(np.mean(scored > limit)) if limit is not None else 0.0)
    return {name: np.array(values) for name, values in rates.items()}


def main() -> None:
    """Print the mean rate and its standard error of every correlation, rule and detector."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=1000)
    repeats = parser.parse_args().repeats
    for icc in CORRELATIONS:
        for rule in RULES:
            for name, rates in false_alarms(icc, repeats, rule).items():
                error = float(rates.std(ddof=1)) / repeats**0.5
                line = {"icc": icc, "rule": rule, "detector": name, "alpha": ALPHA}
                print(json.dumps(line | {"rate": round(rates.mean(), 4), "se": round(error, 4)}))


if __name__ == "__main__":
    main()
