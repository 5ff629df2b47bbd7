"""Two revisions of a real DVC repository, compared from its cache."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from admodels.evaluation.maps import code_maps, write_maps
from admodels.foundation import manifest
from admodels.foundation.errors import ConfigurationError, DataError
from admodels.foundation.files import sha256_of
from admodels.report.comparison import verdicts
from admodels.report.comparison.outs import Revision

pytestmark = pytest.mark.slow
Cli = Callable[..., tuple[int, str, str]]
NORMAL, ANOMALOUS = 20, 30
NAMES = [f"test/good/{i}.png" for i in range(NORMAL)] + [
    f"test/hole/{i}.png" for i in range(ANOMALOUS)
]
LABELS = np.arange(len(NAMES)) >= NORMAL
TASKS = ("one", "two")
OUTS = [f"data/{kind}/m/{t}" for kind in ("evaluation",) for t in TASKS]
OUTS += [f"data/manifests/{t}" for t in TASKS] + ["data/costs"]
PIPELINE = (
    "stages:\n  all:\n    cmd: cp -r source/. data/\n    deps: [source]\n    outs: ["
    + ", ".join(OUTS)
    + "]\n"
)


def rows(raw: Path) -> list[manifest.ManifestRow]:
    made = []
    for number, name in enumerate(NAMES):
        path = raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((16, 24), number, np.uint8))
        label = "anomalous" if LABELS[number] else "normal"
        kind = name.split("/")[1]
        made.append(
            manifest.ManifestRow(
                name, name, sha256_of(path), 24, 16, "L", 8, label, kind, "", "", "", ""
            )
        )
    return made


def write_cell(here: Path, task: str, gain: float) -> None:
    rng = np.random.default_rng(len(task) + sum(map(ord, task)))
    scores = rng.standard_normal(len(NAMES)) + LABELS * gain
    folder = here / "source/evaluation/m" / task
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "scores.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image_id", "label", "anomaly_score", "is_anomalous", "aupimo"])
        for name, label, score in zip(NAMES, LABELS, scores, strict=True):
            area = 0.5 if label else ""
            writer.writerow([name, label, score, bool(score > 1.5), area])
    masks = np.zeros((len(NAMES), 16, 16), bool)
    masks[LABELS, 4:9, 4:9] = True
    noise = rng.standard_normal(masks.shape)
    write_maps(folder / "maps.npz", code_maps((noise + gain * masks).astype(np.float32), masks))


def write_revision(here: Path, gain: float) -> None:
    for task in TASKS:
        raw = here / "data/raw" / task
        manifest.write(here / f"source/manifests/{task}/test.csv", rows(raw))
        write_cell(here, task, gain)
        for stage, cost in (("train", 10.0 * gain), ("evaluate", 2.0)):
            file = here / f"source/costs/{stage}/m/{task}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            content = {"cpu_seconds": cost, "peak_mib": 100.0, "images_per_second": gain}
            file.write_text(json.dumps(content))


def commit(here: Path, name: str) -> None:
    def run(*words: str) -> None:
        subprocess.run(words, cwd=here, check=True, capture_output=True)

    run(sys.executable, "-m", "dvc", "repro", "-q")
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    run("git", "add", "-A")
    run("git", *who, "commit", "-qm", name)
    run("git", "tag", name)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Commits `weak` and `strong`, the workspace as the latter."""
    here = tmp_path_factory.mktemp("compared")
    subprocess.run(["git", "init", "-q"], cwd=here, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=here, check=True)
    (here / "dvc.yaml").write_text(PIPELINE)
    (here / "params.yaml").write_text("run: {methods: [m], tasks: [one, two]}\n")
    (here / ".gitignore").write_text("/data\n/source\n")
    for name, gain in (("weak", 0.5), ("strong", 3.0)):
        write_revision(here, gain)
        commit(here, name)
    return here


def test_a_stronger_revision_is_better_and_the_other_way_worse(repository: Path) -> None:
    comparison = verdicts.compare(repository, "weak", "strong", None)
    assert [answer.word for answer in comparison.answers] == ["better", "better"]
    assert [answer.word for answer in comparison.over_tasks] == ["better"]
    back = verdicts.compare(repository, "workspace", "weak", "one")
    assert [answer.word for answer in back.answers] == ["worse"]
    assert back.over_tasks == []
    assert back.answers[0].gain == pytest.approx(-(comparison.answers[0].gain or 0))


def test_a_revision_is_inside_the_noise_of_itself(repository: Path) -> None:
    comparison = verdicts.compare(repository, "strong", "workspace", None)
    assert {answer.word for answer in comparison.answers} == {"inside the noise"}
    assert {answer.p_value for answer in comparison.answers} == {1.0}
    assert comparison.cells[0].changes == []


def test_figures_verdicts_and_costs_are_those_of_the_files(repository: Path) -> None:
    cell = verdicts.compare(repository, "weak", "strong", "one").cells[0]
    assert (cell.normal, cell.anomalous, cell.left_out) == (NORMAL, ANOMALOUS, 0)
    assert cell.after.cost == {
        "training, CPU-s": 30.0,
        "training, MiB": 100.0,
        "images/s": 3.0,
        "evaluation, MiB": 100.0,
    }
    assert cell.before.verdicts is not None is not cell.after.verdicts
    flags = cell.before.verdicts, cell.after.verdicts
    assert len(cell.changes) == (flags[0] != flags[1]).sum()
    anomalous = cell.sides["anomalous"]
    assert anomalous.won - anomalous.lost == flags[1][LABELS].sum() - flags[0][LABELS].sum()
    figures = {line.title: line for line in cell.lines}
    recall = figures["recall at the budget"]
    assert recall.after == pytest.approx(flags[1][LABELS].mean())
    assert figures["AUPIMO"].after == 0.5
    areas = figures["AUPRO to 30%"]
    assert areas.before is not None is not areas.after
    assert areas.after > areas.before + 0.2
    assert areas.interval is not None
    assert areas.interval[0] > 0


def test_the_command_prints_a_table_json_and_a_page(
    repository: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    code, out, _ = cli("compare", "weak", "strong", "--html", str(tmp_path / "page"))
    assert code == 0
    assert "m on one: better: image AUROC +0." in out
    assert "m over 2 tasks: better" in out
    html = (tmp_path / "page/index.html").read_text()
    assert "Images that changed sides" in html
    assert len(list((tmp_path / "page").glob("0-0-*.png"))) == 3
    code, out, _ = cli("compare", "weak", "strong", "--json")
    cells = json.loads(out)["cells"]
    assert [cell["verdict"] for cell in cells] == ["better", "better"]


def test_what_is_no_revision_is_refused_with_what_would_be(repository: Path) -> None:
    with pytest.raises(ConfigurationError, match="`nothing` is no revision"):
        verdicts.compare(repository, "nothing", "weak", None)
    with pytest.raises(ConfigurationError, match="no cell in common"):
        verdicts.compare(repository, "weak", "strong", "three")


def test_an_out_that_is_not_in_the_cache_is_named_with_the_command(
    repository: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(repository, tmp_path / "copy", symlinks=True))
    shutil.rmtree(copy / ".dvc/cache")
    with pytest.raises(DataError, match="dvc fetch -A data/manifests/one"):
        verdicts.compare(copy, "weak", "strong", "one")
    assert not Revision(copy, "weak").exists("data/evaluation/m/three/scores.csv")
