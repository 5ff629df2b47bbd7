"""Drift: each test against its formula, planted changes, nights of a stable line, and words."""

from datetime import UTC
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy import stats

from admodels.foundation.arrays import Float64, Records, UInt8
from admodels.images.describe import (
    APPEARANCE,
    CELLS,
    PROFILE_BINS,
    read_records,
    write_records,
)
from admodels.nights.drift import statistics
from admodels.nights.drift.hints import hint
from admodels.nights.drift.statistics import (
    EFFECT,
    LEVEL,
    Comparison,
    Past,
    can_tell,
    judge,
    shifts,
    values,
)
from tests import cards

SECOND = 10**9


def night(values: Float64, reference: Float64, past: tuple[float, ...] = ()) -> Comparison:
    """One statistic, linear and with a floor that does not count, of images in their order."""
    times = np.arange(len(values)) * SECOND
    given = {"anomaly_score": values[:, None]}, {"anomaly_score": reference[:, None]}
    return judge(*given, {"anomaly_score": [(e, e) for e in past]}, times)["anomaly_score"]


def test_a_comparison_is_a_rank_test_and_a_robust_effect() -> None:
    rng = np.random.default_rng(3)
    ours, theirs = rng.normal(5, 2, 60), rng.normal(9, 2, 40)
    compared = night(theirs, ours)
    spread = np.subtract(*np.percentile(ours, [75, 25])) / 1.349
    ranks = stats.mannwhitneyu(theirs, ours).statistic / len(theirs) / len(ours)
    median_effect = (np.median(theirs) - np.median(ours)) / spread
    assert compared.effect == pytest.approx(min(median_effect, 2**0.5 * stats.norm.ppf(ranks)))
    assert compared.p_value == pytest.approx(stats.mannwhitneyu(theirs, ours).pvalue)
    assert (compared.alarm, compared.night) == ("calibration", np.median(theirs))


def mann_whitney(first: Float64, second: Float64) -> tuple[float, float]:
    """The share of pairs of which `first` has the larger, and the normal p-value with ties."""
    n, m = len(first), len(second)
    larger = (first[:, None] > second).sum() + (first[:, None] == second).sum() / 2
    ties = np.unique(np.append(first, second), return_counts=True)[1]
    variance = n * m / 12 * (n + m + 1 - (ties**3 - ties).sum() / (n + m) / (n + m - 1))
    z = (abs(larger - n * m / 2) - 0.5) / variance**0.5
    return larger / n / m, min(1.0, 2 * stats.norm.sf(z))


def test_a_rank_test_of_tied_columns_counts_pairs_and_corrects_for_the_columns() -> None:
    rng = np.random.default_rng(12)
    theirs, ours = rng.integers(0, 6, (12, 30)), rng.integers(0, 5, (20, 30))
    columns = zip(theirs.T, ours.T, strict=True)
    shares, expected = np.array([mann_whitney(*pair) for pair in columns]).T
    p_values, effects = statistics.rank_test(theirs, ours)
    assert effects == pytest.approx(2**0.5 * stats.norm.ppf(shares))
    assert p_values == pytest.approx(np.minimum(1, 30 * expected), rel=1e-9)
    assert p_values.min() < 1 == p_values.max()
    assert statistics.rank_test(theirs[:, :1], ours[:, :1])[0] == pytest.approx(expected[:1])


def test_equal_values_have_no_rank_and_separate_ones_an_infinite_effect() -> None:
    p_values, effects = statistics.rank_test(np.full((30, 1), 3.0), np.full((40, 1), 3.0))
    assert (p_values[0], effects[0]) == (1, 0)
    p_values, effects = statistics.rank_test(np.full((30, 1), 3.0), np.full((40, 1), 4.0))
    assert (p_values[0] < LEVEL, effects[0]) == (True, -np.inf)


def test_what_is_certain_but_small_or_large_but_uncertain_raises_nothing() -> None:
    rng = np.random.default_rng(4)
    ours = rng.normal(size=2000)
    small = night(rng.normal(0.5, 1, 2000), ours)
    assert (small.p_value < LEVEL, small.effect < EFFECT, small.alarm) == (True, True, "")
    unsure = night(rng.normal(1.3, 1, 8), ours)
    assert (unsure.p_value > LEVEL, unsure.effect > EFFECT, unsure.alarm) == (True, True, "")


