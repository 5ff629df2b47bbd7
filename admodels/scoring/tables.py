"""The tables of the ledger: their columns, for good, and how they are written.

`scores` never changes once written; `verdicts` is derived from it and can be rebuilt at any time.
Their common key has no nulls, so that any engine can join on it: `image_sha256` is empty where
the bytes were not read.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from admodels.foundation.arrays import Float64
from admodels.inference.conformal import p_values, threshold
from admodels.inference.regions import Region
from admodels.scoring.discover import Status

ROWS_PER_GROUP = 4096  # of a Parquet file, and of one read of it
SCHEMA_VERSION = 4  # of every table; 1 had neither a version nor checksums, 2 no parts, 3 no maps
VERSION_KEY = b"admodels.schema"  # in the metadata of a Parquet file


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """One row of `scores`; None where the image could not be decoded or scored."""

    line: str
    path: str
    image_sha256: str = ""
    model_fingerprint: str
    contract_fingerprint: str
    method: str
    task: str
    status: Status = Status.SCORED
    reason: str = ""
    anomaly_score: float | None = None
    reused: bool = False
    width: int | None = None
    height: int | None = None
    bit_depth: int | None = None
    brightness: float | None = None
    contrast: float | None = None
    sharpness: float | None = None
    part_id: str | None = None
    lot: str | None = None
    station: str | None = None
    captured_at: datetime | None = None  # UTC
    map_max: float | None = None  # the largest value of the map; None where it is not known


class Answer(NamedTuple):
    """What a detector said of bytes: NaN where that was no number, None where nobody kept it."""

    score: float
    map_max: float | None


def _columns(names: str, kind: pa.DataType, *, nullable: bool) -> list[pa.Field]:
    return [pa.field(name, kind, nullable=nullable) for name in names.split()]


KEY = _columns(
    "line path image_sha256 model_fingerprint contract_fingerprint", pa.string(), nullable=False
)
SCORES = pa.schema(
    [
        *KEY,
        *_columns("method task status reason", pa.string(), nullable=False),
        *_columns("anomaly_score", pa.float64(), nullable=True),
        *_columns("reused", pa.bool_(), nullable=False),
        *_columns("width height bit_depth", pa.int32(), nullable=True),
        *_columns("brightness contrast sharpness", pa.float64(), nullable=True),
        *_columns("part_id lot station", pa.string(), nullable=True),
        *_columns("captured_at", pa.timestamp("us", "UTC"), nullable=True),
        *_columns("map_max", pa.float64(), nullable=True),
    ]
)
REGIONS = pa.schema(  # the places of a flagged image; 1 has the largest map value
    [
        *KEY,
        *_columns("number left top width height", pa.int32(), nullable=False),
        *_columns("x y area_px", pa.float64(), nullable=False),
        *_columns("width_mm height_mm area_mm2", pa.float64(), nullable=True),
        *_columns("share largest mean", pa.float64(), nullable=False),
        *_columns("zone", pa.string(), nullable=False),
    ]
)
VERDICTS = pa.schema(
    [
        *KEY,
        *_columns("alpha", pa.float64(), nullable=False),
        *_columns("threshold p_value", pa.float64(), nullable=True),
        *_columns("is_anomalous", pa.bool_(), nullable=True),
        *_columns("trusted", pa.bool_(), nullable=False),
        *_columns("overlay_path", pa.string(), nullable=False),
    ]
)


JUDGEMENTS = pa.schema(  # how often a row is judged: 1 is what was said when it was seen
    [
        *KEY,
        *_columns("run", pa.string(), nullable=False),
        *_columns("judged_at", pa.timestamp("us", "UTC"), nullable=False),
        *_columns("alpha", pa.float64(), nullable=False),
        *_columns("threshold p_value", pa.float64(), nullable=True),
        *_columns("is_anomalous", pa.bool_(), nullable=True),
        *_columns("trusted", pa.bool_(), nullable=False),
        *_columns("calibration", pa.string(), nullable=False),
        *_columns("judgement", pa.int32(), nullable=False),
        *_columns("who why", pa.string(), nullable=False),
    ]
)
VIEW = pa.struct(  # an image that a judgement on a part rests on
    [
        *_columns("view", pa.string(), nullable=False),
        *KEY,
        *_columns("run status", pa.string(), nullable=False),
        *_columns("captured_at", pa.timestamp("us", "UTC"), nullable=True),
        *_columns("p_value", pa.float64(), nullable=True),
        *_columns("is_anomalous", pa.bool_(), nullable=True),
        *_columns("trusted", pa.bool_(), nullable=False),
        *_columns("calibration", pa.string(), nullable=False),
    ]
)
PARTS = pa.schema(  # judgements on parts: `name` is that of their views in plant.yaml
    [
        *_columns("name lot part_id run", pa.string(), nullable=False),
        *_columns("judged_at", pa.timestamp("us", "UTC"), nullable=False),
        *_columns("alpha", pa.float64(), nullable=False),
        *_columns("views_expected views_seen", pa.int32(), nullable=False),
        *_columns("p_value", pa.float64(), nullable=True),
        *_columns("is_anomalous", pa.bool_(), nullable=True),
        *_columns("trusted", pa.bool_(), nullable=False),
        *_columns("judgement", pa.int32(), nullable=False),
        *_columns("who why reason", pa.string(), nullable=False),
        *_columns("images", pa.list_(VIEW), nullable=False),
    ]
)
JUDGED = {"verdicts": JUDGEMENTS, "parts": PARTS}  # by folder: NAME/NIGHT/NNNN.parquet below it
RUNS_KEY = b"admodels.runs"  # in the metadata of a file of judgements


def scores(rows: Iterable[ScoreRow]) -> Iterator[pa.Table]:
    """`rows` as tables of at most `ROWS_PER_GROUP`, so that memory does not grow with them."""
    left = iter(rows)
    while group := list(islice(left, ROWS_PER_GROUP)):
        yield pa.Table.from_pylist([vars(row) for row in group], schema=SCORES)


def regions(rows: Iterable[tuple[ScoreRow, Sequence[Region]]], mm_per_px: float | None) -> pa.Table:
    """The regions of rows, in their order; lengths in mm where a pixel's is known."""
    places = (
        {field.name: getattr(row, field.name) for field in KEY}
        | {"number": number, "area_px": region.area}
        | {"width_mm": None, "height_mm": None, "area_mm2": None}
        | vars(region)
        | (_millimetres(region, mm_per_px) if mm_per_px else {})
        for row, own in rows
        for number, region in enumerate(own, 1)
    )
    columns = REGIONS.names
    return pa.Table.from_pylist([{n: place[n] for n in columns} for place in places], REGIONS)


