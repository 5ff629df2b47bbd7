"""Better, worse, or inside the noise: the answer in words, as a table and as JSON.

What decides is the image AUROC, tested by exchanging the two bundles image by image; the other
figures are shown with their intervals, and decide nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from admodels.evaluation import paired
from admodels.evaluation.paired import Exchanged
from admodels.evaluation.resampling import Interval
from admodels.evaluation.table import NOT_DEFINED, figure_text, round_figure
from admodels.report.comparison.difference import Difference, difference
from admodels.report.comparison.sides import pairs, side
from admodels.report.page import align_columns

LEVEL = 0.05
BUNDLES = (
    "This speaks of these two bundles. Another training seed gives other bundles: what holds for "
    "two methods or settings takes several seeds of each."
)
UNKNOWN = "cannot be compared"


@dataclass(frozen=True)
class Answer:
    """A question, `p_value` as it is and corrected for all questions asked; None: no answer."""

    name: str
    gain: float | None
    p_value: float | None
    corrected: float | None

    @property
    def word(self) -> str:
        """Better, worse, inside the noise, or that there is no answer."""
        if self.corrected is None or self.gain is None:
            return UNKNOWN
        if self.corrected > LEVEL:
            return "inside the noise"
        return "better" if self.gain > 0 else "worse"


@dataclass(frozen=True)
class Comparison:
    """The differences of all cells, an answer for each, and one over the tasks of each method."""

    before: str
    after: str
    cells: list[Difference]
    answers: list[Answer]
    over_tasks: list[Answer]


def compare(repo: Path, before: str, after: str, task: str | None) -> Comparison:
    """Compare two sides, see `sides.side`, on every task that both have, or on one.

    Raises:
        ConfigurationError: a side is not known, or nothing is common.
        DataError: files of a side are not on this machine, or no image is common.
    """
    early, late = (side(repo, word, task) for word in (before, after))
    cells = [
        difference(early.cell(first, name), late.cell(second, name))
        for first, second, name in pairs(early, late)
    ]
    names = [f"{_method(cell)}on {cell.after.task}" for cell in cells]
    answers = _answers(names, [cell.exchanged for cell in cells])
    grouped: dict[str, list[Exchanged]] = {}
    for cell in cells:
        if cell.exchanged is not None:
            grouped.setdefault(_method(cell), []).append(cell.exchanged)
    means = {
        f"{method}over {len(tasks)} tasks": paired.mean_of_tasks(tasks)
        for method, tasks in grouped.items()
        if len(tasks) > 1
    }
    return Comparison(before, after, cells, answers, _answers(list(means), list(means.values())))


def _method(cell: Difference) -> str:
    methods = dict.fromkeys((cell.before.method, cell.after.method))
    name = " to ".join(method for method in methods if method)
    return f"{name} " if name else ""


def _answers(names: list[str], tested: list[Exchanged | None] | list[Exchanged]) -> list[Answer]:
    """Holm's correction is for the questions that can be asked."""
    known = [exchanged.p_value() for exchanged in tested if exchanged is not None]
    corrected = iter(zip(known, paired.holm(known), strict=True))
    answers = []
    for name, exchanged in zip(names, tested, strict=True):
        gain = None if exchanged is None else float(exchanged.differences[0])
        p_values = (None, None) if exchanged is None else next(corrected)
        answers.append(Answer(name, gain, *p_values))
    return answers


def sentence(answer: Answer, limits: Interval | None = None) -> str:
    """An answer for people."""
    if answer.gain is None or answer.p_value is None or answer.corrected is None:
        return f"{answer.name}: {UNKNOWN}: the test images have one label only"
    interval = f" (95% interval {_sign(limits[0])} to {_sign(limits[1])})" if limits else ""
    corrected = f", corrected {answer.corrected:.3g}" if answer.corrected != answer.p_value else ""
    return (
        f"{answer.name}: {answer.word}: image AUROC {_sign(answer.gain)}{interval}, "
        f"p {answer.p_value:.3g}{corrected}"
    )


def lines(comparison: Comparison) -> Iterator[str]:
    """The comparison for a terminal."""
    yield f"before: {comparison.before}    after: {comparison.after}"
    for cell, answer in zip(comparison.cells, comparison.answers, strict=True):
        yield ""
        yield sentence(answer, cell.lines[0].interval)
        yield align_columns(table(cell))
        yield from notes(cell)
    yield ""
    for answer in comparison.over_tasks:
        yield sentence(answer)
    yield BUNDLES


def table(cell: Difference) -> list[list[str]]:
    """Figures and costs, before and after, as texts; the first row is the head."""
    rows = [["figure", "", "before", "after", "difference", "95% interval"]]
    for line in cell.lines:
        gain, limits = NOT_DEFINED, ""
        if line.before is not None and line.after is not None:
            gain = _sign(line.after - line.before)
        if line.interval is not None:
            limits = f"{_sign(line.interval[0])} to {_sign(line.interval[1])}"
        rows.append(
            [line.title, "", figure_text(line.before), figure_text(line.after), gain, limits]
        )
    for title, early in cell.before.cost.items():
        late = cell.after.cost.get(title)
        if late is not None:
            rows.append([title, "", f"{early:,.1f}", f"{late:,.1f}", f"{late - early:+,.1f}", ""])
    return rows


def notes(cell: Difference) -> Iterator[str]:
    """Of which images, and how the verdicts changed."""
    images = f"{cell.normal} normal and {cell.anomalous} anomalous images"
    yield images + (f"; {cell.left_out} are left out: of one side only" if cell.left_out else "")
    for label, sides in cell.sides.items():
        yield (
            f"verdicts on {label} images: {sides.won} became right, {sides.lost} became wrong "
            f"(McNemar p {sides.p_value:.3g})"
        )
    for change in cell.changes:
        was, now = ("passed", "flagged") if change.flagged else ("flagged", "passed")
        yield f"  {change.row.image_path} ({change.row.defect_type}): {was}, now {now}"


def _sign(value: float) -> str:
    return f"{value:+.3f}"


def content(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON."""
    cells = zip(comparison.cells, comparison.answers, strict=True)
    return {
        "before": comparison.before,
        "after": comparison.after,
        "cells": [_cell_content(cell) | _answer_content(answer) for cell, answer in cells],
        "over_tasks": [_answer_content(answer) for answer in comparison.over_tasks],
        "about": BUNDLES,
    }


def _answer_content(answer: Answer) -> dict[str, Any]:
    return {
        "name": answer.name,
        "verdict": answer.word,
        "image_auroc_gain": round_figure(answer.gain),
        "p_value": round_figure(answer.p_value),
        "p_value_corrected": round_figure(answer.corrected),
    }


def _cell_content(cell: Difference) -> dict[str, Any]:
    return {
        "task": cell.after.task,
        "methods": [cell.before.method, cell.after.method],
        "images": {
            "normal": cell.normal,
            "anomalous": cell.anomalous,
            "left_out": cell.left_out,
        },
        "figures": {
            line.title: {
                "before": round_figure(line.before),
                "after": round_figure(line.after),
                "interval": line.interval and [round_figure(limit) for limit in line.interval],
            }
            for line in cell.lines
        },
        "cost": {"before": cell.before.cost, "after": cell.after.cost},
        "verdicts": {
            label: {
                "images": sides.images,
                "became_right": sides.won,
                "became_wrong": sides.lost,
                "p_value": round_figure(sides.p_value),
            }
            for label, sides in cell.sides.items()
        },
        "changed": [
            {"image": change.row.image_path, "flagged": change.flagged} for change in cell.changes
        ],
    }
