"""Great Expectations as the judge of a table of images.

What must hold is one suite, what should hold another. The result is the same on every run: it
carries no time and no random id, as no checkpoint runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from admodels.validation.sentences import expectation

if TYPE_CHECKING:
    import pandas as pd

Severity = Literal["error", "warning"]
SUITES: dict[Severity, str] = {"error": "must_hold", "warning": "should_hold"}
EXPECTATIONS = {
    "in": "ExpectColumnValuesToBeInSet",
    "not in": "ExpectColumnValuesToNotBeInSet",
    "between": "ExpectColumnValuesToBeBetween",
    "unique": "ExpectColumnValuesToBeUnique",
    "has": "ExpectColumnDistinctValuesToContainSet",
    "sum": "ExpectColumnSumToBeBetween",
}
RESULT_FORMAT = {
    "result_format": "COMPLETE",
    "unexpected_index_column_names": ["image_path"],
}


@dataclass(frozen=True)
class Check:
    """One expectation: a rule on a column of the table, and the facts that its sentences name.

    `values` are a set, or the least and the greatest value; `only` are the splits it looks at.
    """

    name: str
    rule: str
    column: str
    values: tuple[Any, ...] = ()
    only: tuple[str, ...] = ()
    facts: Mapping[str, object] = field(default_factory=dict)


def judge(
    table: "pd.DataFrame", checks: Sequence[Check], severities: Mapping[str, Severity]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Great Expectations' result of every check by its name; all suites and results as JSON."""
    import great_expectations as gx  # 3.5 s

    images = _context().data_sources.add_pandas("task").add_dataframe_asset("images")
    batch = images.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": table})
    results: dict[str, Any] = {}
    judgement: dict[str, Any] = {}
    for severity, name in SUITES.items():
        expectations = [_expectation(c, severity) for c in checks if severities[c.name] == severity]
        suite = gx.ExpectationSuite(name=name, expectations=expectations)
        outcome = batch.validate(suite, result_format=RESULT_FORMAT)
        results |= {r.expectation_config.meta["check"]: r for r in outcome.results}
        judgement[name] = {
            "suite": suite.to_json_dict(),
            "results": [result.to_json_dict() for result in outcome.results],
        }
    return results, judgement


def _context() -> Any:
    """In memory; no bar is drawn and nothing is sent."""
    import great_expectations as gx
    from great_expectations.data_context.types import base

    config = base.DataContextConfig(
        store_backend_defaults=base.InMemoryStoreBackendDefaults(),
        analytics_enabled=False,
        progress_bars=base.ProgressBarsConfig(globally=False),
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
        description=expectation(check.name, check.facts),
        meta={"check": check.name},
        severity="critical" if severity == "error" else "warning",
        **arguments,
    )
