"""MLflow as a projection of what DVC knows: one run per (revision, method, task), never a source.

Runs are found again by their tags and compared by the digest of their content, so a second
`sync` writes nothing, and one that was interrupted is completed by the next.
"""

import csv
import hashlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from admodels.foundation.errors import ConfigurationError, SourceError, StorageError

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

EXPERIMENT = "admodels"
METRICS_FILE = "reports/metrics.json"
COST_FILE = "reports/cost.json"
TRAINING_FILE = "reports/plots/training.csv"
CURVES = ("roc", "pr", "pro")  # reports/plots/*.csv, kept as files: their x is no step
DIGEST_TAG = "admodels.digest"
MEAN = "mean"  # what reports/metrics.json calls the mean over tasks: no cell, no run
NOT_OF_A_CELL = ("run", "folders", "lines")  # the last in older revisions
PARAMS_PER_CALL = 100  # mlflow.utils.validation.MAX_PARAMS_TAGS_PER_BATCH
METRICS_PER_CALL = 1000  # mlflow.utils.validation.MAX_METRICS_PER_BATCH
SQLITE = "sqlite:///"
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_CONFIGURE_LOGGING": "false",  # its messages go the way of ours
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds, for a server that is dead or only slow
}


@dataclass(frozen=True)
class SyncSummary:
    """What a `sync` did, in runs; `skipped` counts revisions that have no metrics."""

    created: int
    updated: int
    unchanged: int
    skipped: int
    uri: str

    def __str__(self) -> str:
        """One line for the terminal."""
        return (
            f"MLflow: {self.created} runs created, {self.updated} updated, "
            f"{self.unchanged} unchanged ({_shown(self.uri)})"
        )


@dataclass(frozen=True)
class Cell:
    """What one MLflow run holds: `curves` are (name, step, value) points, `tables` CSV texts."""

    tags: dict[str, str]
    name: str
    params: dict[str, str]
    metrics: dict[str, float]
    curves: list[tuple[str, int, float]]
    tables: dict[str, str]

    def digest(self) -> str:
        """The sha256 of the content, 64 hex digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def tracking_uri(repo: Path) -> str:
    """`MLFLOW_TRACKING_URI`, else the SQLite file in the repository."""
    default = f"sqlite:///{(repo.resolve() / 'mlflow.db').as_posix()}"
    return os.environ.get("MLFLOW_TRACKING_URI") or default


def migrate(repo: Path) -> None:
    """Create or upgrade the SQLite database; a server looks after its own.

    Raises:
        StorageError: the database cannot be written or upgraded.
    """
    uri = tracking_uri(repo)
    if not uri.startswith("sqlite:"):
        return
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", uri]
    environment = ENVIRONMENT | os.environ
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise _unusable(uri, done.stderr)


def sync(repo: Path) -> SyncSummary:
    """Update the MLflow runs of every revision in `dvc exp show`.

    Raises:
        ConfigurationError: DVC cannot show this folder (no repository, no commit).
        SourceError: the tracking server is away; nothing else is harmed.
        StorageError: the SQLite database cannot be written.
    """
    shown = list(_revisions(repo))
    with connect(repo) as client:
        where = experiment(client, repo, EXPERIMENT)
        counts = {"created": 0, "updated": 0, "unchanged": 0}
        skipped = 0
        for revision in shown:
            cells = list(_cells(repo, revision))
            skipped += not cells
            for cell in cells:
                counts[_upsert(client, where, cell)] += 1
    return SyncSummary(**counts, skipped=skipped, uri=tracking_uri(repo))


@contextmanager
def connect(repo: Path, *, must_exist: bool = False) -> Iterator["MlflowClient"]:
    """A client of the store of `repo`; what goes wrong in there is raised as errors of ours.

    Raises:
        SourceError: the tracking server is away, or there is no database where one `must_exist`.
        StorageError: the SQLite database cannot be used.
    """
    os.environ.update(ENVIRONMENT | os.environ)
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    from sqlalchemy.exc import SQLAlchemyError

    uri = tracking_uri(repo)
    _probe(uri)
    if must_exist and uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).is_file():
        raise _away(uri, "no such database; is MLFLOW_TRACKING_URI set?")
    try:
        yield MlflowClient(tracking_uri=uri)
    except (MlflowException, SQLAlchemyError) as error:
        raise (_unusable if uri.startswith("sqlite:") else _away)(uri, str(error)) from error


def experiment(client: "MlflowClient", repo: Path, name: str) -> str:
    """The id of the experiment of that name; its files stand below `repo`, or on the server."""
    known = client.get_experiment_by_name(name)
    if known is not None:
        return str(known.experiment_id)
    is_local = tracking_uri(repo).startswith("sqlite:")
    local = (repo.resolve() / "mlruns").as_uri() if is_local else None
    return client.create_experiment(name, artifact_location=local)


def _upsert(client: "MlflowClient", experiment: str, cell: Cell) -> str:
    """Leave the cell's run as it is, or replace it: MLflow params can never be changed."""
    keys = ("dvc.rev", "admodels.method", "admodels.task")
    query = " and ".join(f"tags.`{key}` = '{cell.tags[key]}'" for key in keys)
    digest = cell.digest()
    runs = client.search_runs([experiment], query)
    current = [run for run in runs if run.data.tags.get(DIGEST_TAG) == digest][:1]
    for run in runs:
        if run not in current:
            client.delete_run(run.info.run_id)
    if current:
        return "unchanged"
    _log(client, client.create_run(experiment, tags=cell.tags, run_name=cell.name), cell)
    return "updated" if runs else "created"


