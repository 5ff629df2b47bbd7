import hashlib
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from admodels.images import decode
from admodels.report import page as reporting

HOUSE = Path(__file__).parents[1]
VENDOR = HOUSE / "admodels/pages/vendor"
PARAMS = """
run: {methods: [draem, cpr], tasks: [sample_brick, bottle]}
tasks:
  sample_brick: {dataset: sample, category: brick, kind: texture}
  bottle: {dataset: mvtec_ad, category: <b>bottle</b>, kind: object, licence: CC BY-NC-SA 4.0}
evaluate: {alpha: 0.05}
folders:
  brick_line: {folder: new, task: sample_brick, method: draem, alpha: 0.05}
  idle_line: {folder: new, task: bottle, method: cpr, alpha: 0.05}
"""
CELL = {
    "image_auroc": 0.98765,
    "image_ap": 0.9,
    "image_f1_max": 0.8,
    "pixel_auroc": 0.7,
    "pixel_ap": None,
    "aupro": 0.5,
    "false_alarm_rate": 0.0,
    "recall": 1.0,
    "recall_by_defect_type": {"<script>alert(1)</script>": 0.25, "hole": None},
    "calibration_images": 41,
    "images_missing": 0,
}
NOTHING_PROMISED = CELL | {"calibration_images": 8, "images_missing": 11, "recall": None}
EXACT = {"false_alarm_high": 0.25}
COST = {"train": {"seconds": 1234.4, "peak_mib": 2048.0}, "evaluate": {"seconds": 9.6}}
FINDINGS = [
    {"name": "image_decodes", "severity": "error", "success": True, "expected": "It decodes."},
    {
        "name": "contrast",
        "severity": "warning",
        "success": False,
        "expected": "It shows.",
        "seen": "<i>2</i> do not.",
        "unexpected_count": 2,
        "unexpected": ["a/<1>.png", "b.png"],
    },
]
POWER = """method,task,contrast,diameter_share,diameter_px,images,caught,caught_share
draem,bottle,0.0,0.0,0.0,16,1,0.0625
draem,bottle,20.0,0.03,27.0,16,3,0.1875
draem,bottle,20.0,0.12,108.0,16,14,0.875
draem,bottle,80.0,0.03,27.0,16,12,0.75
draem,bottle,80.0,0.12,108.0,16,16,1.0
draem,sample_brick,0.0,0.0,0.0,16,,
draem,sample_brick,20.0,0.03,2.88,16,,
"""
SUMMARY = {
    "found": 12,
    "statuses": {"scored": 11, "truncated": 1},
    "flagged": 3,
    "alpha": 0.05,
    "threshold": 0.123456,
    "images_missing": 0,
}


def write(folder, path, content):
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


@pytest.fixture
def empty(tmp_path):
    write(tmp_path, "params.yaml", PARAMS)
    return tmp_path


@pytest.fixture
def full(empty):
    """A repository in which draem has run on both tasks and cpr on none."""
    cells = {"sample_brick": NOTHING_PROMISED, "bottle": CELL, "mean": {"image_auroc": 0.5}}
    write(empty, "reports/metrics.json", {"draem": cells})
    write(empty, "reports/cost.json", {"draem": {"bottle": COST, "sample_brick": COST}})
    curves = ["bottle,0,0", "bottle,1,1", "sample_brick,0,0", "sample_brick,1,0.5"]
    roc = "\n".join(["method,task,fpr,tpr", *(f"draem,{point}" for point in curves)])
    write(empty, "reports/plots/roc.csv", roc)
    write(empty, "reports/plots/power.csv", POWER)
    rows = [
        f"draem,bottle,{step},{2 - step / 1000},{'' if step % 100 else 1}" for step in range(1001)
    ]
    training = "\n".join(["method,task,step,loss,validation_loss", *rows])
    write(empty, "reports/plots/training.csv", training)
    write(
        empty,
        "data/validation/bottle/report.json",
        {"checks": FINDINGS, "moved_to_test": 75},
    )
    write(empty, "data/scores/brick_line/summary.json", SUMMARY)
    picture = np.zeros((4, 6, 3), np.uint8)
    for path in ("evaluation/draem/bottle/overlays.png", "synthetic/bottle/contact_sheet.png"):
        (empty / "data" / path).parent.mkdir(parents=True, exist_ok=True)
        decode.write_png(empty / "data" / path, picture)
    return empty


