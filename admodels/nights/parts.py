"""What was said of parts: pieces whose views are judged together (`admodels.nights.judge_parts`).

parts/NAME/NIGHT/NNNN.parquet   judgements on parts of the kind NAME of plant.yaml, written once
"""

from collections import Counter
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from admodels.scoring import tables
from admodels.scoring.index import open_part
from admodels.scoring.ledger import Ledger
from admodels.scoring.lines import folder_name

FOLDER = "parts"
PART = ["lot", "part_id"]  # the lot is empty where paths name none


def part_judgements(ledger: Ledger, name: str, night: str) -> pa.Table:
    """The last judgement of a night on each part of the kind `name`, the worst first.

    The columns are those of `tables.PARTS`. `is_anomalous` is true for a flagged part. It is false
    only if every view has a score and enough normal images to flag the part; where it is null,
    `reason` says which view does not. `views_seen` of `views_expected` have a score. `images` are
    those that count, each with its own p-value and whether the view is flagged by itself.

    Raises:
        StorageError: a file of the ledger is damaged.
    """
    return worst_first(last_of_each(judgements(ledger, name, lambda other: other == night)))


def judgements(ledger: Ledger, name: str, is_wanted: Callable[[str], bool]) -> pa.Table:
    """All judgements on the parts of the kind `name` of some nights, as they were written."""
    written = [tables.PARTS.empty_table()]
    for file in ledger.catalogue.names(f"{FOLDER}/{folder_name(name)}"):
        if is_wanted(file.split("/")[2]):
            with open_part(ledger.folder / file, tables.PARTS) as table:
                written.append(table.read())
    return pa.concat_tables(written)


def last_of_each(table: pa.Table) -> pa.Table:
    """The last judgement on each part, of judgements as they were written.

    Where one is the first again, it is on another part of the same name.
    """
    last = dict[tuple[str, str, int], int]()
    pieces = Counter[tuple[str, str]]()
    columns = (table[name].to_pylist() for name in (*PART, "judgement"))
    for place, (lot, part_id, number) in enumerate(zip(*columns, strict=True)):
        pieces[lot, part_id] += number == 1
        last[lot, part_id, pieces[lot, part_id]] = place
    return table.take(pa.array(last.values(), pa.int64()))


def worst_first(table: pa.Table) -> pa.Table:
    """Judgements on parts: flagged ones first, then by p-value, those without one last."""
    is_flagged = pc.fill_null(table["is_anomalous"], False)
    order = [("flagged", "descending"), ("p_value", "ascending"), *((n, "ascending") for n in PART)]
    keys = table.select(["p_value", *PART]).append_column("flagged", is_flagged)
    return table.take(pc.sort_indices(keys, order))


def kinds_of_parts(ledger: Ledger, night: str = "") -> list[str]:
    """The names of the kinds of parts that were judged: in a night, or ever."""
    names = dict[str, str]()  # by folder, which may be another text
    for file in ledger.catalogue.names(FOLDER):
        _, folder, other, _ = file.split("/")
        if folder not in names and night in ("", other):
            with open_part(ledger.folder / file, tables.PARTS) as table:
                batch = next(table.iter_batches(1, columns=["name"]))
                names[folder] = batch["name"][0].as_py()
    return sorted(names.values())