def _log(client: "MlflowClient", run: "Run", cell: Cell) -> None:
    from mlflow.entities import Metric, Param

    now = int(time.time() * 1000)
    points = [(key, 0, value) for key, value in cell.metrics.items()] + cell.curves
    metrics = (Metric(key, value, now, step) for key, step, value in points)
    params = (Param(key, value) for key, value in cell.params.items())
    while some := list(islice(params, PARAMS_PER_CALL)):
        client.log_batch(run.info.run_id, params=some)
    while values := list(islice(metrics, METRICS_PER_CALL)):
        client.log_batch(run.info.run_id, metrics=values)
    for name, text in cell.tables.items():
        client.log_text(run.info.run_id, text, f"curves/{name}.csv")
    # The digest comes last: a run without it was interrupted and is replaced by the next sync.
    client.set_tag(run.info.run_id, DIGEST_TAG, cell.digest())
    client.set_terminated(run.info.run_id)


def _revisions(repo: Path) -> Iterator[dict[str, Any]]:
    """The workspace, the commit and its experiments, as `dvc exp show` lists them."""
    command = [sys.executable, "-m", "dvc", "exp", "show", "--json", "--no-fetch"]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=False)
    baselines = json.loads(done.stdout) if done.returncode == 0 else []
    if not baselines:
        raise ConfigurationError(
            f"DVC has no revision to show: {_gist(done.stderr) or 'no git commit yet'}",
            where=repo.resolve(),
            expected="a DVC repository with at least one git commit",
            next_step="`git add -A && git commit`, then `admodels track sync`",
        )
    for baseline in baselines:
        yield {"branch": baseline["name"], **(baseline["data"] or {})}
        for experiment in baseline["experiments"] or []:
            for revision in experiment["revs"] or []:
                yield {"experiment": experiment["name"], **(revision["data"] or {})}


def _cells(repo: Path, revision: dict[str, Any]) -> Iterator[Cell]:
    metrics = revision.get("metrics", {}).get(METRICS_FILE, {}).get("data") or {}
    if not metrics:
        return
    rev = revision["rev"]
    params = revision["params"].get("params.yaml", {}).get("data", {})
    cost = json.loads(_text_of(repo, rev, COST_FILE) or "{}")
    training = list(csv.DictReader(io.StringIO(_text_of(repo, rev, TRAINING_FILE))))
    texts = {name: _text_of(repo, rev, f"reports/plots/{name}.csv") for name in CURVES}
    tables = {name: text for name, text in texts.items() if text}
    short = rev if rev == "workspace" else rev[:7]
    title = revision.get("experiment") or revision.get("branch") or short
    for method, tasks in metrics.items():
        for task, figures in tasks.items():
            if task == MEAN:
                continue
            tags = {"dvc.rev": rev, "admodels.method": method, "admodels.task": task}
            if "experiment" in revision:
                tags["dvc.exp_name"] = revision["experiment"] or short
            bundle = revision["outs"].get(f"data/models/{method}/{task}")
            if bundle:
                tags["dvc.bundle_md5"] = bundle["hash"]
            costs = cost.get(method, {}).get(task, {})
            fingerprint = costs.get("evaluate", {}).get("model_fingerprint")
            if fingerprint:
                tags["admodels.model_fingerprint"] = fingerprint
            yield Cell(
                tags=tags,
                name=f"{title} {method} {task}",
                params=_params(params, method, task),
                metrics=_numbers(figures) | _numbers({"cost": costs}),
                curves=list(_curve(training, method, task)),
                tables={name: _rows_of(text, method, task) for name, text in tables.items()},
            )


