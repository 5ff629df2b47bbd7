"""The report of what `dvc repro` left behind: a page, a Markdown summary, a table to print.

Cells, tasks and folders are those of params.yaml; what has not run yet is shown as such.
"""

import csv
import json
import shutil
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

from admodels.evaluation.power import RELIABLE, smallest_caught
from admodels.evaluation.table import (
    BY_SIZE,
    BY_TYPE,
    METRICS,
    MORE,
    NOT_DEFINED,
    figure_text,
    figure_with_interval,
    gaps,
    interval_text,
)
from admodels.foundation.files import whole_folder, write_text
from admodels.foundation.licences import licence_text
from admodels.foundation.params import Run, load, parse
from admodels.pages.charts import Chart, Points, line_chart
from admodels.pages.render import render_page

COSTS = {
    ("train", "seconds"): ("training", "s"),
    ("evaluate", "seconds"): ("evaluation", "s"),
    ("train", "peak_mib"): ("training", "MiB"),
}
CURVES = {  # file: title, x column and label, y column and label
    "roc": ("ROC of images", "fpr", "false alarm rate", "tpr", "recall"),
    "pr": ("Precision and recall of images", "recall", "recall", "precision", "precision"),
    "pro": ("PRO of pixels", "fpr", "false positive rate", "pro", "mean region overlap"),
}
SIZES = {
    "tiny": "any, below 0.1% of the image",
    "small": "any, 0.1% to 1% of the image",
    "medium": "any, 1% to 10% of the image",
    "large": "any, 10% of the image and more",
}
LOSSES = {"loss": "training loss", "validation_loss": "loss on held-out synthetic anomalies"}
NOT_RUN = "not run yet"
NO_STEPS = "no training steps: this method's settings train no network"
TEMPLATES = Path(__file__).parent / "templates"


class _Results:
    """The files of a repository that a report is made of."""

    def __init__(self, repo: Path) -> None:
        self.repo = repo
        self.params = load(repo / "params.yaml")
        self.run = parse(self.params.get("run"), Run, "run")
        self.metrics = self.json("reports/metrics.json")
        self.cost = self.json("reports/cost.json")
        plots = {
            name: self._text(f"reports/plots/{name}.csv") for name in (*CURVES, "training", "power")
        }
        self.plots = {name: list(csv.DictReader(StringIO(text))) for name, text in plots.items()}

    def json(self, path: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self._text(path) or "{}")
        return content

    def _text(self, path: str) -> str:
        file = self.repo / path
        return file.read_text(encoding="utf-8") if file.is_file() else ""

    def cell(self, method: str, task: str) -> dict[str, Any]:
        """The figures in reports/, and what the cell's own files add: counts and intervals."""
        folder = f"data/evaluation/{method}/{task}"
        figures = self.metrics.get(method, {}).get(task, {})
        counts = self.json(f"{folder}/metrics.json") if figures and task != "mean" else {}
        return {**counts, **figures}

    def intervals(self, method: str, task: str) -> dict[str, Any]:
        return self.json(f"data/evaluation/{method}/{task}/intervals.json")

    def is_trained(self, method: str, task: str) -> bool:
        return bool(self.cost.get(method, {}).get(task, {}).get("train"))

    def validation(self, task: str) -> dict[str, Any]:
        return self.json(f"data/validation/{task}/report.json")

    def shortage(self, task: str) -> dict[str, Any]:
        """How many more normal images the task needs, as `validate` counted them."""
        return self.validation(task).get("shortage") or {}

    def points(self, plot: str, method: str, task: str, x: str, y: str) -> Points:
        rows = (r for r in self.plots[plot] if (r["method"], r["task"]) == (method, task))
        return [(float(row[x]), float(row[y])) for row in rows if row.get(x) and row.get(y)]


def write_report(repo: Path) -> Path:
    """Write reports/html/ and reports/summary.md; the path of the page.

    Raises:
        ConfigurationError: params.yaml is missing or does not say which cells exist.
    """
    results = _Results(repo)
    final = repo / "reports/html"
    with whole_folder(final) as fresh:
        (fresh / "images").mkdir()
        content = _content(results, fresh / "images")
        page = render_page("report.html", TEMPLATES, **content)
        write_text(fresh / "index.html", page)
    _write_summary(results)
    return final / "index.html"


def summary_table(repo: Path) -> str:
    """The headline table as aligned text, one line per cell under two of headings."""
    return align_columns(list(_headline(_Results(repo))))


