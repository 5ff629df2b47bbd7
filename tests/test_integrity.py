"""A ledger that was damaged: refused by name or repaired, and older versions are read."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from admodels.foundation.errors import StorageError
from admodels.foundation.files import write_json
from admodels.images.describe import APPEARANCE, read_records, write_records
from admodels.nights.calibrations import (
    Calibration,
    calibration_in_force,
    keep_calibration,
    read_calibration,
)
from admodels.nights.drift import statistics
from admodels.nights.drift.history import read_record
from admodels.scoring import tables
from admodels.scoring.appearances import APPEARANCES, records
from admodels.scoring.index import open_part
from admodels.scoring.ledger import open_ledger
from tests import cards, tiny

DAMAGED = [b"", b"{", b'{"run": "0000', b"[" * 100_000, b"\xff\xfe", b"[]", b"{}", b"null"]


def rows(count: int) -> list[tables.ScoreRow]:
    same = {"line": "press", "model_fingerprint": "m", "contract_fingerprint": "c"}
    return [
        tables.ScoreRow(**same, path=f"{at}.png", method="x", task="t", anomaly_score=at / 7)
        for at in range(count)
    ]


def part(path: Path, schema: pa.Schema, table: pa.Table) -> Path:
    tables.write(path, schema, [table])
    return path


def read(path: Path, schema: pa.Schema = tables.SCORES) -> pa.Table:
    with open_part(path, schema) as file:
        return pa.Table.from_batches(tables.batches(file, schema))


@pytest.mark.slow
def test_a_flipped_bit_in_the_data_of_a_page_is_refused_wherever_it_is(tmp_path: Path) -> None:
    table = next(tables.scores(rows(60)))
    path = part(tmp_path / "a.parquet", tables.SCORES, table)
    column = pq.ParquetFile(path).metadata.row_group(0).column(9)
    assert column.path_in_schema == "anomaly_score"
    whole, start = path.read_bytes(), column.dictionary_page_offset
    refusals = []
    for place in range(start, start + column.total_compressed_size):
        data = bytearray(whole)
        data[place] ^= 1
        path.write_bytes(data)
        try:
            assert read(path).equals(table)
        except StorageError as error:
            refusals.append(str(error))
    assert len(refusals) > 0.9 * column.total_compressed_size
    assert all("a.parquet" in text for text in refusals)


def test_a_part_without_checksums_and_version_is_read(tmp_path: Path) -> None:
    table = next(tables.scores(rows(5)))
    pq.write_table(table, tmp_path / "old.parquet")
    assert read(tmp_path / "old.parquet").equals(table)


def test_a_column_that_an_older_part_lacks_is_null_and_not_zero(tmp_path: Path) -> None:
    table = next(tables.scores(rows(3)))
    pq.write_table(table.drop_columns(["sharpness", "reused"]), tmp_path / "old.parquet")
    found = read(tmp_path / "old.parquet")
    assert found.column_names == tables.SCORES.names
    assert found["sharpness"].null_count == found["reused"].null_count == 3
    assert found.drop_columns(["sharpness", "reused"]).equals(
        table.drop_columns(["sharpness", "reused"])
    )


def test_a_part_of_this_version_without_a_column_and_one_of_a_newer_are_refused(
    tmp_path: Path,
) -> None:
    table = next(tables.scores(rows(3)))
    less = tables.SCORES.remove(9)
    part(tmp_path / "less.parquet", less, table.drop_columns(["anomaly_score"]))
    with pytest.raises(StorageError, match="other columns"):
        read(tmp_path / "less.parquet")
    newer = table.replace_schema_metadata({tables.VERSION_KEY: str(tables.SCHEMA_VERSION + 1)})
    pq.write_table(newer, tmp_path / "newer.parquet")
    with pytest.raises(StorageError, match="a newer admodels"):
        read(tmp_path / "newer.parquet")


@pytest.mark.parametrize("name", [n for n in APPEARANCE.names if n not in ("width", "height")])
def test_a_statistic_that_old_nights_or_an_old_reference_lack_raises_no_alarm(
    tmp_path: Path, name: str
) -> None:
    seen = cards.appearances(tiny.stripes(40, seed=3).transpose(0, 2, 3, 1))
    keys = {field.name: ["x"] * 40 for field in tables.KEY}
    columns = {n: list(seen[n].astype(seen[n].dtype)) for n in APPEARANCE.names if n != name}
    table = pa.table({**keys, "mtime_ns": range(40), "anomaly_score": [0.5] * 40, **columns})
    order = [field for field in APPEARANCES if field.name != name]
    old = table.select([field.name for field in order]).cast(pa.schema(order))
    pq.write_table(old, tmp_path / "old.parquet")
    night = records(read(tmp_path / "old.parquet", APPEARANCES))
    assert np.isnan(night[name]).all()
    whole = statistics.values(seen, seen)
    for records_of_night, reference in ((night, seen), (seen, night)):
        ours = statistics.values(reference, reference)
        theirs = statistics.values(records_of_night, reference)
        found = statistics.judge(theirs, ours, {}, np.arange(40))
        assert not [key for key, comparison in found.items() if comparison.alarm]
        assert len(found) == len(statistics.judge(whole, whole, {}, np.arange(40))) - 1


def test_a_reference_of_an_older_bundle_lacks_and_does_not_measure_zero(tmp_path: Path) -> None:
    seen = cards.appearances(tiny.stripes(3, seed=3).transpose(0, 2, 3, 1))
    write_records(tmp_path / "a.safetensors", seen)
    columns = load_file(tmp_path / "a.safetensors")
    del columns["noise"]
    save_file(columns, tmp_path / "old.safetensors")
    found = read_records(tmp_path / "old.safetensors")
    assert np.isnan(found["noise"]).all()
    assert np.array_equal(found["detail"], seen["detail"])


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    own = Calibration(origin="line", scores=(0.5, 1.0), images=("a", "b"))
    with open_ledger(tmp_path) as ledger:
        kept = keep_calibration(ledger, "press", ("m", "c"), own, why="a test")
        assert calibration_in_force(ledger, "press", "m", "c") == kept
    assert read_calibration(kept.path).content == own
    return kept.path


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_calibration_is_refused_by_name_with_what_to_do(
    calibration: Path, content: bytes
) -> None:
    calibration.write_bytes(content)
    with pytest.raises(
        StorageError, match=rf"(?s){calibration.name}.*`admodels calibrate`"
    ) as refusal:
        read_calibration(calibration)
    assert refusal.value.exit_code == 74


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_record_of_drift_is_left_out_and_named(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    kept = {"images": 3, "trusted": False, "statistics": {}}
    write_json(tmp_path / "000001.json", kept)
    (tmp_path / "000002.json").write_bytes(content)
    assert read_record(tmp_path / "000001.json") == kept
    assert read_record(tmp_path / "000002.json") is None
    assert read_record(tmp_path / "000003.json") is None
    assert "000002.json" in caplog.text
