"""A comparison as a page, with the images whose verdict changed and both maps side by side."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from admodels.evaluation import figures
from admodels.foundation.arrays import UInt8
from admodels.foundation.errors import DataError
from admodels.foundation.files import whole_folder, write_text
from admodels.foundation.manifest import ManifestRow
from admodels.images import decode, load
from admodels.images.sheets import tile_shape
from admodels.inference.model import map_to_image
from admodels.pages.render import render_page
from admodels.report.comparison.difference import Change, Difference
from admodels.report.comparison.sides import Cell
from admodels.report.comparison.verdicts import (
    BUNDLES,
    Comparison,
    notes,
    sentence,
    table,
)

TEMPLATES = Path(__file__).parent / "templates"
MOST_IMAGES = 60  # of a cell, that are shown


def write_page(comparison: Comparison, folder: Path) -> Path:
    """Write `folder`/index.html and its pictures in place of what stood there; its path."""
    with whole_folder(folder) as fresh:
        cells = [
            {
                "name": answer.name,
                "word": answer.word,
                "sentence": sentence(answer, cell.lines[0].interval),
                "table": table(cell),
                "notes": [line for line in notes(cell) if not line.startswith(" ")],
                "changes": list(_changes(cell, fresh, number)),
                "hidden": max(0, len(cell.changes) - MOST_IMAGES),
            }
            for number, (cell, answer) in enumerate(
                zip(comparison.cells, comparison.answers, strict=True)
            )
        ]
        page = render_page(
            "comparison.html",
            TEMPLATES,
            styles=["comparison.css"],
            before=comparison.before,
            after=comparison.after,
            cells=cells,
            over_tasks=[sentence(answer) for answer in comparison.over_tasks],
            about=BUNDLES,
        )
        write_text(fresh / "index.html", page)
    return folder / "index.html"


def _changes(cell: Difference, folder: Path, number: int) -> Iterator[dict[str, Any]]:
    for count, change in enumerate(cell.changes[:MOST_IMAGES]):
        pictures = {
            "image": _image(change.row, cell.after.task),
            "before": _map(cell.before, change.before),
            "after": _map(cell.after, change.after),
        }
        files = {}
        for name, picture in pictures.items():
            if picture is not None:
                files[name] = f"{number}-{count}-{name}.png"
                decode.write_png(folder / files[name], picture)
        yield {"row": change.row, "words": _words(change), "files": files}


def _words(change: Change) -> str:
    if change.row.label == "normal":
        return "a new false alarm" if change.flagged else "no false alarm any more"
    return "caught now" if change.flagged else "missed now"


def _image(row: ManifestRow, task: str) -> UInt8 | None:
    """A tile of the image, if its bytes are still in data/raw."""
    try:
        rgb = load.load_image(row, Path("data/raw", task), decode.STORED).rgb
    except DataError:
        return None
    return figures.tile(np.ascontiguousarray(rgb.transpose(2, 0, 1)))


def _map(cell: Cell, place: int) -> UInt8 | None:
    """The map of an image in colours from the lowest to the highest value of its cell."""
    if cell.maps is None:
        return None
    shape = tile_shape(*cell.maps.codes.shape[1:])
    low, high = float(cell.maps.levels[0]), float(cell.maps.levels[-1])
    return figures.colour_map(map_to_image(cell.maps.values(place), *shape), low, high)