def align_columns(rows: list[list[str]]) -> str:
    """Rows of texts as aligned text; the first two columns are words, the others figures."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            text.ljust(width) if column < 2 else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _headline(results: _Results) -> Iterator[list[str]]:
    headings = [*(metric.title for metric in METRICS), *COSTS.values()]
    yield ["", "", *(top for top, _ in headings)]
    yield ["method", "task", *(bottom for _, bottom in headings)]
    tasks = results.run.tasks
    for method in results.run.methods:
        for task in [*tasks, "mean"] if len(tasks) > 1 else tasks:
            yield [method, task, *_figures(results, method, task)]


def _figures(results: _Results, method: str, task: str) -> list[str]:
    metrics = results.cell(method, task)
    cost = results.cost.get(method, {}).get(task, {})
    if not metrics:
        return [NOT_RUN] + [""] * (len(METRICS) + len(COSTS) - 1)
    numbers = [metrics.get(metric.key) for metric in METRICS]
    costs = [cost.get(stage, {}).get(name) for stage, name in COSTS]
    return [figure_text(n) for n in numbers] + ["" if c is None else f"{c:,.0f}" for c in costs]


def _write_summary(results: _Results) -> None:
    top, bottom, *rows = _headline(results)
    header = [" ".join(words).strip() for words in zip(top, bottom, strict=True)]
    table = [header, ["---"] * 2 + ["---:"] * (len(header) - 2), *rows]
    lines = [f"| {' | '.join(row)} |" for row in table]
    notes = [
        f"- {task}: {note}"
        for task in results.run.tasks
        for note in (_promise(results, task), *_gaps(results, task), _licence(results, task))
    ]
    text = "\n".join(["# Results", "", *lines, "", *notes, ""])
    write_text(results.repo / "reports/summary.md", text)


def _promise(results: _Results, task: str) -> str:
    """What the calibration images of a task, the same for every method, can and cannot hold."""
    cells = [results.cell(method, task) for method in results.run.methods]
    cell = next((cell for cell in cells if cell), None)
    if cell is None:
        return NOT_RUN
    if "calibration_images" not in cell:
        return "The counts of images are not here: `dvc pull`, or `dvc checkout data/evaluation`."
    images, alpha = cell["calibration_images"], results.params["evaluate"]["alpha"]
    shortage = results.shortage(task)
    unit, missing = shortage.get("unit", "images"), shortage.get("to_calibrate")
    each = ", one of each group" if unit == "groups" else ""
    smallest = (
        f"{images} calibration images{each}: the smallest false-alarm level is "
        f"1/{images + 1} = {1 / (images + 1):.3f}"
    )
    if not cell["images_missing"]:
        return f"{smallest}; the thresholds are set for {alpha:g}."
    return (
        f"{smallest}, so {alpha:g} cannot be promised: {missing or cell['images_missing']} more "
        f"normal {unit} are needed. Without a threshold there is no false-alarm rate and no recall."
    )


def _gaps(results: _Results, task: str) -> list[str]:
    """What of a task's cells is not defined, each sentence once."""
    to_test = results.shortage(task).get("to_test", 0)
    cells = (results.cell(method, task) for method in results.run.methods)
    return list(dict.fromkeys(gap for cell in cells for gap in gaps(cell, to_test)))


def _licence(results: _Results, task: str) -> str:
    licence = results.params["tasks"][task].get("licence", "not stated")
    return (
        f"Licence of the images, which binds every model trained on them: {licence_text(licence)}."
    )


def _content(results: _Results, images: Path) -> dict[str, Any]:
    """The variables of the template; copies the pictures to `images`."""
    top, bottom, *rows = _headline(results)
    folders = results.params.get("folders") or {}
    return {
        "not_run": NOT_RUN,
        "headings": list(zip(top, bottom, strict=True)),
        "rows": rows,
        "tasks": [_task(results, task, images) for task in results.run.tasks],
        "folders": {
            name: {**folder, "summary": results.json(f"data/scores/{name}/summary.json")}
            for name, folder in folders.items()
        },
    }


