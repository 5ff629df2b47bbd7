"""Great Expectations as the judge of a table of images.

What must hold is one suite, what should hold another, and each expectation is one sentence. Its
own results carry times and random ids; our report does not.
"""

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

Severity = Literal["error", "warning"]
SUITES: dict[Severity, str] = {"error": "must_hold", "warning": "should_hold"}
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)  # a run time that never differs
EXPECTATIONS = {
    "in": "ExpectColumnValuesToBeInSet",
    "not in": "ExpectColumnValuesToNotBeInSet",
    "between": "ExpectColumnValuesToBeBetween",
    "unique": "ExpectColumnValuesToBeUnique",
    "has": "ExpectColumnDistinctValuesToContainSet",
    "sum": "ExpectColumnSumToBeBetween",
}


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


def results(
    task: str,
    table: "pd.DataFrame",
    todo: list[Check],
    severities: dict[str, Severity],
    site: Path,
) -> dict[str, Any]:
    """Great Expectations' result of every check by its name; its pages go to the folder `site`."""
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
    judged = [result for suite in outcome.run_results.values() for result in suite.results]
    return {result.expectation_config.meta["check"]: result for result in judged}


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
