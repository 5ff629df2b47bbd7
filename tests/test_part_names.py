"""The part and the time of an image: from its name, its EXIF, its file, whatever stands there."""

import re
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from PIL import Image

from admodels.scoring import tables
from admodels.scoring.engine import LineImages, Model, score_line
from admodels.scoring.exif import exif_time
from admodels.scoring.ledger import open_ledger
from admodels.scoring.part_names import Clock, PartNames
from admodels.scoring.stopping import Stop
from admodels.scoring.tables import ScoreRow
from tests.cards import card, make_bundle

BERLIN = ZoneInfo("Europe/Berlin")
NAME = r"(?P<lot>[^/]+)/(?P<part_id>\d+)_(?P<station>\w+)\.png"
DATED = (
    r"(?P<year>\d+)-(?P<month>\d\d)-(?P<day>\d\d)/"
    r"(?P<hour>\d\d)(?P<minute>\d\d)(?P<second>\d\d)?_(?P<part_id>\d+)\.png"
)


def read(
    path: str, expression: str | None, clock: Clock | None = None, exif: str = "", written: int = 0
) -> ScoreRow:
    keys = {"model_fingerprint": "m", "contract_fingerprint": "c", "method": "x", "task": "t"}
    row = ScoreRow(line="press", path=path, **keys)
    names = PartNames(re.compile(expression) if expression else None, clock, BERLIN)
    return names.with_part(row, exif, written)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("L7/0042_top.png", ("0042", "L7", "top")),
        ("Los 7 ü/1_top.png", ("1", "Los 7 ü", "top")),
        ("Los 7 u\u0308/1_top.png", ("1", "Los 7 ü", "top")),
        ("=1+1/1_top.png", ("1", "=1+1", "top")),
        ("L7/0042_top.png.png", (None, None, None)),
        ("0042_top.png", (None, None, None)),
        ("x/L7/0042_top.png", (None, None, None)),
    ],
)
def test_a_part_is_read_from_the_whole_path_or_not_at_all(
    path: str, words: tuple[str | None, ...]
) -> None:
    row = read(path, NAME)
    assert (row.part_id, row.lot, row.station, row.captured_at) == (*words, None)


def test_a_lot_may_hold_slashes_and_an_empty_part_is_none() -> None:
    assert read("a/b/7.png", r"(?P<lot>.+)/(?P<part_id>\d*)\.png").lot == "a/b"
    assert read("a/b/.png", r"(?P<lot>.+)/(?P<part_id>\d*)\.png").part_id is None


@pytest.mark.parametrize(
    ("path", "utc"),
    [
        ("2026-12-01/063015_7.png", "2026-12-01T05:30:15"),
        ("26-07-01/0630_7.png", "2026-07-01T04:30:00"),
        ("2026-10-25/023000_7.png", "2026-10-25T00:30:00"),  # twice: the first, still summer
        ("2026-03-29/023000_7.png", "2026-03-29T01:30:00"),  # never: a camera that has not changed
        ("2026-02-30/120000_7.png", None),
        ("2026-12-01/246000_7.png", None),
        ("0000-12-01/120000_7.png", None),
        ("0001-01-01/000000_7.png", None),  # in UTC before the year 1
        ("x/120000_7.png", None),
    ],
)
def test_a_local_time_in_a_name_is_one_instant_or_none(path: str, utc: str | None) -> None:
    expected = datetime.fromisoformat(utc).replace(tzinfo=UTC) if utc else None
    assert read(path, DATED, "name").captured_at == expected


@pytest.mark.parametrize(
    ("exif", "utc"),
    [
        ("2026:12:01 06:30:15", "2026-12-01T05:30:15"),
        ("2026:12:01 06:30:15.25", "2026-12-01T05:30:15.250"),
        ("2026:10-25 02:30:00", None),
        ("2026:10:25 02:30:00+01:00", "2026-10-25T01:30:00"),  # the offset says which of the two
        ("2026:12:01 06:30:15-05:30", "2026-12-01T12:00:15"),
        ("2026:12:01 06:30:15+99:99", None),
        ("    :  :     :  :  ", None),
        ("0000:00:00 00:00:00", None),
        ("", None),
    ],
)
def test_the_time_of_an_exif_header_is_read_with_its_own_offset_if_it_has_one(
    exif: str, utc: str | None
) -> None:
    expected = datetime.fromisoformat(utc).replace(tzinfo=UTC) if utc else None
    assert read("x.png", None, "exif", exif).captured_at == expected


def test_the_time_of_a_file_is_exact_and_that_of_no_file_is_unknown() -> None:
    written = 1_780_000_000_123_456_789
    instant = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=written // 1000)
    assert read("x.png", None, "file", written=written).captured_at == instant
    assert read("x.png", None, "file", written=2**63 - 1).captured_at is not None
    assert read("x.png", None, "file").captured_at is None


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
def test_exif_is_read_from_every_format_that_holds_it(kind: str) -> None:
    exif, buffer = Image.Exif(), BytesIO()
    exif[0x0132] = "2026:12:01 00:00:00"
    exif.get_ifd(0x8769).update({0x9003: "2026:12:01 06:30:15", 0x9291: "25", 0x9011: "+01:00"})
    image = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    image.save(buffer, kind, **({} if kind == "BMP" else {"exif": exif}))
    expected = {"BMP": "", "TIFF": "2026:12:01 00:00:00"}  # Pillow writes no sub-IFD into a TIFF
    assert exif_time(buffer.getvalue()) == expected.get(kind, "2026:12:01 06:30:15.25+01:00")


@pytest.mark.parametrize("data", [b"", b"junk", b"\xff\xd8\xff\xe1\0\x10Exif\0\0MM\0*\0\0\0\x08"])
def test_bytes_without_a_valid_header_have_no_time(data: bytes) -> None:
    assert exif_time(data) == ""


def test_part_and_time_are_columns_of_the_scores(tmp_path: Path) -> None:
    card(tmp_path / "in/L 7/1_top.png", 50)
    card(tmp_path / "in/L 7/other.png", 60)
    names = PartNames(re.compile(NAME), "file")
    images = LineImages("press", tmp_path / "in", part_names=names)
    with open_ledger(tmp_path / "ledger") as ledger:
        score_line(ledger, images, Model.of(make_bundle()), Stop())
        (path,) = ledger.parts("press")
        (group,) = tables.read(path)
    written = (tmp_path / "in/L 7/1_top.png").stat().st_mtime_ns // 1000
    first, other = group.to_pylist()
    assert [first[name] for name in ("part_id", "lot", "station")] == ["1", "L 7", "top"]
    assert first["captured_at"] == datetime.fromtimestamp(0, UTC) + timedelta(microseconds=written)
    assert [other[name] for name in ("part_id", "lot", "station")] == [None] * 3
