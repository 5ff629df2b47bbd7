"""A small plot of a night against its reference: a dot for each measured property."""

from dataclasses import dataclass
from typing import Any

from admodels.nights.drift.statistics import EFFECT
from admodels.pages.catalogue import Catalogue

WIDTH, LEFT, RIGHT, ROW, AXIS = 380.0, 110.0, 320.0, 18.0, 22.0  # SVG units
MOST = 5.0  # spreads at the end of the axis; what is beyond stands there


@dataclass(frozen=True)
class DotRow:
    """A property: its name, the place of its dot, and its effect in words."""

    name: str
    x: float
    y: float
    effect: str
    changed: bool


@dataclass(frozen=True)
class Dots:
    """The plot; `band` (x, width) is what differs by less than matters."""

    rows: list[DotRow]
    words: str
    changed: int
    all: int
    width: float = WIDTH
    middle: float = (LEFT + RIGHT) / 2
    band: tuple[float, float] = (0.0, 0.0)

    @property
    def floor(self) -> float:
        """Where the rows end."""
        return ROW * len(self.rows)

    @property
    def height(self) -> float:
        """With the name of the axis."""
        return self.floor + AXIS


def dots(line: str, statistics: dict[str, Any], catalogue: Catalogue) -> Dots:
    """The effect of every statistic of a record of drift, the largest first."""
    half = (RIGHT - LEFT) / 2
    middle, scale = LEFT + half, half / MOST
    ordered = sorted(statistics.items(), key=lambda item: -abs(item[1]["effect"]))
    rows = [
        DotRow(
            property_text(name, catalogue),
            round(middle + scale * max(-MOST, min(MOST, shift["effect"])), 1),
            round(ROW * (number + 0.5), 1),
            catalogue.number(shift["effect"], "+.1f"),
            bool(shift["alarm"]),
        )
        for number, (name, shift) in enumerate(ordered)
    ]
    values = (catalogue.text("drift.value", name=row.name, effect=row.effect) for row in rows)
    return Dots(
        rows,
        catalogue.text("drift.plot_words", line=line, values=", ".join(values)),
        sum(row.changed for row in rows),
        len(rows),
        middle=middle,
        band=(middle - scale * EFFECT, 2 * scale * EFFECT),
    )


def property_text(name: str, catalogue: Catalogue) -> str:
    """A statistic of drift in words."""
    return catalogue.text(f"property.{name}")
