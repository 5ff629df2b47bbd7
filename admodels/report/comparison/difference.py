"""One cell beside another: figures on the images that both scored, and what changed sides."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from admodels.evaluation import metrics, paired, resampling
from admodels.evaluation.maps import CodedMaps
from admodels.evaluation.paired import Exchanged, Pair
from admodels.evaluation.resampling import Figures, Interval
from admodels.foundation.arrays import Bool, Float64, Indices, Int64
from admodels.foundation.errors import DataError
from admodels.foundation.manifest import ManifestRow
from admodels.report.comparison.sides import Cell

IMAGES: Figures = {
    "image AP": metrics.average_precision,
    "recall at 5% alarms": partial(metrics.recall_at, rate=0.05),
}
PIXELS: Figures = {
    "AUPRO to 30%": partial(metrics.aupro, limit=0.3),
    "AUPRO to 5%": partial(metrics.aupro, limit=0.05),
}
LABELS = {"anomalous": True, "normal": False}


@dataclass(frozen=True)
class Line:
    """A figure before and after, and the 95 % interval of the difference where there is one."""

    title: str
    before: float | None
    after: float | None
    interval: Interval | None


@dataclass(frozen=True)
class Change:
    """An image whose verdict changed; `flagged` after, and not before, or the other way."""

    row: ManifestRow
    flagged: bool
    before: int
    after: int


@dataclass(frozen=True)
class Sides:
    """Of the images of one label, how many verdicts became wrong and right, and McNemar's p."""

    images: int
    lost: int
    won: int
    p_value: float


@dataclass(frozen=True)
class Difference:
    """Two cells on the images that both have; `left_out` images are of one alone.

    `exchanged` is None where one label is missing, `sides` is empty where a threshold is.
    """

    before: Cell
    after: Cell
    normal: int
    anomalous: int
    left_out: int
    lines: list[Line]
    exchanged: Exchanged | None
    changes: list[Change]
    sides: Mapping[str, Sides]


def difference(before: Cell, after: Cell) -> Difference:
    """Compare two cells on the images whose bytes are the same.

    Raises:
        DataError: they have no image in common.
    """
    early, late = _common(before, after)
    rows = [after.rows[place] for place in late]
    anomalous = np.array([row.label == "anomalous" for row in rows])
    units = _units(rows)
    pair = Pair(before.scores[early], after.scores[late], anomalous, units)
    counts = resampling.draw(anomalous, units=units)
    changes = _changes(before, after, early, late)
    return Difference(
        before,
        after,
        normal=int((~anomalous).sum()),
        anomalous=int(anomalous.sum()),
        left_out=len(before.rows) + len(after.rows) - 2 * len(rows),
        lines=[
            *_image_lines(pair, counts),
            *_pixel_lines(before.maps, after.maps, early, late, counts),
            *_mean_lines(before, after, early, late, counts),
        ],
        exchanged=paired.exchange(pair) if anomalous.any() and not anomalous.all() else None,
        changes=changes,
        sides=_sides(changes, rows) if before.verdicts is not None is not after.verdicts else {},
    )


def _common(before: Cell, after: Cell) -> tuple[Indices, Indices]:
    """The places of the images that both have, in the order of `after`."""
    places = {row.image_sha256: place for place, row in enumerate(before.rows)}
    late = [place for place, row in enumerate(after.rows) if row.image_sha256 in places]
    if not late:
        raise DataError(
            f"{before.name} and {after.name} have no test image of {after.task} in common",
            where=f"data/manifests/{after.task}/test.csv of both",
            expected="images with the same bytes",
            next_step="compare revisions with the same source, seed and split",
        )
    early = [places[after.rows[place].image_sha256] for place in late]
    return np.array(early), np.array(late)


def _units(rows: list[ManifestRow]) -> Int64:
    names = [row.group or f"\0{row.image_sha256}" for row in rows]
    return np.asarray(np.unique(names, return_inverse=True)[1], np.int64)


