"""The figures of a cell that reports, tables and runs name: one entry each, in order.

`metrics.json` has a few counts besides, and the recall of every defect type. No torch.
"""

from dataclasses import dataclass
from typing import Literal

DECIMALS = 6  # of a written figure: readable, and above the last digits of a sum
DECIMALS_SHOWN = 3  # of a figure in a table for people
NOT_DEFINED = "n/a"


@dataclass(frozen=True)
class Metric:
    """`key` in metrics.json, the two lines above its column, which of two values is better."""

    key: str
    title: tuple[str, str]
    better: Literal["higher", "lower"]


METRICS = (
    Metric("image_auroc", ("image", "AUROC"), "higher"),
    Metric("image_ap", ("image", "AP"), "higher"),
    Metric("image_f1_max", ("image", "F1-max"), "higher"),
    Metric("pixel_auroc", ("pixel", "AUROC"), "higher"),
    Metric("pixel_ap", ("pixel", "AP"), "higher"),
    Metric("aupro", ("pixel", "AUPRO"), "higher"),
    Metric("false_alarm_rate", ("false", "alarms"), "lower"),
    Metric("recall", ("", "recall"), "higher"),
)


def round_figure(value: float | None) -> float | None:
    """A figure as it is written; None where it is not defined."""
    return None if value is None else round(value, DECIMALS)


def figure_text(value: float | None) -> str:
    """A figure as people read it."""
    return NOT_DEFINED if value is None else f"{value:.{DECIMALS_SHOWN}f}"
