"""What a line's promise was worth: counted on the audit of its nights, with exact intervals.

An audit image was chosen by hash, so its share of false alarms and of missed defects is that of the
line. A mark on an alarm says how many alarms are defects, and nothing of the images that were not
flagged. `unsure` counts both ways: each end of an interval takes the answer that moves it outwards.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from admodels.evaluation.intervals import exact_interval, upper_bound
from admodels.foundation.params import Strict
from admodels.inference.conformal import realised_range
from admodels.pages.catalogue import Catalogue, english

Verdict = Literal["fine", "defect", "unsure"]
DEFECTS_LEAST = 20  # before a share of the defects is given


class Basis(Strict):
    """What a verdict rests on; `calibration` is a sha256, of `calibration_images` scores."""

    model_fingerprint: str
    contract_fingerprint: str
    calibration: str
    calibration_images: int
    alpha: float


class AuditImage(Strict):
    """An image of an audit set, as nights/NIGHT.json holds it, with what was said of it then.

    `is_anomalous` is None where nothing could be promised. `is_calibrated_with`: the calibration
    that it was compared with holds its own score.
    """

    image_sha256: str
    path: str
    basis: Basis
    is_anomalous: bool | None
    is_calibrated_with: bool


@dataclass(frozen=True)
class AuditNight:
    """The audit of a night that is closed; `images` are all scored contents of the line in it."""

    night: str
    images: int
    drawn: tuple[AuditImage, ...]

    def is_complete(self, marks: Mapping[str, Verdict]) -> bool:
        """Whether every image of the set is marked: a marked part would be chosen by its looks."""
        return bool(self.drawn) and all(image.image_sha256 in marks for image in self.drawn)

    def is_begun(self, marks: Mapping[str, Verdict]) -> bool:
        """Whether some images of the set are marked, and not all."""
        marked = any(image.image_sha256 in marks for image in self.drawn)
        return marked and not self.is_complete(marks)


@dataclass(frozen=True)
class Share:
    """A share that was counted, `count` of `of`, and the interval that agrees with it."""

    count: int
    of: int
    low: float
    high: float

    @property
    def value(self) -> float | None:
        """None where nothing was counted."""
        return self.count / self.of if self.of else None


@dataclass(frozen=True)
class Tally:
    """Images by what people say and what was said: flagged, or passed."""

    fine_flagged: int = 0
    fine_passed: int = 0
    defect_flagged: int = 0
    defect_passed: int = 0
    unsure_flagged: int = 0
    unsure_passed: int = 0

    def add(self, verdict: Verdict, is_flagged: bool) -> "Tally":
        """This tally with an image more."""
        name = f"{verdict}_{'flagged' if is_flagged else 'passed'}"
        return replace(self, **{name: getattr(self, name) + 1})

    @property
    def images(self) -> int:
        """All of them."""
        return sum(vars(self).values())

    @property
    def defects(self) -> int:
        """Those that people call a defect."""
        return self.defect_flagged + self.defect_passed

    @property
    def false_alarms(self) -> Share:
        """Of the fine images, those that were flagged."""
        count, of = self.fine_flagged, self.fine_flagged + self.fine_passed
        low, _ = exact_interval(count, of + self.unsure_passed)
        _, high = exact_interval(count + self.unsure_flagged, of + self.unsure_flagged)
        return Share(count, of, low, high)

    @property
    def misses(self) -> Share:
        """Of all images, the defects that were not flagged; `high` is a bound of 95 % alone."""
        count, of = self.defect_passed, self.images
        low, _ = exact_interval(count, of)
        return Share(count, of, low, upper_bound(count + self.unsure_passed, of))

    @property
    def misses_of_defects(self) -> Share | None:
        """Of the defects, those that were not flagged; None before there are enough of them."""
        if self.defects < DEFECTS_LEAST:
            return None
        count, of = self.defect_passed, self.defects
        low, _ = exact_interval(count, of + self.unsure_flagged)
        _, high = exact_interval(count + self.unsure_passed, of + self.unsure_passed)
        return Share(count, of, low, high)

    @property
    def precision(self) -> Share:
        """Of the alarms, the defects."""
        count, of = self.defect_flagged, self.defect_flagged + self.fine_flagged
        low, _ = exact_interval(count, of + self.unsure_flagged)
        _, high = exact_interval(count + self.unsure_flagged, of + self.unsure_flagged)
        return Share(count, of, low, high)


@dataclass(frozen=True)
class Figures:
    """What is known of a line's promise under one basis.

    `audit`: of the `nights` that are complete. `alarms`: marks on what was flagged. `begun`: nights
    whose set is marked in part, which count nowhere; `unmarked`: without a mark. `sizes`: images of
    the smallest and of the largest complete night.
    """

    line: str
    basis: Basis
    audit: Tally = Tally()
    alarms: Tally = Tally()
    nights: int = 0
    begun: int = 0
    unmarked: int = 0
    sizes: tuple[int, int] = (0, 0)

    @property
    def range_of_rate(self) -> tuple[float, float] | None:
        """Where the rate of one such calibration lies, without any fault."""
        return realised_range(self.basis.calibration_images, self.basis.alpha)

    @property
    def is_broken(self) -> bool:
        """Whether more fine images are flagged than any chance of the calibration explains."""
        return (
            self.range_of_rate is not None and self.audit.false_alarms.low > self.range_of_rate[1]
        )

    def __str__(self) -> str:
        basis = self.basis
        return (
            f"{self.line}, model {basis.model_fingerprint[:8]}, calibration "
            f"{basis.calibration[:8] or 'none'} of {basis.calibration_images} images, budget "
            f"{100 * basis.alpha:g} %"
        )

    def sentences(self, catalogue: Catalogue | None = None) -> list[str]:
        """What people read of it; an interval holds the true share in 95 of 100 cases."""
        words = catalogue or english()
        lines = [self._broken(words)] if self.is_broken else []
        lines += [self._range(words), self._nights(words)]
        if self.audit.images:
            lines += [self._count_text("false_alarms", self.audit.false_alarms, words)]
            lines += self._misses(words)
        if self.alarms.images:
            lines.append(self._count_text("alarms", self.alarms.precision, words))
        return lines

    def _broken(self, words: Catalogue) -> str:
        assert self.range_of_rate is not None
        low, high = (
            percent(x, words) for x in (self.audit.false_alarms.low, self.range_of_rate[1])
        )
        return words.text("figures.broken", low=low, high=high)

    def _range(self, words: Catalogue) -> str:
        alpha, images = words.number(100 * self.basis.alpha, "g"), self.basis.calibration_images
        if self.range_of_rate is None:
            return words.text("figures.no_range", alpha=alpha, images=images)
        low, high = (percent(share, words) for share in self.range_of_rate)
        return words.text("figures.range", alpha=alpha, images=images, low=low, high=high)

    def _count_text(self, message: str, share: Share, words: Catalogue) -> str:
        value = interval_text(share, words)
        return words.text(f"figures.{message}", count=share.count, of=share.of, share=value)

    def _misses(self, words: Catalogue) -> list[str]:
        missed, of_defects = self.audit.misses, self.audit.misses_of_defects
        known = missed.value is not None
        first = words.text(
            "figures.misses" if known else "figures.misses_unknown",
            count=missed.count,
            of=missed.of,
            rate=words.number(1000 * (missed.value or 0), ".3g"),
            high=words.number(1000 * missed.high, ".3g"),
        )
        if of_defects is None:
            few = words.text("figures.few_defects", n=self.audit.defects, needed=DEFECTS_LEAST)
            return [first, few]
        return [first, self._count_text("missed_defects", of_defects, words)]

    def _nights(self, words: Catalogue) -> str:
        text = words.text("figures.nights", nights=self.nights)
        if self.begun:
            text += words.text("figures.begun", n=self.begun)
        if self.unmarked:
            text += words.text("figures.unmarked", n=self.unmarked)
        low, high = self.sizes
        if low != high:
            text += words.text("figures.sizes", low=low, high=high)
        return words.text("figures.end", text=text)


def percent(share: float, words: Catalogue) -> str:
    """Such as 5 %, 12.6 % or 0.05 %."""
    value = 100 * share
    is_plain = value >= 0.1 or not value
    number = words.number(round(value, 1), "g") if is_plain else words.number(value, ".2g")
    return str(words.form["percent"].format(value=number))


def interval_text(share: Share, words: Catalogue) -> str:
    """A share with its interval."""
    if share.value is None:
        return words.text("unknown")
    value, low, high = (percent(x, words) for x in (share.value, share.low, share.high))
    return words.text("figures.interval", value=value, low=low, high=high)


def figures(
    line: str,
    nights: Iterable[AuditNight],
    marks: Mapping[str, Mapping[str, Verdict]],
    alarms: Iterable[tuple[Basis, Verdict]] = (),
) -> list[Figures]:
    """The figures of a line for every basis, in the order of its nights.

    `marks`: night -> image_sha256 -> what was marked in the audit section of that night. `alarms`:
    the last mark on each flagged image, with what its alarm rests on.
    """
    of: dict[Basis, Figures] = {}
    for night in nights:
        said = marks.get(night.night, {})
        for basis in dict.fromkeys(image.basis for image in night.drawn):
            before = of.get(basis, Figures(line, basis))
            of[basis] = _with_night(before, night, said)
    for basis, verdict in alarms:
        before = of.get(basis, Figures(line, basis))
        of[basis] = replace(before, alarms=before.alarms.add(verdict, is_flagged=True))
    return list(of.values())


def fine_of_audit(
    nights: Iterable[AuditNight], marks: Mapping[str, Mapping[str, Verdict]]
) -> tuple[list[str], list[str]]:
    """The images that a calibration may take from the audit, and the nights that forbid it.

    These are marked in part. While there is one, no night is taken: a person who stops at the first
    odd image completes only nights without one, and 5 % becomes 7 % (`benchmarks/promise.py`).
    """
    fine: dict[str, None] = {}
    begun = []
    for night in nights:
        said = marks.get(night.night, {})
        if night.is_begun(said):
            begun.append(night.night)
        elif night.is_complete(said):
            fine |= dict.fromkeys(
                image.image_sha256 for image in night.drawn if said[image.image_sha256] == "fine"
            )
    return ([] if begun else list(fine)), begun


def _with_night(before: Figures, night: AuditNight, marks: Mapping[str, Verdict]) -> Figures:
    if night.is_begun(marks):
        return replace(before, begun=before.begun + 1)
    if not night.is_complete(marks):
        return replace(before, unmarked=before.unmarked + 1)
    audit = before.audit
    for image in night.drawn:
        is_counted = image.basis == before.basis and not image.is_calibrated_with
        if is_counted and image.is_anomalous is not None:
            audit = audit.add(marks[image.image_sha256], image.is_anomalous)
    low, high = before.sizes if before.nights else (night.images, night.images)
    sizes = (min(low, night.images), max(high, night.images))
    return replace(before, audit=audit, nights=before.nights + 1, sizes=sizes)
