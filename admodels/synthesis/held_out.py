"""The held-out synthetic set: anomalies on validation images, which no method learns from.

It watches training, so that no real anomaly has to.
"""

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from admodels.foundation.arrays import Bool, UInt8
from admodels.foundation.errors import DataError
from admodels.foundation.files import whole_folder
from admodels.foundation.manifest import ManifestRow
from admodels.foundation.params import Resize
from admodels.foundation.progress import progress
from admodels.images import decode, sheets
from admodels.images.pose import cut_mask, views
from admodels.images.shape import Band, Shape
from admodels.synthesis.anomalies import Paint, apply, draw_paint, interleave
from admodels.synthesis.foreground import Foreground, MatteSource
from admodels.synthesis.params import Anomaly, Synthesize

DRAWS = 1000  # DRAEM's masks are empty in 5 % of the draws; at the coarsest lattice alone in 61 %
COLUMNS = ("image_path", "mask_path", "image_id", "texture", "area_share")
SHEET_SAMPLES, SHEET_COLUMNS = 24, 3


@dataclass(frozen=True)
class Sample:
    """One synthetic anomaly: `normal`, `image` (H, W, 3) uint8, `mask` (H, W) bool, not empty.

    `part` (H, W) uint8 is the image's foreground, for the eye: the anomaly may lie beside it. A
    method that paints on the part finds that of its own training images, at its own size.
    """

    image_id: str
    texture: str
    normal: UInt8
    image: UInt8
    mask: Bool
    part: UInt8
    part_source: MatteSource
    empty_draws: int


def draw(
    rows: Sequence[ManifestRow],
    normal: UInt8,
    textures: Mapping[str, UInt8],
    parts: Foreground,
    params: Synthesize,
    seed: int,
    inspected: Bool | None = None,
) -> list[Sample]:
    """`params.per_image` anomalies on every image, drawn from its content and `seed`.

    `normal` (N, 3, H, W) uint8 RGB and `parts`, one for each of `rows`; `textures` (3, H, W)
    uint8 each. `inspected` (H, W) bool: where an anomaly may lie; None: anywhere.

    Raises:
        DataError: the mask came out empty every time, so there would be nothing to find.
    """
    samples = []
    images = zip(rows, normal, parts.mattes[:, 0], parts.sources, strict=True)
    for row, planes, matte, source in progress(images, len(rows), "draw held-out anomalies"):
        image, content = interleave(planes), int(row.image_sha256[:16], 16)
        for repeat in range(params.per_image):
            rng = np.random.default_rng([seed, content, repeat])
            texture = list(textures)[rng.integers(len(textures))]
            pasted = interleave(textures[texture])
            paint, empty = _draw_until_visible(pasted, params.generator, rng, inspected)
            about = (row.image_id, texture, image, _paint_over(image, paint), paint.mask > 0)
            samples.append(Sample(*about, matte, source, empty))
    return samples


def _paint_over(image: UInt8, paint: Paint) -> UInt8:
    pixels = image.astype(np.float32) / np.float32(255)
    apply(paint, pixels)
    return np.asarray(np.rint(pixels * 255), dtype=np.uint8)


def _draw_until_visible(
    texture: UInt8, anomaly: Anomaly, rng: np.random.Generator, inspected: Bool | None
) -> tuple[Paint, int]:
    for empty in range(DRAWS):
        paint = draw_paint(texture, anomaly, rng, inspected)
        if paint is not None:
            return paint, empty
    raise DataError(
        f"{DRAWS} synthetic anomalies in a row came out empty",
        where="params.yaml: synthesize.generator",
        expected="noise above `mask_threshold` inside the area in most draws (0.5 in DRAEM)",
        next_step="lower `mask_threshold` or raise `lattice_exponent_max`",
    )


