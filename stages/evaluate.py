"""Measure one cell: test.csv, validation.csv, bundle -> metrics, curves, power, overlays, cost."""

import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from admodels import methods
from admodels.bundles import bundle, runtime
from admodels.bundles.card import Preparation
from admodels.evaluation import figures, measure, power
from admodels.evaluation.aupimo import Aupimo
from admodels.evaluation.maps import code_maps, write_maps
from admodels.evaluation.measure import Evaluate, Evaluation, ScoredSet
from admodels.evaluation.power import Defect, Power
from admodels.evaluation.table import gaps
from admodels.foundation import manifest, params
from admodels.foundation.arrays import Bool, Float32, Float64, UInt8
from admodels.foundation.errors import DataError
from admodels.foundation.files import whole_folder, write_json
from admodels.foundation.progress import Progress
from admodels.images import decode, load
from admodels.images.area import Area
from admodels.images.pose import Views, turned_sentence
from admodels.images.shape import Shape, ratios
from admodels.inference import model
from admodels.synthesis.foreground import foreground
from stages import run

if TYPE_CHECKING:
    import pandas as pd

Tiles = list[UInt8]
Placed = tuple[Float32, Float64 | None]  # a map as the detector gave it, and where it stands


class Seen(NamedTuple):
    """A scored set; of every image a tile, the map before it was resized; reconstructions."""

    scored: ScoredSet
    tiles: Tiles
    maps: list[Placed]
    rebuilt: Tiles


def _prepare(
    row: manifest.ManifestRow, root: Path, preparation: Preparation
) -> tuple[Views, UInt8, str]:
    """What the detector gets of an image, a tile of it, and the status of its refusal, if any."""
    image = load.load_image(row, root, preparation.learnt.reading)
    fault = model.describe_image(image, preparation).fault
    views = model.prepare_views(image.rgb, preparation)
    planes = views.planes if views.place is None else image.rgb.transpose(2, 0, 1)
    return views, figures.tile(planes), fault[0] if fault else ""


def _score_images(
    fitted: bundle.Bundle, rows: list[manifest.ManifestRow], shape: Shape, rule: str, seed: int
) -> Seen:
    """Score the images of the rows.

    `seed` chooses the image of each group that counts.
    Of a few chunks at a time is kept only what measuring and looking need.
    """
    chunk, root = methods.images_at_once(fitted.detector), Path("data/raw", fitted.task)
    read = partial(_prepare, root=root, preparation=fitted.contract)
    refused: list[str] = []
    turned = 0
    scores = np.empty(len(rows), np.float32)
    maps = np.empty((len(rows), *shape), np.float32)
    tiles: Tiles = []
    rebuilt: Tiles = []
    own: list[Placed] = []
    progress = Progress(len(rows), f"evaluate {fitted.method} on {fitted.task}")
    for start in range(0, len(rows), chunk):
        chosen = slice(start, min(start + chunk, len(rows)))
        label = f"read images of {fitted.task}"
        seen, pictures, words = zip(*load.in_threads(read, rows[chosen], label), strict=True)
        planes, places = [views.planes for views in seen], [views.place for views in seen]
        scored = model.score_planes(fitted, planes, places)
        scores[chosen] = scored.anomaly_score
        places = [views.place for views in seen]
        own += zip(scored.anomaly_map, places, strict=True)
        maps[chosen] = [model.map_to_image(m, *shape, place) for m, place in own[start:]]
        turned += sum(views.place is not None for views in seen)
        refused += words
        tiles += pictures
        rebuilt += map(figures.tile, () if scored.reconstruction is None else scored.reconstruction)
        progress.at(chosen.stop)
    if fitted.contract.band is not None:
        sys.stderr.write(f"{fitted.task}: {turned_sentence(turned, len(rows))}\n")
    scored_set = measure.scored_set(
        rows, root, rule, seed, scores=scores, refused=refused, maps=maps
    )
    if fitted.area is not None and scored_set.masks is not None:
        scored_set = replace(scored_set, masks=scored_set.masks & fitted.area.seen(shape))
    return Seen(scored_set, tiles, own, rebuilt)


def _inside(rows: list[manifest.ManifestRow], root: Path, area: Area) -> list[manifest.ManifestRow]:
    """Without images of which every labelled defect lies outside the area."""

    def is_inside(row: manifest.ManifestRow) -> bool:
        if not row.mask_sha256:
            return True
        mask = load.load_masks([row], root, (row.height, row.width))[0]
        return bool((mask & area.inside).any())

    keep = load.in_threads(is_inside, rows, f"read masks of {root.name}")
    kept = [row for row, is_kept in zip(rows, keep, strict=True) if is_kept]
    if len(kept) < len(rows):
        sys.stderr.write(
            f"{root.name}: {len(rows) - len(kept)} of {len(rows)} images are left out: their "
            "defects lie outside the inspected area\n"
        )
    return kept


def _mask_inside(row: manifest.ManifestRow, root: Path, shape: Shape, area: Area | None) -> Bool:
    mask = load.load_masks([row], root, shape)[0]
    return mask if area is None else np.asarray(mask & area.inside)


def _aupimo(
    rows: list[manifest.ManifestRow], maps: list[Placed], root: Path, area: Area | None
) -> Float64 | None:
    """AUPIMO of the anomalous images, each map in the size of its image."""
    collected = Aupimo(sum(row.label == "normal" for row in rows))
    for row, (own, place) in zip(rows, maps, strict=True):
        shape = (row.height, row.width)
        mask = None if row.label == "normal" else _mask_inside(row, root, shape, area)
        collected.add(model.map_to_image(own, *shape, place), mask)
    return collected.areas()


