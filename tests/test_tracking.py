import csv
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from admodels.foundation.errors import ConfigurationError, SourceError, StorageError
from admodels.tracking import sync

pytestmark = pytest.mark.slow  # MLflow's database is made anew

STAGE = """
import json
from pathlib import Path
from ruamel.yaml import YAML

params = YAML(typ="safe").load(Path("params.yaml"))
Path("reports/plots").mkdir(parents=True, exist_ok=True)
Path("data/manifests/brick").mkdir(parents=True, exist_ok=True)
Path("data/manifests/brick/test.csv").write_text("an image")
metrics, cost, training = {}, {}, ["method,task,step,loss,validation_loss"]
for number, method in enumerate(("draem", "cpr")):
    bundle = Path("data/models", method, "brick")
    bundle.mkdir(parents=True, exist_ok=True)
    (bundle / "bundle.json").write_text(f"{method} {params['seed']}")
    evaluation = Path("data/evaluation", method, "brick")
    evaluation.mkdir(parents=True, exist_ok=True)
    low = params["seed"] / 100
    intervals = {"image_auroc": [low, 0.99], "recall": None}
    (evaluation / "intervals.json").write_text(json.dumps(intervals))
    (evaluation / "overlays.png").write_text(f"picture {params['seed']}")
    (bundle / "model.bin").write_text(f"{method} {params['seed']}")
    recalls = {"hole": 0.5, "deep scratch (left)": 1.0, "stain": None}
    metrics[method] = {"brick": {
        "image_auroc": 0.9 + params["seed"] / 3000, "aupro": None, "calibration_images": 12,
        "recall_by_defect_type": recalls}}
    cost[method] = {"brick": {
        "train": {"seconds": 1.5 + number},
        "evaluate": {"model_fingerprint": f"{method} {params['seed']}"}}}
    for step in range(1200):
        validation = "" if step % 100 else 2 / (step + 1)
        loss = number + params["seed"] / (step + 1)
        training.append(f"{method},brick,{step},{loss},{validation}")
Path("reports/metrics.json").write_text(json.dumps(metrics))
Path("reports/cost.json").write_text(json.dumps(cost))
Path("reports/plots/training.csv").write_text("\\n".join(training))
Path("reports/plots/roc.csv").write_text(
    "method,task,fpr,tpr\\n" + "".join(f"{m},brick,{x},{params['seed']}\\n"
                                      for m in ("draem", "cpr") for x in (0, 1)))
"""
PIPELINE = """
stages:
  report:
    cmd: '"{python}" stage.py'
    deps: [stage.py]
    params: [seed, run, tasks, methods]
    outs:
      - data/models/draem/brick
      - data/models/cpr/brick
      - data/evaluation/draem/brick
      - data/evaluation/cpr/brick
      - data/manifests/brick/test.csv
    metrics:
      - reports/metrics.json: {{cache: false}}
    plots:
      - reports/plots/training.csv: {{cache: false}}
      - reports/plots/roc.csv: {{cache: false}}
      - reports/cost.json: {{cache: false}}
"""
PARAMS = """
seed: 7
run: {methods: [draem, cpr], tasks: [brick]}
tasks: {brick: {category: brick, source: {kind: sample}}}
methods: {draem: {learning_rate: 1e-4, milestones: [3, 4]}, cpr: {k: 10}}
"""
KEY = ("dvc.rev", "admodels.method", "admodels.task")


def shell(folder, *command):
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def dvc(folder, *arguments):
    return shell(folder, sys.executable, "-m", "dvc", *arguments)


def git(folder, *arguments):
    return shell(folder, "git", *arguments).strip()


def repository(folder):
    git(folder, "init", "-q", "-b", "main")
    git(folder, "config", "user.name", "tester")
    git(folder, "config", "user.email", "tester@localhost")
    dvc(folder, "init", "-q")
    dvc(folder, "config", "-q", "core.analytics", "false")


