"""Single parts, turned at random, cut out of images of many: a set to show `pose: upright` on.

    python -m benchmarks.single_parts OUT [--per-image 2]    # needs ADMODELS_SHARED_DATA

VisA's capsules lie anywhere in an image, about 20 of them. Each is cut out with its own mask; what
else stands in the cut is painted over with the background. Those to learn from come from images to
learn from, normal ones to test with from normal test images, anomalous ones are all marked
capsules of the anomalous images. OUT/capsule is a set of the layout `mvtec_ad`; OUT/upright holds
the same cuts turned upright by the outline that this script sees: an aligned set.
"""

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from benchmarks.methods_promise import DATA

SIDE_PX, JITTER_PX = 144, 8  # of a cut, a capsule is about 110 px long; how far it is off centre
ROOT = DATA / "visa"
Mask = np.ndarray


def colour_mask(image: np.ndarray) -> np.ndarray:
    """255 where a BGR image is coloured: the capsules, on a grey ground."""
    saturation = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_BGR2HSV)[:, :, 1], (0, 0), 2)
    return cv2.threshold(saturation, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[1]


def parts(image: np.ndarray) -> Iterator[tuple[Mask, np.ndarray]]:
    """The outline (H, W) bool and the middle of each whole single capsule of a BGR image."""
    coloured = colour_mask(image)
    count, labels, boxes, centres = cv2.connectedComponentsWithStats(coloured)
    areas = boxes[1:, cv2.CC_STAT_AREA]
    usual = np.median(areas[areas > 500])
    for number in range(1, count):
        left, top, width, height, area = boxes[number]
        inside = left > 0 and top > 0
        inside &= left + width < image.shape[1] and top + height < image.shape[0]
        if inside and 0.6 * usual < area < 1.4 * usual:
            yield labels == number, centres[number]


def cut(
    image: np.ndarray, outline: Mask, others: Mask, middle: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, tuple[slice, slice]] | None:
    """The capsule alone in a square cut, and where that is; None at the edge of the image."""
    left, top = np.round(middle + rng.uniform(-JITTER_PX, JITTER_PX, 2) - SIDE_PX / 2).astype(int)
    if min(left, top) < 0 or left + SIDE_PX > image.shape[1] or top + SIDE_PX > image.shape[0]:
        return None
    place = np.s_[top : top + SIDE_PX, left : left + SIDE_PX]
    around = cv2.dilate(others[place].astype(np.uint8), np.ones((23, 23), np.uint8)) > 0
    around &= cv2.dilate(outline[place].astype(np.uint8), np.ones((11, 11), np.uint8)) == 0
    picture, ground = (
        image[place].copy(),
        ~around
        & ~cv2.dilate(outline[place].astype(np.uint8), np.ones((25, 25), np.uint8)).astype(bool),
    )
    touching = cv2.dilate(outline[place].astype(np.uint8), np.ones((11, 11), np.uint8)) > 0
    if ground.sum() < SIDE_PX or (touching & others[place]).any():
        return None
    picture[around] = rng.choice(picture[ground], around.sum())  # grains of the ground
    smooth = cv2.GaussianBlur(picture, (0, 0), 1)
    picture[around] = smooth[around]
    return picture, place


def upright(image: np.ndarray, outline: Mask, interpolation: int) -> np.ndarray:
    """The cut turned about its middle until the outline's longest axis is vertical."""
    points = np.argwhere(outline)[:, ::-1].astype(np.float64)
    middle = points.mean(axis=0)
    axis = np.linalg.eigh(np.cov((points - middle).T))[1][:, 1]
    degrees = np.degrees(np.arctan2(axis[0], axis[1]))
    turn = cv2.getRotationMatrix2D(middle.tolist(), -degrees, 1)
    turn[:, 2] += SIDE_PX / 2 - middle
    border = cv2.BORDER_REFLECT if image.ndim == 3 else cv2.BORDER_CONSTANT
    return cv2.warpAffine(image, turn, (SIDE_PX, SIDE_PX), flags=interpolation, borderMode=border)


def write_cuts(out: Path, row: dict[str, str], most: int, seed: int) -> int:
    rng, name = np.random.default_rng([seed, int(Path(row["image"]).stem)]), Path(row["image"]).stem
    image = cv2.imread(str(ROOT / row["image"]))
    marked = cv2.imread(str(ROOT / row["mask"]), 0) > 0 if row["mask"] else None
    capsules = list(parts(image))
    everything = colour_mask(image) > 0
    written = 0
    for number in rng.permutation(len(capsules)):
        outline, middle = capsules[number]
        cut_out = cut(image, outline, everything & ~outline, middle, rng)
        near = cv2.dilate(outline.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
        defect = np.zeros(near.shape, bool) if marked is None else marked & near
        if cut_out is None or (marked is not None and defect.sum() < 5):
            continue
        picture, place = cut_out
        part = (
            "train/good"
            if row["split"] == "train"
            else f"test/{'good' if marked is None else 'bad'}"
        )
        level = defect[place].astype(np.uint8) * 255
        turned = upright(picture, outline[place], cv2.INTER_LINEAR)
        turned_level = upright(level, outline[place], cv2.INTER_NEAREST)
        for folder, shown, mask in (("capsule", picture, level), ("upright", turned, turned_level)):
            path = out / folder / part / f"{name}_{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), shown)
            if marked is not None:
                truth = out / folder / "ground_truth/bad" / f"{path.stem}_mask.png"
                truth.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(truth), mask)
        written += 1
        if marked is None and written == most:
            break
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--per-image", type=int, default=2, help="normal parts of an image")
    asked = parser.parse_args()
    counts: Counter[tuple[str, str]] = Counter()
    with (ROOT / "split_csv/1cls.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["object"] == "capsules"]
    for row in rows:
        written = write_cuts(asked.out, row, asked.per_image, seed=7)
        counts[row["split"], row["label"]] += written
    sys.stdout.write(f"{dict(counts)}\n")


if __name__ == "__main__":
    main()