@pytest.mark.parametrize(("images", "reference"), [(10, 9), (10, 12), (6, 500), (5, 5000), (40, 6)])
def test_too_few_are_those_that_no_difference_could_tell(images: int, reference: int) -> None:
    apart = stats.mannwhitneyu(
        np.arange(images) + 1e6, np.arange(reference), method="asymptotic", use_continuity=False
    )
    assert can_tell(images, reference, 1) == (apart.pvalue <= LEVEL)
    assert can_tell(images, reference, 50) == (apart.pvalue * 50 <= LEVEL)


def test_constant_values_are_no_drift_and_missing_ones_do_not_count() -> None:
    assert night(np.full(50, 3.0), np.full(50, 3.0)).alarm == ""
    rng = np.random.default_rng(5)
    theirs = np.append(rng.normal(9, 1, 40), [np.nan] * 200)
    assert night(theirs, rng.normal(size=60)).alarm == "calibration"


def test_the_past_is_a_prediction_interval_of_medians() -> None:
    rng = np.random.default_rng(6)
    ours, past = rng.normal(size=100), tuple(rng.normal(0, 0.05, 30))
    theirs = rng.normal(0.75, 1, 400)
    compared = night(theirs, ours, past)
    spread = np.subtract(*np.percentile(ours, [75, 25])) / 1.349
    variance = np.var(past, ddof=1) * (1 + 1 / 30) + np.pi / 2 / 400
    t = (compared.effect - np.mean(past)) / variance**0.5
    assert compared.effect <= (np.median(theirs) - np.median(ours)) / spread
    assert compared.past == Past(
        30, pytest.approx(np.median(past)), pytest.approx(2 * stats.t.sf(t, 29))
    )
    assert compared.alarm == "past nights"
    assert night(theirs, ours, past[:13]).past is None  # too few nights
    few = night(np.sort(theirs)[195:205], ours, past).past  # whose median says less
    assert few is not None
    assert few.p_value > 100 * LEVEL > compared.past.p_value


def test_a_line_whose_nights_differ_must_differ_more_from_its_reference() -> None:
    rng = np.random.default_rng(11)
    ours, theirs = rng.normal(size=100), rng.normal(1.2, 1, 400)
    steady, unsteady = (tuple(spread * rng.normal(size=30)) for spread in (0.02, 0.35))
    assert EFFECT < night(theirs, ours).effect < EFFECT + 2 * np.std(unsteady, ddof=1)
    assert night(theirs, ours, steady).alarm == "calibration"
    assert night(theirs, ours, unsteady).alarm == ""
    assert night(theirs + 1, ours, unsteady).alarm == "calibration"
    wild = tuple(rng.normal(0, 3, 30))
    assert night(theirs + 0.6, ours, wild).alarm == ""
    assert night(theirs + 1, ours, wild).alarm == "calibration"  # whatever the past was like
    few = np.sort(theirs)[190:210]  # medians of 20 differ by as much as `unsteady` anyway
    assert night(few, ours, unsteady).alarm == "calibration"


def test_a_change_in_the_night_is_dated_and_judged_by_its_part() -> None:
    rng = np.random.default_rng(7)
    ours, usual, other = rng.normal(size=100), rng.normal(size=150), rng.normal(3, 1, 50)
    late = night(np.append(usual, other), ours)
    assert late.since is not None
    start = late.since[:19]
    assert abs(np.datetime64(start) - np.datetime64("1970-01-01T00:02:30")).astype(int) <= 5
    assert late.night == pytest.approx(3, abs=0.5)
    early = night(np.append(other, usual), ours)
    assert (early.since, early.until is None, early.alarm) == (None, False, "calibration")
    whole = night(np.append(other, other + 2), ours)  # drifted all night, more and more
    assert (whole.since, whole.until, whole.alarm) == (None, None, "calibration")


def pettitt(values: Float64) -> int:
    """Pettitt 1979 from its definition: the sum of the signs of all differences across a split."""
    n = len(values)
    signs = np.sign(values[:, None] - values[None, :])
    sums = [abs(signs[split:, :split].sum()) for split in range(1, n)]
    p_value = 2 * np.exp(-6 * max(sums) ** 2 / (n**3 + n**2))
    return 1 + sums.index(max(sums)) if p_value <= LEVEL else 0


@pytest.mark.parametrize("step", [0, 1, 2, 6])
@pytest.mark.parametrize("seed", range(5))
def test_a_change_point_is_that_of_pettitt_s_definition(step: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=80) + step * (np.arange(80) >= 50)
    assert statistics.change_point(normal) == pettitt(normal)
    tied = rng.integers(0, 4, 80) - step * (np.arange(80) >= 20)
    assert statistics.change_point(tied) == pettitt(tied)
    if step in (0, 6):
        assert bool(pettitt(normal)) == bool(pettitt(tied)) == bool(step)


