"""Tables as spreadsheets save them: read, or refused with the file and the line."""

import itertools
from pathlib import Path

import pytest

from admodels.datasets import read_layout, read_table
from admodels.foundation.errors import DataError
from admodels.foundation.manifest import DatasetImage

IMAGES = [
    DatasetImage("gr\u00fcn.png", "normal", "", "", "learn"),
    DatasetImage("nok/2.png", "anomalous", "dent; deep, 5 \u00b5m", "", "test"),
]


def source(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def images(root: Path, table: bytes) -> list[DatasetImage]:
    (root / "manifest.csv").write_bytes(table)
    return read_layout("folder", "", root).images


ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252")


@pytest.mark.parametrize(
    ("encoding", "delimiter", "end"),
    [*itertools.product(ENCODINGS, ",;\t", ("\n", "\r\n")), ("utf-8", ",", "\r")],
)
def test_a_manifest_of_any_spreadsheet_is_read(
    tmp_path: Path, encoding: str, delimiter: str, end: str
) -> None:
    rows = [["image_path", "label", "defect_type"], ["gr\u00fcn.png", "normal", ""]]
    rows += [["nok/2.png", "anomalous", '"dent; deep, 5 \u00b5m"']]
    text = end.join(delimiter.join(row) for row in rows) + end
    assert images(source(tmp_path, "gr\u00fcn.png", "nok/2.png"), text.encode(encoding)) == IMAGES


@pytest.mark.parametrize(
    "table",
    [
        "sep=;\r\nimage_path;label\r\na/0.png;normal\r\n",
        "image_path,label\r\na\\0.png,normal\r\n",
        "image_path,label\r\n.\\a\\0.png,normal\r\n",
        "image_path,label\n./a/0.png,normal\n",
        "Image_Path, Label \na/0.png, Normal \n",
        "image_path;label;;\na/0.png;normal;;\n;;;\n",
        '"image_path","label"\n"a/0.png","normal"\n\n',
        "label\timage_path\nNORMAL\ta/0.png",
        "image_path,label,part\na/0.png,normal,LEARN\n",
    ],
)
def test_what_spreadsheets_and_windows_add_does_not_matter(tmp_path: Path, table: str) -> None:
    expected = [DatasetImage("a/0.png", "normal", "", "", "learn")]
    assert images(source(tmp_path, "a/0.png"), table.encode()) == expected


def test_a_backslash_that_is_part_of_a_name_stays(tmp_path: Path) -> None:
    root = source(tmp_path, "a\\0.png", "a/1.png")
    table = "image_path,label\na\\0.png,normal\na\\1.png,normal\n"
    paths = [image.image_path for image in images(root, table.encode())]
    assert paths == ["a/1.png", "a\\0.png"]


@pytest.mark.parametrize(
    ("name", "word"), [("gru\u0308n", "gr\u00fcn"), ("gr\u00fcn", "gru\u0308n")]
)
def test_a_name_that_macos_takes_apart_is_the_same_name(
    tmp_path: Path, name: str, word: str
) -> None:
    root = source(tmp_path, f"{name}.png", f"masks/{name}.png")
    table = f"image_path,label,mask_path\n{word}.png,anomalous,masks\\{word}.png\n"
    expected = DatasetImage(f"{name}.png", "anomalous", "defect", f"masks/{name}.png", "test")
    assert images(root, table.encode()) == [expected]


HEAD = b"image_path,label\n0.png,normal\n"


@pytest.mark.parametrize(
    ("table", "fault", "line"),
    [
        (HEAD + b"1.png,gut\n", "label `gut`", 3),
        (HEAD + b"1.png\n", "1 cells for 2 columns", 3),
        (HEAD + b"1.png,normal,learn\n", "3 cells for 2 columns", 3),
        (HEAD + b'1.png,"normal\n', "unexpected end of data", 3),
        (HEAD + b"1.png,normal\ngone.png,normal\n", "1 files that it names are not there", 4),
        (HEAD + b"1.PNG,normal\n", "1 files that it names are not there", 3),
        (HEAD + b"C:\\data\\1.png,normal\n", "stands outside", 3),
        (HEAD + b"\\\\nas\\data\\1.png,normal\n", "stands outside", 3),
        (HEAD + b"..\\1.png,normal\n", "stands outside", 3),
        (HEAD + b"1\x81\xff.png,normal\n", "no text in cp1252", 3),
        (b"path;label\n0.png;normal\n", "columns ['path', 'label']", 1),
        (b"image_path,label,label\n0.png,normal,normal\n", "columns", 1),
        (b"\xff\xfei\x00m\x00a", "no text in utf-16", 1),
    ],
)
def test_an_unclear_manifest_is_refused_with_its_line(
    tmp_path: Path, table: bytes, fault: str, line: int
) -> None:
    with pytest.raises(DataError) as refusal:
        images(source(tmp_path, "0.png", "1.png"), table)
    assert fault in str(refusal.value)
    assert f"manifest.csv, line {line}" in str(refusal.value)


@pytest.mark.parametrize("beginning", [b"PK\x03\x04", b"\xd0\xcf\x11\xe0"])
def test_a_workbook_that_is_called_csv_is_refused_as_one(tmp_path: Path, beginning: bytes) -> None:
    with pytest.raises(DataError, match="an Excel workbook"):
        images(source(tmp_path, "0.png"), beginning + b"\0" * 99)


def test_lines_are_counted_as_an_editor_counts_them(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b'a,b\r\n\r\n1,"2\r\n3"\r\n4,5\r\n')
    rows = read_table(tmp_path / "t.csv", ("a", "b"))
    assert rows == [(4, {"a": "1", "b": "2\r\n3"}), (5, {"a": "4", "b": "5"})]
