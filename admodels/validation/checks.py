"""What a task's images must and should be before anything is learnt from them.

Great Expectations (`judge`) checks the table of the images (`table`), which has one row per image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import Field, model_validator

from admodels.foundation.errors import DataError
from admodels.foundation.files import NAMES_SHOWN, names_text
from admodels.foundation.licences import is_non_commercial, is_stated
from admodels.foundation.manifest import SPLITS
from admodels.foundation.params import Strict
from admodels.images.decode import Orientation
from admodels.images.shape import Aspect
from admodels.inference.conformal import images_needed, smallest_alpha
from admodels.pages.words import visible
from admodels.validation import similarity
from admodels.validation.judge import Check, Severity, judge
from admodels.validation.sentences import expectation, seen_and_step
from admodels.validation.similarity import HASH_BITS, Pair
from admodels.validation.splits import Shortage

if TYPE_CHECKING:
    import pandas as pd

GREY_LEVELS = 255
NO, YES = (False,), (True,)
PAGE = "data/validation/{task}/index.html"


class Severities(Strict):
    """An `error` stops the pipeline, a `warning` is reported. The other checks always stop it."""

    image_decodes: Severity
    mask_present: Severity
    mask_decodes: Severity
    mask_binary: Severity
    mask_size: Severity
    mask_not_empty: Severity
    mask_share: Severity
    test_has_both_labels: Severity
    no_duplicates: Severity
    same_size: Severity
    kept_ratio: Severity
    same_mode: Severity
    same_bit_depth: Severity
    fits_rules: Severity
    side: Severity
    brightness: Severity
    contrast: Severity
    no_near_duplicates: Severity
    no_near_leakage: Severity
    same_session: Severity
    no_likely_defects: Severity
    enough_for_alpha: Severity
    licence_stated: Severity
    commercial_use: Severity


class Validate(Strict):
    """How images are read, their bounds in pixels and grey levels, how serious each finding is."""

    orientation: Orientation
    size_tolerance: float = Field(ge=1, le=100)
    ratio_tolerance: float = Field(ge=1, le=100)
    max_stretch: float = Field(ge=1, le=100)
    min_side_px: int = Field(ge=1)
    min_brightness: float = Field(ge=0, le=GREY_LEVELS)
    max_brightness: float = Field(ge=0, le=GREY_LEVELS)
    min_contrast: float = Field(ge=0, le=GREY_LEVELS)
    near_duplicate_bits: int = Field(ge=0, le=HASH_BITS // 4)  # half of them is chance
    max_session_shift: float = Field(ge=0, le=1)
    max_oddity: float = Field(gt=1)
    max_mask_share: float = Field(gt=0, le=1)
    severity: Severities

    @model_validator(mode="after")
    def _refuse_crossed_bounds(self) -> Self:
        if self.min_brightness > self.max_brightness:
            raise ValueError("min_brightness is above max_brightness")
        return self


@dataclass(frozen=True)
class Needs:
    """What the images are wanted for: the false-alarm budget to promise, under which licence.

    `shortage`: how many more images that takes, None where they could not be split. `aspects`: of
    the methods that will learn from them.
    """

    min_normal_images: int
    alpha: float
    licence: str
    shortage: Shortage | None = None
    aspects: Mapping[str, Aspect] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """How a check went; what was `seen` and the next `step` are empty where it holds.

    `unexpected` names up to 20 of the `unexpected_count` images, sorted; `values` holds what the
    check saw in each of them, empty where that is yes or no.
    """

    name: str
    severity: Severity
    success: bool
    expected: str
    seen: str
    step: str
    observed: float | None
    unexpected_count: int
    unexpected: list[str]
    values: list[str]


def checks(
    table: "pd.DataFrame", pairs: Sequence[Pair], bounds: Validate, needs: Needs
) -> list[Check]:
    """Every expectation, in reading order; the table gets the columns that they look at."""
    for across, column in ((False, "has_near_copy"), (True, "has_near_copy_elsewhere")):
        named = {path for p in pairs if p.across == across for path in (p.first, p.second)}
        table[column] = table["image_path"].isin(named)
    return [
        *_mask_checks(bounds.max_mask_share),
        *_split_checks(table, needs.min_normal_images),
        *_pixel_checks(table, bounds),
        _stretch_check(table, bounds.max_stretch, needs.aspects),
        *_look_checks(table, bounds),
        *_use_checks(table, needs),
    ]


def _mask_checks(largest: float) -> list[Check]:
    problems = {
        "mask_present": "missing",
        "mask_decodes": "unreadable",
        "mask_binary": "not binary",
        "mask_size": "other size",
        "mask_not_empty": "empty",
    }
    return [
        *(Check(name, "not in", "mask_problem", (value,)) for name, value in problems.items()),
        Check("mask_share", "between", "mask_area_share", (None, largest), facts={"most": largest}),
        Check("mattes_fit", "in", "matte_problem", ("",)),
    ]


def _split_checks(table: "pd.DataFrame", least: int) -> list[Check]:
    to_learn = ("learn", *SPLITS[:-1])  # `learn`: the images could not be split
    missing = {"least": least, "missing": least - table["is_learnable"].sum()}
    labels = ("normal", "anomalous")
    tested = table["label"][table["split"] == "test"]
    counts = {label: int((tested == label).sum()) for label in labels}
    return [
        Check("image_decodes", "in", "problem", ("",)),
        Check("image_id_unique", "unique", "image_id"),
        Check("only_normal_to_learn", "in", "label", ("normal",), only=to_learn),
        Check("no_split_leakage", "in", "splits_of_same_image", ("learn", *SPLITS)),
        Check("enough_normal_images", "sum", "is_learnable", (least, None), facts=missing),
        Check("test_has_both_labels", "has", "label", labels, only=("test",), facts=counts),
        Check("no_duplicates", "in", "is_copy", NO),
    ]


def _pixel_checks(table: "pd.DataFrame", bounds: Validate) -> list[Check]:
    brightness = (bounds.min_brightness, bounds.max_brightness)
    light = dict(zip(("darkest", "brightest"), brightness, strict=True))
    side, contrast = bounds.min_side_px, bounds.min_contrast
    usual = [
        Check(f"same_{column}", "in", column, (value,), facts={"usual": value})
        for column in ("size", "mode", "bit_depth")
        for value in table[column].mode().head(1)
    ]
    return [
        *usual,
        Check("fits_rules", "in", "rule_fault", ("",)),
        Check("side", "between", "shorter_side_px", (side, None), facts={"least": side}),
        Check("brightness", "between", "brightness", brightness, facts=light),
        Check("contrast", "between", "contrast", (contrast, None), facts={"least": contrast}),
    ]


def _stretch_check(table: "pd.DataFrame", most: float, aspects: Mapping[str, Aspect]) -> Check:
    """How many times longer a method makes one side against the other.

    A method with `aspect: keep` has one shape for all images: that of the image in the middle.
    """
    ratio = table["width"].astype(float) / table["height"].astype(float)
    usual = ratio[table["is_learnable"] == 1].quantile(0.5, interpolation="lower")
    squaring = sorted(method for method, aspect in aspects.items() if aspect == "square")
    targets = [1.0] * bool(squaring) + [usual] * (len(squaring) < max(1, len(aspects)))
    table["stretch"] = np.maximum.reduce([np.maximum(ratio / to, to / ratio) for to in targets])
    who = (
        f"every image is made square for {', '.join(squaring)}" if squaring else "all get one shape"
    )
    return Check("kept_ratio", "between", "stretch", (None, most), facts={"most": most, "who": who})


def _look_checks(table: "pd.DataFrame", bounds: Validate) -> list[Check]:
    apart = {"bits": bounds.near_duplicate_bits, "hash_bits": HASH_BITS}
    shifts = similarity.session_shift(table)
    table["session_shift"] = np.where(
        (table["split"] == "test") & (table["label"] == "normal"), max(shifts.values()), 0.0
    )
    words = ", ".join(f"{shift:g} in {name}" for name, shift in shifts.items())
    most, oddest = bounds.max_session_shift, bounds.max_oddity
    session = {"most": most, "shifts": words}
    return [
        Check("no_near_duplicates", "in", "has_near_copy", NO, facts=apart),
        Check("no_near_leakage", "in", "has_near_copy_elsewhere", NO, facts=apart),
        Check("same_session", "between", "session_shift", (0, most), facts=session),
        Check("no_likely_defects", "between", "oddity", (None, oddest), facts={"most": oddest}),
    ]


def _use_checks(table: "pd.DataFrame", needs: Needs) -> list[Check]:
    calibrating = table[table["split"] == "calibration"]
    again = (calibrating["group"] != "") & calibrating.duplicated("group")  # a group counts once
    table["is_calibrating"] = table.index.isin(calibrating.index[~again]).astype(int)
    table["licence_is_stated"] = is_stated(needs.licence)
    table["is_commercial"] = not is_non_commercial(needs.licence)
    least, count = images_needed(needs.alpha), int(table["is_calibrating"].sum())
    budget: dict[str, float | str] = {
        "least": least,
        "alpha": needs.alpha,
        "smallest_alpha": smallest_alpha(count),
    }
    shortage = needs.shortage or Shortage("images", to_calibrate=max(0, least - count))
    budget |= {"missing": shortage.to_calibrate, "unit": shortage.unit}
    licence = {"licence": visible(needs.licence)}
    is_split = "train" in set(table["split"])
    enough = Check("enough_for_alpha", "sum", "is_calibrating", (least, None), facts=budget)
    return [
        *[enough] * is_split,
        Check("licence_stated", "has", "licence_is_stated", YES, facts=licence),
        Check("commercial_use", "has", "is_commercial", YES, facts=licence),
    ]


def findings(
    table: "pd.DataFrame", pairs: Sequence[Pair], bounds: Validate, needs: Needs
) -> tuple[list[Finding], dict[str, Any]]:
    """How every check went, and the suites and results of Great Expectations as plain values."""
    todo = checks(table, pairs, bounds, needs)
    severity_of: dict[str, Severity] = dict(bounds.severity)
    severities: dict[str, Severity] = {c.name: severity_of.get(c.name, "error") for c in todo}
    results, judgement = judge(table, todo, severities)
    by_path = table.set_index("image_path")
    return [
        _finding(check, severities[check.name], results[check.name], by_path) for check in todo
    ], judgement


def _finding(check: Check, severity: Severity, result: Any, table: "pd.DataFrame") -> Finding:
    if result.exception_info.get("raised_exception"):
        raise RuntimeError(f"expectation {check.name}: {result.exception_info}")
    paths = sorted({i["image_path"] for i in result.result.get("unexpected_index_list") or []})
    observed = float(result.result["observed_value"]) if check.rule == "sum" else None
    facts = {**check.facts, "observed": observed}
    seen, step = seen_and_step(check.name, facts, len(paths))
    named = paths[:NAMES_SHOWN]
    return Finding(
        name=check.name,
        severity=severity,
        success=bool(result.success),
        expected=expectation(check.name, facts),
        seen="" if result.success else seen,
        step="" if result.success else step,
        observed=observed,
        unexpected_count=len(paths),
        unexpected=named,
        values=[_value_text(check.column, table[check.column][path]) for path in named],
    )


def _value_text(column: str, value: Any) -> str:
    """What a check saw in an image, for people; a yes or no is in its sentence."""
    if isinstance(value, bool | np.bool_):
        return ""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"{column.replace('_', ' ')}: {text}"


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """The checks that fail: errors, then warnings; what concerns all images, then most of them."""

    def order(finding: Finding) -> tuple[bool, bool, int]:
        count = finding.unexpected_count
        return finding.severity != "error", count > 0, -count

    return sorted((f for f in findings if not f.success), key=order)


def refusal(task: str, findings: Sequence[Finding]) -> DataError | None:
    """The error that stops the pipeline and names every failed check and its images, if any."""
    failed = [f for f in findings if f.severity == "error" and not f.success]
    if not failed:
        return None
    return DataError(
        f"task `{task}` fails {names_text(f.name for f in failed)}",
        where="\n            ".join(_finding_text(f) for f in failed),
        expected=" ".join(f.expected for f in failed),
        next_step=f"read {PAGE.format(task=task)}, correct the source, then "
        f"`admodels task refresh {task}`",
    )


def _finding_text(finding: Finding) -> str:
    if not finding.unexpected:
        return f"{finding.name}: {finding.seen}"
    more = finding.unexpected_count - len(finding.unexpected)
    names = ", ".join(visible(name) for name in finding.unexpected)
    return f"{finding.name} ({finding.unexpected_count}): {names}{f' and {more} more' * (more > 0)}"


def report(table: "pd.DataFrame", findings: Sequence[Finding]) -> dict[str, Any]:
    """The figures and findings as plain values, which are the same on every run."""
    anomalous = table[table["label"] == "anomalous"]
    return {
        "images": len(table),
        "moved_to_test": int(table["moved"].sum()),
        "session_shift": similarity.session_shift(table),
        "splits": {str(k): int(v) for k, v in sorted(table["split"].value_counts().items())},
        "defect_types": {
            str(k): int(v) for k, v in sorted(anomalous["defect_type"].value_counts().items())
        },
        "checks": [asdict(finding) for finding in findings],
    }