def write(folder: Path, samples: Sequence[Sample]) -> None:
    """Write images, masks, index, statistics and contact sheet; the folder appears whole."""
    with whole_folder(folder) as partial:
        lines = [_write_sample(partial, number, sample) for number, sample in enumerate(samples)]
        with (partial / "index.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *lines])
        text = json.dumps(statistics(samples), indent=2)
        (partial / "statistics.json").write_text(text + "\n", encoding="utf-8")
        decode.write_png(partial / "contact_sheet.png", contact_sheet(samples))


def _write_sample(folder: Path, number: int, sample: Sample) -> tuple[str, str, str, str, str]:
    """Write the files of one sample and return its line of the index."""
    image_path, mask_path = (f"{kind}/{number:05d}.png" for kind in ("images", "masks"))
    decode.write_png(folder / image_path, sample.image)
    decode.write_png(folder / mask_path, sample.mask)
    area_share = f"{sample.mask.mean():.6f}"
    return image_path, mask_path, sample.image_id, sample.texture, area_share


def statistics(samples: Sequence[Sample]) -> dict[str, Any]:
    """How many anomalies, their mean share of the image, the share of draws that were empty.

    `coverage` is the share of pixels that at least one mask of the set is on. And the foreground's
    mean share of the image, and how many images have theirs from where.
    """
    covered = np.any([sample.mask for sample in samples], axis=0)
    empty = sum(sample.empty_draws for sample in samples)
    return {
        "images": len(samples),
        "mean_area_share": round(float(np.mean([sample.mask.mean() for sample in samples])), 6),
        "coverage": round(float(covered.mean()), 6),
        "empty_draw_share": round(empty / (empty + len(samples)), 6),
        "foreground_share": round(float(np.mean([(s.part > 0).mean() for s in samples])), 6),
        "foreground": dict(sorted(Counter(s.part_source for s in samples).items())),
    }


def read(
    folder: Path, shape: Shape, resize: Resize, band: Band | None = None
) -> tuple[UInt8, Bool]:
    """The set as a method sees it: images (N, 3, *shape) uint8 RGB, masks (N, *shape) bool.

    Raises:
        DataError: the stage `synthesize` has not run.
    """
    index = folder / "index.csv"
    if not index.is_file():
        raise DataError(
            "the held-out synthetic set is missing",
            where=index,
            expected="the output of the stage `synthesize`",
            next_step="dvc repro synthesize",
        )
    with index.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    pixels = np.empty((len(lines), 3, *shape), dtype=np.uint8)
    masks = np.empty((len(lines), *shape), dtype=np.bool_)
    for number, line in enumerate(lines):
        image, mask = (folder / line[key] for key in ("image_path", "mask_path"))
        rgb = decode.decode_image(image.read_bytes(), image).rgb
        seen = views(rgb, shape, resize, band)
        pixels[number] = seen.planes[:3]
        decoded = decode.decode_mask(mask.read_bytes(), mask)
        if seen.place is None:
            masks[number] = decode.resize_mask(decoded, shape)
        else:
            masks[number] = cut_mask(decoded, seen.place, shape)
    return pixels, masks


def contact_sheet(samples: Sequence[Sample]) -> UInt8:
    """Up to 24 samples spread over the set: normal, synthetic, outlined; (H, W, 3) uint8.

    The foreground, whose source the caption names, is outlined in cyan on the normal image, the
    mask in yellow on the synthetic one.
    """
    count = min(len(samples), SHEET_SAMPLES)
    shown = [samples[int(index)] for index in np.linspace(0, len(samples) - 1, count)]
    cells = [_cell(sample) for sample in shown]
    rows = [cells[start : start + SHEET_COLUMNS] for start in range(0, count, SHEET_COLUMNS)]
    return sheets.stack([sheets.beside(row) for row in rows])


def _cell(sample: Sample) -> UInt8:
    """A sample's caption over its normal image, its synthetic one, and the mask's outline."""
    shape = sheets.tile_shape(*sample.mask.shape)
    tiles = (
        _outline(sample.normal, sample.part > 0, shape, (0, 255, 255)),
        decode.resize_image(sample.image, shape, "area"),
        _outline(sample.image, sample.mask, shape, (255, 255, 0)),
    )
    area, source = f"{sample.mask.mean():.1%}", f"part: {sample.part_source}"
    pictures = sheets.beside([sheets.frame(tile) for tile in tiles])
    caption = "   ".join((sample.image_id, area, sample.texture, source))
    return np.concatenate([sheets.text(caption, pictures.shape[1]), pictures])


def _outline(image: UInt8, region: Bool, shape: Shape, colour: tuple[int, int, int]) -> UInt8:
    """Resize an image and draw a line around a region of it."""
    tile = decode.resize_image(image, shape, "area")
    return sheets.outline(tile, decode.resize_mask(region, shape), colour)
