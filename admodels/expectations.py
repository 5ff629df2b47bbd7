"""What a task's images must and should be before anything is learnt from them.

Great Expectations judges a table of one row per image (`inspection` reads the pixels): what must
hold is one suite, what should hold another, and each expectation is one sentence. Its own results
carry times and random ids; `report` does not.
"""

import datetime
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from admodels.errors import DataError
from admodels.manifest import NAMES_SHOWN, SPLITS, Found, Row, listed
from admodels.params import Strict

if TYPE_CHECKING:
    import pandas as pd

    from admodels.inspection import Facts

Severity = Literal["error", "warning"]
SUITES: dict[Severity, str] = {"error": "must_hold", "warning": "should_hold"}
GREY_LEVELS = 255
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)  # a run time that never differs
EXPECTATIONS = {
    "in": "ExpectColumnValuesToBeInSet",
    "not in": "ExpectColumnValuesToNotBeInSet",
    "between": "ExpectColumnValuesToBeBetween",
    "unique": "ExpectColumnValuesToBeUnique",
    "has": "ExpectColumnDistinctValuesToContainSet",
    "sum": "ExpectColumnSumToBeBetween",
}


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
    side: Severity
    brightness: Severity
    contrast: Severity


class Validate(Strict):
    """The bounds of an image, in pixels and grey levels, and how serious each finding is."""

    min_side_px: int = Field(ge=1)
    min_brightness: float = Field(ge=0, le=GREY_LEVELS)
    max_brightness: float = Field(ge=0, le=GREY_LEVELS)
    min_contrast: float = Field(ge=0, le=GREY_LEVELS)
    severity: Severities

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_brightness > self.max_brightness:
            raise ValueError("min_brightness is above max_brightness")
        return self


@dataclass(frozen=True)
class Check:
    """One expectation: a sentence for the reader, and a rule on a column of the frame.

    `values` are a set, or the least and the greatest value; `only` is the split it looks at.
    """

    name: str
    says: str
    rule: str
    column: str
    values: tuple[Any, ...] = ()
    only: tuple[str, ...] = ()


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


def frame(
    found: Sequence[Found],
    facts: "Sequence[tuple[Row, Facts]]",
    unreadable: dict[str, str],
    splits: dict[str, list[Row]],
) -> "pd.DataFrame":
    """One row per image found, sorted by path: manifest columns, facts, what is wrong with it.

    `unreadable` is the reason by image path. An image in none of `splits` has its dataset's part.
    """
    import pandas as pd

    from admodels.inspection import Facts

    split_of = {row.image_path: name for name, rows in splits.items() for row in rows}
    known = {row.image_path: _described(row, fact) for row, fact in facts}
    names = (f.name for model in (Found, Row, Facts) for f in fields(model))
    derived = ("split", "problem", "is_learnable", "size", "shorter_side_px")
    records = [
        asdict(one)
        | known.get(one.image_path, {})
        | {
            "image_id": one.image_path.rsplit(".", 1)[0],
            "split": split_of.get(one.image_path, one.part),
            "problem": unreadable.get(one.image_path, ""),
            "is_learnable": int(one.part == "learn" and one.image_path in known),
        }
        for one in sorted(found, key=lambda one: one.image_path)
    ]
    table = pd.DataFrame(records, columns=list(dict.fromkeys((*names, *derived))))
    numbers = ["brightness", "contrast", "sharpness", "mask_area_share", "shorter_side_px"]
    table[numbers] = table[numbers].astype(float)
    splits_of = table.groupby("image_sha256")["split"].agg(
        lambda found: " + ".join(sorted({*found}))
    )
    table["splits_of_same_image"] = table["image_sha256"].map(splits_of)
    table["is_copy"] = table["image_sha256"].notna() & table.duplicated(
        ["image_sha256", "split"], keep=False
    )
    return table


def _described(row: Row, fact: "Facts") -> dict[str, Any]:
    return {
        **asdict(row),
        **asdict(fact),
        "bit_depth": f"{row.bit_depth} bit",
        "size": f"{row.width} x {row.height} px",
        "shorter_side_px": min(row.width, row.height),
    }


def checks(table: "pd.DataFrame", bounds: Validate, min_normal_images: int) -> list[Check]:
    """Every expectation, in reading order."""
    return [*_mask_checks(), *_split_checks(min_normal_images), *_pixel_checks(table, bounds)]