def _params(params: dict[str, Any], method: str, task: str) -> dict[str, str]:
    """What concerns the cell: its own method and task, and everything that all cells share."""
    own = {key: value for key, value in params.items() if key not in NOT_OF_A_CELL}
    own["methods"] = {method: params.get("methods", {}).get(method, {})}
    own["tasks"] = {task: params.get("tasks", {}).get(task, {})}
    return {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in _leaves(own)
    }


def _numbers(nested: dict[str, Any]) -> dict[str, float]:
    """The numbers by dotted name; undefined ones (null) have no point in MLflow."""
    return {
        key: float(value)
        for key, value in _leaves(nested)
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _leaves(nested: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in nested.items():
        # MLflow refuses other characters in names; a defect type is any folder's name.
        name = prefix + re.sub(r"[^\w.\- :/]", "_", str(key))
        if isinstance(value, dict):
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def _curve(
    training: list[dict[str, str]], method: str, task: str
) -> Iterator[tuple[str, int, float]]:
    for row in training:
        if (row["method"], row["task"]) != (method, task):
            continue
        for column, text in row.items():
            if column not in ("method", "task", "step") and text:
                yield f"training.{column}", int(row["step"]), float(text)


def _rows_of(text: str, method: str, task: str) -> str:
    """The header and the cell's own rows of a table of all cells."""
    header, *rows = text.splitlines()
    own = [row for row in rows if row.startswith(f"{method},{task},")]
    return "\n".join([header, *own]) + "\n"


def _text_of(repo: Path, rev: str, path: str) -> str:
    """A git-tracked file as it is at `rev`; empty where it does not exist."""
    if rev == "workspace":
        file = repo / path
        return file.read_text(encoding="utf-8") if file.is_file() else ""
    command = ["git", "show", f"{rev}:./{path}"]
    done = subprocess.run(command, cwd=repo, capture_output=True, check=False)
    return done.stdout.decode("utf-8") if done.returncode == 0 else ""


def _probe(uri: str) -> None:
    """Knock at a database's door: MLflow itself would retry for many minutes."""
    parts = urlsplit(uri)
    port = DATABASE_PORTS.get(parts.scheme.split("+")[0])
    if port is None or parts.hostname is None:
        return
    try:
        socket.create_connection((parts.hostname, parts.port or port), timeout=4).close()
    except OSError as error:
        raise _away(uri, str(error)) from error


def _away(uri: str, reason: str) -> SourceError:
    return SourceError(
        f"MLflow cannot be reached: {_shown(_gist(reason))}",
        where=_shown(uri),
        expected="a tracking server that answers",
        next_step="when it is back, what you ran or `admodels track sync`; all else is done",
    )


def _unusable(uri: str, reason: str) -> StorageError:
    return StorageError(
        f"the MLflow database cannot be used: {_gist(reason)}",
        where=uri,
        expected="a SQLite file that can be written, of this MLflow's version",
        next_step="move mlflow.db away, then `admodels track sync`: DVC knows all of its runs",
    )


def _shown(text: str) -> str:
    """`text` without the user and password of any address in it."""
    return re.sub(r"//[^/\s]*@", "//", text)


def _gist(text: str) -> str:
    """The last line that says something; SQLAlchemy adds the statement and a link below it."""
    lines = (line.strip() for line in reversed(text.splitlines()))
    return next((line for line in lines if line and not line.startswith(("[SQL", "(Back"))), "")