@pytest.fixture(autouse=True)
def _no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def synced(tmp_path_factory):
    """A repository with a commit, an experiment left in the workspace, and a first sync."""
    folder = tmp_path_factory.mktemp("repository")
    repository(folder)
    (folder / "stage.py").write_text(STAGE)
    (folder / "dvc.yaml").write_text(PIPELINE.format(python=sys.executable))
    (folder / "params.yaml").write_text(PARAMS)
    (folder / ".gitignore").write_text("data/\nmlflow.db\nmlruns/\n")
    dvc(folder, "repro", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "one")
    dvc(folder, "exp", "run", "-q", "-n", "seed-nine", "-S", "seed=9")
    dvc(folder, "exp", "run", "-q", "--queue", "-n", "never-ran", "-S", "seed=10")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        sync.migrate(folder)
        return folder, sync.sync(folder)


def client_of(folder):
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")


def runs_of(folder):
    """The runs by (revision, method, task)."""
    client = client_of(folder)
    experiment = client.get_experiment_by_name("admodels")
    runs = client.search_runs([experiment.experiment_id])
    found = {tuple(run.data.tags[key] for key in KEY): run for run in runs}
    assert len(found) == len(runs)
    return found


def experiment_of(folder):
    return git(folder, "for-each-ref", "--format=%(objectname)", "refs/exps/*/*/seed-nine")


def flat(nested, prefix=""):
    for key, value in nested.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@pytest.mark.slow
def test_every_revision_and_cell_becomes_one_run_and_a_revision_without_metrics_none(synced):
    folder, summary = synced
    head = git(folder, "rev-parse", "HEAD")
    experiment = experiment_of(folder)
    cells = {
        (rev, method, "brick")
        for rev in ("workspace", head, experiment)
        for method in ("draem", "cpr")
    }
    assert set(runs_of(folder)) == cells
    assert (summary.created, summary.updated, summary.unchanged, summary.skipped) == (6, 0, 0, 1)
    assert "6 runs created" in str(summary)
    names = {run.info.run_name for run in runs_of(folder).values()}
    assert {
        "cpr brick workspace",
        f"cpr brick main {head[:7]}",
        f"draem brick seed-nine {experiment[:7]}",
    } < names


def test_every_metric_in_mlflow_is_the_one_that_dvc_shows(synced):
    folder, _ = synced
    shown = json.loads(dvc(folder, "metrics", "show", "--json", "--all-branches"))
    revisions = {"workspace": "workspace", "main": git(folder, "rev-parse", "HEAD")}
    runs, compared = runs_of(folder), 0
    for name, rev in revisions.items():
        metrics = shown[name]["data"]["reports/metrics.json"]["data"]
        for method, tasks in metrics.items():
            expected = {
                key.replace("(", "_").replace(")", "_"): value
                for key, value in flat(tasks["brick"])
                if value is not None
            }
            logged = runs[rev, method, "brick"].data.metrics
            assert {
                k: v for k, v in logged.items() if not k.startswith(("cost", "train", "interval"))
            } == (expected)
            compared += len(expected)
    assert compared == 2 * 2 * 4
    left_in_workspace = runs["workspace", "cpr", "brick"].data.metrics
    experiment = runs[experiment_of(folder), "cpr", "brick"].data.metrics
    assert experiment == left_in_workspace


def test_a_run_has_the_params_of_its_own_method_and_task_only(synced):
    folder, _ = synced
    params = runs_of(folder)["workspace", "draem", "brick"].data.params
    assert params == {
        "seed": "9",
        "tasks.brick.category": "brick",
        "tasks.brick.source.kind": "sample",
        "methods.draem.learning_rate": "0.0001",
        "methods.draem.milestones": "[3, 4]",
    }