def _mask_checks() -> list[Check]:
    says = {
        "mask_present": ("missing", "Every anomalous image has a mask, if the dataset has any."),
        "mask_decodes": ("unreadable", "Every mask decodes."),
        "mask_binary": ("not binary", "A mask has two values: 0 and one other."),
        "mask_size": ("other size", "A mask is as large as its image."),
        "mask_not_empty": ("empty", "A mask marks something."),
    }
    return [
        Check(name, sentence, "not in", "mask_problem", (problem,))
        for name, (problem, sentence) in says.items()
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
    usual = [
        Check(f"same_{column}", f"Every image is, as most are, {value}.", "in", column, (value,))
        for column in ("size", "mode", "bit_depth")
        for value in table[column].mode().head(1)
    ]
    return [
        *usual,
        Check("side", large, "between", "shorter_side_px", (bounds.min_side_px, None)),
        Check("brightness", lit, "between", "brightness", (darkest, brightest)),
        Check("contrast", seen, "between", "contrast", (bounds.min_contrast, None)),
    ]


def findings(
    task: str, table: "pd.DataFrame", bounds: Validate, min_normal_images: int, site: Path
) -> list[Finding]:
    """Let Great Expectations judge the table, and write its Data Docs to the folder `site`."""
    todo = {check.name: check for check in checks(table, bounds, min_normal_images)}
    severities: dict[str, Severity] = {n: getattr(bounds.severity, n, "error") for n in todo}
    results = _results(task, table, list(todo.values()), severities, site)
    return [_finding(check, severities[name], results[name]) for name, check in todo.items()]


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


def refusal(task: str, found: Sequence[Finding]) -> DataError | None:
    """The error that stops the pipeline, naming every check and image; None: go on."""
    failed = [f for f in found if f.severity == "error" and not f.success]
    if not failed:
        return None
    return DataError(
        f"task `{task}` fails {listed(f.name for f in failed)}",
        where="\n            ".join(_named(f) for f in failed),
        expected=" ".join(f.expected for f in failed),
        next_step=f"read data/validation/{task}/docs/index.html, mend the source, then "
        f"`admodels task refresh {task}`",
    )


def _named(finding: Finding) -> str:
    if not finding.unexpected:
        return f"{finding.name}: {finding.observed}"
    more = finding.unexpected_count - len(finding.unexpected)
    names = ", ".join(finding.unexpected) + (f" and {more} more" if more else "")
    return f"{finding.name} ({finding.unexpected_count}): {names}"


def report(table: "pd.DataFrame", found: Sequence[Finding]) -> dict[str, Any]:
    """What was found, as plain values that are the same on every run."""
    anomalous = table[table["label"] == "anomalous"]
    return {
        "images": len(table),
        "splits": {str(k): int(v) for k, v in sorted(table["split"].value_counts().items())},
        "defect_types": {
            str(k): int(v) for k, v in sorted(anomalous["defect_type"].value_counts().items())
        },
        "checks": [asdict(f) for f in found],
    }


def _results(
    task: str,
    table: "pd.DataFrame",
    todo: list[Check],
    severities: dict[str, Severity],
    site: Path,
) -> dict[str, Any]:
    import great_expectations as gx  # 3.5 s
    from great_expectations.checkpoint.actions import UpdateDataDocsAction
    from great_expectations.core.run_identifier import RunIdentifier

    context = _context(task, site)
    images = context.data_sources.add_pandas(task).add_dataframe_asset("images")
    batch = images.add_batch_definition_whole_dataframe("all")
    definitions = []
    for severity, name in SUITES.items():
        mine = [_expectation(c, severity) for c in todo if severities[c.name] == severity]
        suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=mine))
        definition = gx.ValidationDefinition(name=name, data=batch, suite=suite)
        definitions.append(context.validation_definitions.add(definition))
    checkpoint = gx.Checkpoint(
        name=task,
        validation_definitions=definitions,
        actions=[UpdateDataDocsAction(name="docs", site_names=[task])],
        result_format={
            "result_format": "COMPLETE",
            "unexpected_index_column_names": ["image_path"],
        },
    )
    outcome = context.checkpoints.add(checkpoint).run(
        batch_parameters={"dataframe": table}, run_id=RunIdentifier(task, run_time=EPOCH)
    )
    results = [result for suite in outcome.run_results.values() for result in suite.results]
    return {result.expectation_config.meta["check"]: result for result in results}


def _context(task: str, site: Path) -> Any:
    """In memory but for the pages; no bar is drawn and nothing is sent."""
    import great_expectations as gx
    from great_expectations.data_context.types import base

    pages = {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": {
            "class_name": "TupleFilesystemStoreBackend",
            "base_directory": str(site.resolve()),
        },
    }
    config = base.DataContextConfig(
        store_backend_defaults=base.InMemoryStoreBackendDefaults(),
        analytics_enabled=False,
        progress_bars=base.ProgressBarsConfig(globally=False),
        data_docs_sites={task: pages},
    )
    return gx.get_context(mode="ephemeral", project_config=config)


def _expectation(check: Check, severity: Severity) -> Any:
    from great_expectations import expectations
    from great_expectations.expectations.row_conditions import Column

    arguments: dict[str, Any] = {}
    if check.rule in ("between", "sum"):
        arguments = dict(zip(("min_value", "max_value"), check.values, strict=True))
    elif check.values:
        arguments = {"value_set": list(check.values)}
    return getattr(expectations, EXPECTATIONS[check.rule])(
        column=check.column,
        row_condition=Column("split").is_in(list(check.only)) if check.only else None,
        description=check.says,
        meta={"check": check.name},
        severity="critical" if severity == "error" else "warning",
        **arguments,
    )
