"""Does a night of a line look and score like its reference, and like the nights before?

Every statistic is judged alike. Against the reference: a rank test that is hardly ever wrong, and a
difference that matters. Against the past nights: whether the night's effect could be one of theirs.
Defects hardly change medians and ranks as long as most images are normal.

The limits are from `benchmarks/drift.py`, which simulates years of stable lines and plants faults
in real images. They are constants: with others, the benchmark's promise is void.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import special, stats

from admodels.foundation.arrays import Float64, Int64, Records
from admodels.images.describe import CELLS, PROFILE_BINS

PastNights = Sequence[tuple[float, float]]  # the median and the effect of each, in order
Alarm = Literal["", "calibration", "past nights"]

LEVEL = 1e-5  # of a night, a statistic and a test: at most 0.007 false alarms a year
EFFECT = 1.0  # robust standard deviations of the reference images, at least
NIGHTLY_SPREADS = 2.0  # more than that, of what past nights differ by among themselves, and
MOST_EFFECT = 2.0  # never more than this, or a line that gets worse would hide itself
PAST_EFFECT = 0.5  # the same, from the mean of the past nights
PAST_NIGHTS = (14, 60)  # at least, at most
REACH = PROFILE_BINS // 8  # how far a shift is looked for, to each side
NEIGHBOURS_SIGMA = 1.0  # cells
IQR_OF_NORMAL = 1.349
MEDIAN_VARIANCE = math.pi / 2  # of the median of n normal values, times n

# The smallest spread that a difference is measured in: what differs by less is nobody's concern.
# Ratios are logarithms; shifts are in stored pixels.
FLOORS = {
    "brightness": 0.05,
    "contrast": 0.05,
    "sharpness": 0.1,
    "noise": 0.1,
    "red": 0.02,
    "blue": 0.02,
    "shift_x": 2.0,
    "shift_y": 2.0,
    "spot": 0.05,
    "resolution": 0.05,
    "anomaly_score": 1e-6,
}
RECORDED_RATIOS = ("brightness", "contrast", "sharpness", "noise", "red", "blue")
RATIOS = (*RECORDED_RATIOS, "resolution")
SMALLEST_RATIO = 1e-3  # below it all are the same, so that 0 has a logarithm

TURNS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {  # of cells: what else may be seen
    "turned by 90 degrees to the left": np.rot90,
    "turned by 180 degrees": lambda cells: np.rot90(cells, 2),
    "turned by 90 degrees to the right": lambda cells: np.rot90(cells, 3),
    "mirrored, left for right": np.fliplr,
    "mirrored, top for bottom": np.flipud,
    "mirrored and turned by 90 degrees to the left": np.transpose,
    "mirrored and turned by 90 degrees to the right": lambda cells: np.rot90(cells.T, 2),
}
TURNED_NEARER = 0.6  # times the distance that remains without a turn, at most; dirt: above 0.9


@dataclass(frozen=True)
class Past:
    """How a night compares with `nights` trusted ones before it, and the median of theirs."""

    nights: int
    median: float
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """One statistic of a night: `night` and `reference` are medians in the statistic's own unit.

    `effect`: their difference in robust standard deviations of the reference, of logarithms where
    the statistic is a ratio; or what the ranks say, if that is less. `since`, `until`: where a
    part of the night differs, which `night` is then of; ISO 8601, UTC. Of a spot, whose unit is
    its effect: `place` (x, y) and `share` of the image, 0..1, and how the images are `turned`.
    """

    night: float
    reference: float
    effect: float
    p_value: float
    past: Past | None = None
    alarm: Alarm = ""
    since: str | None = None
    until: str | None = None
    place: tuple[float, float] | None = None
    share: float | None = None
    turned: str = ""


def values(records: Records, reference: Records) -> dict[str, Float64]:
    """(N, K) values of every statistic of (N,) appearances, such that differences have a meaning.

    K is 1, but for `spot` the number of cells: how a cell's detail compares with its neighbours'.
    """
    columns = {
        name: np.log(np.maximum(records[name].astype(float), SMALLEST_RATIO))[:, None]
        for name in RECORDED_RATIOS
    }
    width, height = (_pixels(records, name) for name in ("width", "height"))
    columns["resolution"] = np.log(width * height)[:, None] / 2
    for name, profile, length in (("shift_x", "columns", width), ("shift_y", "rows", height)):
        shift = shifts(records[profile].astype(float), reference[profile].astype(float).mean(0))
        columns[name] = (shift / PROFILE_BINS * length)[:, None]
    detail = records["detail"].astype(np.float32).reshape(-1, CELLS, CELLS)
    blurred = [cv2.GaussianBlur(cells, (0, 0), NEIGHBOURS_SIGMA) for cells in detail]
    columns["spot"] = (detail - np.array(blurred)).reshape(len(records), -1).astype(float)
    return columns


def _pixels(records: Records, side: str) -> Float64:
    """The length of a side; NaN where it is 0, which says that nobody measured it."""
    pixels = records[side].astype(float)
    return np.where(pixels > 0, pixels, np.nan)


def shifts(profiles: Float64, reference: Float64) -> Float64:
    """How many bins each of (N, B) profiles lies further on than (B,), to a fraction of one.

    The inner part of the reference slides along the profile; the best normalised correlation
    (Lewis 1995) and the parabola through its neighbours give the place.
    """
    inner = reference[REACH:-REACH] - reference[REACH:-REACH].mean()
    windows = sliding_window_view(profiles, len(inner), axis=1)
    windows = windows - windows.mean(axis=2, keepdims=True)
    match = windows @ inner / (np.linalg.norm(windows, axis=2) + 1e-9)
    best = match.argmax(axis=1)
    middle = np.clip(best, 1, 2 * REACH - 1)
    left, here, right = (match[np.arange(len(best)), middle + step] for step in (-1, 0, 1))
    bend = np.minimum(left - 2 * here + right, -1e-12)
    bins: Float64 = best - REACH + np.where(middle == best, (left - right) / (2 * bend), 0.0)
    return np.where(np.isnan(match).any(axis=1), np.nan, bins)  # argmax would take the first NaN


def judge(
    night: Mapping[str, Float64],
    reference: Mapping[str, Float64],
    past: Mapping[str, PastNights],
    mtimes: Int64,
) -> dict[str, Comparison]:
    """Each statistic of a night whose (N,) images were written at `mtimes` (ns) against both.

    NaN is a value that an image lacks. `past` is of the past trusted nights.
    A statistic of too few images is left out.
    """
    order = np.argsort(mtimes, kind="stable")
    comparisons = {}
    for name, ours in reference.items():
        theirs = night[name][order]
        has = ~np.isnan(theirs).any(axis=1)
        ours = ours[~np.isnan(ours).any(axis=1)]
        if can_tell(int(has.sum()), *ours.shape):
            before = past.get(name, ())
            comparisons[name] = _compare_in_order(
                name, theirs[has], ours, before, mtimes[order][has]
            )
    return comparisons


def can_tell(night: int, reference: int, columns: int) -> bool:
    """Whether the rank test of so many images reaches LEVEL, if the two groups do not overlap."""
    z_squared = 3 * night * reference / (night + reference + 1)
    return bool(z_squared >= special.ndtri(LEVEL / 2 / columns) ** 2)


def _compare_in_order(
    name: str,
    night: Float64,
    reference: Float64,
    past: PastNights,
    mtimes: Int64,
) -> Comparison:
    """Of (n, K) values in the order of time: the part that alone raises an alarm, or the whole."""
    whole, column = _compare(name, night, reference, past)
    change = change_point(night[:, column])
    halves = night[:change], night[change:]
    few = not all(can_tell(len(half), *reference.shape) for half in halves)
    if few or mtimes[change - 1] == mtimes[change]:
        return whole
    before, after = (_compare(name, half, reference, past)[0] for half in halves)
    if bool(before.alarm) == bool(after.alarm):
        return whole
    time = iso_time(int(mtimes[change]))
    return replace(after, since=time) if after.alarm else replace(before, until=time)


def iso_time(mtime_ns: int) -> str:
    """A time in ns since 1970 as ISO 8601, UTC, to the second."""
    return datetime.fromtimestamp(mtime_ns // 10**9, UTC).isoformat()


def _compare(
    name: str, night: Float64, reference: Float64, past: PastNights
) -> tuple[Comparison, int]:
    """Of (n, K) values, and the column with the largest change that is one."""
    ours, theirs = np.median(reference, axis=0), np.median(night, axis=0)
    low, high = np.percentile(reference, [25, 75], axis=0)
    spread = np.maximum((high - low) / IQR_OF_NORMAL, FLOORS[name])
    p_value, rank_effect = rank_test(night, reference)
    median_effect = (theirs - ours) / spread
    effect = np.sign(rank_effect) * np.minimum(np.abs(median_effect), np.abs(rank_effect))
    changed = (p_value <= LEVEL) & (np.abs(effect) >= EFFECT)
    column = int(np.argmax(np.where(changed, np.abs(effect), -p_value)))
    comparison = Comparison(
        night=float(theirs[column]),
        reference=float(ours[column]),
        effect=float(effect[column]),
        p_value=float(p_value[column]),
        alarm="calibration" if changed[column] else "",
    )
    if name == "spot":
        turned = turn(theirs, ours) if changed.any() else ""
        return _as_spot(comparison, column, float(changed.mean()), turned), column
    if name in RATIOS:
        night_median, median = math.exp(comparison.night), math.exp(comparison.reference)
        comparison = replace(comparison, night=night_median, reference=median)
    return _with_past(comparison, len(night), past), column


def _as_spot(comparison: Comparison, cell: int, share: float, turned: str) -> Comparison:
    """A spot; the largest of many effects has no normal past that it could be compared with."""
    row, column = divmod(cell, CELLS)
    place = ((column + 0.5) / CELLS, (row + 0.5) / CELLS)
    seen = replace(comparison, place=place, share=share, turned=turned)
    return replace(seen, night=abs(comparison.effect), reference=0.0)


def turn(night: Float64, reference: Float64) -> str:
    """How images are turned whose cells (K,) resemble the reference's only then; else empty."""
    square = reference.reshape(CELLS, CELLS)
    distances = {
        name: float(np.abs(night - turned(square).ravel()).mean()) for name, turned in TURNS.items()
    }
    nearest = min(distances, key=lambda name: distances[name])
    unturned = float(np.abs(night - reference).mean())
    return nearest if distances[nearest] < TURNED_NEARER * unturned else ""


