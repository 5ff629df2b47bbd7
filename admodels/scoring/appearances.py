"""The side table of `scores`: what each image looked like, and when its file was written.

appearance/LINE/RUN/NNNN.parquet   of the images in the part of `scores` of this name

Only drift reads it, once: runs that are judged do not need it any more.
"""

from collections.abc import Iterable, Iterator

import pyarrow as pa

from admodels.foundation.arrays import Records
from admodels.images.describe import APPEARANCE, unknown_records
from admodels.scoring.tables import KEY, ScoreRow


def _fields() -> Iterator[pa.Field]:
    for name in APPEARANCE.names or ():
        kind = APPEARANCE[name]
        values = pa.from_numpy_dtype(kind.base)
        if kind.shape:
            values = pa.list_(values, kind.shape[0])
        yield pa.field(name, values, nullable=False)


APPEARANCES = pa.schema(
    [
        *KEY,
        pa.field("mtime_ns", pa.int64(), nullable=False),
        pa.field("anomaly_score", pa.float64()),
        *_fields(),
    ]
)


def table(seen: Iterable[tuple[ScoreRow, int, Records]]) -> pa.Table:
    """Of rows, the times of their files (ns) and their appearances."""
    rows = [
        {field.name: getattr(row, field.name) for field in KEY}
        | {"mtime_ns": mtime_ns, "anomaly_score": row.anomaly_score}
        | {name: record[name].tolist() for name in APPEARANCE.names or ()}
        for row, mtime_ns, record in seen
    ]
    return pa.Table.from_pylist(rows, schema=APPEARANCES)


def records(table: pa.Table) -> Records:
    """The (N,) appearances of a table; NaN for what an older version did not measure."""
    rows = unknown_records(len(table))
    for name in APPEARANCE.names or ():
        column = table[name].combine_chunks()
        if column.null_count:
            continue
        values = column.flatten() if APPEARANCE[name].shape else column
        rows[name] = values.to_numpy(zero_copy_only=False).reshape(rows[name].shape)
    return rows
