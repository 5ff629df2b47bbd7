"""What was said, as tables that other systems read: every image of a line, every part of a lot."""

from collections.abc import Callable, Iterator
from pathlib import Path
from unicodedata import normalize

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from admodels.foundation.errors import ConfigurationError
from admodels.foundation.files import printable, whole_file
from admodels.nights.judgements import ROWS, rows_of_runs, with_last_judgement
from admodels.nights.parts import judgements, kinds_of_parts, last_of_each, worst_first
from admodels.nights.rejudge import nights_of_line
from admodels.scoring import tables
from admodels.scoring.ledger import Ledger

NIGHT = pa.field("night", pa.string(), nullable=False)
VERDICTS = pa.schema([NIGHT, *ROWS])
STATES = {True: "part flagged", False: "not flagged", None: "undecided"}
PARTS = pa.schema(field for field in tables.PARTS if field.name != "images")


def export_verdicts(
    ledger: Ledger, line: str, target: Path, is_wanted: Callable[[str], bool]
) -> int:
    """Write the rows of a line in some nights as CSV, each with its last judgement; how many.

    Raises:
        ConfigurationError: it has none, and an empty table would read as nothing wrong.
        StorageError: a file of the ledger is damaged.
    """
    nights = {n: runs for n, runs in nights_of_line(ledger, line).items() if is_wanted(n)}
    if not nights:
        raise ConfigurationError(
            f"no rows of line `{printable(line)}` in these nights",
            where=ledger.folder,
            expected="a line, and nights, that were scored",
            next_step="correct the name (`admodels line list`) or leave `--night` out",
        )
    count = 0
    with whole_file(target) as partial, pa_csv.CSVWriter(partial, VERDICTS) as writer:
        for night, runs in sorted(nights.items()):
            for run in sorted(runs):
                rows = rows_of_runs(ledger, line, [run])
                rows = with_last_judgement(ledger, line, [run], rows)
                dates = pa.repeat(pa.scalar(night), len(rows))
                writer.write_table(pa.table([dates, *rows.columns], VERDICTS))
                count += len(rows)
    return count


def export_parts(table: pa.Table, target: Path) -> None:
    """Write judgements on parts as CSV, without the images that they rest on."""
    with whole_file(target) as partial:
        pa_csv.write_csv(table.select(PARTS.names), partial)


def parts_of(ledger: Ledger, lot: str | None, is_wanted: Callable[[str], bool]) -> pa.Table:
    """The last judgement on each part of a lot (None: of any) in some nights, the worst first."""
    parts = [tables.PARTS.empty_table()]
    name_of_lot = None if lot is None else normalize("NFC", lot)
    for name in kinds_of_parts(ledger):
        table = judgements(ledger, name, is_wanted)
        own = table if lot is None else table.filter(pc.field("lot") == name_of_lot)
        parts.append(last_of_each(own))
    return worst_first(pa.concat_tables(parts))


def sentences(table: pa.Table) -> Iterator[str]:
    """What people read of each part: the verdict, and the image that decided it."""
    for row in table.to_pylist():
        scored = [image for image in row["images"] if image["p_value"] is not None]
        worst = min(scored, key=lambda image: image["p_value"], default=None)
        lot = f" of lot {row['lot']}" if row["lot"] else ""
        views = f"{row['views_seen']} of {row['views_expected']} views"
        text = f"{row['name']}: part {row['part_id']}{lot}: {STATES[row['is_anomalous']]}, {views}"
        if worst:
            word = "view flagged" if worst["is_anomalous"] else "worst view"
            text += f", p {row['p_value']:.3g}; {word}: {worst['line']}/{worst['path']}"
        yield printable(f"{text}; {row['reason']}" if row["reason"] else text)
