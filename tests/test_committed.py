"""The figures of this machine beside the committed ones."""

import json
import subprocess
from pathlib import Path

import pytest

from admodels.report.committed import WHY, comparison

CELL = {"image_auroc": 0.9, "aupro": 0.5, "recall": None}


def write(repo: Path, figures: object) -> None:
    (repo / "reports").mkdir(exist_ok=True)
    (repo / "reports/metrics.json").write_text(json.dumps(figures), encoding="utf-8")


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    write(tmp_path, {"cpr": {"brick": CELL, "mean": CELL}, "draem": {"brick": CELL}})
    user = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    for words in (("init", "-q"), ("add", "-A"), (*user, "commit", "-q", "-m", "test")):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    return tmp_path


def test_cells_of_both_stand_side_by_side_with_the_reason(repo: Path) -> None:
    changed = CELL | {"image_auroc": 0.95, "recall": 1.0}
    write(repo, {"cpr": {"brick": CELL, "new": CELL}, "draem": {"brick": changed}, "twin": {}})
    *table, why = comparison(repo).splitlines()
    assert [line.split() for line in table[1:]] == [
        ["method", "task", *["here", "committed"] * 3],
        ["cpr", "brick", "0.900", "0.900", "0.500", "0.500", "n/a", "n/a"],
        ["draem", "brick", "0.950", "0.900", "0.500", "0.500", "1.000", "n/a"],
    ]
    assert table[0].split() == ["image", "AUROC", "pixel", "AUPRO", "recall"]
    assert why == WHY


def test_equal_figures_are_said_to_be_equal(repo: Path) -> None:
    assert comparison(repo) == "Every figure is the committed one."


def test_without_a_commit_or_a_common_cell_nothing_is_said(repo: Path) -> None:
    write(repo, {"cpr": {"tile": CELL}})
    assert comparison(repo) == ""
    (repo / "reports/metrics.json").unlink()
    assert comparison(repo) == ""
    assert comparison(Path("/")) == ""
