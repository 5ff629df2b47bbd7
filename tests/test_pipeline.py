import json
import os
import re
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

from admodels.cli.trial import Cell, run_trial
from admodels.datasets import sample
from admodels.foundation.params import load
from admodels.nights.run import Options, nightly
from admodels.scoring.engine import LineImages, Model
from admodels.scoring.single import score_folder
from tests import plants

pytestmark = pytest.mark.slow  # real runs of the whole pipeline, about a minute and a half

ROOT = Path(__file__).parents[1]
WHOLE = (".dvcignore", ".gitignore", "admodels", "stages", "dvc.yaml", "params.yaml", "presets")
TINY = {"image_px": 32, "reconstructive_width": 2, "discriminative_width": 2, "batch_images": 2}
EVERY_STAGE = {
    *("fetch@bricks", "textures", "weights@draem", "weights@twin", "validate@bricks"),
    *("synthesize@bricks", "train@draem-bricks", "train@twin-bricks"),
    *("evaluate@draem-bricks", "evaluate@twin-bricks", "score@press", "report"),
}


def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1", "ADMODELS_DEVICE": "cpu"}


def run(tree: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=tree, env=environment(), capture_output=True, text=True, check=False
    )


def reproduced(tree: Path) -> set[str]:
    """The stages that `dvc repro` runs."""
    done = run(tree, "dvc", "repro")
    assert done.returncode == 0, done.stdout + done.stderr
    return set(re.findall(r"Running stage '(.*)'", done.stdout))


def commit(tree: Path) -> None:
    user = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    for words in (("add", "-A"), (*user, "commit", "-q", "-m", "test")):
        assert run(tree, "git", *words).returncode == 0


def add_a_method(tree: Path) -> None:
    """A second method is a second folder and a second block: here a copy under another name."""
    shutil.copytree(tree / "admodels/methods/draem", tree / "admodels/methods/twin")
    for file in (tree / "admodels/methods/twin").glob("*.py"):
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace("methods.draem", "methods.twin"), encoding="utf-8")


