"""The figures of a cell that reports, tables and runs name: one entry each, in order.

`metrics.json` has a few counts besides, and the recall of every defect type. No torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

DECIMALS = 6  # of a written figure: readable, and above the last digits of a sum
DECIMALS_SHOWN = 3  # of a figure in a table for people
NOT_DEFINED = "n/a"
# shares by name, beside the figures of a cell
BY_TYPE, BY_SIZE = "recall_by_defect_type", "recall_by_defect_size"


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

MORE = (  # beside those of the tables
    Metric("recall_at_1", ("recall at", "1% alarms"), "higher"),
    Metric("recall_at_5", ("recall at", "5% alarms"), "higher"),
    Metric("aupro_at_5", ("AUPRO", "to 5%"), "higher"),
    Metric("aupimo", ("pixel", "AUPIMO"), "higher"),
)


def round_figure(value: float | None) -> float | None:
    """A figure as it is written; None where it is not defined."""
    return None if value is None else round(value, DECIMALS)


def figure_text(value: float | None) -> str:
    """A figure as people read it."""
    return NOT_DEFINED if value is None else f"{value:.{DECIMALS_SHOWN}f}"


def interval_text(cell: Mapping[str, Any]) -> str:
    """The false-alarm rate of a cell of metrics.json as people read it, with its interval."""
    rate, images = cell.get("false_alarm_rate"), cell.get("false_alarm_images")
    if rate is None or images is None:
        return NOT_DEFINED
    low, high = (figure_text(cell[key]) for key in ("false_alarm_low", "false_alarm_high"))
    alarms = round(rate * images)
    interval = f"exact 95% interval {low} to {high}"
    return f"{figure_text(rate)} ({alarms} of {images}; {1000 * rate:.0f} per 1,000; {interval})"


def figure_with_interval(value: float | None, limits: Sequence[float] | None) -> str:
    """A figure as people read it, with its interval where there is one."""
    if value is None or limits is None:
        return figure_text(value)
    low, high = map(figure_text, limits)
    return f"{figure_text(value)} ({low} to {high})"


def gaps(cell: Mapping[str, Any], to_test: int = 0) -> list[str]:
    """What of a cell of metrics.json is not defined, and which images that would take.

    `to_test`: how many more normal images the task needs before part of them are test images.
    """
    if cell.get("fault"):
        return [f"The images of this cell could not be measured: {cell['fault']}."]
    sentences = []
    if cell.get("test_anomalous") == 0:
        sentences.append(
            f"There is no anomalous test image: recall and every AUROC, AP, F1 and AUPRO are "
            f"{NOT_DEFINED}. At least 1 more anomalous image is needed."
        )
    if cell.get("test_normal") == 0:
        sentences.append(
            f"There is no normal test image: the false-alarm rate and every AUROC are "
            f"{NOT_DEFINED}. {to_test or 'Some'} more normal images are needed; a part of them is "
            "then held out to test with."
        )
    return sentences
