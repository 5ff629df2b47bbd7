"""The images of a page: columns for its script, and the worst as a table for a page without."""

from collections.abc import Sequence
from typing import Any

from admodels.nights.page.content import LineNight
from admodels.nights.page.facts import facts
from admodels.nights.page.parts import PartTable
from admodels.pages.catalogue import Catalogue
from admodels.pages.words import visible

WITHOUT_SCRIPT = 100  # images in the plain table
FACTS = ("where", "size", "why", "now")
Worst = Sequence[tuple[int, dict[str, Any]]]


def is_trusted(line: LineNight) -> bool:
    """Whether the images of a line look like its reference, as far as they were compared."""
    return line.drift is None or bool(line.drift["trusted"])


def verdict_text(row: dict[str, Any], catalogue: Catalogue) -> str:
    """What was said of an image, and what would be said today where that differs."""
    then, today = (_verdict(row[key], catalogue) for key in ("is_anomalous", "today"))
    if row["is_anomalous"] == row["today"]:
        return then
    return catalogue.text("script.today", verdict=then, today=today)


def _verdict(is_anomalous: bool | None, catalogue: Catalogue) -> str:
    name = "none" if is_anomalous is None else "flagged" if is_anomalous else "normal"
    return catalogue.text(f"verdict.{name}")


def table_rows(
    worst: Worst, lines: Sequence[LineNight], catalogue: Catalogue
) -> list[dict[str, Any]]:
    """The worst images, with the name of their line and the answers on each."""
    return [
        {
            **row,
            **vars(facts(row, is_trusted=is_trusted(lines[index]), catalogue=catalogue)),
            "line": lines[index].name,
            "address": _address(row),
        }
        for index, row in worst[:WITHOUT_SCRIPT]
    ]


def _address(row: dict[str, Any]) -> str:
    picture = row["picture"]
    if not picture.layers:
        return ""
    is_file = picture.layers == ("panels",)
    return str(picture.base if is_file else f"{picture.base}/{picture.layers[0]}.webp")


def columns(
    worst: Worst, lines: Sequence[LineNight], parts: PartTable, catalogue: Catalogue
) -> dict[str, Any]:
    """What the script gets: a column for each fact, the worst image first.

    `texts` holds each sentence once; `where`, `size`, `why` and `now` are places in it. `layers` is
    a place in `pictures`, which lists the layers that images have; `part` one in `parts`, or -1.
    """
    rows = [row for _, row in worst]
    texts: dict[str, int] = {}
    pictures: dict[tuple[str, ...], int] = {(): 0}
    answers: dict[str, list[int]] = {name: [] for name in FACTS}
    for index, row in worst:
        said = vars(facts(row, is_trusted=is_trusted(lines[index]), catalogue=catalogue))
        for name, places in answers.items():
            places.append(texts.setdefault(said[name], len(texts)))
    shown = [parts.place(lines[index].name, row, catalogue) for index, row in worst]
    layers = [pictures.setdefault(row["picture"].layers, len(pictures)) for row in rows]
    return {
        "lines": [line.name for line in lines],
        "trusted": [is_trusted(line) for line in lines],
        "line": [index for index, _ in worst],
        "path": [visible(row["path"]) for row in rows],
        "anomaly_score": [float(f"{row['anomaly_score']:.5g}") for row in rows],
        "p_value": [float(f"{row['p_value']:.3g}") for row in rows],
        "base": [row["picture"].base for row in rows],
        "layers": layers,
        "pictures": list(pictures),
        "parts": [{"name": row.name, "verdict": row.verdict} for row in parts.rows],
        "part": shown,
        "texts": list(texts),
        **answers,
        **{
            name: [row[name] for row in rows]
            for name in ("image_sha256", "is_anomalous", "today", "width", "height")
        },
    }