def write_params(tree: Path) -> None:
    params = load(ROOT / "params.yaml")
    params["methods"]["draem"] |= TINY | {"length": 2, "length_unit": "steps"}
    params["methods"]["twin"] = deepcopy(params["methods"]["draem"])  # an alias would be shared
    params["synthesize"] |= {"image_px": 32, "per_image": 1}
    params["evaluate"] |= {"mask_px": 32}
    params["run"] = {"methods": ["draem", "twin"], "tasks": ["bricks"]}
    params["tasks"] = {"bricks": params["tasks"]["sample_brick"] | {"dataset": "mvtec_ad"}}
    line = params["folders"]["sample_brick_line"]
    params["folders"] = {"press": line | {"task": "bricks", "folder": "data/raw/bricks/test"}}
    params["tasks"]["bricks"]["source"] = {"kind": "path", "location": "photos", "sha256": "0" * 63}
    params["tasks"]["bricks"]["source"]["sha256"] += "a"
    with (tree / "params.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(params, file)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of two methods and a task from a folder, after its first `dvc repro`."""
    tree = tmp_path_factory.mktemp("built")
    for name in WHOLE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(ROOT / name, tree / name)
    (tree / ".dvc").mkdir()
    shutil.copyfile(ROOT / ".dvc/config", tree / ".dvc/config")
    shutil.copyfile(ROOT / ".dvc/.gitignore", tree / ".dvc/.gitignore")
    sample.draw("brick", tree / "photos")
    add_a_method(tree)
    write_params(tree)
    assert run(tree, "git", "init", "-q", "-b", "main").returncode == 0
    done = run(tree, sys.executable, "-m", "admodels.cli.app", "task", "refresh", "bricks")
    assert done.returncode == 0, done.stderr
    commit(tree)
    assert reproduced(tree) == EVERY_STAGE
    commit(tree)
    return tree


@pytest.fixture
def tree(built: Path, tmp_path: Path) -> Path:
    """A copy of `built` to do something to."""
    return Path(shutil.copytree(built, tmp_path / "tree", symlinks=True))


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def test_the_report_holds_every_cell_and_git_sees_no_pixels(built: Path) -> None:
    metrics = json.loads((built / "reports/metrics.json").read_text(encoding="utf-8"))
    assert sorted(metrics) == ["draem", "twin"]
    for method in metrics:
        assert sorted(metrics[method]) == ["bricks", "mean"]
        assert 0 <= metrics[method]["bricks"]["image_auroc"] <= 1
    assert metrics["draem"] == metrics["twin"]  # the same method under two names
    tracked = run(built, "git", "ls-files", "data", "reports", ".work").stdout.splitlines()
    plots = [f"reports/plots/{name}.csv" for name in ("power", "pr", "pro", "roc", "training")]
    figures = [f"reports/{name}.json" for name in ("cost", "metrics")]
    assert tracked == [*figures, *plots, "reports/synthesis.json"]


def test_nothing_runs_twice(built: Path) -> None:
    done = run(built, "dvc", "repro")
    assert "Running stage" not in done.stdout
    assert "up to date" in done.stdout


def test_a_comment_in_a_metric_trains_nothing(tree: Path) -> None:
    append(tree / "admodels/evaluation/metrics.py", "# a comment\n")
    assert reproduced(tree) == {"evaluate@draem-bricks", "evaluate@twin-bricks", "report"}


def test_a_method_s_params_concern_its_own_cells_only(tree: Path) -> None:
    path = tree / "params.yaml"
    text = path.read_text(encoding="utf-8")
    draem, twin = text.split("  twin:")
    assert "length: 2\n" in draem
    path.write_text(draem.replace("length: 2\n", "length: 3\n") + "  twin:" + twin)
    own = {"weights@draem", "train@draem-bricks", "evaluate@draem-bricks", "score@press", "report"}
    assert reproduced(tree) == own


def test_a_changed_test_image_trains_nothing(tree: Path) -> None:
    photos = tree / "photos/test"
    shutil.copyfile(photos / "stain/000.png", photos / "stain/001.png")
    done = run(tree, "dvc", "repro")
    assert done.returncode == 0  # the pin in params.yaml is what counts
    done = run(tree, sys.executable, "-m", "admodels.cli.app", "task", "refresh", "bricks")
    assert done.returncode == 0, done.stderr
    cells = {"evaluate@draem-bricks", "evaluate@twin-bricks"}
    assert reproduced(tree) == {"fetch@bricks", "validate@bricks", *cells, "score@press", "report"}


def test_training_needs_no_test_split_and_gives_the_same_weights(tree: Path) -> None:
    weights = tree / "data/models/draem/bricks/model.safetensors"
    before = weights.read_bytes()
    (tree / "data/manifests/bricks/test.csv").unlink()
    shutil.rmtree(tree / "data/raw/bricks/test")
    shutil.rmtree(tree / "data/raw/bricks/ground_truth")
    shutil.rmtree(tree / "data/models")
    shutil.rmtree(tree / ".work", ignore_errors=True)
    done = run(tree, sys.executable, "-m", "stages.train", "draem", "bricks")
    assert done.returncode == 0, done.stderr
    assert weights.read_bytes() == before


def test_an_unknown_key_stops_the_run_and_is_named(tree: Path) -> None:
    path = tree / "params.yaml"
    text = path.read_text(encoding="utf-8")
    block = "\n  draem:\n"
    assert block in text
    path.write_text(text.replace(block, f"{block}    surprise: 1\n", 1), encoding="utf-8")
    done = run(tree, "dvc", "repro")
    assert done.returncode == 255
    assert "methods.draem.surprise: Extra inputs are not permitted" in done.stderr
    done = run(tree, sys.executable, "-m", "admodels.cli.app", "check")
    assert (done.returncode, "methods.draem.surprise" in done.stderr) == (2, True)


def test_the_lock_of_a_fresh_clone_is_current(built: Path, tmp_path: Path) -> None:
    assert run(tmp_path, "git", "clone", "-q", str(built), "clone").returncode == 0
    done = run(tmp_path / "clone", "dvc", "repro", "--allow-missing", "--dry")
    assert done.returncode == 0, done.stderr
    assert "Running stage" not in done.stdout


def test_no_command_of_dvc_changes_what_a_night_scores_with(tree: Path, tmp_path: Path) -> None:
    """An experiment at work, a checkout of another bundle, a training that dies: four nights."""
    models, photos = tree / "data/models", sorted((tree / "photos/test").rglob("*.png"))
    inbox, place, press = tmp_path / "inbox", tmp_path / "plant", "draem/bricks"
    inbox.mkdir()
    plants.write_plant(place, {"press": plants.line(inbox, bundle=press)}, models)
    shutil.copytree(models / press, tmp_path / "then")
    arriving = iter(photos)

    def night() -> dict[str, object]:
        photo = next(arriving)
        shutil.copyfile(photo, inbox / f"{photo.parent.name}_{photo.name}")
        line: dict[str, object] = nightly(place, Options(0.0))["lines"]["press"]
        assert (line["exit_code"] in (0, 5), line["images"]) == (True, 1), line["told"]
        return line

    before = (models / press / "bundle.json").read_bytes()
    words = ["dvc", "exp", "run", "-q", "-S", "methods.draem.length=3"]
    experiment = subprocess.Popen(words, cwd=tree, env=environment())
    beside = 0
    while experiment.poll() is None and beside < 6:
        night()
        beside += experiment.poll() is None
    assert beside
    assert experiment.wait() == 0
    assert (models / press / "bundle.json").read_bytes() != before
    night()
    (tree / "stages/train.py").write_text("raise SystemExit(1)\n", encoding="utf-8")
    assert run(tree, "dvc", "repro").returncode != 0
    assert not (models / press).exists()
    night()
    run(tree, "git", "checkout", "-q", ".")
    assert run(tree, "dvc", "checkout", "--force").returncode == 0
    assert (models / press / "bundle.json").read_bytes() == before
    night()
    source = LineImages("press", inbox)
    score_folder(source, Model.at(tmp_path / "then"), tmp_path / "out", alpha=0.2)
    columns = ["path", "anomaly_score", "model_fingerprint"]
    nights = pd.read_parquet(place / "ledger/scores")[columns].sort_values("path")
    alone = pd.read_parquet(tmp_path / "out/scores.parquet")[columns].sort_values("path")
    pd.testing.assert_frame_equal(nights.reset_index(drop=True), alone.reset_index(drop=True))


def test_a_short_training_gives_the_same_weights_twice_and_others_with_another_seed(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree)
    (task,) = load(Path("params.yaml"))["run"]["tasks"]
    cell = Cell("draem", task, load(Path("params.yaml"))["methods"]["draem"])
    first, second = (run_trial(cell, 8, 2, scored=False) for _ in range(2))
    assert (first.images, first.digest) == (8, second.digest)
    assert 0 < first.step < first.peak_mib
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(text.replace("seed: 7", "seed: 8", 1), encoding="utf-8")
    assert run_trial(cell, 8, 2, scored=False).digest != first.digest
