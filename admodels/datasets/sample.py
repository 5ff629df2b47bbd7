"""The sample: crops of three photographs inside scikit-image's wheel, in MVTec AD's layout.

Normal images are real; the anomalies are drawn here, by a generator that shares nothing with the
training synthesiser, and their masks are exact. It shows that the pipeline works. Its figures
say nothing about a factory: one photograph per category, and crops of one zone overlap.

Three column zones with a gap of 16 px keep the parts apart. scikit-image's documentation names
all three photographs as CC0: brick and gravel from CC0Textures (Bricks25, Gravel04), grass from
DeviantArt (linolafett, "Grass 01").
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import numpy as np

from admodels.datasets import mvtec_ad
from admodels.foundation.arrays import Bool, Float64, UInt8
from admodels.foundation.errors import ConfigurationError
from admodels.images import decode

Photos = list[UInt8]  # (H, W) each
Painted = tuple[Float64, Bool]  # the new grey values, and where they count, (P, P)
Rng = np.random.Generator

CATEGORIES = ("brick", "gravel", "grass")
SEED = 20_260_722
CROP_PX = 96
SHIFT_PX = 8  # between two crops, at least: fewer would be the same image twice
TEST_NORMAL = 20
DEFECTS = {"scratch": 5, "stain": 5, "hole": 5, "missing": 5, "foreign": 4}
LEAST_CONTRAST = 12.0  # mean grey levels inside a mask: below, people miss defects as well
LICENCE = """The photographs (brick, gravel, grass) ship with scikit-image (BSD-3-Clause), whose
documentation names them as CC0: https://creativecommons.org/publicdomain/zero/1.0/
The crops and the anomalies drawn on them are dedicated to the public domain likewise.
"""

images_of = mvtec_ad.images_of
EXPECTED = mvtec_ad.EXPECTED


@dataclass(frozen=True)
class Zone:
    """Columns [left, right) of a photograph, full height, and how many crops come from it."""

    left: int
    right: int
    crops: int


LEARN = Zone(0, 208, 80)
CALIBRATION = Zone(224, 360, 40)
TEST = Zone(376, 512, TEST_NORMAL + sum(DEFECTS.values()))


def photograph(category: str) -> bytes:
    """The file of the category's photograph.

    Raises:
        ConfigurationError: there is no such sample.
    """
    if category not in CATEGORIES:
        raise ConfigurationError(
            f"no packaged sample `{category}`",
            where="category",
            expected=f"one of {', '.join(CATEGORIES)}, from scikit-image/CATEGORY.png",
            next_step="fix the task in params.yaml",
        )
    return (files("skimage") / "data" / f"{category}.png").read_bytes()


def draw(category: str, target: Path) -> None:
    """Write the sample of `category` into the folder `target`; always the same bytes.

    Raises:
        ConfigurationError: there is no such sample.
    """
    photo = _grey(category)
    others = [_grey(other) for other in CATEGORIES if other != category]
    rng = np.random.default_rng([SEED, CATEGORIES.index(category)])
    learn, calibration, test = (_crops(photo, z, rng) for z in (LEARN, CALIBRATION, TEST))
    _write_all(target / "train/good", learn)
    _write_all(target / "calibration/good", calibration)
    _write_all(target / "test/good", test[:TEST_NORMAL])
    clean = iter(test[TEST_NORMAL:])
    for defect, count in DEFECTS.items():
        for index in range(count):
            drawn, mask = defective(defect, next(clean), (index + 0.5) / count, rng, others)
            decode.write_png(target / f"test/{defect}/{index:03}.png", drawn)
            decode.write_png(target / f"ground_truth/{defect}/{index:03}_mask.png", mask)
    (target / "LICENCE.txt").write_text(LICENCE, encoding="utf-8", newline="\n")


def _grey(category: str) -> UInt8:
    return decode.decode_image(photograph(category), category).rgb[:, :, 0]


def _crops(photo: UInt8, zone: Zone, rng: Rng) -> list[UInt8]:
    """Distinct crops (CROP_PX, CROP_PX), all inside the zone."""
    rows = np.arange(0, photo.shape[0] - CROP_PX + 1, SHIFT_PX)
    columns = np.arange(zone.left, zone.right - CROP_PX + 1, SHIFT_PX)
    chosen = rng.choice(len(rows) * len(columns), size=zone.crops, replace=False)
    corners = [(rows[i // len(columns)], columns[i % len(columns)]) for i in chosen]
    return [photo[y : y + CROP_PX, x : x + CROP_PX] for y, x in corners]


def _write_all(folder: Path, crops: list[UInt8]) -> None:
    for index, crop in enumerate(crops):
        decode.write_png(folder / f"{index:03}.png", crop)


def defective(
    defect: str, clean: UInt8, extent: float, rng: Rng, others: Photos
) -> tuple[UInt8, Bool]:
    """A copy of the (P, P) crop with one visible defect, and the mask of what changed.

    `extent` in 0..1 goes from small to large. The mask is true exactly where a pixel differs.
    """
    paint = _PAINT[defect]
    while True:
        values, region = paint(clean.astype(np.float64), extent, rng, others)
        drawn = np.clip(np.rint(values), 0, 255).astype(np.uint8)
        drawn = np.where(region & (drawn == clean), clean ^ 1, drawn)
        drawn = np.where(region, drawn, clean)
        change = np.abs(drawn.astype(np.float64) - clean)[region]
        if change.mean() >= LEAST_CONTRAST:
            return drawn, region


def _scratch(clean: Float64, extent: float, rng: Rng, _: Photos) -> Painted:
    """A thin bent line, lighter or darker than its surroundings."""
    direction = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.35, size=4))
    steps = (8 + 16 * extent) * np.stack([np.sin(direction), np.cos(direction)], axis=1)
    line = np.cumsum(np.vstack([np.zeros(2), steps]), axis=0)
    line += _somewhere(rng) - line.mean(axis=0)
    width = rng.uniform(0.7, 1.5)
    region = _distance_to(line) <= width
    value = rng.choice([20.0, 240.0])
    strength = rng.uniform(0.5, 0.85)
    return clean + strength * (value - clean), region


def _stain(clean: Float64, extent: float, rng: Rng, _: Photos) -> Painted:
    """A soft-edged blob that shifts brightness; changes under 5 grey levels do not count."""
    depth = _inside_blob(7 + 16 * extent, rng)
    strength = rng.uniform(1.1, 1.8) * max(22.0, clean.std())  # seen against the texture
    change = np.clip(depth / 4, 0, 1) * strength * rng.choice([-1, 1])
    return clean + change, np.abs(change) >= 5


def _hole(clean: Float64, extent: float, rng: Rng, _: Photos) -> Painted:
    """A dark disc with a lighter rim."""
    y, x = _grid() - _somewhere(rng)[:, None, None]
    radius = 3 + 9 * extent
    distance = np.hypot(y, x * rng.uniform(0.8, 1.25))
    dark = clean * 0.15 + 8 + 12 * (distance / radius) ** 2
    rim = clean + rng.uniform(35, 60)
    return np.where(distance <= radius, dark, rim), distance <= radius + 1.4


def _missing(clean: Float64, extent: float, rng: Rng, _: Photos) -> Painted:
    """A blob whose texture is gone: the plane of least squares stands in its place."""
    region = _inside_blob(8 + 13 * extent, rng) > 0
    y, x = _grid()
    planes = np.stack([np.ones_like(y), y, x], axis=-1)
    fit = np.linalg.lstsq(planes[region], clean[region], rcond=None)[0]
    return planes @ fit + rng.uniform(-12, 12), region


def _foreign(clean: Float64, extent: float, rng: Rng, others: Photos) -> Painted:
    """A polygon filled from another photograph."""
    centre = _somewhere(rng)[:, None, None]
    radius = 7 + 14 * extent
    angles = np.sort(rng.uniform(0, 2 * np.pi, size=6))
    y, x = _grid() - centre
    sides = [y * np.sin(a) + x * np.cos(a) <= radius * rng.uniform(0.7, 1) for a in angles]
    region = np.logical_and.reduce([*sides, np.hypot(y, x) <= 1.5 * radius])
    other = others[int(rng.integers(len(others)))]
    top, left = rng.integers(0, other.shape[0] - CROP_PX, size=2)
    return other[top : top + CROP_PX, left : left + CROP_PX].astype(np.float64), region


_PAINT: dict[str, Callable[[Float64, float, Rng, Photos], Painted]] = {
    "scratch": _scratch,
    "stain": _stain,
    "hole": _hole,
    "missing": _missing,
    "foreign": _foreign,
}


def _grid() -> Float64:
    """The rows and columns of a crop, (2, P, P)."""
    return np.indices((CROP_PX, CROP_PX)).astype(np.float64)


def _somewhere(rng: Rng) -> Float64:
    """A point (y, x) away from the border of a crop."""
    return rng.uniform(0.2, 0.8, size=2) * CROP_PX


def _inside_blob(radius: float, rng: Rng) -> Float64:
    """How deep each pixel of a crop lies inside a random blob, px; negative outside."""
    y, x = _grid() - _somewhere(rng)[:, None, None]
    waves = range(2, 6)
    amplitudes = rng.uniform(0, 0.45, size=len(waves)) / np.array(waves)
    phases = rng.uniform(0, 2 * np.pi, size=len(waves))
    angle = np.arctan2(y, x)
    ripple = sum(
        a * np.cos(k * angle + p) for k, a, p in zip(waves, amplitudes, phases, strict=True)
    )
    return np.asarray(radius * (1 + ripple) - np.hypot(y, x))


def _distance_to(line: Float64) -> Float64:
    """The distance of each pixel of a crop to a polyline of (y, x) points, (P, P), px."""
    points = np.moveaxis(_grid(), 0, -1)
    distances = []
    for start, end in pairwise(line):
        side = end - start
        along = np.clip((points - start) @ side / (side @ side), 0, 1)
        distances.append(np.linalg.norm(points - start - along[..., None] * side, axis=-1))
    return np.asarray(np.min(distances, axis=0))
