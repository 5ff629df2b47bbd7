"""The CSV tables of datasets, read strictly: an unclear row is refused and never guessed."""

import csv
from pathlib import Path
from typing import get_args

from admodels.foundation.errors import DataError
from admodels.foundation.manifest import DatasetImage, Label, Part

Cells = dict[str, str]


def rows(path: Path, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> list[Cells]:
    """The rows of a UTF-8 CSV; a column of `optional` that it lacks is empty.

    Raises:
        DataError: other columns, other text, or a row with more cells or fewer.
    """
    expected = f"columns {', '.join(required)}, at will {', '.join(optional) or 'none'}"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, *lines = list(csv.reader(file, strict=True)) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise _unclear(str(error), path, "CSV in UTF-8") from error
    if not set(required) <= set(header) <= {*required, *optional}:
        raise _unclear(f"columns {header}", path, expected)
    uneven = [number for number, line in enumerate(lines, 2) if len(line) not in (0, len(header))]
    if uneven:
        raise _unclear("more cells or fewer than columns", f"{path}, row {uneven[0]}", expected)
    bare = dict.fromkeys(optional, "")
    return [bare | dict(zip(header, line, strict=True)) for line in lines if line]


def image_of(cells: Cells, path: Path) -> DatasetImage:
    """The image of a row: image_path, label, part, defect_type, mask_path, all as text.

    Raises:
        DataError: no such label or part.
    """
    label, use = cells["label"], cells["part"]
    if label not in get_args(Label) or use not in get_args(Part):
        words = f"label {' or '.join(get_args(Label))}, part {' or '.join(get_args(Part))}"
        raise _unclear(f"label `{label}`, part `{use}` of {cells['image_path']}", path, words)
    kind, mask = cells["defect_type"], cells["mask_path"]
    return DatasetImage(cells["image_path"], label, kind, mask, use)  # type: ignore[arg-type]


def _unclear(fault: str, where: object, expected: str) -> DataError:
    return DataError(
        f"the dataset's table is unclear: {fault}",
        where=where,
        expected=expected,
        next_step="fix the table, then `admodels task refresh` of its task",
    )