def _task(results: _Results, task: str, images: Path) -> dict[str, Any]:
    methods = results.run.methods
    cells_run = [cell for m in methods if (cell := results.cell(m, task))]
    recalls = {m: _recalls(results.cell(m, task)) for m in methods}
    types = sorted({name for shares in recalls.values() for name in shares})
    cells = results.repo / "data/evaluation"
    sheet = results.repo / f"data/synthetic/{task}/contact_sheet.png"
    return {
        "name": task,
        "block": results.params["tasks"][task],
        "promise": _promise(results, task),
        "gaps": _gaps(results, task),
        "sheet_title": _sheet_title(cells_run),
        "nothing": NOT_DEFINED if cells_run else NOT_RUN,
        "has_run": bool(cells_run),
        "figures": _figures_with_intervals(results, task),
        "false_alarms": {m: interval_text(results.cell(m, task)) for m in methods},
        "licence": _licence(results, task),
        "recalls": {name: [figure_text(recalls[m].get(name)) for m in methods] for name in types},
        "curves": [_curve(results, plot, task) for plot in CURVES],
        "power": {m: _power(results, m, task) for m in methods},
        "losses": [_losses(results, m, task) for m in methods],
        "no_losses": [NO_STEPS if results.is_trained(m, task) else NOT_RUN for m in methods],
        "overlays": {
            m: _copy_picture(cells / m / task / "overlays.png", images, m, task) for m in methods
        },
        "sheet": _copy_picture(sheet, images, "synthetic", task),
        "validation": results.validation(task),
        "unit": results.shortage(task).get("unit", "images"),
        "data_page": f"../../data/validation/{task}/index.html",
        "methods": methods,
    }


def _recalls(cell: dict[str, Any]) -> dict[str, float | None]:
    """The recall of every defect type, and of every size that the task has."""
    sizes = (cell.get(BY_SIZE) or {}).items()
    by_size = {SIZES[name]: share for name, share in sizes if share is not None}
    return {**cell.get(BY_TYPE, {}), **by_size}


def _figures_with_intervals(results: _Results, task: str) -> dict[str, list[str]]:
    """A row for each figure, a text for each method."""
    rows: dict[str, list[str]] = {}
    for metric in (*METRICS, *MORE):
        texts = []
        for method in results.run.methods:
            cell, limits = results.cell(method, task), results.intervals(method, task)
            own = [cell.get("false_alarm_low"), cell.get("false_alarm_high")]
            if metric.key == "false_alarm_rate" and None not in own:
                limits = {metric.key: own}
            texts.append(figure_with_interval(cell.get(metric.key), limits.get(metric.key)))
        rows[" ".join(metric.title).strip()] = texts
    return rows


def _sheet_title(cells: list[dict[str, Any]]) -> str:
    """What the overlay sheets of a task show."""
    if any(cell.get("test_anomalous") != 0 for cell in cells) or not cells:
        return "best and worst test images"
    if any(cell.get("test_normal") for cell in cells):
        return "normal test images with the highest scores"
    return "validation images with the highest scores: there is no test image"


def _power(results: _Results, method: str, task: str) -> dict[str, Any]:
    """Which painted defects are caught: a sentence, and shares by contrast and diameter."""
    cell = [r for r in results.plots["power"] if (r["method"], r["task"]) == (method, task)]
    rows: dict[str, dict[str, float | None]] = {}
    for row in cell:
        share = float(row["caught_share"]) if row["caught_share"] else None
        rows.setdefault(row["contrast"], {})[row["diameter_px"]] = share
    clean = next(iter(rows.pop("0.0", {}).values()), None)
    smallest = {
        contrast: smallest_caught([(float(px), share) for px, share in shares.items()])
        for contrast, shares in rows.items()
    }
    sizes = "; ".join(
        f"{float(contrast):g} grey levels: "
        + ("none of these sizes" if px is None else f"{px:.3g} px across")
        for contrast, px in smallest.items()
    )
    sentence = (
        "Without a threshold no defect is caught or missed."
        if clean is None
        else f"The smallest defect caught {RELIABLE:.0%} of the time, by contrast: {sizes}. "
        f"With no defect at all {figure_text(clean)} of these images are flagged."
    )
    return {
        "sentence": sentence,
        "diameters": [f"{float(px):.3g}" for px in next(iter(rows.values()), {})],
        "rows": {
            f"{float(c):g}": [figure_text(s) for s in shares.values()] for c, shares in rows.items()
        },
    }


def _copy_picture(source: Path, images: Path, *names: str) -> str:
    """Copy a picture beside the page; its address there, empty where there is none."""
    if not source.is_file():
        return ""
    target = images / f"{'-'.join(names)}.png"
    shutil.copyfile(source, target)
    return f"images/{target.name}"


def _curve(results: _Results, plot: str, task: str) -> Chart:
    title, x, x_label, y, y_label = CURVES[plot]
    series = {m: results.points(plot, m, task, x, y) for m in results.run.methods}
    return line_chart(title, x_label, y_label, series, y_max=1.0)


def _losses(results: _Results, method: str, task: str) -> Chart:
    series = {
        label: results.points("training", method, task, "step", name)
        for name, label in LOSSES.items()
    }
    return line_chart(f"Training of {method}", "step", "loss", series)
