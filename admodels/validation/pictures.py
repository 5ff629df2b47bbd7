"""Sheets of the images that a person should look at: near copies, and those that stand out."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from admodels.foundation.arrays import UInt8
from admodels.images import decode, sheets
from admodels.images.decode import Reading
from admodels.validation.similarity import Pair

if TYPE_CHECKING:
    import pandas as pd

PAIRS_SHOWN = 12
ODD_ROWS, ODD_COLUMNS = 4, 4
Row = tuple[str, list[tuple[str, str]]]  # its heading; caption and path of each image


def write_sheet(path: Path, raw: Path, reading: Reading, rows: Sequence[Row]) -> None:
    """Draw the images of `rows`, whose paths are relative to `raw`; no rows, no file."""

    def pixels(name: str) -> UInt8:
        return decode.decode_image((raw / name).read_bytes(), name, reading).rgb

    if rows:
        drawn = [(head, [(text, pixels(name)) for text, name in images]) for head, images in rows]
        decode.write_png(path, sheets.sheet(drawn))


def pair_rows(pairs: Sequence[Pair]) -> list[Row]:
    """A row for each of the nearest pairs."""
    return [
        (
            f"{pair.bits} bits apart, {'in two splits' if pair.across else 'in one split'}",
            [(path, path) for path in (pair.first, pair.second)],
        )
        for pair in pairs[:PAIRS_SHOWN]
    ]


def odd_rows(table: "pd.DataFrame") -> list[Row]:
    """The images to learn from with the largest oddity; a row that is not full is left out."""
    odd = table[table["oddity"].notna()].sort_values(["oddity", "image_path"])[::-1]
    images = [(f"{o:.2f} {p}", p) for o, p in zip(odd["oddity"], odd["image_path"], strict=True)]
    starts = range(0, ODD_ROWS * ODD_COLUMNS, ODD_COLUMNS)
    rows = [images[start : start + ODD_COLUMNS] for start in starts]
    return [("oddity and name", row) for row in rows if len(row) == ODD_COLUMNS]