def _image_lines(pair: Pair, counts: Float64) -> list[Line]:
    ranks = [metrics.ranking(scores, pair.anomalous) for scores in (pair.before, pair.after)]
    grouped = len(np.unique(pair.units)) < len(pair.units)
    figures: Figures = {"image AUROC": metrics.auroc, **IMAGES}
    limits = paired.image_differences(pair, counts, figures) if ranks[0] else {}
    if ranks[0] and not grouped:
        limits["image AUROC"] = paired.delong_interval(pair)
    return [
        Line(title, figure(ranks[0]), figure(ranks[1]), limits.get(title))
        for title, figure in figures.items()
    ]


def _pixel_lines(
    before: CodedMaps | None,
    after: CodedMaps | None,
    early: Indices,
    late: Indices,
    counts: Float64,
) -> list[Line]:
    """Figures of the pixels, where both have maps of one shape and every defect has a mask."""
    nothing = [Line(title, None, None, None) for title in PIXELS]
    if before is None or after is None or after.masks is None:
        return nothing
    masks = after.masks[late]
    if before.codes.shape[1:] != after.codes.shape[1:] or not masks.any():
        return nothing
    weights, once = metrics.region_weights(masks), np.ones(len(masks))
    drawn = []
    for coded, chosen in ((before, early), (after, late)):
        maps = np.asarray(coded.levels[coded.codes[chosen]], np.float32)
        ranks = metrics.ranking(maps, masks, weights)
        if ranks is None:
            return nothing
        every = np.vstack([once, counts])
        drawn.append(resampling.pixel_rankings(maps, masks, weights, ranks, every))
    lines = []
    for title, figure in PIXELS.items():
        values = np.array([[figure(ranks) for ranks in side] for side in drawn], np.float64)
        limits = resampling.percentile_interval(values[1, 1:] - values[0, 1:])
        lines.append(Line(title, float(values[0, 0]), float(values[1, 0]), limits))
    return lines


def _mean_lines(
    before: Cell, after: Cell, early: Indices, late: Indices, counts: Float64
) -> list[Line]:
    """AUPIMO, and the verdicts at the budget, which are means over images."""
    rows = [after.rows[place] for place in late]
    anomalous = np.array([row.label == "anomalous" for row in rows])
    lines = [_mean_line("AUPIMO", before.aupimo[early], after.aupimo[late], anomalous, counts)]
    for title, among in (("recall at the budget", anomalous), ("false alarms", ~anomalous)):
        if before.verdicts is None or after.verdicts is None:
            lines.append(Line(title, None, None, None))
            continue
        flags = [v.astype(np.float64) for v in (before.verdicts[early], after.verdicts[late])]
        lines.append(_mean_line(title, flags[0], flags[1], among, counts))
    return lines


def _mean_line(title: str, before: Float64, after: Float64, among: Bool, counts: Float64) -> Line:
    values = before[among], after[among]
    if not among.any() or not np.isfinite(values).all():
        return Line(title, None, None, None)
    limits = paired.mean_difference(*values, counts[:, among])
    return Line(title, float(values[0].mean()), float(values[1].mean()), limits)


def _changes(before: Cell, after: Cell, early: Indices, late: Indices) -> list[Change]:
    if before.verdicts is None or after.verdicts is None:
        return []
    return [
        Change(after.rows[second], bool(after.verdicts[second]), int(first), int(second))
        for first, second in zip(early, late, strict=True)
        if before.verdicts[first] != after.verdicts[second]
    ]


def _sides(changes: list[Change], rows: list[ManifestRow]) -> dict[str, Sides]:
    sides = {}
    for label, is_anomalous in LABELS.items():
        own = [change for change in changes if change.row.label == label]
        won = sum(change.flagged is is_anomalous for change in own)
        lost = len(own) - won
        images = sum(row.label == label for row in rows)
        sides[label] = Sides(images, lost, won, paired.mcnemar(lost, won))
    return sides
