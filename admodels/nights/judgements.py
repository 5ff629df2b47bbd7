"""Scores joined with what was said of them; a row is judged once, by the look that first sees it.

verdicts/LINE/NIGHT/NNNN.parquet   judgements on rows of scores, written once
verdicts/LINE.parquet              those of an older version: the first ones of their rows
lists/RUN/LINE.csv                 the Benjamini-Hochberg list of a night

A later opinion (`admodels.nights.rejudge`) is another judgement on the same rows.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from admodels.inference.conformal import benjamini_hochberg
from admodels.nights.calibrations import KeptCalibration, calibration_in_force
from admodels.scoring import tables
from admodels.scoring.discover import NOT_IMAGES
from admodels.scoring.index import open_part
from admodels.scoring.journal import user
from admodels.scoring.ledger import Ledger
from admodels.scoring.lines import folder_name

ROWS_HELD = 500_000  # of all lines of a look, about 150 MiB; those of more are read again
SAID = ["alpha", "threshold", "p_value", "is_anomalous", "trusted", "calibration", "judgement"]
KEY = [field.name for field in tables.KEY]
RUN = pa.field("run", pa.string(), nullable=False)
ROWS = pa.schema(
    [*tables.SCORES, RUN, *(tables.JUDGEMENTS.field(name).with_nullable(True) for name in SAID)]
)


@dataclass(frozen=True)
class JudgedRows:
    """The rows of a line in some runs, each with what was said of it first.

    `rows` has the columns of `ROWS`; those of a judgement are null where there is none. `alpha` and
    `calibration` are those that count now.
    """

    line: str
    rows: pa.Table
    alpha: float
    calibration: KeptCalibration

    @property
    def statuses(self) -> dict[str, int]:
        """How many rows have each status."""
        counts = self.rows["status"].value_counts().to_pylist()
        return {count["values"]: count["counts"] for count in counts}

    @property
    def images(self) -> pa.Table:
        """The rows of what should be an image."""
        return self.rows.filter(~pc.field("status").isin(list(NOT_IMAGES)))

    @property
    def scores_count(self) -> int:
        """How many rows have a p-value."""
        return len(self.rows) - int(self.rows["p_value"].null_count)

    @property
    def flags_count(self) -> int:
        """How many rows are anomalous."""
        return count_true(self.rows["is_anomalous"])

    @property
    def median_score(self) -> float | None:
        """Of all scores, None where there is none."""
        scores = self.rows["anomaly_score"].drop_null()
        return float(np.median(scores.to_numpy())) if len(scores) else None


def count_true(is_anomalous: pa.ChunkedArray) -> int:
    """How many are true; null counts as false."""
    return int(pc.sum(is_anomalous).as_py() or 0)


def judge_look(
    ledger: Ledger,
    line: str,
    night: str,
    alpha: float,
    calibration: KeptCalibration,
    drifted: Collection[str],
) -> JudgedRows:
    """Judge the rows of tonight that nobody has judged, and keep that; all rows of tonight.

    What else the look does with them, its page included, gets these rows from the same table.

    Rows of a model that another look had are judged by the calibration that counts for it. Those of
    the runs in `drifted` are not trusted.

    Raises:
        StorageError: a file of the ledger is damaged.
    """
    ledger.judged.pop(line, None)
    runs = ledger.tonight(line)
    rows = rows_of_runs(ledger, line, runs)
    new = rows.filter(pc.field("alpha").is_null())
    if len(new):
        groups = list(tables.by_model(new))
        firsts = [_first(ledger, line, group, alpha, drifted) for group in groups]
        ledger.write_judgements(line, night, pa.concat_tables(firsts))
        rows = rows.filter(pc.field("alpha").is_valid())
        rows = pa.concat_tables([rows, *map(_with_words, groups, firsts)])
    if len(rows) + sum(len(table) for _, table in ledger.judged.values()) <= ROWS_HELD:
        ledger.judged[line] = runs, rows
    return JudgedRows(line, rows, alpha, calibration)


def _first(
    ledger: Ledger, line: str, group: pa.Table, alpha: float, drifted: Collection[str]
) -> pa.Table:
    """The first judgements on rows of one model."""
    kept = calibration_in_force(ledger, line, *tables.model_of(group))
    is_calm = pc.invert(pc.is_in(group["run"], pa.array(list(drifted), pa.string())))
    return judgement_of(group, kept, alpha, is_calm, why="seen for the first time")


def judgement_of(
    group: pa.Table,
    kept: KeptCalibration | None,
    alpha: float,
    trusted: pa.ChunkedArray,
    number: int = 1,
    *,
    why: str,
) -> pa.Table:
    """A judgement on rows of one model by a calibration, as a table of `JUDGEMENTS`."""
    opinions = tables.opinions(group["anomaly_score"], kept.scores if kept else np.empty(0), alpha)
    columns = {name: opinions[name] for name in opinions.column_names}
    columns |= {field.name: group[field.name] for field in (*tables.KEY, RUN)}
    columns["trusted"] = pc.and_(pc.is_valid(opinions["p_value"]), trusted)
    same = {"judged_at": datetime.now(UTC), "judgement": number, "who": user(), "why": why}
    same["calibration"] = kept.sha256 if kept else ""
    for name, value in same.items():
        kind = tables.JUDGEMENTS.field(name).type
        columns[name] = pa.repeat(pa.scalar(value, kind), len(group))
    return pa.table([columns[field.name] for field in tables.JUDGEMENTS], tables.JUDGEMENTS)


def rows_of_runs(ledger: Ledger, line: str, runs: Collection[str]) -> pa.Table:
    """The rows of some runs of a line with the first judgement on each; see `ROWS`.

    Those that this look has judged are not read again.

    Raises:
        BusyError: beside a run, which merges the files meanwhile.
        StorageError: a file is damaged.
    """
    held, table = ledger.judged.get(line, ((), ROWS.empty_table()))
    if held and set(runs) <= set(held):
        return table.filter(pc.is_in(table["run"], pa.array(list(runs), pa.string())))
    groups = [
        group.append_column(RUN, pa.repeat(pa.scalar(run), len(group)))
        for run in runs
        for _, group in ledger.groups(line, run)
    ]
    scores = pa.concat_tables([pa.schema([*tables.SCORES, RUN]).empty_table(), *groups])
    said = ledger.judgements(line, runs)
    words = _join(scores, said.filter(pc.field("judgement") == 1))
    old = ledger.folder / "verdicts" / f"{folder_name(line)}.parquet"
    if old.is_file():
        unknown = pc.and_(pc.is_null(words["alpha"]), pc.not_equal(scores["run"], ledger.run))
        if pc.any(unknown).as_py():
            words = _choose(words, _join(scores, _of_old_file(old, scores.filter(unknown))))
    return _with_words(scores, words)


def with_last_judgement(
    ledger: Ledger, line: str, runs: Collection[str], rows: pa.Table
) -> pa.Table:
    """The judged rows of some runs, with the last judgement on each in place of the first."""
    later = ledger.judgements(line, runs).filter(pc.field("judgement") > 1)
    return _with_words(rows, _choose(_join(rows, _last_of_each(later)), rows.select(SAID)))


def opinion_of_today(
    ledger: Ledger, line: str, runs: Collection[str], rows: pa.Table
) -> pa.ChunkedArray:
    """Whether each of the judged rows is anomalous by what counts today.

    That is the calibration in force for its model, and the budget of the last judgement on it.
    """
    last = with_last_judgement(ledger, line, runs, rows)
    names = ["model_fingerprint", "contract_fingerprint", "anomaly_score", *SAID]
    last = last.select(names).append_column("position", pa.array(np.arange(len(last))))
    opinions = [pa.schema([ROWS.field("is_anomalous"), ("position", pa.int64())]).empty_table()]
    for group in tables.by_model(last):
        kept = calibration_in_force(ledger, line, *tables.model_of(group))
        sha256, scores = (kept.sha256, kept.scores) if kept else ("", np.empty(0))
        for alpha in group["alpha"].unique().drop_null().to_pylist():
            own = group.filter(pc.field("alpha") == alpha)
            flags = own["is_anomalous"]
            if not pc.all(pc.equal(own["calibration"], sha256)).as_py() or not sha256:
                flags = tables.opinions(own["anomaly_score"], scores, alpha)["is_anomalous"]
            opinions.append(pa.table([flags, own["position"]], opinions[0].schema))
    said = pa.concat_tables(opinions)
    places = pc.index_in(pa.array(np.arange(len(rows))), said["position"].combine_chunks())
    return pa.chunked_array([said["is_anomalous"].combine_chunks().take(places)])


def _with_words(scores: pa.Table, words: pa.Table) -> pa.Table:
    own = [scores[name] for name in (*tables.SCORES.names, RUN.name)]
    return pa.table([*own, *(words[name] for name in SAID)], ROWS)


def _join(scores: pa.Table, said: pa.Table) -> pa.Table:
    """What was said of each row of `scores`, in their order; null where nothing was."""
    kinds = [ROWS.field(name) for name in SAID]
    if not len(said):
        return pa.table([pa.nulls(len(scores), kind.type) for kind in kinds], pa.schema(kinds))
    keys = scores.select(KEY).append_column("position", pa.array(np.arange(len(scores))))
    joined = keys.join(said.select([*KEY, *SAID]), KEY, join_type="left outer")
    return joined.sort_by("position").select(SAID).cast(pa.schema(kinds))


def _choose(first: pa.Table, second: pa.Table) -> pa.Table:
    """Row by row what `first` says, or where it says nothing what `second` does."""
    is_said = pc.is_valid(first["alpha"])
    columns = [pc.if_else(is_said, first[name], second[name]) for name in SAID]
    return pa.table(columns, first.schema)


def _last_of_each(said: pa.Table) -> pa.Table:
    ordered = said.sort_by("judgement").append_column("place", pa.array(np.arange(len(said))))
    last = ordered.group_by(KEY, use_threads=False).aggregate([("place", "max")])
    return ordered.take(last["place_max"])


def _of_old_file(path: Path, scores: pa.Table) -> pa.Table:
    """What an older version said of rows; by which calibration it did not keep."""
    paths = scores["path"].unique()
    names = [name for name in SAID if name in tables.VERDICTS.names]
    kept = [tables.VERDICTS.empty_table().select([*KEY, *names])]
    with open_part(path, tables.VERDICTS) as file:
        for batch in tables.batches(file, tables.VERDICTS):
            wanted = batch.filter(pc.is_in(batch["path"], paths))
            kept.append(pa.Table.from_batches([wanted]).select([*KEY, *names]))
    table = pa.concat_tables(kept, promote_options="default")
    first = pa.repeat(pa.scalar(1, pa.int32()), len(table))
    unknown = pa.repeat(pa.scalar(""), len(table))
    return table.append_column("calibration", unknown).append_column("judgement", first)


def write_list(ledger: Ledger, judged: JudgedRows, fdr: float) -> int:
    """The night's Benjamini-Hochberg list as CSV, worst first; how many it names.

    At most the share `fdr` of what it names is expected to be false alarms.
    """
    columns = ["path", "image_sha256", "anomaly_score", "p_value"]
    table = judged.rows.select(columns).drop_null()
    if not len(judged.rows):
        return 0
    cut = benjamini_hochberg(table["p_value"].to_numpy(), fdr)
    table = table.filter(pc.field("p_value") <= cut).sort_by([("anomaly_score", "descending")])
    target = ledger.folder / "lists" / ledger.run / f"{folder_name(judged.line)}.csv"
    with ledger.store(target) as (partial,):
        pa_csv.write_csv(table, partial)
    return len(table)


def picture_path(line: str, image_sha256: str, model: str, contract: str) -> str:
    """Where a picture stands in the ledger: by content, so that no two images of one name meet."""
    return f"overlays/{folder_name(line)}/{image_sha256[:32]}-{model[:8]}{contract[:8]}.jpg"
