"""How well scores separate normal from anomalous images: metrics, curves, verdicts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from admodels.evaluation import aupimo, metrics, resampling
from admodels.evaluation.intervals import auroc_interval, exact_interval
from admodels.evaluation.power import Power
from admodels.evaluation.resampling import Figures, Interval
from admodels.evaluation.table import DECIMALS, round_figure
from admodels.foundation.arrays import Bool, Float32, Float64
from admodels.foundation.manifest import ManifestRow, one_of_each_group
from admodels.foundation.params import Strict
from admodels.images.decode import erode_mask, resize_mask
from admodels.images.load import load_masks
from admodels.images.shape import Shape, shape_of
from admodels.inference import conformal

if TYPE_CHECKING:
    import pandas as pd

MASK_RULES = {"nearest": resize_mask, "eroded": erode_mask}
CURVE_POINTS = 200
MASK_MULTIPLE = 16
STRICT_FPR_LIMIT = 0.05  # of a second AUPRO, where most maps still differ
DEFECT_SIZES = {"tiny": 0.001, "small": 0.01, "medium": 0.1, "large": math.inf}  # share of an image
IMAGE_FIGURES: Figures = {
    "image_ap": metrics.average_precision,
    "image_f1_max": metrics.f1_max,
    "recall_at_1": partial(metrics.recall_at, rate=0.01),
    "recall_at_5": partial(metrics.recall_at, rate=0.05),
}


class Evaluate(Strict):
    """Params block `evaluate`: what every method of the project is measured with."""

    mask_px: int = Field(ge=32, le=4096)
    ground_truth_rule: Literal["nearest", "eroded"]
    aupro_fpr_limit: float = Field(gt=0, le=1)
    alpha: float = Field(gt=0, lt=1)
    overlay_images: int = Field(ge=1, le=100)
    power: Power

    def mask_shape(self, ratio: float) -> Shape:
        """About `mask_px`^2 pixels at that width over height; a nearly square image is square."""
        return shape_of(ratio, self.mask_px, math.gcd(self.mask_px, MASK_MULTIPLE))


def _pixel_figures(block: Evaluate) -> Figures:
    return {
        "pixel_auroc": metrics.auroc,
        "pixel_ap": metrics.average_precision,
        "aupro": partial(metrics.aupro, limit=block.aupro_fpr_limit),
        "aupro_at_5": partial(metrics.aupro, limit=STRICT_FPR_LIMIT),
    }


@dataclass(frozen=True)
class ScoredSet:
    """N test images with their scores; N may be 0.

    `anomaly_maps` (N, H, W) float32 and `masks` (N, H, W) bool of one shape; masks are None where
    an anomalous image has none, and then nothing is said of pixels. `anomalous` (N,) bool,
    `anomaly_scores` (N,), `image_ids` and `defect_types` N names. `refused` N statuses: a scored
    folder would give such an image no score; here it is measured like the others. Empty where the
    image is of the kind that the bundle learnt from. `drawn` (N,) bool: the images whose false
    alarms count, one of each group; None: all. `aupimo` of each anomalous image; None: not known.
    """

    image_ids: list[str]
    anomalous: Bool
    defect_types: list[str]
    refused: list[str]
    anomaly_scores: NDArray[np.floating]
    anomaly_maps: Float32
    masks: Bool | None
    drawn: Bool | None = None
    aupimo: Float64 | None = None

    @classmethod
    def empty(cls, mask_px: int) -> Self:
        """The set of a task without test images."""
        maps = np.empty((0, mask_px, mask_px), np.float32)
        nobody = np.empty(0, np.bool_)
        return cls([], nobody, [], [], np.empty(0), maps, maps.astype(np.bool_))


def scored_set(
    rows: list[ManifestRow],
    raw: Path,
    rule: str,
    seed: int,
    *,
    scores: NDArray[np.floating],
    refused: list[str],
    maps: Float32 | None,
) -> ScoredSet:
    """The images of the rows below `raw` with their scores, and masks by `rule`; no maps: None.

    `seed` chooses the image of each group that counts.
    """
    unmasked = maps is None or any(r.label == "anomalous" and not r.mask_sha256 for r in rows)
    drawn = {row.image_id for row in one_of_each_group(rows, seed)}
    if maps is None:
        maps = np.empty((len(rows), 0, 0), np.float32)
    shape = (maps.shape[1], maps.shape[2])
    return ScoredSet(
        image_ids=[row.image_id for row in rows],
        anomalous=np.array([row.label == "anomalous" for row in rows], dtype=bool),
        defect_types=[row.defect_type for row in rows],
        refused=refused,
        anomaly_scores=scores,
        anomaly_maps=maps,
        masks=None if unmasked else load_masks(rows, raw, shape, MASK_RULES[rule]),
        drawn=np.array([row.image_id in drawn for row in rows], dtype=bool),
    )


@dataclass(frozen=True)
class Evaluation:
    """`metrics` as written to metrics.json, `curves` roc, pr (of images) and pro (of pixels).

    `intervals` are those of 95 % of the figures in `metrics`, None where there is none. `images`
    has one row per image; `threshold` is None where alpha cannot be held.
    """

    metrics: dict[str, Any]
    intervals: dict[str, Interval | None]
    curves: dict[str, pd.DataFrame]
    images: pd.DataFrame
    threshold: float | None


def evaluate(
    scored: ScoredSet, calibration_scores: Float64, block: Evaluate, *, fault: str = ""
) -> Evaluation:
    """Measure a scored set; a number that is not defined is None, never 0.

    `fault`: why the images of the cell are not in the set.

    Raises:
        DataError: a score or a pixel of a map is not finite.
    """
    scores = scored.anomaly_scores.astype(np.float64)
    image_ranks = metrics.ranking(scores, scored.anomalous)
    pixel_ranks = _pixel_ranking(scored)
    threshold = conformal.threshold(calibration_scores, block.alpha)
    verdicts = None if threshold is None else scores > threshold
    measured = {
        "image_auroc": metrics.auroc(image_ranks),
        **{name: figure(image_ranks) for name, figure in IMAGE_FIGURES.items()},
        **{name: figure(pixel_ranks) for name, figure in _pixel_figures(block).items()},
        "aupimo": None if scored.aupimo is None else float(scored.aupimo.mean()),
        **_false_alarms(scored, verdicts),
        "recall": _share(verdicts, scored.anomalous),
        "smallest_alpha": conformal.smallest_alpha(len(calibration_scores)),
    }
    counts = {
        "images_missing": conformal.images_missing(len(calibration_scores), block.alpha),
        "calibration_images": len(calibration_scores),
        "test_normal": int(np.count_nonzero(~scored.anomalous)),
        "test_anomalous": int(np.count_nonzero(scored.anomalous)),
    }
    rounded = {name: round_figure(value) for name, value in measured.items()}
    shares = {
        "recall_by_defect_type": _recall_by_defect_type(scored, verdicts),
        "recall_by_defect_size": _recall_by_defect_size(scored, verdicts),
    }
    why = {"fault": fault} if fault else {}
    return Evaluation(
        {**rounded, **shares, **counts, **why},
        _intervals(scored, image_ranks, pixel_ranks, calibration_scores, block),
        _curves(image_ranks, pixel_ranks, block.aupro_fpr_limit),
        _image_frame(scored, conformal.p_values(scores, calibration_scores), verdicts),
        threshold,
    )


def _pixel_ranking(scored: ScoredSet) -> metrics.Ranking | None:
    if scored.masks is None:
        return None
    weights = metrics.region_weights(scored.masks)
    return metrics.ranking(scored.anomaly_maps, scored.masks, weights)


def _intervals(
    scored: ScoredSet,
    image_ranks: metrics.Ranking | None,
    pixel_ranks: metrics.Ranking | None,
    calibration: Float64,
    block: Evaluate,
) -> dict[str, Interval | None]:
    """Of every figure but the share of false alarms, which has an exact one of its own."""
    scores, anomalous = scored.anomaly_scores.astype(np.float64), scored.anomalous
    counts, pixel_figures = resampling.draw(anomalous), _pixel_figures(block)
    names = ("image_auroc", *IMAGE_FIGURES, *pixel_figures, "aupimo")
    limits: dict[str, Interval | None] = dict.fromkeys(names)
    if image_ranks:
        limits["image_auroc"] = auroc_interval(scores, anomalous)
        limits |= resampling.image_intervals(scores, anomalous, image_ranks, counts, IMAGE_FIGURES)
    if pixel_ranks and scored.masks is not None:
        maps, masks = scored.anomaly_maps, scored.masks
        limits |= resampling.pixel_intervals(maps, masks, pixel_ranks, counts, pixel_figures)
    drawn = counts[:, anomalous]
    if scored.aupimo is not None:
        limits["aupimo"] = resampling.percentile_interval(drawn @ scored.aupimo / len(drawn[0]))
    limits["recall"] = resampling.recall_interval(
        scores[anomalous], drawn, calibration, block.alpha
    )
    return {
        name: pair and (round(pair[0], DECIMALS), round(pair[1], DECIMALS))
        for name, pair in limits.items()
    }


def _share(verdicts: Bool | None, among: Bool) -> float | None:
    if verdicts is None or not among.any():
        return None
    return float(np.mean(verdicts[among]))


def _false_alarms(scored: ScoredSet, verdicts: Bool | None) -> dict[str, float | None]:
    """The share of normal images above the threshold, and its exact interval."""
    counted = ~scored.anomalous if scored.drawn is None else ~scored.anomalous & scored.drawn
    rate, images = _share(verdicts, counted), int(np.count_nonzero(counted))
    low, high = None, None
    if rate is not None:
        low, high = exact_interval(round(rate * images), images)
    return {
        "false_alarm_rate": rate,
        "false_alarm_low": low,
        "false_alarm_high": high,
        "false_alarm_images": images,
    }


def _recall_by_defect_type(scored: ScoredSet, verdicts: Bool | None) -> dict[str, float | None]:
    types = np.array(scored.defect_types, dtype=object)
    return {
        name: round_figure(_share(verdicts, scored.anomalous & (types == name)))
        for name in sorted(set(types[scored.anomalous]))
    }


def _recall_by_defect_size(scored: ScoredSet, verdicts: Bool | None) -> dict[str, float | None]:
    """By the share of its image that a mask covers; empty where a mask is missing."""
    if scored.masks is None:
        return {}
    covered = scored.masks.mean(axis=(1, 2))
    sizes = np.digitize(covered, list(DEFECT_SIZES.values()), right=False)
    return {
        name: round_figure(_share(verdicts, scored.anomalous & (sizes == place)))
        for place, name in enumerate(DEFECT_SIZES)
    }


def _curve(names: tuple[str, str], points: metrics.Curve | None) -> pd.DataFrame:
    import pandas as pd

    x, y = metrics.thin(points or (np.empty(0), np.empty(0)), CURVE_POINTS)
    return pd.DataFrame({names[0]: x.round(DECIMALS), names[1]: y.round(DECIMALS)})


def _curves(
    images: metrics.Ranking | None, pixels: metrics.Ranking | None, limit: float
) -> dict[str, pd.DataFrame]:
    return {
        "roc": _curve(("fpr", "tpr"), metrics.roc_curve(images) if images else None),
        "pr": _curve(("recall", "precision"), metrics.pr_curve(images) if images else None),
        "pro": _curve(("fpr", "pro"), metrics.roc_curve(pixels, limit) if pixels else None),
    }


def _image_frame(scored: ScoredSet, p_values: Float64, verdicts: Bool | None) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        {
            "image_id": scored.image_ids,
            "label": np.where(scored.anomalous, "anomalous", "normal"),
            "defect_type": scored.defect_types,
            "refused": scored.refused,
            "anomaly_score": scored.anomaly_scores,
            "p_value": p_values,
            "is_anomalous": [None] * len(p_values) if verdicts is None else verdicts,
            "aupimo": aupimo.spread(scored.aupimo, scored.anomalous).round(DECIMALS),
        }
    )
