"""Does the promise hold when people's marks return into the calibration? The loop, simulated.

    python -m benchmarks.promise [--repeats 500]

A line is calibrated with 60 approved images and gets 28 nights of 100 images, 3 % of them defects.
Every night is judged and audited, people mark, and every seventh night the line is calibrated anew
with what the rule takes of their marks:

    old     every mark `fine`
    new     the marks `fine` of complete audit nights, while no night is marked in part
    whole   the same, also while others are marked in part (to show why `new` is stricter)

`rate` is the exact share of normal images above the last threshold, the mean of all repeats; a rule
holds where it is within alpha + 2 standard errors. `missed` is the share of defects below it. `said
broken`: how often the figures of the audit call the promise broken, at the rate that the rule
reached and at three times alpha.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from admodels.inference.conformal import threshold
from admodels.nights.promise import (
    AuditImage,
    AuditNight,
    Basis,
    Verdict,
    figures,
    fine_of_audit,
)
from admodels.scoring.candidates import rank

ALPHA, APPROVED, NIGHTS, IMAGES, DEFECTS, AUDIT, WEEK = 0.05, 60, 28, 100, 0.03, 5, 7
DEFECT_SCORE, EYE = 2.5, 0.7  # in spreads of normal scores; the noise of a look at an image
ODD = 1.2  # how an image looks at which some people stop
RULES = ("old", "whole", "new")


@dataclass(frozen=True)
class Night:
    """Images by number: scores, how they look, which are defects; the audit set by rank."""

    name: str
    scores: np.ndarray
    looks: np.ndarray
    is_defect: np.ndarray
    audit: list[int]

    @classmethod
    def drawn(cls, rng: np.random.Generator, number: int) -> "Night":
        is_defect = rng.random(IMAGES) < DEFECTS
        scores = rng.standard_normal(IMAGES) + DEFECT_SCORE * is_defect
        looks = scores + EYE * rng.standard_normal(IMAGES)
        name = f"2026-{1 + number // 28:02d}-{1 + number % 28:02d}"
        prefix = rng.bytes(8).hex()
        ranks = [rank("press", name, f"{prefix}{image}") for image in range(IMAGES)]
        audit = sorted(range(IMAGES), key=ranks.__getitem__)[:AUDIT]
        return cls(name, scores, looks, is_defect, audit)


# In the audit section, in order; elsewhere; of the audit those that are marked as unsure.
Marked = tuple[list[int], list[int], list[int]]
Operator = Callable[[Night, list[int]], Marked]


def honest(night: Night, flagged: list[int]) -> Marked:
    return night.audit, flagged, []


def flagged_only(night: Night, flagged: list[int]) -> Marked:
    return [image for image in night.audit if image in flagged], flagged, []


def every_third(night: Night, flagged: list[int]) -> Marked:
    return night.audit[::3], flagged[::3], []


def stops_early(night: Night, flagged: list[int]) -> Marked:
    """Goes on until an image looks odd, and leaves that one to somebody else."""
    odd = [place for place, image in enumerate(night.audit) if night.looks[image] > ODD]
    return night.audit[: odd[0] if odd else AUDIT], flagged[:2], []


def marks_the_ordinary(night: Night, flagged: list[int]) -> Marked:
    """Marks ten parts that were not flagged and look it."""
    passed = [image for image in range(IMAGES) if image not in flagged]
    return [], [image for image in passed if night.looks[image] < 1][:10], []


def is_unsure_of_the_odd(night: Night, flagged: list[int]) -> Marked:
    """Marks the whole audit, and every image that looks odd as unsure, whatever it is."""
    return night.audit, flagged, [image for image in night.audit if night.looks[image] > ODD]


OPERATORS = (honest, flagged_only, every_third, stops_early, marks_the_ordinary)
BEYOND = (is_unsure_of_the_odd,)  # breaks every rule: `admodels calibrate` warns of it


@dataclass
class Line:
    """The loop of one repeat: what was said and marked so far."""

    rule: str
    operator: Operator
    approved: list[float]
    limit: float

    def __post_init__(self) -> None:
        self.nights: list[AuditNight] = []
        self.marks: dict[str, dict[str, Verdict]] = {}
        self.scores: dict[str, float] = {}
        self.fine: list[str] = []  # of every mark, as the old rule takes them
        self.calibration = self.approved

    def live(self, night: Night) -> None:
        worst_first = np.argsort(-night.scores)
        flagged = [int(image) for image in worst_first if night.scores[image] > self.limit]
        names = [f"{night.name} {image}" for image in range(IMAGES)]
        basis = Basis(
            model_fingerprint="m",
            contract_fingerprint="c",
            calibration=f"{self.limit}",
            calibration_images=len(self.calibration),
            alpha=ALPHA,
        )
        drawn = tuple(
            AuditImage(
                image_sha256=names[image],
                path=names[image],
                basis=basis,
                is_anomalous=image in flagged,
                is_calibrated_with=False,
            )
            for image in night.audit
        )
        audit, others, unsure = self.operator(night, flagged)
        self.nights.append(AuditNight(night.name, IMAGES, drawn))
        self.marks[night.name] = {
            names[image]: "defect" if night.is_defect[image] else "fine" for image in audit
        } | {names[image]: "unsure" for image in unsure}
        marked = dict.fromkeys([*audit, *others])
        fine = [image for image in marked if not night.is_defect[image] and image not in unsure]
        self.fine += [names[image] for image in fine]
        self.scores |= {names[image]: float(night.scores[image]) for image in marked}

    def calibrate(self) -> None:
        fine = self.fine if self.rule == "old" else self._fine_of_audit()
        self.calibration = [*self.approved, *(self.scores[name] for name in fine)]
        self.limit = limit_of(self.calibration)

    def _fine_of_audit(self) -> list[str]:
        nights = self.nights
        if self.rule == "whole":
            nights = [night for night in nights if night.is_complete(self.marks[night.night])]
        return fine_of_audit(nights, self.marks)[0]


def limit_of(calibration: Sequence[float]) -> float:
    limit = threshold(calibration, ALPHA)
    assert limit is not None
    return limit


def share_above(limit: float) -> float:
    return math.erfc(limit / 2**0.5) / 2


def last_limits(repeat: int) -> dict[tuple[str, str], float]:
    """The threshold at the end, for each operator and rule, of the same images."""
    rng = np.random.default_rng(repeat)
    approved = rng.standard_normal(APPROVED).tolist()
    nights = [Night.drawn(rng, number) for number in range(NIGHTS)]
    limits = {}
    for operator in (*OPERATORS, *BEYOND):
        for rule in RULES:
            line = Line(rule, operator, approved, limit_of(approved))
            for number, night in enumerate(nights, 1):
                line.live(night)
                if number % WEEK == 0:
                    line.calibrate()
            limits[operator.__name__, rule] = line.limit
    return limits


def is_said_broken(repeat: int, limit: float, images: int) -> bool:
    """What the figures say after 100 nights at this threshold."""
    rng = np.random.default_rng([repeat, 1])
    line = Line("new", honest, [0.0] * images, limit)
    for number in range(100):
        line.live(Night.drawn(rng, number))
    (of_all,) = figures("press", line.nights, line.marks)
    return of_all.is_broken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=500)
    repeats = parser.parse_args().repeats
    limits = [last_limits(repeat) for repeat in range(repeats)]
    for operator, rule in limits[0]:
        rates = [share_above(limit[operator, rule]) for limit in limits]
        mean, error = float(np.mean(rates)), float(np.std(rates) / repeats**0.5)
        holds = mean <= ALPHA + 2 * error
        reached = [share_above(limit[operator, rule] - DEFECT_SCORE) for limit in limits]
        content = {"rate": round(mean, 4), "error": round(error, 4), "holds": holds}
        content |= {"missed": round(1 - float(np.mean(reached)), 3)}
        sys.stdout.write(f"{operator}, {rule}: {json.dumps(content)}\n")
    honest_limits = [limit["honest", "new"] for limit in limits[:100]]
    cases = {"as promised": honest_limits, "at three times alpha": [1.0364] * len(honest_limits)}
    for name, held in cases.items():
        said = [is_said_broken(repeat, limit, 200) for repeat, limit in enumerate(held)]
        sys.stdout.write(f"said broken, {name}: {sum(said)} of {len(said)}\n")


if __name__ == "__main__":
    main()
