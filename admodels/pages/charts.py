"""Charts and trends as SVG: positions of lines and labels, which `macros.html` draws."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from admodels.pages.catalogue import Catalogue, english

CURVE_POINTS = 300  # more than a chart has pixels to show
LEFT, TOP, WIDTH, HEIGHT = 46.0, 10.0, 264.0, 180.0  # of a chart's plot area, in SVG units
TREND_WIDTH, TREND_HEIGHT, TREND_MARGIN = 120, 32, 3
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """Lines over two axes: ticks are (position, label), series (label, SVG points or "")."""

    title: str
    x_label: str
    y_label: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    series: list[tuple[str, str]]


def line_chart(
    title: str, x_label: str, y_label: str, series: dict[str, Points], y_max: float | None = None
) -> Chart:
    """Place the points of each series in the plot area; both axes start at 0."""
    everything = [point for points in series.values() for point in points]
    right = max((x for x, _ in everything), default=1.0) or 1.0
    top = y_max or max((y for _, y in everything), default=1.0) or 1.0

    def across(x: float) -> float:
        return round(LEFT + WIDTH * x / right, 1)

    def down(y: float) -> float:
        return round(TOP + HEIGHT * (1 - y / top), 1)

    return Chart(
        title,
        x_label,
        y_label,
        [(across(x), f"{x:g}") for x in ticks(right)],
        [(down(y), f"{y:g}") for y in ticks(top)],
        [
            (label, _svg([(across(x), down(y)) for x, y in thin(points)]))
            for label, points in series.items()
        ],
    )


def _svg(points: Points) -> str:
    return " ".join(f"{x},{y}" for x, y in points)


def thin(points: Points) -> Points:
    """At most CURVE_POINTS of them, or one more: the last one stays."""
    kept = points[:: max(1, ceil(len(points) / CURVE_POINTS))]
    return kept if kept[-1:] == points[-1:] else [*kept, points[-1]]


def ticks(top: float) -> list[float]:
    """Three to six round numbers from 0 to at most `top`."""
    unit: float = 10 ** floor(log10(top / 5))
    step = next(unit * f for f in (1, 2, 2.5, 5, 10) if top / (unit * f) < 5 + 1e-9)
    return [round(step * count, 12) for count in range(floor(top / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Trend:
    """A number over time: SVG points, the place of the last one, its value, and all in words."""

    title: str
    points: str
    last: tuple[float, float]
    now: str
    words: str


def trend(
    title: str, values: Sequence[float | None], form: str, catalogue: Catalogue | None = None
) -> Trend:
    """A line from the oldest value to the newest, between 0 and the highest; None is a gap.

    Numbers are written in `form`, a format of Python, as the language of `catalogue` does.
    """
    catalogue = catalogue or english()
    known = [(index, value) for index, value in enumerate(values) if value is not None]
    if not known:
        unknown = catalogue.text("trends.unknown", title=title)
        return Trend(title, "", (0, 0), catalogue.number(None), unknown)
    numbers = [value for _, value in known]
    low, high = min(0.0, *numbers), max(numbers)
    width, height = TREND_WIDTH - 2 * TREND_MARGIN, TREND_HEIGHT - 2 * TREND_MARGIN
    points = [
        (
            round(TREND_MARGIN + width * index / max(len(values) - 1, 1), 1),
            round(TREND_MARGIN + height * (1 - (value - low) / ((high - low) or 1)), 1),
        )
        for index, value in known
    ]
    now = catalogue.number(values[-1], form)
    words = catalogue.text(
        "trends.words",
        title=title,
        n=len(known),
        low=catalogue.number(min(numbers), form),
        high=catalogue.number(high, form),
        before=catalogue.number(numbers[-2] if len(numbers) > 1 else None, form),
        now=now,
    )
    return Trend(title, _svg(points), points[-1], now, words)
