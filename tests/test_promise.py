"""What a promise was worth: intervals, the range of one calibration, the figures of an audit."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from admodels.evaluation.intervals import exact_interval, upper_bound
from admodels.inference.conformal import images_within, realised_range
from admodels.nights.promise import (
    AuditImage,
    AuditNight,
    Basis,
    Figures,
    Share,
    Tally,
    figures,
    fine_of_audit,
)
from benchmarks import promise as simulation

BASIS = Basis(
    model_fingerprint="m",
    contract_fingerprint="c",
    calibration="a" * 64,
    calibration_images=42,
    alpha=0.05,
)
OTHER = BASIS.model_copy(update={"alpha": 0.1})


def image(name: str, *, flagged: bool | None = False, basis: Basis = BASIS, own=False):
    return AuditImage(
        image_sha256=name, path=name, basis=basis, is_anomalous=flagged, is_calibrated_with=own
    )


def night(name: str, *drawn: AuditImage, images: int = 100) -> AuditNight:
    return AuditNight(name, images, drawn)


@pytest.mark.parametrize(("count", "of"), [(0, 0), (0, 9), (1, 9), (9, 9), (13, 200), (0, 7300)])
def test_the_interval_is_that_of_clopper_and_pearson(count: int, of: int) -> None:
    if of == 0:
        assert exact_interval(0, 0) == (0, 1)
        return
    expected = stats.binomtest(count, of).proportion_ci(0.95, "exact")
    assert exact_interval(count, of) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_no_missed_defect_in_7300_parts_is_at_most_0_41_in_a_thousand() -> None:
    """Without one in n parts the bound solves (1 - p)^n = 5 %."""
    assert 1000 * upper_bound(0, 7300) == pytest.approx(1000 * (1 - 0.05 ** (1 / 7300)))
    assert round(1000 * upper_bound(0, 7300), 2) == 0.41


def test_the_rate_of_one_calibration_lies_in_its_range_in_95_of_100_calibrations() -> None:
    low, high = realised_range(42, 0.05)
    assert (round(100 * low, 1), round(100 * high, 1)) == (0.6, 12.6)
    drawn = np.sort(np.random.default_rng(0).random((20_000, 42)), axis=1)
    rates = 1 - drawn[:, 42 - 2]  # of uniform scores, above the second largest of 42
    assert np.mean((low <= rates) & (rates <= high)) == pytest.approx(0.95, abs=0.006)


def test_there_is_no_range_for_a_budget_that_the_calibration_cannot_hold() -> None:
    assert realised_range(18, 0.05) is None
    assert realised_range(19, 0.05) is not None


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1, 0.3])
def test_from_so_many_images_on_the_rate_stays_within_a_factor_of_two(alpha: float) -> None:
    needed = images_within(alpha, 2)
    ranges = [realised_range(n, alpha) for n in range(needed, needed + round(20 / alpha))]
    assert all(alpha / 2 <= low and high <= 2 * alpha for low, high in ranges)
    low, high = realised_range(needed - 1, alpha)
    assert low < alpha / 2 or high > 2 * alpha


def test_unsure_images_move_each_end_of_an_interval_outwards() -> None:
    """As far as any of the answers that a sure person could have given, and no further."""
    tally = Tally(2, 30, 3, 1, 2, 3)
    alarms, missed, precision = [], [], []
    for flagged, passed in itertools.product(range(3), range(4)):
        sure = Tally(2 + flagged, 30 + passed, 3 + 2 - flagged, 1 + 3 - passed)
        alarms.append(sure.false_alarms)
        missed.append(sure.misses)
        precision.append(sure.precision)
    for share, of_sure in (
        (tally.false_alarms, alarms),
        (tally.misses, missed),
        (tally.precision, precision),
    ):
        assert share.low == pytest.approx(min(s.low for s in of_sure))
        assert share.high == pytest.approx(max(s.high for s in of_sure))
    assert (tally.false_alarms.count, tally.false_alarms.of) == (2, 32)
    assert (tally.misses.count, tally.misses.of) == (1, 41)


def test_the_share_of_missed_defects_is_given_from_twenty_defects_on() -> None:
    assert Tally(defect_flagged=18, defect_passed=1).misses_of_defects is None
    share = Tally(defect_flagged=18, defect_passed=2).misses_of_defects
    assert share == Share(2, 20, *exact_interval(2, 20))
    unsure = Tally(defect_flagged=18, defect_passed=2, unsure_passed=1, unsure_flagged=1)
    assert unsure.misses_of_defects.low == exact_interval(2, 21)[0]
    assert unsure.misses_of_defects.high == exact_interval(3, 21)[1]


def test_a_night_counts_only_when_its_whole_set_is_marked() -> None:
    nights = [night(f"2026-01-0{n}", image(f"a{n}", flagged=True), image(f"b{n}")) for n in (1, 2)]
    half = {"2026-01-01": {"a1": "fine", "b1": "fine"}, "2026-01-02": {"a2": "fine"}}
    (of_half,) = figures("press", [*nights, night("2026-01-03", image("c"))], half)
    assert (of_half.nights, of_half.begun, of_half.unmarked) == (1, 1, 1)
    assert of_half.audit == Tally(fine_flagged=1, fine_passed=1)
    whole = half | {"2026-01-02": {"a2": "fine", "b2": "defect"}}
    (of_whole,) = figures("press", nights, whole)
    assert of_whole.audit == Tally(fine_flagged=2, fine_passed=1, defect_passed=1)


def test_a_mark_of_one_night_does_not_count_in_another() -> None:
    (of_line,) = figures("press", [night("2026-01-01", image("a"))], {"2026-01-02": {"a": "fine"}})
    assert of_line == Figures("press", BASIS, unmarked=1)


def test_an_image_never_counts_in_the_figures_of_a_calibration_that_holds_it() -> None:
    drawn = night("2026-01-01", image("a", own=True), image("b"), image("c", flagged=None))
    (of_line,) = figures("press", [drawn], {"2026-01-01": dict.fromkeys("abc", "fine")})
    assert of_line.audit == Tally(fine_passed=1)


def test_figures_are_kept_apart_by_what_the_verdicts_rest_on() -> None:
    nights = [
        night("2026-01-01", image("a"), image("b", basis=OTHER), images=200),
        night("2026-01-02", image("c", basis=OTHER, flagged=True), images=20_000),
    ]
    marks = {"2026-01-01": {"a": "fine", "b": "fine"}, "2026-01-02": {"c": "fine"}}
    first, second = figures("press", nights, marks, [(OTHER, "defect")])
    assert (first.basis, first.audit, first.sizes) == (BASIS, Tally(fine_passed=1), (200, 200))
    assert second.audit == Tally(fine_passed=1, fine_flagged=1)
    assert second.sizes == (200, 20_000)
    assert (first.alarms, second.alarms) == (Tally(), Tally(defect_flagged=1))


def test_marks_on_alarms_change_nothing_but_the_precision() -> None:
    drawn = [night("2026-01-01", image("a"))]
    marks = {"2026-01-01": {"a": "fine"}}
    (without,) = figures("press", drawn, marks)
    (of_line,) = figures("press", drawn, marks, [(BASIS, "fine"), (BASIS, "defect")] * 50)
    assert (of_line.audit, of_line.is_broken) == (without.audit, False)
    assert of_line.alarms.precision.value == 0.5


@pytest.mark.parametrize(("false", "is_broken"), [(23, False), (24, True)])
def test_a_promise_is_broken_where_the_audit_lies_above_the_range(false, is_broken) -> None:
    """42 images at 5 %: up to 12.6 % are explained; of 120, 24 are 20 % and at least 13.3 %."""
    of_line = Figures("press", BASIS, Tally(fine_flagged=false, fine_passed=120 - false))
    lowest = stats.binomtest(false, 120).proportion_ci(0.95, "exact").low
    assert (lowest > stats.beta.ppf(0.975, 2, 41)) == is_broken
    assert of_line.is_broken == is_broken


def test_nothing_is_broken_where_nothing_can_be_promised() -> None:
    basis = BASIS.model_copy(update={"calibration_images": 10})
    assert not Figures("press", basis, Tally(fine_flagged=100)).is_broken


def test_a_calibration_takes_the_fine_images_of_complete_nights_or_none() -> None:
    nights = [night("2026-01-01", *map(image, "abc")), night("2026-01-02", *map(image, "de"))]
    marks = {"2026-01-01": {"a": "fine", "b": "defect", "c": "unsure"}}
    assert fine_of_audit(nights, marks) == (["a"], [])
    marks["2026-01-02"] = {"e": "fine"}
    assert fine_of_audit(nights, marks) == ([], ["2026-01-02"])
    marks["2026-01-02"]["d"] = "fine"
    assert fine_of_audit(nights, marks) == (["a", "d", "e"], [])


@pytest.mark.slow
def test_in_the_simulated_loop_the_old_rule_breaks_the_budget_and_the_new_one_holds_it() -> None:
    limits = [simulation.last_limits(repeat) for repeat in range(40)]
    rates = {
        key: [math.erfc(limit[key] / math.sqrt(2)) / 2 for limit in limits] for key in limits[0]
    }

    def lowest(operator: str, rule: str) -> float:
        values = rates[operator, rule]
        return float(np.mean(values) - 2 * np.std(values) / len(values) ** 0.5)

    operators = [operator.__name__ for operator in simulation.OPERATORS]
    assert all(lowest(operator, "new") <= 0.05 for operator in operators)
    assert lowest("marks_the_ordinary", "old") > 0.1
    assert lowest("stops_early", "whole") > 0.05