def _with_past(comparison: Comparison, images: int, past: PastNights) -> Comparison:
    """The prediction interval of the next night's effect, that of few images being wider.

    A line whose trusted nights differ among themselves, by more than medians of so many images
    must, has to differ more from its reference.
    """
    least, most = PAST_NIGHTS
    past = past[-most:]
    count = len(past)
    if count < least:
        return comparison
    medians, effects = np.array(past).T
    difference = abs(comparison.effect - float(effects.mean()))
    nightly, sampling = float(effects.var(ddof=1)), MEDIAN_VARIANCE / images
    variance = nightly * (1 + 1 / count) + sampling
    p_value = 2 * float(special.stdtr(count - 1, -difference / math.sqrt(variance)))
    needed = EFFECT + NIGHTLY_SPREADS * math.sqrt(max(0.0, nightly - sampling))
    needed = min(needed, MOST_EFFECT)
    alarm: Alarm = comparison.alarm if abs(comparison.effect) >= needed else ""
    if not alarm and p_value <= LEVEL and difference >= PAST_EFFECT:
        alarm = "past nights"
    return replace(comparison, past=Past(count, float(np.median(medians)), p_value), alarm=alarm)


def rank_test(night: Float64, reference: Float64) -> tuple[Float64, Float64]:
    """(K,) two-sided p-values of (n, K) against (m, K), and effects.

    Mann and Whitney 1947, in the normal approximation with ties; Bonferroni over the columns. An
    effect is the difference of two normal means, in standard deviations, at which a value of the
    night would be the larger one as often as it is.
    """
    test = stats.mannwhitneyu(night, reference, axis=0, method="asymptotic")
    share_larger = test.statistic / (len(night) * len(reference))
    p_values = np.minimum(1.0, test.pvalue * night.shape[1])
    return p_values, math.sqrt(2) * special.ndtri(share_larger)


def change_point(values: Float64) -> int:
    """The index at which (n,) values become others, or 0 where p > LEVEL: Pettitt 1979."""
    n = len(values)
    sums = np.abs(2 * np.cumsum(stats.rankdata(values)) - np.arange(1, n + 1) * (n + 1))
    last = int(sums.argmax())  # of the first group
    p_value = 2 * math.exp(-6 * float(sums[last]) ** 2 / (n**3 + n**2))
    return last + 1 if p_value <= LEVEL else 0
