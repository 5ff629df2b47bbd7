"""Gates: the figures that a bundle must have before it may count, and the table of them.

`admodels promote` checks the block `gates` of params.yaml, `admodels deploy` that of plant.yaml. A
gate that is not set is not checked; a bundle of which nothing is known passes none that is set.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from admodels.foundation.errors import BundleError
from admodels.foundation.params import Strict

if TYPE_CHECKING:
    from admodels.evaluation.resampling import Interval
    from admodels.foundation.arrays import Bool, Float64
    from admodels.tracking.evidence import Evidence, TestImage

UNKNOWN = "not measured"


class Gates(Strict):
    """What a bundle must show on its test images; by the end of an interval where one is named."""

    image_auroc: float | None = Field(default=None, gt=0, lt=1)  # least, lower end
    recall: float | None = Field(default=None, gt=0, lt=1)  # least, lower end, at the budget
    false_alarm_rate: float | None = Field(default=None, ge=0, lt=1)  # most, as counted
    image_cpu_seconds: float | None = Field(default=None, gt=0)  # most, CPU seconds an image
    margin: float | None = Field(default=None, gt=0, lt=1)  # of image AUROC below the champion


@dataclass(frozen=True)
class Check:
    """A gate: what it is of, what it wants, what was measured, and whether that passes."""

    name: str
    wanted: str
    measured: str
    passes: bool

    def __str__(self) -> str:
        """A row of the table."""
        verdict = "passes" if self.passes else "FAILS"
        return f"{self.name:26} {self.wanted:>9}  {self.measured:28} {verdict}"


@dataclass(frozen=True)
class Candidate:
    """A bundle to be judged: what is known of it, and what its verdicts rest on."""

    evidence: "Evidence | None"
    calibration_scores: "Float64"
    alpha: float


@dataclass(frozen=True)
class Champion:
    """The bundle that counts now: what is known of it, and whether the candidate is the same."""

    evidence: "Evidence | None"
    is_candidate: bool


def checks(gates: Gates, candidate: Candidate, champion: Champion | None) -> list[Check]:
    """Every gate that is set, checked."""
    own = candidate.evidence
    rows = [] if own is None else list(own.images)
    limits = [
        _least("image AUROC", gates.image_auroc, _auroc(rows)),
        _least(f"recall at alpha {candidate.alpha:g}", gates.recall, _recall(rows, candidate)),
        _most("false alarms", gates.false_alarm_rate, _false_alarms(rows, candidate)),
        _most("CPU seconds an image", gates.image_cpu_seconds, _cost(own)),
        _not_inferior(gates.margin, own, champion),
    ]
    return [check for check in limits if check]


def enforce(table: Sequence[Check], where: object, *, force: bool) -> list[str]:
    """The gates that fail, as text, where `force` lets them.

    Raises:
        BundleError: a gate fails, and nobody says that this is meant.
    """
    failing = [check for check in table if not check.passes]
    if failing and not force:
        rows = "\n  ".join(str(check) for check in table)
        raise BundleError(
            f"{len(failing)} of {len(table)} gates fail\n  {rows}",
            where=where,
            expected="a bundle that passes every gate on its test images",
            next_step="take a better bundle, or `--force --why TEXT`, which is kept; what is not "
            "measured is measured by `dvc repro evaluate`, and goes with `admodels bundle export`",
        )
    return [" ".join(str(check).split()) for check in failing]


Value = tuple[float, "Interval | None"]


def _text(value: float, limits: "Interval | None", sign: str = "") -> str:
    figure = f"{value:{sign}.3f}"
    return f"{figure} ({limits[0]:{sign}.3f} to {limits[1]:{sign}.3f})" if limits else figure


def _least(name: str, bound: float | None, value: Value | None) -> Check | None:
    """A figure without an interval passes no gate that is of its lower end."""
    if bound is None:
        return None
    wanted = f">= {bound:g}"
    if value is None:
        return Check(name, wanted, UNKNOWN, passes=False)
    limits = value[1]
    return Check(name, wanted, _text(*value), bool(limits and limits[0] >= bound))


def _most(name: str, bound: float | None, value: Value | None) -> Check | None:
    if bound is None:
        return None
    wanted = f"<= {bound:g}"
    if value is None:
        return Check(name, wanted, UNKNOWN, passes=False)
    return Check(name, wanted, _text(*value), value[0] <= bound)


def _not_inferior(
    margin: float | None, own: "Evidence | None", champion: Champion | None
) -> Check | None:
    """Whether the lower end of the interval of the difference to the champion is above -margin."""
    if margin is None or champion is None:
        return None
    name, wanted = "image AUROC - champion's", f"> -{margin:g}"
    if champion.is_candidate:
        return Check(name, wanted, "is the champion", passes=True)
    if own is None or champion.evidence is None:
        whose = UNKNOWN if own is None else f"champion {UNKNOWN}"
        return Check(name, wanted, whose, passes=False)
    shared = list(_common_images(own, champion.evidence))
    difference = _difference(shared)
    if difference is None:
        return Check(name, wanted, f"{len(shared)} images in common", passes=False)
    return Check(name, wanted, _text(*difference, sign="+"), difference[1][0] > -margin)


def _common_images(own: "Evidence", other: "Evidence") -> Iterator[tuple["TestImage", "TestImage"]]:
    """The test images of both, by content."""
    by_content = {image.image_sha256: image for image in other.images}
    for image in own.images:
        if image.image_sha256 in by_content:
            yield image, by_content[image.image_sha256]


def _difference(
    shared: Sequence[tuple["TestImage", "TestImage"]],
) -> "tuple[float, Interval] | None":
    from admodels.evaluation.metrics import auroc
    from admodels.evaluation.paired import paired_difference

    own, other = zip(*shared, strict=True) if shared else ((), ())
    (first, anomalous), (second, _) = _arrays(own), _arrays(other)
    return paired_difference(auroc, first, second, anomalous)


def _arrays(images: Sequence["TestImage"]) -> "tuple[Float64, Bool]":
    import numpy as np

    scores = np.array([image.anomaly_score for image in images], np.float64)
    return scores, np.array([image.is_anomalous for image in images], np.bool_)


def _auroc(images: Sequence["TestImage"]) -> Value | None:
    from admodels.evaluation.intervals import auroc_interval
    from admodels.evaluation.metrics import auroc, ranking

    scores, anomalous = _arrays(images)
    area = auroc(ranking(scores, anomalous))
    return None if area is None else (area, auroc_interval(scores, anomalous))


def _recall(images: Sequence["TestImage"], candidate: Candidate) -> Value | None:
    from admodels.evaluation.resampling import draw, recall_interval
    from admodels.inference.conformal import threshold

    scores, anomalous = _arrays(images)
    limit = threshold(candidate.calibration_scores, candidate.alpha)
    if limit is None or not anomalous.any():
        return None
    counts, own = draw(anomalous)[:, anomalous], scores[anomalous]
    interval = recall_interval(own, counts, candidate.calibration_scores, candidate.alpha)
    return float((own > limit).mean()), interval


def _false_alarms(images: Sequence["TestImage"], candidate: Candidate) -> Value | None:
    """Of the normal images that count, one of each group."""
    from admodels.evaluation.intervals import exact_interval
    from admodels.inference.conformal import threshold

    limit = threshold(candidate.calibration_scores, candidate.alpha)
    counted = [image for image in images if image.counts and not image.is_anomalous]
    if limit is None or not counted:
        return None
    alarms = sum(image.anomaly_score > limit for image in counted)
    return alarms / len(counted), exact_interval(alarms, len(counted))


def _cost(evidence: "Evidence | None") -> Value | None:
    if evidence is None or evidence.image_cpu_seconds is None:
        return None
    return evidence.image_cpu_seconds, None
