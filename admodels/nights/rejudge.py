"""Another judgement on rows that were judged, by the calibration or the budget of today.

The judgements before it stand as they were; the page of an old night shows the first.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from admodels.foundation.errors import ConfigurationError
from admodels.inference.conformal import images_missing
from admodels.nights.calibrations import calibration_in_force
from admodels.nights.history import NightSummary
from admodels.nights.judgements import (
    count_true,
    judgement_of,
    rows_of_runs,
    with_last_judgement,
)
from admodels.scoring import tables
from admodels.scoring.ledger import Ledger, summaries
from admodels.scoring.lines import folder_name


@dataclass(frozen=True)
class Change:
    """What another judgement changes against the last one.

    `missing` normal images more would be needed for the last model's calibration to promise alpha.
    """

    line: str
    rows: int = 0
    flagged: int = 0
    more: int = 0
    fewer: int = 0
    missing: int = 0

    def __str__(self) -> str:
        if self.missing:
            return f"{self.line}: {self.missing} more normal images are needed to promise that"
        counts = f"{self.flagged} flagged, {self.more} more and {self.fewer} fewer"
        return f"{self.line}: {counts}, of {self.rows} judged rows"


def rejudge(
    ledger: Ledger, line: str, alpha: float, nights: Collection[date] = (), why: str = ""
) -> Change:
    """Judge the rows of a line anew, or those of some nights; without `why` this is a preview.

    Each row is judged by the calibration that counts now for the model that scored it. Whether it
    is trusted stays as it was.

    Raises:
        ConfigurationError: the line has no rows of a night that is named.
        StorageError: a file of the ledger is damaged.
    """
    runs_of_night = nights_of_line(ledger, line)
    wanted = {night.isoformat() for night in nights} or runs_of_night.keys()
    if unknown := wanted - runs_of_night.keys():
        raise ConfigurationError(
            f"no judged rows of line `{line}` in the night {min(unknown)}",
            where="`--night`",
            expected=f"one of {', '.join(sorted(runs_of_night)[-7:]) or 'none'}",
            next_step="name another night, or leave `--night` out for all",
        )
    change = Change(line)
    for night in sorted(wanted):
        runs = sorted(runs_of_night[night])
        rows = rows_of_runs(ledger, line, runs).filter(pc.field("alpha").is_valid())
        rows = with_last_judgement(ledger, line, runs, rows)
        change, said = _judge_anew(ledger, change, rows, alpha, why)
        if why and said:
            ledger.write_judgements(line, night, pa.concat_tables(said))
    return change


def _judge_anew(
    ledger: Ledger, change: Change, rows: pa.Table, alpha: float, why: str
) -> tuple[Change, list[pa.Table]]:
    said = []
    number = (pc.max(rows["judgement"]).as_py() or 1) + 1
    for group in tables.by_model(rows):
        kept = calibration_in_force(ledger, change.line, *tables.model_of(group))
        judgement = judgement_of(group, kept, alpha, group["trusted"], number, why=why)
        before = pc.fill_null(group["is_anomalous"], False)
        now = pc.fill_null(judgement["is_anomalous"], False)
        change = Change(
            change.line,
            change.rows + len(group),
            change.flagged + count_true(now),
            change.more + count_true(pc.and_not(now, before)),
            change.fewer + count_true(pc.and_not(before, now)),
            images_missing(len(kept.scores) if kept else 0, alpha),
        )
        said.append(judgement)
    return change, said


def nights_of_line(ledger: Ledger, line: str) -> dict[str, set[str]]:
    """The runs of each night of a line, by the date of the night."""
    nights = ledger.catalogue.runs_by_night(folder_name(line))
    runs = {path.parent.name for path in ledger.parts(line)} - set[str]().union(*nights.values())
    for run in runs:  # of an older version
        nights.setdefault(_night_of(ledger, int(run)), set()).add(run)
    return nights


def _night_of(ledger: Ledger, run: int) -> str:
    """The date on which a run of an older version began, or the next one that has a summary."""
    for path in reversed(summaries(ledger.folder)):
        if int(path.stem) >= run and (night := NightSummary.of(path.read_bytes())):
            return night.started.date().isoformat()
    return date.max.isoformat()
