"""Scores of another tool, measured on the test images of a task."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from admodels.evaluation import measure
from admodels.evaluation.imported import evaluate_table
from admodels.evaluation.measure import Evaluate, ScoredSet
from admodels.foundation import manifest, params
from admodels.foundation.errors import ConfigurationError, DataError
from admodels.report.comparison import verdicts
from tests import tiny
from tests.test_evaluate_stage import PARAMS, row

SCORES = {"good/0": 0.25, "good/1": 1.5, "good/2": 0.5, "square/0": 2.0, "square/1": 1.0}
CALIBRATION = [0.1, 0.2, 0.3, 1.2, 0.5, 0.6, 0.7]
MASK = np.zeros((tiny.PX, tiny.PX), bool)
MASK[20:36, 24:44] = True


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a task of five test and seven calibration images, and table.csv."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(PARAMS, encoding="utf-8")
    raw, pictures = Path("data/raw/stripes"), tiny.stripes(12, seed=3)
    tested = [
        row(raw, name, rgb, MASK if "square" in name else None)
        for name, rgb in zip(SCORES, pictures, strict=False)
    ]
    calibrating = [row(raw, f"new/{i}", rgb, None) for i, rgb in enumerate(pictures[5:])]
    manifest.write(Path("data/manifests/stripes/test.csv"), tested)
    manifest.write(Path("data/manifests/stripes/calibration.csv"), calibrating)
    lines = [f"test/{name}.png,{score}" for name, score in SCORES.items()]
    lines += [
        f"{tmp_path}/data/raw/stripes/test/new/{i}.png,{s}" for i, s in enumerate(CALIBRATION)
    ]
    write(["path,score", *lines, "elsewhere.png,3"])
    return tmp_path


def write(lines: list[str]) -> None:
    Path("table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def edit(old: str, new: str) -> None:
    text = Path("table.csv").read_text(encoding="utf-8")
    assert old in text
    Path("table.csv").write_text(text.replace(old, new), encoding="utf-8")


def by_hand(maps: np.ndarray | None = None) -> ScoredSet:
    anomalous = np.array(["square" in name for name in SCORES])
    masks = np.stack([MASK[::2, ::2] & (label > 0) for label in anomalous])
    return ScoredSet(
        image_ids=[f"test/{name}" for name in SCORES],
        anomalous=anomalous,
        defect_types=[name.split("/")[0] for name in SCORES],
        refused=[""] * 5,
        anomaly_scores=np.array(list(SCORES.values())),
        anomaly_maps=np.empty((5, 0, 0), np.float32) if maps is None else maps,
        masks=None if maps is None else masks,
    )


@pytest.mark.usefixtures("task")
def test_scores_are_measured_as_those_of_a_bundle() -> None:
    block = params.read("evaluate", Evaluate)
    imported = evaluate_table(Path("table.csv"), "stripes")
    expected = measure.evaluate(by_hand(), np.sort(CALIBRATION), block)
    assert imported.evaluation.metrics == expected.metrics
    assert imported.evaluation.intervals == expected.intervals
    assert imported.evaluation.metrics["image_auroc"] == round(5 / 6, 6)
    assert imported.evaluation.metrics["recall"] == 1
    assert imported.unused == 1


@pytest.mark.usefixtures("task")
def test_maps_of_16_bits_give_the_figures_of_pixels() -> None:
    rng = np.random.default_rng(2)
    maps = rng.integers(0, 65536, (5, 32, 32)).astype(np.uint16)
    for number, (name, values) in enumerate(zip(SCORES, maps, strict=True)):
        cv2.imwrite(f"{number}.png", values)
        edit(f"test/{name}.png,{SCORES[name]}", f"test/{name}.png,{SCORES[name]},{number}.png")
    edit("path,score", "path,score,map")
    imported = evaluate_table(Path("table.csv"), "stripes").evaluation.metrics
    block = params.read("evaluate", Evaluate)
    scored = by_hand(maps.astype(np.float32))
    expected = measure.evaluate(scored, np.sort(CALIBRATION), block).metrics
    assert imported == expected
    assert imported["aupro"] is not None
    cv2.imwrite("0.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DataError, match="not a grey PNG"):
        evaluate_table(Path("table.csv"), "stripes")


@pytest.mark.usefixtures("task")
def test_without_a_score_for_every_calibration_image_there_is_no_threshold() -> None:
    edit("test/new/3.png", "test/new/other.png")
    imported = evaluate_table(Path("table.csv"), "stripes")
    assert (imported.calibration_missing, imported.evaluation.threshold) == (1, None)
    assert imported.evaluation.metrics["image_auroc"] == round(5 / 6, 6)
    assert "lacks 1 of 7 calibration images" in "\n".join(imported.lines())


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("test/good/1.png", "other.png", "1 of 5 test images have no row"),
        ("test/good/1.png", "test/good/0.png", "stands twice"),
        ("good/1.png,1.5", "good/1.png,nan", "the score 'nan' is no finite number"),
        ("good/1.png,1.5", "good/1.png", "the score None is no finite number"),
        ("path,score", "file,score", "its columns are"),
    ],
)
@pytest.mark.usefixtures("task")
def test_a_table_that_says_too_little_is_refused(old: str, new: str, fault: str) -> None:
    edit(old, new)
    with pytest.raises(DataError, match=fault):
        evaluate_table(Path("table.csv"), "stripes")


@pytest.mark.usefixtures("task")
def test_a_file_that_is_no_text_or_an_unknown_task_is_refused() -> None:
    Path("table.csv").write_bytes(b"path,score\n\xff\xfe,1\n")
    with pytest.raises(DataError, match="cannot be read as a CSV"):
        evaluate_table(Path("table.csv"), "stripes")
    with pytest.raises(DataError, match="manifest"):
        evaluate_table(Path("table.csv"), "unknown")


def test_the_command_prints_a_table_or_json(
    command: Callable[..., tuple[int, str, str]], task: Path
) -> None:
    Path("params.yaml").write_text(PARAMS, encoding="utf-8")
    code, shown, _ = command("import-scores", "stripes", "table.csv")
    assert code == 0
    assert "image AUROC          0.833 (" in shown
    assert "not used: 1 of 13 rows of the table, of no test or calibration image" in shown
    code, shown, _ = command("import-scores", "stripes", "table.csv", "--json")
    figures = json.loads(shown)
    assert figures["metrics"]["image_auroc"] == round(5 / 6, 6)
    assert figures["intervals"]["recall_at_1"] is None


def test_two_tables_are_compared_image_by_image(task: Path) -> None:
    edit("square/1.png,1.0", "square/1.png,0.6")
    text = Path("table.csv").read_text(encoding="utf-8")
    Path("other.csv").write_text(text.replace("square/1.png,0.6", "square/1.png,9.0"), "utf-8")
    comparison = verdicts.compare(task, "table.csv", "other.csv", "stripes")
    (cell,) = comparison.cells
    assert (cell.normal, cell.anomalous, cell.left_out) == (3, 2, 0)
    assert comparison.answers[0].gain == pytest.approx(1 / 6)  # one pair of six is right now
    assert [change.row.image_path for change in cell.changes] == ["test/square/1.png"]
    assert "+0.167" in "\n".join(verdicts.lines(comparison))
    with pytest.raises(ConfigurationError, match="does not say of which task"):
        verdicts.compare(task, "table.csv", "other.csv", None)