def test_a_run_has_the_loss_curve_and_the_cost_of_its_revision(synced):
    folder, _ = synced
    client, run = client_of(folder), runs_of(folder)["workspace", "cpr", "brick"]
    with (folder / "reports/plots/training.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "cpr"]
    for column in ("loss", "validation_loss"):
        logged = client.get_metric_history(run.info.run_id, f"training.{column}")
        points = sorted((point.step, point.value) for point in logged)
        assert points == [(int(r["step"]), float(r[column])) for r in rows if r[column]]
    assert run.data.metrics["cost.train.seconds"] == 2.5
    committed = runs_of(folder)[git(folder, "rev-parse", "HEAD"), "cpr", "brick"]
    first = client.get_metric_history(committed.info.run_id, "training.loss")[0]
    assert (first.step, first.value) == (0, 1 + 7.0)


def test_a_run_says_which_bundle_and_which_experiment_it_is(synced):
    folder, _ = synced
    runs = runs_of(folder)
    experiment = experiment_of(folder)
    lock = git(folder, "show", f"{experiment}:dvc.lock")
    tags = runs[experiment, "cpr", "brick"].data.tags
    assert tags["dvc.exp_name"] == "seed-nine"
    assert f"md5: {tags['dvc.bundle_md5']}\n" in lock
    assert tags["dvc.bundle_md5"].endswith(".dir")
    assert tags["admodels.model_fingerprint"] == "cpr 9"
    other = runs[git(folder, "rev-parse", "HEAD"), "cpr", "brick"].data.tags
    assert other["dvc.bundle_md5"] != tags["dvc.bundle_md5"]
    assert other["admodels.model_fingerprint"] == "cpr 7"
    assert "dvc.exp_name" not in other


def test_a_second_sync_writes_nothing(synced):
    folder, _ = synced
    before = {key: run.info.run_id for key, run in runs_of(folder).items()}
    again = sync.sync(folder)
    assert (again.created, again.updated, again.unchanged) == (0, 0, 6)
    assert {key: run.info.run_id for key, run in runs_of(folder).items()} == before


def test_a_changed_workspace_replaces_its_runs_and_no_other(synced, tmp_path):
    folder = shutil.copytree(synced[0], tmp_path / "copy", symlinks=True)
    before = runs_of(folder)
    metrics = json.loads((folder / "reports/metrics.json").read_text())
    metrics["draem"]["brick"]["image_auroc"] = 0.5
    (folder / "reports/metrics.json").write_text(json.dumps(metrics))
    summary = sync.sync(folder)
    after = runs_of(folder)
    changed = ("workspace", "draem", "brick")
    assert (summary.created, summary.updated, summary.unchanged) == (0, 1, 5)
    assert after[changed].data.metrics["image_auroc"] == 0.5
    for key, run in before.items():
        assert (after[key].info.run_id == run.info.run_id) == (key != changed)


def test_a_run_that_an_interrupted_sync_left_is_made_whole(synced, tmp_path):
    folder = shutil.copytree(synced[0], tmp_path / "copy", symlinks=True)
    client, key = client_of(folder), ("workspace", "draem", "brick")
    whole = runs_of(folder)[key]
    client.delete_run(whole.info.run_id)
    tags = {name: whole.data.tags[name] for name in KEY}
    client.create_run(whole.info.experiment_id, tags=tags)
    summary = sync.sync(folder)
    assert (summary.created, summary.updated, summary.unchanged) == (0, 1, 5)
    assert runs_of(folder)[key].data.metrics == whole.data.metrics


def test_a_run_that_another_sync_is_writing_is_left_to_it(synced, tmp_path):
    folder = shutil.copytree(synced[0], tmp_path / "copy", symlinks=True)
    client, (key, run) = client_of(folder), next(iter(runs_of(folder).items()))
    client.delete_tag(run.info.run_id, sync.DIGEST_TAG)
    client.update_run(run.info.run_id, status="RUNNING")
    assert sync.sync(folder).unchanged == 6
    assert runs_of(folder)[key].info.run_id == run.info.run_id
    client.set_tag(run.info.run_id, sync.BEGUN, "1000")  # it was interrupted long ago
    assert sync.sync(folder).updated == 1


def test_pictures_and_models_that_a_user_logs_go_below_the_repository(synced):
    folder, _ = synced
    experiment = client_of(folder).get_experiment_by_name("admodels")
    assert experiment.artifact_location == (folder / "mlruns").as_uri()


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_a_server_that_is_away_is_reported_within_seconds_with_the_next_step(
    synced, monkeypatch, scheme
):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{scheme}://someone:secret@127.0.0.1:{port}")
    begin = time.monotonic()
    with pytest.raises(SourceError, match="all else is done") as caught:
        sync.sync(synced[0])
    assert time.monotonic() - begin < 30  # 2 on a quiet machine; with retries it is minutes
    assert caught.value.exit_code == 69
    assert "admodels track sync" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_repository_without_a_commit_is_refused_with_the_reason(tmp_path):
    repository(tmp_path)
    with pytest.raises(ConfigurationError, match="no git commit yet"):
        sync.sync(tmp_path)


def test_a_folder_that_is_no_dvc_repository_is_refused_with_the_reason(tmp_path):
    with pytest.raises(ConfigurationError, match="not inside of a DVC repository"):
        sync.sync(tmp_path)


@pytest.mark.slow
def test_a_database_that_exists_is_migrated_quietly_and_keeps_its_runs(synced, tmp_path, capfd):
    shutil.copy(synced[0] / "mlflow.db", tmp_path)
    sync.migrate(tmp_path)
    assert len(runs_of(tmp_path)) == 6
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_database_that_is_something_else_is_refused_and_kept(synced, tmp_path, monkeypatch):
    other = tmp_path / "other.db"
    other.write_text("not a database, but long enough to look at")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{other}")
    for use in (sync.migrate, sync.sync):
        with pytest.raises(StorageError, match=r"cannot be used.*not a database") as caught:
            use(synced[0])
        assert caught.value.exit_code == 74
    assert other.read_text().startswith("not a database")


def test_curves_are_kept_as_files_of_the_cell_and_of_the_revision(synced, tmp_path):
    folder, _ = synced
    client, seeds = client_of(folder), {}
    for (revision, method, _), run in runs_of(folder).items():
        path = client.download_artifacts(run.info.run_id, "curves/roc.csv", str(tmp_path))
        header, *rows = Path(path).read_text().splitlines()
        assert header == "method,task,fpr,tpr"
        assert [row.rsplit(",", 1)[0] for row in rows] == [f"{method},brick,0", f"{method},brick,1"]
        seeds[revision] = {row.rsplit(",", 1)[1] for row in rows}
    assert {frozenset(found) for found in seeds.values()} == {frozenset({"7"}), frozenset({"9"})}


def test_a_run_has_the_intervals_pictures_bundle_and_images_of_its_own_revision(synced, tmp_path):
    folder, _ = synced
    client, runs = client_of(folder), runs_of(folder)
    for rev, seed in ((git(folder, "rev-parse", "HEAD"), 7), (experiment_of(folder), 9)):
        run = runs[rev, "cpr", "brick"]
        ends = {k: v for k, v in run.data.metrics.items() if k.startswith("interval")}
        assert ends == {"interval.image_auroc.low": seed / 100, "interval.image_auroc.high": 0.99}
        for name, text in (("evaluation/overlays.png", "picture"), ("bundle/bundle.json", "cpr")):
            path = client.download_artifacts(run.info.run_id, name, str(tmp_path))
            assert Path(path).read_text() == f"{text} {seed}"
        (images,) = run.inputs.dataset_inputs
        assert images.dataset.name == "brick/test"
        assert images.dataset.digest in (folder / "dvc.lock").read_text()
        assert [tag.value for tag in images.tags] == ["testing"]
        committed = int(git(folder, "show", "-s", "--format=%ct", rev)) * 1000
        assert (run.info.end_time, run.info.start_time) == (committed, committed - 2500)


def test_a_revision_that_is_not_finished_has_nothing_to_be_written(synced):
    folder, _ = synced
    show = json.loads(dvc(folder, "exp", "show", "--json", "--no-fetch"))
    (own,) = [e for base in show for e in base["experiments"] or [] if e["name"] == "seed-nine"]
    known = {r["rev"] for r in sync.revisions(folder, show) if "rev" in r}  # one waits in the queue
    own["executor"] = {"state": "running"}
    lock = folder / ".dvc/tmp/rwlock"
    lock.write_text(json.dumps({str(folder / "data"): {"write": {"pid": 1, "cmd": "dvc repro"}}}))
    try:
        revisions = list(sync.revisions(folder, show))
    finally:
        lock.unlink()
    assert known == {"workspace", git(folder, "rev-parse", "HEAD"), experiment_of(folder)}
    assert {r["rev"] for r in revisions if "rev" in r} == {git(folder, "rev-parse", "HEAD")}


def test_sync_switches_telemetry_off(synced, monkeypatch):
    switches = ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK")
    for switch in switches:
        monkeypatch.delenv(switch, raising=False)
    sync.sync(synced[0])
    assert [os.environ[switch] for switch in switches] == ["true", "true"]


def test_a_password_is_never_shown():
    uri = "postgresql://someone:p@secret@db.example/mlflow"
    assert "secret" not in str(sync.SyncSummary(1, 0, 0, 0, uri))
    assert "db.example" in str(sync.SyncSummary(1, 0, 0, 0, uri))
