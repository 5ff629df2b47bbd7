"""The morning page: one HTML file for a night, and an index over nights; neither needs a server.

pages/RUN.html   the worst parts first, with small pictures of their own; large ones in overlays/
pages/index.html
"""

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from admodels.foundation.errors import meaning
from admodels.foundation.files import write_text
from admodels.nights.page.audit import line_audits
from admodels.nights.page.content import (
    LineNight,
    identity,
    line_nights,
    read_runs,
    worst_first,
)
from admodels.nights.report import LineReport
from admodels.pages.charts import Trend, trend
from admodels.pages.render import render_page
from admodels.pages.words import visible
from admodels.scoring.ledger import Ledger

TEMPLATES = Path(__file__).parent / "templates"
THUMBNAILS = 500  # of the worst, inside the page; the rest show their large picture when seen
FIRST = 48  # that the browser has before the rest of the page
THUMBNAIL_PX = 180  # of the longer side of each of the two panels
QUALITY = 55  # of a WebP
WITHOUT_SCRIPT = 100  # parts in the plain table


def write(ledger: Ledger, run: str | None = None) -> Path:
    """Write the page of a run (default: the last) and the index; the path of the page.

    Raises:
        ConfigurationError: there is no such run.
    """
    nights = read_runs(ledger.folder, run)
    lines = line_nights(ledger, nights)
    parts = worst_first(lines)
    thumbnails = list(_thumbnails(ledger.folder, [row for _, row in parts]))
    pages = ledger.folder / "pages"
    page = pages / f"{nights[0].run}.html"
    everything = read_runs(ledger.folder)
    written = {night.run for night in everything if (pages / f"{night.run}.html").exists()}
    content = {
        "night": nights[0],
        "before": next((night.run for night in nights[1:] if night.run in written), ""),
        "lines": [_line(line) for line in lines],
        "parts": [{"line": lines[index].name, **row} for index, row in parts[:WITHOUT_SCRIPT]],
        "data": _columns(parts, lines),
        "first": thumbnails[:FIRST],
        "rest": thumbnails[FIRST:],
        "audits": line_audits(ledger, [line.name for line in lines], nights[0].night),
        "statuses": sorted({row["status"] for line in lines for row in line.unreadable}),
    }
    _write(page, "night.html", **content)
    _write(pages / "index.html", "nights.html", nights=everything, written=written | {page.stem})
    return page


def _write(path: Path, name: str, **content: Any) -> None:
    page = render_page(
        name, TEMPLATES, styles=["night.css"], script="night.js", meaning=meaning, **content
    )
    write_text(path, page)


def _columns(
    parts: list[tuple[int, dict[str, Any]]], lines: list[LineNight]
) -> dict[str, list[Any]]:
    """What the script gets: a column for each fact, the worst part first."""
    rows = [row for _, row in parts]
    names = ("image_sha256", "is_anomalous", "today", "picture", "width", "height")
    return {
        "lines": [line.name for line in lines],
        "trusted": [line.drift is None or line.drift["trusted"] for line in lines],
        "line": [index for index, _ in parts],
        "path": [visible(row["path"]) for row in rows],
        "anomaly_score": [float(f"{row['anomaly_score']:.5g}") for row in rows],
        "p_value": [float(f"{row['p_value']:.3g}") for row in rows],
        "excess": [float(f"{row['excess']:.3g}") for row in rows],
        **{name: [row[name] for row in rows] for name in names},
    }


def _thumbnails(ledger: Path, parts: list[dict[str, Any]]) -> Iterator[str]:
    """Base64 of the first THUMBNAILS parts, empty where there is no picture."""
    paths = [row["picture"] and ledger / row["picture"] for row in parts[:THUMBNAILS]]
    with ThreadPoolExecutor() as pool:
        yield from pool.map(_thumbnail, paths)


def _thumbnail(path: Path | str) -> str:
    """Both panels of a picture, which stay side by side; a damaged one costs only itself."""
    if not path:
        return ""
    small = BytesIO()
    try:
        with Image.open(path) as picture:
            picture.thumbnail((2 * THUMBNAIL_PX, THUMBNAIL_PX))
            picture.save(small, "WEBP", quality=QUALITY)
    except OSError:
        return ""
    return base64.b64encode(small.getvalue()).decode()


def _line(line: LineNight) -> dict[str, Any]:
    shown = sum(row["is_anomalous"] is True for row in line.parts)
    return {
        **vars(line),
        "before": line.before,
        "shown": shown,
        "identity": identity(line.report),
        "trends": _trends([*(past.report for past in reversed(line.past)), line.report]),
    }


def _trends(nights: list[LineReport]) -> list[Trend]:
    def share(count: int | None, images: int) -> float | None:
        return count / images if images and count is not None else None

    return [
        trend("flagged", [share(night.flagged, night.images) for night in nights], ".2%"),
        trend("unreadable", [share(night.unreadable, night.images) for night in nights], ".2%"),
        trend("images", [night.images for night in nights], ",.0f"),
        trend("median score", [night.median_score for night in nights], ".4g"),
    ]
