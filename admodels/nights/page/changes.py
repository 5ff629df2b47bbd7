"""What is not the same as in the night before: messages for the page, with their values."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from admodels.nights.judgements import count_true, opinion_of_today, rows_of_runs
from admodels.nights.report import LineReport
from admodels.scoring.ledger import Ledger


@dataclass(frozen=True)
class Change:
    """The id of a message, its values, and of a changed thing the id of its name."""

    message: str
    values: Mapping[str, object]
    what: str = ""


def changes(
    ledger: Ledger,
    line: str,
    now: LineReport,
    before: tuple[str, LineReport] | None,
    rows: pa.Table,
) -> Iterator[Change]:
    """What differs from the night `before` (its run and report); counts are shown elsewhere."""
    if before is None:
        yield Change("changes.first", {})
        return
    run, report = before
    old, new = identity(report), identity(now)
    for what in new:
        if new[what] != old.get(what):
            yield Change("changes.other", {"old": old.get(what), "new": new[what]}, what)
    runs = report.runs or [run]
    earlier = rows_of_runs(ledger, line, runs)
    today = count_true(opinion_of_today(ledger, line, runs, earlier))
    then = count_true(earlier["is_anomalous"])
    if today != then:
        yield Change("changes.today", {"then": then, "now": today})
    key = ["path", "image_sha256"]
    kept = [*key, "is_anomalous"]
    both = rows.select(kept).join(
        earlier.select(kept), key, right_suffix="_then", join_type="inner"
    )
    was, is_now = pc.field("is_anomalous_then"), pc.field("is_anomalous")
    more, fewer = len(both.filter(is_now & ~was)), len(both.filter(was & ~is_now))
    if more or fewer:
        yield Change("changes.verdicts", {"both": len(both), "more": more, "fewer": fewer})


def identity(report: LineReport) -> dict[str, str]:
    """What the verdicts of a line rest on, by message id; less where its night ended early."""
    calibration, digest = report.calibration, report.calibration_sha256 or ""
    values = {
        "model": report.model_fingerprint,
        "contract": report.contract_fingerprint,
        "calibration": calibration and f"{calibration}, sha256 {digest[:16]}",
        "alpha": report.alpha and f"{report.alpha:g}",
    }
    return {what: value for what, value in values.items() if value}
