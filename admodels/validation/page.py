"""The data page of a task: what the checks saw, with pictures; one HTML file without a server.

data/validation/TASK/index.html, pictures/NNNN.webp, checks.json (Great Expectations' suites and
results), report.json, statistics.csv: the same bytes for the same images.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from admodels.datasets import Layout
from admodels.pages.charts import Chart, Points, line_chart
from admodels.pages.render import render_page
from admodels.validation.checks import Finding, worst_first
from admodels.validation.examine import Examination
from admodels.validation.pictures import Shown, write_pictures
from admodels.validation.similarity import Pair

if TYPE_CHECKING:
    import pandas as pd

TEMPLATES = Path(__file__).parent / "templates"
CARDS = 8  # pictures of a check
PAIRS = 12
ODD_IMAGES = 12
LEFT_OUT_ROWS = 200
BINS = 32
Rows = Mapping[Any, Mapping[Any, Any]]  # of the table, by the path of the image
HISTOGRAMS = {  # column: title, label of the axis, its end where it has one
    "brightness": ("Brightness", "mean grey level", 255.0),
    "contrast": ("Contrast", "deviation of the grey levels", None),
    "sharpness": ("Sharpness", "sharpness", None),
    "mask_area_share": ("Size of the defects", "marked share of the image", 1.0),
}


@dataclass(frozen=True)
class Card:
    """An image on the page: what a check saw in it, and the link to its file."""

    shown: Shown
    value: str
    split: str
    label: str
    address: str


def render(
    folder: Path,
    about: Mapping[str, Any],
    layout: Layout,
    images: Examination,
    findings: Sequence[Finding],
) -> str:
    """The text of the page; the pictures that it shows are written to `folder`/pictures."""
    raw = layout.root
    rows, failed = images.table.set_index("image_path").to_dict("index"), worst_first(findings)
    cards = {finding.name: _finding_cards(finding, rows, raw) for finding in failed}
    pairs = [(pair, _pair_cards(pair, rows, raw)) for pair in images.pairs[:PAIRS]]
    odd = _odd_cards(images.table, rows, raw)
    shown = [*cards.values(), *(both for _, both in pairs), odd]
    wanted = [card.shown for group in shown for card in group]
    return render_page(
        "data.html",
        TEMPLATES,
        styles=["data.css"],
        about=about,
        pictures=write_pictures(folder / "pictures", raw, images.reading, wanted),
        failed=failed,
        passed=[finding for finding in findings if finding.success],
        cards=cards,
        pairs=pairs,
        pairs_count=len(images.pairs),
        odd=odd,
        counts=_counts(images.table),
        charts=[chart for column in HISTOGRAMS for chart in _histogram(images.table, column)],
        left_out=layout.left_out[:LEFT_OUT_ROWS],
        left_out_count=len(layout.left_out),
        sources=layout.sentence(),
    )


def _card(shown: Shown, value: str, rows: Rows, raw: Path) -> Card:
    path, row = shown[0], rows[shown[0]]
    address = "../../raw/" + quote(f"{raw.name}/{path}")
    return Card(shown, value, row["split"], row["label"], address)


def _finding_cards(finding: Finding, rows: Rows, raw: Path) -> list[Card]:
    """The first of the images that a check names; of a check of masks with the mask over it."""
    has_mask = finding.name.startswith("mask_")
    values = zip(finding.unexpected[:CARDS], finding.values, strict=False)
    return [
        _card((path, rows[path]["mask_path"] if has_mask else ""), value, rows, raw)
        for path, value in values
    ]


def _pair_cards(pair: Pair, rows: Rows, raw: Path) -> list[Card]:
    return [_card((path, ""), "", rows, raw) for path in (pair.first, pair.second)]


def _odd_cards(table: "pd.DataFrame", rows: Rows, raw: Path) -> list[Card]:
    odd = table[table["oddity"].notna()].sort_values(["oddity", "image_path"])[::-1][:ODD_IMAGES]
    values = zip(odd["image_path"], odd["oddity"], strict=True)
    return [_card((path, ""), f"oddity: {oddity:.2f}", rows, raw) for path, oddity in values]


def _counts(table: "pd.DataFrame") -> list[tuple[str, int, dict[str, int]]]:
    """Of each split: its name, its normal images, its anomalous ones by type."""
    rows = []
    for split, images in table.groupby("split"):
        anomalous = images[images["label"] == "anomalous"]
        types = Counter(str(name) for name in anomalous["defect_type"])
        rows.append((str(split), len(images) - len(anomalous), dict(sorted(types.items()))))
    order = {"train": 0, "validation": 1, "calibration": 2, "test": 3}
    return sorted(rows, key=lambda row: (order.get(row[0], -1), row[0]))


def _histogram(table: "pd.DataFrame", column: str) -> Iterator[Chart]:
    """How the images to learn from and to test with are spread, if any is known."""
    title, label, end = HISTOGRAMS[column]
    tested, anomalous = table["split"] == "test", table["label"] == "anomalous"
    groups = {
        "to learn from": table[~tested],
        "test, normal": table[tested & ~anomalous],
        "test, anomalous": table[tested & anomalous],
    }
    known = table[column].dropna()
    if len(known):
        edges = np.linspace(0, end or max(float(known.max()), 1e-9), BINS + 1)
        series = {name: _steps(rows[column].dropna(), edges) for name, rows in groups.items()}
        yield line_chart(title, label, "share of images", series)


def _steps(values: "pd.Series[float]", edges: "np.ndarray[Any, Any]") -> Points:
    """A line along the tops of the bars of a histogram; none without a value."""
    if not len(values):
        return []
    counts, _ = np.histogram(values, edges)
    tops = np.repeat(counts / len(values), 2)
    sides = np.repeat(edges, 2)[1:-1]
    return [(float(x), float(y)) for x, y in zip(sides, tops, strict=True) if math.isfinite(y)]