class Page(HTMLParser):
    """The tags and the text of a page; void and unclosed tags are told apart."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(folder):
    return Page(reporting.write_report(folder).read_text(encoding="utf-8"))


def test_before_anything_has_run_the_page_says_so_for_every_cell(empty):
    page = page_of(empty)
    assert page.open == []
    assert page.of("img") == []
    assert page.of("polyline") == []
    assert page.text.count("not run yet") > 20
    for name in ("draem", "cpr", "sample_brick", "bottle", "brick_line", "idle_line"):
        assert name in page.text


def test_a_method_without_training_steps_is_not_called_not_run(full):
    page = page_of(full)
    assert "Training of draem no training steps: this method's settings train no" in page.text
    assert page.text.count("no training steps") == 1  # draem on sample_brick; cpr never ran
    assert page.text.count("Training of cpr not run yet") == 2


def test_the_page_shows_the_numbers_of_each_cell(full):
    page = page_of(full)
    assert page.open == []
    assert "draem bottle 0.988 0.900 0.800 0.700 n/a 0.500 0.000 1.000 1,234 10 2,048" in page.text
    assert "cpr bottle not run yet" in page.text
    assert "brick_line draem sample_brick 12 3 0.05 0.1235 11 scored, 1 truncated" in page.text
    assert "idle_line cpr bottle not run yet" in page.text
    assert "1 of 2 checks fail" in page.text
    assert "contrast warning 2 <i>2</i> do not. It shows." in page.text


def test_the_page_says_what_the_calibration_can_promise_and_what_sample_data_is(full):
    text = page_of(full).text
    assert "41 calibration images: the smallest false-alarm level is 1/42 = 0.024" in text
    assert "1/9 = 0.111, so 0.05 cannot be promised: 11 more normal images are needed" in text
    assert text.count("figures say nothing about a factory") == 1
    assert text.count("calibration images are not independent") == 1


def test_the_page_says_which_defect_is_the_smallest_that_would_be_caught(full):
    reporting.write_report(full)
    page = Page((full / "reports/html/index.html").read_text(encoding="utf-8"))
    assert (
        "draem : The smallest defect caught 90% of the time, by contrast: 20 grey levels: none of "
        "these sizes; 80 grey levels: 108 px across. With no defect at all 0.062 of these images "
        "are flagged. contrast 27 px 108 px 20 grey levels 0.188 0.875 80 grey levels 0.750 1.000"
    ) in page.text
    assert (
        "draem : Without a threshold no defect is caught or missed. contrast 2.88 px "
        "20 grey levels n/a cpr: not run yet"
    ) in page.text


def test_names_from_the_data_cannot_become_markup(full):
    page = page_of(full)
    assert page.of("script") == []
    assert page.of("b") == []
    assert "<script>alert(1)</script> 0.250 n/a" in page.text
    assert "<b>bottle</b>" in page.text


def test_the_page_needs_no_network_and_every_picture_is_beside_it(full):
    page = page_of(full)
    addresses = [a for _, tag in page.tags for key in ("src", "href") if (a := tag.get(key))]
    assert len(addresses) > 5
    assert not [address for address in addresses if "//" in address]
    assert len(page.of("img")) == 2
    for picture in page.of("img"):
        assert (full / "reports/html" / picture["src"]).is_file()
        assert len(picture["alt"]) > 10
    for drawing in page.of("svg"):
        assert drawing.get("aria-label") or drawing.get("aria-hidden")


def test_a_curve_runs_from_corner_to_corner_and_a_long_one_is_thinned_to_its_ends(full):
    curves = [tag["points"] for tag in page_of(full).of("polyline") if tag["points"][0] != "0"]
    assert curves[:2] == ["46.0,190.0 310.0,100.0", "46.0,190.0 310.0,10.0"]
    loss = curves[2].split()
    assert (loss[0], loss[-1]) == ("46.0,10.0", "310.0,100.0")
    assert 200 < len(loss) < 300
    assert curves[3].split()[1:3] == ["72.4,100.0", "98.8,100.0"]


def test_every_figure_of_a_task_stands_beside_its_interval(full):
    write(full, "data/evaluation/draem/bottle/metrics.json", {"false_alarm_low": 0.0, **EXACT})
    intervals = {"image_auroc": [0.9, 0.995], "image_ap": None}
    write(full, "data/evaluation/draem/bottle/intervals.json", intervals)
    page = reporting.write_report(full).read_text(encoding="utf-8")
    rows = re.findall(r"<tr><th scope=.row.>(.*?)</th><td.*?>(.*?)</td>", page)
    assert ("image AUROC", "0.988 (0.900 to 0.995)") in rows
    assert ("image AP", "0.900") in rows
    assert ("false alarms", "0.000 (0.000 to 0.250)") in rows
    assert ("recall at 1% alarms", "n/a") in rows


def test_the_table_to_print_is_aligned(full):
    lines = reporting.summary_table(full).splitlines()
    assert lines[1].split()[:3] == ["method", "task", "AUROC"]
    assert lines[2].split()[:4] == ["draem", "sample_brick", "0.988", "0.900"]
    assert lines[4].split() == ["draem", "mean", "0.500", *["n/a"] * 7]
    assert lines[5] == "cpr     sample_brick  not run yet"
    ends = {line.index("0.988") for line in lines[2:4]}
    assert len(ends) == 1
    assert len(lines) == 2 + 2 * 3


def test_the_summary_is_a_markdown_table_with_the_promises(full):
    reporting.write_report(full)
    text = (full / "reports/summary.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {14}
    assert rows[0].startswith("| method | task | image AUROC | image AP | image F1-max |")
    assert "- bottle: 41 calibration images" in text
    flagged = [line for line in text.splitlines() if "NON-COMMERCIAL" in line]
    assert [line.startswith("- bottle: Licence") for line in flagged] == [True]
    page = (full / "reports/html/index.html").read_text(encoding="utf-8")
    assert page.count("CC BY-NC-SA 4.0 (NON-COMMERCIAL use only)") == 1


def test_the_page_counts_what_was_moved_to_test_and_links_the_data_page(full):
    page = reporting.write_report(full).read_text(encoding="utf-8")
    assert page.count("75 anomalous images of the released training part") == 1
    assert page.count('href="../../data/validation/bottle/index.html"') == 1


def test_rendering_again_gives_the_same_bytes_and_forgets_pictures_that_are_gone(full):
    first = reporting.write_report(full).read_bytes()
    assert reporting.write_report(full).read_bytes() == first
    (full / "data/evaluation/draem/bottle/overlays.png").unlink()
    reporting.write_report(full)
    assert [p.name for p in (full / "reports/html/images").iterdir()] == ["synthetic-bottle.png"]
    assert sorted(p.name for p in (full / "reports").iterdir()) == [
        "cost.json",
        "html",
        "metrics.json",
        "plots",
        "summary.md",
    ]


def test_vendored_files_are_those_that_the_list_names():
    readme = (VENDOR / "README.md").read_text(encoding="utf-8")
    for package in ("vega", "vega-lite", "vega-embed"):
        digest = hashlib.sha256((VENDOR / f"{package}.min.js").read_bytes()).hexdigest()
        assert f"| {package}.min.js | {package} |" in readme
        assert digest in readme
        assert "Redistribution" in (VENDOR / f"{package}.LICENSE").read_text(encoding="utf-8")


@pytest.mark.slow
def test_dvc_plots_render_without_a_network(full):
    for command in (
        ["git", "init", "-q"],
        [sys.executable, "-m", "dvc", "init", "-q"],
        [sys.executable, "-m", "dvc", "config", "plots.html_template", "plots_page.html"],
    ):
        subprocess.run(command, cwd=full, check=True, capture_output=True)
    shutil.copy(HOUSE / ".dvc/plots_page.html", full / ".dvc")
    shutil.copytree(HOUSE / ".dvc/plots", full / ".dvc/plots")
    plot = {"template": "methods_curve", "x": "fpr", "y": {"reports/plots/roc.csv": "tpr"}}
    write(full, "dvc.yaml", json.dumps({"plots": [{"ROC": plot}]}))
    show = [sys.executable, "-m", "dvc", "plots", "show"]
    subprocess.run(show, cwd=full, check=True, capture_output=True)
    html = (full / "dvc_plots/index.html").read_text(encoding="utf-8")
    sources = [tag["src"] for tag in Page(html.split("<script>")[0]).of("script")]
    assert sources == [
        f"../admodels/pages/vendor/{name}.min.js" for name in ("vega", "vega-lite", "vega-embed")
    ]
    assert "cdn" not in html
    assert "datum['fpr']" in html
    assert "DVC_METRIC" not in html