@pytest.mark.parametrize("bins", [-5.0, 0.3, 2.0, 2.5])
def test_a_shift_is_found_to_a_tenth_of_a_bin(bins: float) -> None:
    at = np.arange(PROFILE_BINS, dtype=float)

    def profile(shift: float) -> Float64:
        return np.exp(-(((at - 20 - shift) / 6) ** 2)) + np.exp(-(((at - 45 - shift) / 4) ** 2))

    lit = 90 * profile(bins) + 30  # another light is no shift
    assert shifts(np.stack([lit, lit]), profile(0.0)) == pytest.approx(bins, abs=0.1)
    assert shifts(np.full((1, PROFILE_BINS), 7.0), profile(0.0))[0] == pytest.approx(-8)


def look(count: int, seed: int) -> Records:
    """Appearances of varied noise, 64 x 64."""
    rng = np.random.default_rng(seed)
    level = rng.uniform(90, 110, (count, 1, 1, 1))
    return (level + rng.normal(0, 10, (count, 64, 64, 1))).repeat(3, axis=3).astype(np.uint8)


def judge_images(pixels: UInt8) -> dict[str, Comparison]:
    reference = cards.appearances(look(60, seed=1))
    night = values(cards.appearances(pixels), reference)
    return judge(night, values(reference, reference), {}, np.arange(len(pixels)))


def test_a_veil_at_one_place_is_a_spot_there_and_defects_anywhere_are_not() -> None:
    rng = np.random.default_rng(2)
    pixels = look(60, seed=2)
    assert [name for name, each in judge_images(pixels).items() if each.alarm] == []
    for image in pixels[:20]:  # a third of the night is defective
        y, x = rng.integers(0, 48, 2)
        image[y : y + 16, x : x + 16] = 230
    assert not judge_images(pixels)["spot"].alarm
    veiled = look(60, seed=3)
    veiled[:, 16:24, 40:48] = veiled[:, 16:24, 40:48] // 4 + 75
    compared = judge_images(veiled)
    assert [name for name, each in compared.items() if each.alarm] == ["spot"]
    assert compared["spot"].place == pytest.approx((44 / 64, 20 / 64), abs=1 / CELLS)
    assert compared["spot"].turned == ""
    assert hint(compared, None, UTC).endswith("dirt on the lens, or something new there.")


def test_every_statistic_has_values_a_floor_and_words() -> None:
    reference = cards.appearances(look(3, seed=1))
    named = set(values(reference, reference)) | {"anomaly_score"}
    assert named == set(statistics.FLOORS)
    for name in named:
        compared = Comparison(2.0, 1.0, 9.0, 0.0, alarm="calibration", place=(0, 0), share=0.5)
        assert hint({name: compared}, None, UTC), name
    assert set(statistics.RECORDED_RATIOS) < set(APPEARANCE.names)


@pytest.mark.parametrize("name", APPEARANCE.names[1:])
def test_what_an_older_version_did_not_measure_is_compared_with_nothing(
    name: str, tmp_path: Path
) -> None:
    """As a tenth statistic is to every line of an older ledger: unknown, and not 0."""
    new = cards.appearances(look(60, seed=1))
    write_records(tmp_path / "new.safetensors", new)
    columns = load_file(tmp_path / "new.safetensors")
    save_file({n: v for n, v in columns.items() if n != name}, tmp_path / "old.safetensors")
    old = read_records(tmp_path / "old.safetensors")
    for night, reference in ((new, old), (old, new), (old, old)):
        ours, theirs = values(reference, reference), values(night, reference)
        compared = judge(theirs, ours, {}, np.arange(60))
        assert not any(each.alarm for each in compared.values())
        assert len(compared) < len(statistics.FLOORS) - 1  # without scores, and without one more


@pytest.mark.slow
def test_a_stable_line_raises_no_alarm_in_two_years() -> None:
    """At this level 0.015 could be expected; the benchmark simulates more."""
    rng = np.random.default_rng(11)
    ours, past, alarms = rng.normal(size=80), [], 0
    for at in range(2 * 365):
        count = (10, 100)[at % 2]
        theirs = rng.normal(0.1 * rng.normal(), 1, count)
        theirs[: rng.binomial(count, 0.1)] += 6  # defects
        compared = night(rng.permutation(theirs), ours, tuple(past))
        alarms += bool(compared.alarm)
        past.append(compared.effect)
    assert alarms == 0