def _millimetres(region: Region, mm_per_px: float) -> dict[str, float]:
    return {
        "width_mm": region.width * mm_per_px,
        "height_mm": region.height * mm_per_px,
        "area_mm2": region.area * mm_per_px**2,
    }


def verdicts(group: pa.Table, calibration: Float64, alpha: float, trusted: bool = True) -> pa.Table:
    """The verdicts on a group of `scores`; is_anomalous is null where nothing can be promised.

    `trusted`: the images do not drift. A row without a score is not trusted in any case.
    """
    opinion = opinions(group["anomaly_score"], calibration, alpha)
    scored = pc.is_valid(opinion["p_value"])
    columns = [
        *(group[field.name] for field in KEY),
        *opinion.columns,
        pc.and_(scored, trusted),
        pa.array([""] * len(group), pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=VERDICTS)


def opinions(score: pa.ChunkedArray, calibration: Float64, alpha: float) -> pa.Table:
    """Alpha, threshold, p-value and is_anomalous of each score, null where nothing can be said."""
    limit, count = threshold(calibration, alpha), len(score)
    values = score.to_numpy()
    unscored = np.isnan(values)
    p_value = np.ones(count)
    p_value[~unscored] = p_values(values[~unscored], calibration)
    columns = [
        pa.array(np.full(count, alpha)),
        pa.array([limit] * count, pa.float64()),
        pa.array(p_value, mask=unscored),
        pa.array(p_value <= alpha, mask=unscored | (limit is None)),
    ]
    return pa.Table.from_arrays(columns, ["alpha", "threshold", "p_value", "is_anomalous"])


def model_of(group: pa.Table) -> tuple[str, str]:
    """Fingerprints of the model and the contract of a group, which has one of each."""
    return group["model_fingerprint"][0].as_py(), group["contract_fingerprint"][0].as_py()


def by_model(rows: pa.Table) -> Iterator[pa.Table]:
    """The rows of each model and contract: a run has two where a bundle changed meanwhile."""
    keys = ["model_fingerprint", "contract_fingerprint"]
    models = rows.group_by(keys, use_threads=False).aggregate([]).to_pylist()
    for model in models:
        own = [pc.field(key) == model[key] for key in keys]
        yield rows if len(models) == 1 else rows.filter(own[0] & own[1])


def write(
    path: Path, schema: pa.Schema, groups: Iterable[pa.Table], runs: Iterable[str] = ()
) -> None:
    """Parquet, one row group each, with page checksums; the same rows give the same bytes.

    `runs`: whose rows they are, for a reader that looks for some.
    """
    stamped = schema.with_metadata({VERSION_KEY: str(SCHEMA_VERSION)})
    if runs:
        stamped = stamped.with_metadata(stamped.metadata | {RUNS_KEY: " ".join(sorted(runs))})
    with pq.ParquetWriter(path, stamped, compression="zstd", write_page_checksum=True) as writer:
        for group in groups:
            writer.write_table(group)


def runs_of(path: Path) -> set[str]:
    """The runs whose rows a table says that it holds."""
    with parquet_file(path) as file:
        return set((file.schema_arrow.metadata or {}).get(RUNS_KEY, b"").decode().split())


def parquet_file(path: Path) -> pq.ParquetFile:
    """A table; of what is read, little more than a group is in memory, however long it is.

    Page checksums are verified where the table has them.
    """
    return pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True)


