"""CSV tables as people save them, read strictly: an unclear row is refused and never guessed.

Excel and LibreOffice save CSV in UTF-8 with or without a byte order mark, UTF-16 or cp1252, with
commas, semicolons or tabs, after a line `sep=;` or without one. All of these are read.
"""

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

from admodels.foundation.errors import DataError
from admodels.foundation.manifest import DatasetImage, Label, Part

DELIMITERS = (",", ";", "\t")
WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # of Excel, before and since 2007
MARKS = {  # UTF-32 first: its mark begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
NEXT_STEP = "fix the table (a spreadsheet saves it as `CSV UTF-8`), then run this again"


class TableRow(NamedTuple):
    """A row's cells by their column, stripped of blanks, and the line of the file it ends on."""

    line: int
    cells: dict[str, str]


def read_table(
    path: Path, required: Sequence[str], optional: Sequence[str] = (), *, others: bool = False
) -> list[TableRow]:
    """The rows of a CSV that any spreadsheet saved; a column of `optional` that it lacks is empty.

    `others`: columns beside these may be there, too.

    Raises:
        DataError: no CSV, other columns, or a row with more cells or fewer; names the line.
    """
    lines = _lines(path, text_of(path))
    number, header = next(lines, (1, []))
    columns = _columns(header, required, None if others else optional, f"{path}, line {number}")
    bare, read = dict.fromkeys(optional, ""), []
    for number, cells in lines:
        if any(cells[len(columns) :]) or len(cells) < len(columns):
            wrong = f"{len(cells)} cells for {len(columns)} columns"
            raise unclear(wrong, f"{path}, line {number}", f"columns {', '.join(columns)}")
        read.append(TableRow(number, bare | dict(zip(columns, cells, strict=False))))
    return read


def text_of(path: Path) -> str:
    """The text of a table in the encoding that its first bytes show; cp1252 where it is no UTF-8.

    Raises:
        DataError: a workbook, or text in no encoding of a spreadsheet.
    """
    data = path.read_bytes()
    if data.startswith(WORKBOOKS):
        raise unclear("an Excel workbook", path, "the sheet saved as CSV")
    marked = next((name for mark, name in MARKS.items() if data.startswith(mark)), None)
    # ASCII in UTF-16 without a mark: every other byte is zero
    wide = {b"\0": "utf-16-be"}.get(data[:1], "utf-16-le" if data[1:2] == b"\0" else None)
    for encoding in (marked,) if marked else (wide,) if wide else ("utf-8", "cp1252"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            fault = unclear(f"no text in {encoding}", f"{path}, line {line}", "CSV in UTF-8")
    raise fault


def _lines(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """The lines that are not empty, as (number, cells); split as the header asks for."""
    first = text.partition("\n")[0].strip()
    is_hint = first.lower().startswith("sep=") and len(first) == len("sep=") + 1
    head = text.split("\n")[1] if is_hint and "\n" in text else first
    delimiter = first[-1] if is_hint else max(DELIMITERS, key=head.count)
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in table:
            stripped = [cell.strip() for cell in cells]
            if any(stripped) and not (is_hint and table.line_num == 1):
                yield table.line_num, stripped
    except csv.Error as error:
        raise unclear(
            str(error), f"{path}, line {table.line_num}", "CSV with its quotes"
        ) from error


def _columns(
    header: list[str], required: Sequence[str], optional: Sequence[str] | None, where: str
) -> list[str]:
    """The column names in lower case, without the empty ones that spreadsheets put at the end.

    `optional` is None where other columns may be there.
    """
    while header and not header[-1]:
        header = header[:-1]
    columns = [name.casefold() for name in header]
    allowed = columns if optional is None else [*required, *optional]
    is_complete = set(required) <= set(columns) <= set(allowed)
    if not is_complete or len({*columns}) < len(columns):
        at_will = "others" if optional is None else ", ".join(optional) or "none"
        expected = f"columns {', '.join(required)}, at will {at_will}"
        raise unclear(f"columns {header}", where, expected)
    return columns


def image_of(cells: dict[str, str], where: object) -> DatasetImage:
    """The image of a row: image_path, label, part, defect_type, mask_path, group, all as text.

    Raises:
        DataError: no such label or part.
    """
    label, use = cells["label"].casefold(), cells["part"].casefold()
    if label not in get_args(Label) or use not in get_args(Part):
        words = f"label {' or '.join(get_args(Label))}, part {' or '.join(get_args(Part))}"
        raise unclear(f"label `{label}`, part `{use}` of {cells['image_path']}", where, words)
    kind, mask = cells["defect_type"], cells["mask_path"]
    group = cells.get("group", "")
    return DatasetImage(cells["image_path"], label, kind, mask, use, group=group)  # type: ignore[arg-type]


def unclear(fault: str, where: object, expected: str) -> DataError:
    """The refusal of a table, with the place in it."""
    return DataError(
        f"the table is unclear: {fault}",
        where=where,
        expected=expected,
        next_step=NEXT_STEP,
    )
