"""Measure one cell: test.csv, validation.csv, bundle -> metrics, curves, power, overlays, cost."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from admodels.bundles import bundle, runtime
from admodels.evaluation import figures, measure, power
from admodels.evaluation.measure import Evaluate, Evaluation, ScoredSet
from admodels.evaluation.power import Defect, Power
from admodels.foundation import manifest, params
from admodels.foundation.errors import DataError
from admodels.foundation.files import whole_folder, write_json
from admodels.foundation.progress import Progress
from admodels.images import decode, load
from admodels.synthesis.foreground import foreground
from stages import run

if TYPE_CHECKING:
    import pandas as pd

Tiles = list[NDArray[np.uint8]]


def _scored(
    fitted: bundle.Bundle, rows: list[manifest.ManifestRow], mask_px: int
) -> tuple[ScoredSet, Tiles, Tiles]:
    """The scored set, and a tile of every image and of every reconstruction.

    Scores in the bundle's own chunks; of each is kept only what measuring and looking need.
    """
    chunk, contract = fitted.params.score_chunk_images, fitted.contract
    root = Path("data/raw", fitted.task)
    scores = np.empty(len(rows), np.float32)
    maps = np.empty((len(rows), mask_px, mask_px), np.float32)
    tiles: Tiles = []
    rebuilt: Tiles = []
    progress = Progress(len(rows), f"evaluate {fitted.method} on {fitted.task}")
    for start in range(0, len(rows), chunk):
        part = slice(start, min(start + chunk, len(rows)))
        reading = contract.learnt.reading
        pixels = load.load_images(rows[part], root, contract.image_px, contract.resize, reading)
        found = bundle.score(fitted.detector, pixels)
        scores[part] = found.anomaly_score
        maps[part] = measure.maps_resized(found.anomaly_map, mask_px)
        tiles += figures.tiles(pixels)
        rebuilt += [] if found.reconstruction is None else figures.tiles(found.reconstruction)
        progress.at(part.stop)
    unmasked = any(row.label == "anomalous" and not row.mask_sha256 for row in rows)
    scored = ScoredSet(
        image_ids=[row.image_id for row in rows],
        anomalous=np.array([row.label == "anomalous" for row in rows]),
        defect_types=[row.defect_type for row in rows],
        anomaly_scores=scores,
        anomaly_maps=maps,
        masks=None if unmasked else load.load_masks(rows, root, mask_px),
    )
    return scored, tiles, rebuilt


def _power(
    fitted: bundle.Bundle, rows: list[manifest.ManifestRow], block: Power, threshold: float | None
) -> "pd.DataFrame":
    """The table of painted defects on the first images of `rows`, by their content."""
    chosen = sorted(rows, key=lambda row: row.image_sha256)[: block.images]
    contract, root = fitted.contract, Path("data/raw", fitted.task)
    px, resize, reading = contract.image_px, contract.resize, contract.learnt.reading
    normal = load.load_images(chosen, root, px, resize, reading)
    mattes = load.load_foreground(chosen, root, px, resize)
    parts = foreground(normal, mattes, fitted.kind).mattes[:, 0]
    seed = params.read("seed", int)
    defects: list[Defect] = []
    scores: list[float] = []
    progress = Progress(len(chosen), f"painted defects of {fitted.method} on {fitted.task}")
    for at, (row, part) in enumerate(zip(chosen, parts, strict=True), 1):
        rgb = load.load_image(row, root, reading)
        drawn = []
        for number, defect in enumerate(power.grid(rgb, block)):
            rng = np.random.default_rng([seed, int(row.image_sha256[:16], 16), number])
            drawn.append(
                decode.resize_image(power.paint_defect(rgb, part, defect, rng), px, resize)
            )
            defects.append(defect)
        stack = np.stack(drawn).transpose(0, 3, 1, 2)
        scores += bundle.score(fitted.detector, stack).anomaly_score.tolist()
        progress.at(at)
    return power.table(defects, np.array(scores), threshold)


def _write(
    folder: Path, measured: Evaluation, found: "pd.DataFrame", sheet: NDArray[np.uint8]
) -> None:
    with whole_folder(folder) as partial:
        write_json(partial / "metrics.json", measured.metrics)
        (partial / "curves").mkdir()
        for name, curve in measured.curves.items():
            curve.to_csv(partial / "curves" / f"{name}.csv", index=False, lineterminator="\n")
        measured.images.to_csv(partial / "scores.csv", index=False, lineterminator="\n")
        found.to_csv(partial / "power.csv", index=False, lineterminator="\n")
        decode.write_png(partial / "overlays.png", sheet)


def main(method: str, task: str) -> None:
    """Open the test images, which no other stage does."""
    cost = runtime.Cost()
    block = params.read("evaluate", Evaluate)
    listed = Path("data/manifests", task, "test.csv")
    rows = manifest.read(listed)
    if not rows:
        raise DataError(
            "no test image",
            where=listed.as_posix(),
            expected="at least one image in the test part of the dataset",
            next_step=f"add images to the source, then `admodels task refresh {task}`",
        )
    fitted = bundle.load(Path("data/models", method, task), runtime.device())
    start = time.monotonic()
    scored, tiles, rebuilt = _scored(fitted, rows, block.mask_px)
    speed = len(rows) / (time.monotonic() - start)
    measured = measure.evaluate(scored, fitted.calibration_scores, block)
    sheet = figures.overlays(scored, measured, tiles, rebuilt, block.overlay_images)
    normal = manifest.read(listed.with_name("validation.csv"))
    found = _power(fitted, normal, block.power, measured.threshold)
    _write(Path("data/evaluation", method, task), measured, found, sheet)
    costs = Path("data/costs/evaluate", method, f"{task}.json")
    # git keeps costs per revision, and figures are numbers only: so this says whose they are.
    fingerprint = fitted.model_fingerprint
    cost.write(costs, images_per_second=round(speed, 2), model_fingerprint=fingerprint)


if __name__ == "__main__":
    run(main)