def check_schema(own: pa.Schema, schema: pa.Schema) -> None:
    """Accept the columns of `schema`, or fewer in a table of an older version.

    Raises:
        ValueError: other columns, whose values would be read as something else.
    """
    version = int((own.metadata or {}).get(VERSION_KEY, b"1"))
    if version > SCHEMA_VERSION:
        raise ValueError(f"schema version {version}: a newer admodels wrote it")
    is_older = version < SCHEMA_VERSION and {field.name for field in KEY} <= set(own.names)
    columns = [field for field in schema if field.name in own.names or not is_older]
    if not own.equals(pa.schema(columns)):
        raise ValueError("other columns than it should have")


def batches(file: pq.ParquetFile, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows of a table in order; a column that an older version did not have is null."""
    for batch in file.iter_batches(ROWS_PER_GROUP):
        for position, field in enumerate(schema):
            if field.name not in batch.schema.names:
                nulls = pa.nulls(len(batch), field.type)
                batch = batch.add_column(position, field.with_nullable(True), nulls)
        yield batch


def read(path: Path) -> Iterator[pa.Table]:
    """The row groups of a table, one at a time."""
    with parquet_file(path) as file:
        for number in range(file.num_row_groups):
            yield file.read_row_group(number)


def write_csv(parquet: Path) -> None:
    """The table beside itself as UTF-8 CSV, in the order of the key.

    All text is quoted and nulls are empty, so no name of a file can break a row. A name is not
    altered either: a spreadsheet may take one that starts with = + - or @ for a formula, therefore
    import the column `path` as text there.
    """
    with parquet_file(parquet) as file:
        schema = file.schema_arrow
    with pa_csv.CSVWriter(parquet.with_suffix(".csv"), schema) as writer:
        for group in read(parquet):
            writer.write_table(group)
