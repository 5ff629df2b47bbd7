"""Small parts of the ledger as one: the same rows in the same order."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from admodels.scoring import tables
from admodels.scoring.index import open_part

HELD = 256  # batches: each costs memory of its own, however small


def can_merge(homes: tuple[Path, ...], parts: list[Path], schema: pa.Schema) -> bool:
    """Whether nothing else stands in a run's folders, which go, and no part lacks a column."""
    names = {path.name for path in parts}
    if any(path.name not in names for home in homes for path in home.glob("*")):
        return False
    for path in parts:
        with open_part(path, schema) as file:
            if file.schema_arrow.names != schema.names:
                return False
    return True


def full_groups(paths: list[Path], schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows of many small parts in few large groups, which are smaller and faster to read."""
    held: list[pa.RecordBatch] = []
    count = 0
    for path in paths:
        with open_part(path, schema) as file:
            for batch in tables.batches(file, schema):
                if held and (len(held) == HELD or count + len(batch) > tables.ROWS_PER_GROUP):
                    yield pa.Table.from_batches(held)
                    held, count = [], 0
                held.append(batch)
                count += len(batch)
    yield pa.Table.from_batches(held, schema)
