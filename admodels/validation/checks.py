"""What a task's images must and should be before anything is learnt from them.

Great Expectations (`judge`) checks the table of the images (`table`), which has one row per image.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import Field, model_validator

from admodels.foundation.errors import DataError
from admodels.foundation.files import NAMES_SHOWN, names_text
from admodels.foundation.licences import is_non_commercial, is_stated
from admodels.foundation.manifest import SPLITS
from admodels.foundation.params import Strict
from admodels.images.decode import Orientation
from admodels.inference.conformal import images_needed
from admodels.validation import similarity
from admodels.validation.judge import Check, Severity, results
from admodels.validation.similarity import HASH_BITS, Pair

if TYPE_CHECKING:
    import pandas as pd

GREY_LEVELS = 255
NO = (False,)


class Severities(Strict):
    """An `error` stops the pipeline, a `warning` is reported. The other checks always stop it."""

    image_decodes: Severity
    mask_present: Severity
    mask_decodes: Severity
    mask_binary: Severity
    mask_size: Severity
    mask_not_empty: Severity
    test_has_both_labels: Severity
    no_duplicates: Severity
    same_size: Severity
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
    min_side_px: int = Field(ge=1)
    min_brightness: float = Field(ge=0, le=GREY_LEVELS)
    max_brightness: float = Field(ge=0, le=GREY_LEVELS)
    min_contrast: float = Field(ge=0, le=GREY_LEVELS)
    near_duplicate_bits: int = Field(ge=0, le=HASH_BITS // 4)  # half of them is chance
    max_session_shift: float = Field(ge=0, le=1)
    max_oddity: float = Field(gt=1)
    severity: Severities

    @model_validator(mode="after")
    def _refuse_crossed_bounds(self) -> Self:
        if self.min_brightness > self.max_brightness:
            raise ValueError("min_brightness is above max_brightness")
        return self


@dataclass(frozen=True)
class Needs:
    """What the images are wanted for: the false-alarm budget to promise, under which licence."""

    min_normal_images: int
    alpha: float
    licence: str


@dataclass(frozen=True)
class Finding:
    """How a check went; `unexpected` names up to 20 of the `unexpected_count` images, sorted."""

    name: str
    severity: Severity
    success: bool
    expected: str
    observed: float | None
    unexpected_count: int
    unexpected: list[str]


def checks(
    table: "pd.DataFrame", pairs: Sequence[Pair], bounds: Validate, needs: Needs
) -> list[Check]:
    """Every expectation, in reading order; the table gets the columns that they look at."""
    for across, column in ((False, "has_near_copy"), (True, "has_near_copy_elsewhere")):
        named = {path for p in pairs if p.across == across for path in (p.first, p.second)}
        table[column] = table["image_path"].isin(named)
    return [
        *_mask_checks(),
        *_split_checks(needs.min_normal_images),
        *_pixel_checks(table, bounds),
        *_look_checks(table, bounds),
        *_use_checks(table, needs),
    ]


def _mask_checks() -> list[Check]:
    says = {
        "mask_present": ("missing", "Every anomalous image has a mask, if the dataset has any."),
        "mask_decodes": ("unreadable", "Every mask decodes."),
        "mask_binary": ("not binary", "A mask has two values: 0 and one other."),
        "mask_size": ("other size", "A mask is as large as its image."),
        "mask_not_empty": ("empty", "A mask marks something."),
    }
    mattes = "All images to learn from have a foreground matte of their size, or none has one."
    return [
        *(
            Check(name, sentence, "not in", "mask_problem", (problem,))
            for name, (problem, sentence) in says.items()
        ),
        Check("mattes_fit", mattes, "in", "matte_problem", ("",)),
    ]


def _split_checks(least: int) -> list[Check]:
    names = "No two images differ only in their extension."
    normal = "No anomalous image stands in train, validation or calibration."
    one_split = "No image, by content, is in two splits."
    learnable = f"At least {least} readable normal images to learn from."
    both = "The test split has normal and anomalous images; else some figures are undefined."
    once = "No image, by content, is in its split twice."
    to_learn = ("learn", *SPLITS[:-1])  # `learn`: the images could not be split
    return [
        Check("image_decodes", "Every image decodes to its last pixel.", "in", "problem", ("",)),
        Check("image_id_unique", names, "unique", "image_id"),
        Check("only_normal_to_learn", normal, "in", "label", ("normal",), only=to_learn),
        Check("no_split_leakage", one_split, "in", "splits_of_same_image", ("learn", *SPLITS)),
        Check("enough_normal_images", learnable, "sum", "is_learnable", (least, None)),
        Check("test_has_both_labels", both, "has", "label", ("normal", "anomalous"), ("test",)),
        Check("no_duplicates", once, "in", "is_copy", (False,)),
    ]


def _pixel_checks(table: "pd.DataFrame", bounds: Validate) -> list[Check]:
    darkest, brightest = bounds.min_brightness, bounds.max_brightness
    lit = f"The mean grey level is in {darkest}..{brightest}: neither black nor burnt out."
    seen = f"Grey levels deviate by at least {bounds.min_contrast}: the image shows something."
    large = f"No side is shorter than {bounds.min_side_px} px."
    fits = "Every image to test with is of the kind learnt from, or a line would give it no score."
    usual = [
        Check(f"same_{column}", f"Every image is, as most are, {value}.", "in", column, (value,))
        for column in ("size", "mode", "bit_depth")
        for value in table[column].mode().head(1)
    ]
    return [
        *usual,
        Check("fits_rules", fits, "in", "rule_fault", ("",)),
        Check("side", large, "between", "shorter_side_px", (bounds.min_side_px, None)),
        Check("brightness", lit, "between", "brightness", (darkest, brightest)),
        Check("contrast", seen, "between", "contrast", (bounds.min_contrast, None)),
    ]


def _look_checks(table: "pd.DataFrame", bounds: Validate) -> list[Check]:
    apart = f"more than {bounds.near_duplicate_bits} of {HASH_BITS} bits apart (perceptual hash)"
    shifts = similarity.session_shift(table)
    largest = max(shifts.values())
    table["session_shift"] = np.where(
        (table["split"] == "test") & (table["label"] == "normal"), largest, 0.0
    )
    seen = ", ".join(f"{name} {shift:g}" for name, shift in shifts.items())
    session = (
        f"The normal images of test are from the same session as those to learn from: their "
        f"distributions are at most {bounds.max_session_shift:g} apart ({seen}; 1: not one alike)."
    )
    odd = (
        f"No image to learn from is {bounds.max_oddity:g} times as odd as usual: it may show a "
        "defect. A hint: look at odd_images.png."
    )
    return [
        Check("no_near_duplicates", f"Images of a split are {apart}.", "in", "has_near_copy", NO),
        Check(
            "no_near_leakage",
            f"Images of two splits are {apart}.",
            "in",
            "has_near_copy_elsewhere",
            NO,
        ),
        Check("same_session", session, "between", "session_shift", (0, bounds.max_session_shift)),
        Check("no_likely_defects", odd, "between", "oddity", (None, bounds.max_oddity)),
    ]


def _use_checks(table: "pd.DataFrame", needs: Needs) -> list[Check]:
    table["is_calibrating"] = (table["split"] == "calibration").astype(int)
    table["licence_is_stated"] = is_stated(needs.licence)
    table["is_commercial"] = not is_non_commercial(needs.licence)
    least = images_needed(needs.alpha)
    budget = f"At least {least} images calibrate, or {needs.alpha:g} false alarms is no promise."
    stated = f"It is stated what may be done with the images: `{needs.licence}`."
    commercial = f"The licence, `{needs.licence}`, lets models of these images earn money."
    is_split = "train" in set(table["split"])
    return [
        *[Check("enough_for_alpha", budget, "sum", "is_calibrating", (least, None))] * is_split,
        Check("licence_stated", stated, "has", "licence_is_stated", (True,)),
        Check("commercial_use", commercial, "has", "is_commercial", (True,)),
    ]


def findings(
    task: str,
    table: "pd.DataFrame",
    pairs: Sequence[Pair],
    bounds: Validate,
    needs: Needs,
    site: Path,
) -> list[Finding]:
    """Let Great Expectations judge the table, and write its Data Docs to the folder `site`."""
    todo = {check.name: check for check in checks(table, pairs, bounds, needs)}
    severities: dict[str, Severity] = {n: getattr(bounds.severity, n, "error") for n in todo}
    outcomes = results(task, table, list(todo.values()), severities, site)
    return [_finding(check, severities[name], outcomes[name]) for name, check in todo.items()]


def _finding(check: Check, severity: Severity, result: Any) -> Finding:
    if result.exception_info.get("raised_exception"):
        raise RuntimeError(f"expectation {check.name}: {result.exception_info}")
    paths = sorted({i["image_path"] for i in result.result.get("unexpected_index_list") or []})
    observed = result.result.get("observed_value")
    return Finding(
        name=check.name,
        severity=severity,
        success=bool(result.success),
        expected=check.says,
        observed=float(observed) if check.rule == "sum" else None,
        unexpected_count=len(paths),
        unexpected=paths[:NAMES_SHOWN],
    )


def refusal(task: str, findings: Sequence[Finding]) -> DataError | None:
    """The error that stops the pipeline and names every failed check and its images, if any."""
    failed = [f for f in findings if f.severity == "error" and not f.success]
    if not failed:
        return None
    return DataError(
        f"task `{task}` fails {names_text(f.name for f in failed)}",
        where="\n            ".join(_finding_text(f) for f in failed),
        expected=" ".join(f.expected for f in failed),
        next_step=f"read data/validation/{task}/docs/index.html, fix the source, then "
        f"`admodels task refresh {task}`",
    )


def _finding_text(finding: Finding) -> str:
    if not finding.unexpected:
        return f"{finding.name}: {finding.observed}"
    more = finding.unexpected_count - len(finding.unexpected)
    names = ", ".join(finding.unexpected) + (f" and {more} more" if more else "")
    return f"{finding.name} ({finding.unexpected_count}): {names}"


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
