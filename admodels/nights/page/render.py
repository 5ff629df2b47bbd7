"""The morning page: one HTML file for a night, and an index over nights; neither needs a server.

pages/RUN.html   the worst parts first, with small pictures of their own; large ones in overlays/
pages/index.html

Names of files are data. They reach the page as escaped text, or as JSON without a `<`, and its
policy lets no script run but its own, and nothing be fetched but the pictures beside it.
"""

import base64
import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from admodels.foundation.files import write_text
from admodels.nights.history import meaning
from admodels.nights.page import content as morning
from admodels.nights.page.content import LineNight, Told
from admodels.pages.environment import template
from admodels.scoring.ledger import Ledger

THUMBNAILS = 500  # of the worst, inside the page; the rest show their large picture when seen
FIRST = 48  # that the browser has before the rest of the page
THUMBNAIL_PX = 180  # of the longer side of each of the two panels
QUALITY = 55  # of a WebP
WITHOUT_SCRIPT = 100  # parts in the plain table
WIDTH, HEIGHT = 120, 32  # of a trend


@dataclass(frozen=True)
class Trend:
    """A figure over nights: SVG points, the place of the last one, the same in words."""

    title: str
    points: str
    last: tuple[float, float]
    now: str
    words: str


def write(ledger: Ledger, run: str | None = None) -> Path:
    """Write the page of a run (default: the last) and the index; the path of the page.

    Raises:
        ConfigurationError: there is no such run.
    """
    nights = morning.told_of(ledger.folder, run)
    lines = morning.line_nights(ledger, nights)
    parts = morning.worst_first(lines)
    thumbnails = list(_thumbnails(ledger.folder, [part for _, part in parts]))
    pages = ledger.folder / "pages"
    page = pages / f"{nights[0]['run']}.html"
    held = {path.stem for path in pages.glob("*.html")}
    content = {
        "night": nights[0],
        "before": next((night["run"] for night in nights[1:] if night["run"] in held), ""),
        "lines": [_line(line) for line in lines],
        "parts": [{"line": lines[at].name, **part} for at, part in parts[:WITHOUT_SCRIPT]],
        "data": _columns(parts, lines),
        "first": thumbnails[:FIRST],
        "rest": thumbnails[FIRST:],
        "statuses": sorted({row["status"] for line in lines for row in line.unreadable}),
    }
    write_text(page, _rendered("night.html", **content))
    everything = morning.told_of(ledger.folder)
    held |= {page.stem}
    write_text(pages / "index.html", _rendered("nights.html", nights=everything, held=held))
    return page


def _rendered(name: str, **content: Any) -> str:
    from markupsafe import Markup

    style = template("house.css").render() + template("night.css").render()
    script = template("night.js").render()
    return template(name).render(
        content,
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; img-src 'self' file: data:; style-src '{_digest(style)}'; "
        f"script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'",
        visible=visible,
        utc=_utc,
        meaning=meaning,
    )


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def visible(name: str) -> str:
    """A file's name, with what cannot be seen or turns the direction of writing spelt out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def _utc(started: str) -> str:
    return f"{datetime.fromisoformat(started):%a %d %b %Y, %H:%M} UTC"


def _columns(
    parts: list[tuple[int, dict[str, Any]]], lines: list[LineNight]
) -> dict[str, list[Any]]:
    """What the script gets: a column for each fact, the worst part first."""
    found = [part for _, part in parts]
    names = ("image_sha256", "is_anomalous", "picture", "width", "height")
    return {
        "lines": [line.name for line in lines],
        "trusted": [line.drift is None or line.drift["trusted"] for line in lines],
        "line": [at for at, _ in parts],
        "path": [visible(part["path"]) for part in found],
        "anomaly_score": [float(f"{part['anomaly_score']:.5g}") for part in found],
        "p_value": [float(f"{part['p_value']:.3g}") for part in found],
        "excess": [float(f"{part['excess']:.3g}") for part in found],
        **{name: [part[name] for part in found] for name in names},
    }


def _thumbnails(ledger: Path, parts: list[dict[str, Any]]) -> Iterator[str]:
    """Base64 of the first THUMBNAILS parts, empty where there is no picture."""
    paths = [part["picture"] and ledger / part["picture"] for part in parts[:THUMBNAILS]]
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
    shown = sum(part["is_anomalous"] is True for part in line.parts)
    return {
        **vars(line),
        "shown": shown,
        "identity": morning.identity(line.told),
        "trends": _trends([*reversed(line.past), line.told]),
    }


def _trends(nights: list[Told]) -> list[Trend]:
    def share(name: str) -> list[float | None]:
        known = [(night.get(name), night.get("images")) for night in nights]
        return [count / images if images and count is not None else None for count, images in known]

    return [
        _trend("flagged", share("flagged"), "{:.2%}".format),
        _trend("unreadable", share("unreadable"), "{:.2%}".format),
        _trend("images", [night.get("images") for night in nights], "{:,.0f}".format),
        _trend("median score", [night.get("median_score") for night in nights], "{:.4g}".format),
    ]


def _trend(title: str, values: list[float | None], form: Callable[[float], str]) -> Trend:
    """A line from the oldest night to this one, between 0 and the highest."""
    known = [(at, value) for at, value in enumerate(values) if value is not None]
    if not known:
        return Trend(title, "", (0, 0), "n/a", f"{title}: not known")
    numbers = [value for _, value in known]
    low, high = min(0.0, *numbers), max(numbers)
    right = max(len(values) - 1, 1)
    points = [
        (
            round(3 + (WIDTH - 6) * at / right, 1),
            round(HEIGHT - 3 - (HEIGHT - 6) * (value - low) / ((high - low) or 1), 1),
        )
        for at, value in known
    ]
    now = form(numbers[-1]) if values[-1] is not None else "n/a"
    words = (
        f"{title} in {len(known)} nights: from {form(min(numbers))} to {form(high)}, "
        f"the night before {form(numbers[-2]) if len(numbers) > 1 else 'not known'}, now {now}"
    )
    return Trend(title, " ".join(f"{x},{y}" for x, y in points), points[-1], now, words)
