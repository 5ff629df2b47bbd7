"""MLflow as a projection of what DVC knows: one run per (revision, method, task), never a source.

Runs are found again by their tags and compared by the digest of their content, so a second
`sync` writes nothing, and one that was interrupted is completed by the next.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from admodels.foundation.errors import ConfigurationError, SourceError, StorageError
from admodels.foundation.files import write_text
from admodels.tracking import outs
from admodels.tracking.cells import KEY, Cell, cells_of

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Run
    from mlflow.tracking import MlflowClient

EXPERIMENT = "admodels"
DIGEST_TAG = "admodels.digest"
BEGUN = "admodels.begun"  # seconds since 1970 at which a run began to be written
WRITING_SECONDS = 600  # that writing a run may take; later it was interrupted
DONE = "success"  # of an experiment in DVC
RUNS_PER_CALL = 1000
DIGEST_LETTERS = 36  # of a dataset, mlflow.utils.validation.MAX_DATASET_DIGEST_SIZE
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
    """What a `sync` did, in runs.

    `skipped` counts revisions without metrics, and those that are not finished.
    """

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
    _probe(tracking_uri(repo))
    shown = list(revisions(repo, _show(repo)))
    cache = outs.cache_of(repo)
    cells = [list(cells_of(repo, cache, revision)) for revision in shown]
    skipped = sum(not own for own in cells)
    with connect(repo) as client:
        where = experiment(client, repo, EXPERIMENT)
        counts = {"created": 0, "updated": 0, "unchanged": 0}
        known = _known_runs(client, where)
        for cell in chain.from_iterable(cells):
            counts[_upsert(client, where, cell, known.get(_key(cell.tags), []))] += 1
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


def _key(tags: Mapping[str, str]) -> tuple[str | None, ...]:
    return tuple(tags.get(name) for name in KEY)


def _known_runs(client: "MlflowClient", where: str) -> dict[tuple[str | None, ...], list["Run"]]:
    """The runs of all cells, asked for once."""
    known: dict[tuple[str | None, ...], list[Run]] = {}
    token = None
    while token != "":
        page = client.search_runs([where], max_results=RUNS_PER_CALL, page_token=token)
        for run in page:
            known.setdefault(_key(run.data.tags), []).append(run)
        token = page.token or ""
    return known


def _is_being_written(run: "Run") -> bool:
    """Whether another `sync` is at it: deleting its run would end that one with an error."""
    begun = float(run.data.tags.get(BEGUN, 0))
    return run.info.status == "RUNNING" and time.time() - begun < WRITING_SECONDS


def _upsert(client: "MlflowClient", where: str, cell: Cell, runs: list["Run"]) -> str:
    """Leave the cell's run as it is, or replace it: MLflow params can never be changed."""
    if any(map(_is_being_written, runs)):
        return "unchanged"
    digest = cell.digest()
    current = [run for run in runs if run.data.tags.get(DIGEST_TAG) == digest][:1]
    for run in runs:
        if run not in current:
            client.delete_run(run.info.run_id)
    if current:
        return "unchanged"
    tags = cell.tags | {BEGUN: str(int(time.time()))}
    run = client.create_run(where, start_time=cell.start, tags=tags, run_name=cell.name)
    _log(client, run.info.run_id, cell)
    # The digest comes last: a run without it was interrupted and is replaced by the next sync.
    client.set_terminated(run.info.run_id, end_time=cell.end)
    client.set_tag(run.info.run_id, DIGEST_TAG, digest)
    return "updated" if runs else "created"


def _log(client: "MlflowClient", run_id: str, cell: Cell) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

    points = [(key, 0, value) for key, value in cell.metrics.items()] + cell.curves
    metrics = [Metric(key, value, cell.end, step) for key, step, value in points]
    params = [Param(key, value) for key, value in cell.params.items()]
    for place in range(
        max(-(-len(params) // PARAMS_PER_CALL), -(-len(metrics) // METRICS_PER_CALL))
    ):
        client.log_batch(
            run_id,
            metrics=metrics[place * METRICS_PER_CALL :][:METRICS_PER_CALL],
            params=params[place * PARAMS_PER_CALL :][:PARAMS_PER_CALL],
        )
    inputs = [
        DatasetInput(
            Dataset(name, md5[:DIGEST_LETTERS], "dvc", json.dumps({"md5": md5, "rev": cell.rev})),
            [InputTag("mlflow.data.context", purpose)],
        )
        for name, md5, purpose in cell.datasets
    ]
    if inputs:
        _log_inputs(client, run_id, inputs)
    with TemporaryDirectory() as folder:
        for name, text in cell.tables.items():
            write_text(Path(folder, f"curves/{name}.csv"), text)
        for name, file in cell.files.items():
            Path(folder, name).parent.mkdir(exist_ok=True)
            shutil.copyfile(file, Path(folder, name))
        client.log_artifacts(run_id, folder)


def _show(repo: Path) -> list[dict[str, Any]]:
    """What `dvc exp show` says: the workspace and the commit, each with its experiments."""
    command = [sys.executable, "-m", "dvc", "exp", "show", "--json", "--no-fetch"]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=False)
    baselines: list[dict[str, Any]] = json.loads(done.stdout) if done.returncode == 0 else []
    if not baselines:
        raise ConfigurationError(
            f"DVC has no revision to show: {_gist(done.stderr) or 'no git commit yet'}",
            where=repo.resolve(),
            expected="a DVC repository with at least one git commit",
            next_step="`git add -A && git commit`, then `admodels track sync`",
        )
    return baselines


def _log_inputs(client: "MlflowClient", run_id: str, inputs: list["DatasetInput"]) -> None:
    """Log datasets; again where another `sync` has just written the same ones."""
    from mlflow.exceptions import MlflowException

    for _ in range(2):
        with suppress(MlflowException):
            client.log_inputs(run_id, inputs)
            return
    client.log_inputs(run_id, inputs)


def revisions(repo: Path, baselines: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every revision that is shown; one that is not finished has nothing in it."""
    for baseline in baselines:
        is_busy = baseline["rev"] == outs.WORKSPACE and outs.is_written_now(repo)
        yield {"branch": baseline["name"], **({} if is_busy else baseline["data"] or {})}
        for experiment in baseline["experiments"] or []:
            # What stands in the commit of one that runs, or failed, is another revision's.
            is_done = (experiment["executor"] or {}).get("state", DONE) == DONE
            for revision in experiment["revs"] or []:
                yield {
                    "experiment": experiment["name"],
                    **(revision["data"] or {} if is_done else {}),
                }


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
