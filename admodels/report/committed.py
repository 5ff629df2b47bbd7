"""The figures of this machine beside those that are committed."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from admodels.evaluation.table import METRICS, figure_text
from admodels.report.page import align_columns

FIGURES = "reports/metrics.json"
SHOWN = ("image_auroc", "aupro", "recall")
TITLES = {metric.key: " ".join(metric.title).strip() for metric in METRICS}
WHY = (
    "A trained network differs between machines: processors add numbers in different orders, and "
    "every step of a training enlarges the difference of the last digits. On one machine, with the "
    "same packages and `train.threads`, a figure repeats exactly."
)


def comparison(repo: Path) -> str:
    """The headline figures of the cells that both have, and why some differ; empty if none has.

    The committed figures are those of git's HEAD.
    """
    here, there = _figures_here(repo), _committed_figures(repo)
    cells = [
        (method, task)
        for method in sorted(here.keys() & there.keys())
        for task in sorted(here[method].keys() & there[method].keys())
    ]
    if not cells:
        return ""
    if all(here[method][task] == there[method][task] for method, task in cells):
        return "Every figure is the committed one."
    top = ["", "", *(text for key in SHOWN for text in (TITLES[key], ""))]
    rows = [[m, t, *_pairs(here[m][t], there[m][t])] for m, t in cells]
    bottom = ["method", "task", *(["here", "committed"] * len(SHOWN))]
    return f"{align_columns([top, bottom, *rows])}\n{WHY}"


def _pairs(here: dict[str, Any], there: dict[str, Any]) -> Iterator[str]:
    for key in SHOWN:
        yield from (figure_text(cell.get(key)) for cell in (here, there))


def _figures_here(repo: Path) -> dict[str, Any]:
    file = repo / FIGURES
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def _committed_figures(repo: Path) -> dict[str, Any]:
    words = ("git", "show", f"HEAD:./{FIGURES}")
    shown = subprocess.run(words, cwd=repo, capture_output=True, check=False)
    try:
        content = json.loads(shown.stdout) if shown.returncode == 0 else {}
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