def _power(
    fitted: bundle.Bundle,
    rows: list[manifest.ManifestRow],
    block: Power,
    threshold: float | None,
    seed: int,
) -> "pd.DataFrame":
    """The table of painted defects on the first images of `rows`, by their content."""
    chosen = sorted(rows, key=lambda row: row.image_sha256)[: block.images]
    preparation, root = fitted.contract, Path("data/raw", fitted.task)
    shape, resize, reading = preparation.shape, preparation.resize, preparation.learnt.reading
    normal = load.load_images(chosen, root, shape, resize, reading)
    given = load.load_foreground(chosen, root, shape, resize)
    mattes = foreground(normal, given, fitted.kind).mattes[:, 0]
    if fitted.area is not None:
        inspected = fitted.area.seen(shape)
        mattes = np.stack([m * inspected if m[inspected].any() else inspected for m in mattes])
    defects: list[Defect] = []
    scores: list[float] = []
    progress = Progress(len(chosen), f"painted defects of {fitted.method} on {fitted.task}")
    for count, (row, matte) in enumerate(zip(chosen, mattes, strict=True), 1):
        rgb = load.load_image(row, root, reading).rgb
        seen = []
        for number, defect in enumerate(power.grid(rgb, block)):
            rng = np.random.default_rng([seed, int(row.image_sha256[:16], 16), number])
            painted = power.paint_defect(rgb, matte, defect, rng)
            seen.append(model.prepare_views(painted, preparation))
            defects.append(defect)
        planes, places = [views.planes for views in seen], [views.place for views in seen]
        scores += model.score_planes(fitted, planes, places).anomaly_score.tolist()
        progress.at(count)
    return power.table(defects, np.array(scores), threshold)


def _write(
    folder: Path,
    measured: Evaluation,
    scored: ScoredSet,
    caught: "pd.DataFrame",
    sheet: UInt8 | None,
) -> None:
    with whole_folder(folder) as partial:
        write_json(partial / "metrics.json", measured.metrics)
        write_json(partial / "intervals.json", measured.intervals)
        (partial / "curves").mkdir()
        for name, curve in measured.curves.items():
            curve.to_csv(partial / "curves" / f"{name}.csv", index=False, lineterminator="\n")
        measured.images.to_csv(partial / "scores.csv", index=False, lineterminator="\n")
        write_maps(partial / "maps.npz", code_maps(scored.anomaly_maps, scored.masks))
        caught.to_csv(partial / "power.csv", index=False, lineterminator="\n")
        if sheet is not None:
            decode.write_png(partial / "overlays.png", sheet)


def _measure(
    fitted: bundle.Bundle, scored: ScoredSet, block: Evaluate, *, is_tested: bool
) -> tuple[Evaluation, Evaluation]:
    """What the test images show, and the verdicts on the images of the sheet, mostly the same.

    A detector whose scores are no numbers leaves its own cell without figures, and no other.
    """
    calibration, nothing = fitted.calibration_scores, ScoredSet.empty(block.mask_px)
    try:
        shown = measure.evaluate(scored, calibration, block)
    except DataError as error:
        unknown = measure.evaluate(nothing, calibration, block, fault=error.fault)
        return unknown, unknown
    return shown if is_tested else measure.evaluate(nothing, calibration, block), shown


def main(method: str, task: str) -> None:
    """Open the test images, which no other stage does; without any, measure what can be known."""
    cost = runtime.Cost()
    block, seed = params.read("evaluate", Evaluate), params.read("seed", int)
    tested, normal = (
        manifest.read(Path("data/manifests", task, f"{split}.csv"))
        for split in ("test", "validation")
    )
    fitted = bundle.load(Path("data/models", method, task), runtime.device())
    start, cpu_start = time.monotonic(), time.process_time()
    rows, root = tested or normal, Path("data/raw", task)
    if fitted.area is not None:
        rows = _inside(rows, root, fitted.area)
    shape = block.mask_shape(ratios(rows)[1])
    seen = _score_images(fitted, rows, shape, block.ground_truth_rule, seed)
    speed = len(rows) / (time.monotonic() - start)
    image_cpu = (time.process_time() - cpu_start) / len(rows)
    scored = seen.scored
    if scored.masks is not None:
        scored = replace(scored, aupimo=_aupimo(rows, seen.maps, root, fitted.area))
    measured, shown = _measure(fitted, scored, block, is_tested=bool(tested))
    note = "" if tested else "no test image: these validation images watched the training"
    sheet = figures.overlays(scored, shown, seen.tiles, seen.rebuilt, block.overlay_images, note)
    threshold = None if "fault" in measured.metrics else measured.threshold
    caught = _power(fitted, normal, block.power, threshold, seed)
    kept = scored if len(measured.images) else ScoredSet.empty(block.mask_px)
    _write(Path("data/evaluation", method, task), measured, kept, caught, sheet)
    for sentence in gaps(measured.metrics):
        sys.stderr.write(f"{method} on {task}: {sentence}\n")
    costs = Path("data/costs/evaluate", method, f"{task}.json")
    # git keeps costs per revision, and figures are numbers only: so this says whose they are.
    fingerprint = fitted.model_fingerprint
    cost.write(
        costs,
        images_per_second=round(speed, 2),
        image_cpu_seconds=round(image_cpu, 4),
        model_fingerprint=fingerprint,
    )


if __name__ == "__main__":
    run(main)
