"""MLflow's model registry: which bundle is the champion of a task, and which one was before.

A registered model `admodels-TASK` has bundles as versions: their files as they are, no pickle and
no model flavour. An alias says which version counts, `previous-ALIAS` which one counted before.
"""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from admodels.bundles import bundle as bundles
from admodels.bundles import card, runtime
from admodels.foundation import params
from admodels.foundation.errors import BundleError, ConfigurationError
from admodels.foundation.files import sha256_of
from admodels.tracking import evidence as evidences
from admodels.tracking import gates, sync
from admodels.tracking.cells import KEY
from admodels.tracking.evidence import Evidence, evidence_of, write_evidence

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

EXPERIMENT = "admodels-bundles"
FOLDER = "bundle"  # of the run of a version: its files
SHA256 = "admodels.bundle_sha256"  # of bundle.json, which has the hashes of all other files
REVISION, WORKSPACE = "dvc.rev", "workspace"
GATES, WHY = "admodels.gates", "admodels.why"
RUN = "admodels.run_id"  # of the cell: its params, figures, curves and pictures
FINGERPRINT = "admodels.model_fingerprint"
HEX = "^[0-9a-f]{64}$"
NAME = "[A-Za-z0-9][A-Za-z0-9_.-]*"
ADDRESS = rf"models:/{NAME}(@[A-Za-z][A-Za-z0-9_-]*|/[1-9][0-9]*)"
MEASURED = ("image_auroc", "false_alarm_rate")
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # the latter: no such alias


@dataclass(frozen=True)
class AliasMove:
    """An alias that went from one version to another, or came to its first."""

    address: str
    now: "ModelVersion"
    before: "ModelVersion | None"

    def __str__(self) -> str:
        now = f"{self.address} is {_words(self.now)}"
        return now if self.before is None else f"{now}\nbefore it was {_words(self.before)}"


def _words(version: "ModelVersion") -> str:
    tags = version.tags
    figures = (f"{key} {tags.get(f'admodels.{key}', 'not measured')}" for key in MEASURED)
    return f"version {version.version}, {tags.get('admodels.method')}: {', '.join(figures)}"


def promote(
    repo: Path, folder: Path, alias: str, *, why: str = "", force: bool = False
) -> AliasMove:
    """Register the bundle in `folder`, once, and let the alias of its task point to it.

    Raises:
        BundleError: the bundle does not pass its own tests, or a gate of params.yaml.
        ConfigurationError: no commit holds what the bundle was made from. With `force` and its
            `why`, which are kept, neither gates nor this hold anything up.
        SourceError: the registry is away.
        StorageError: the local database cannot be written.
    """
    loaded = bundles.load(folder, runtime.device())
    name, tags, evidence = (
        f"admodels-{loaded.task}",
        _tags(repo, folder, loaded),
        evidence_of(folder),
    )
    _refuse_uncommitted(tags[REVISION], folder, why, force=force)
    with sync.connect(repo) as client:
        tags |= _run_tag(client, tags)
        champion = _champion(client, name, alias, tags[SHA256])
        table = _gates(repo, loaded, evidence, champion)
        failing = gates.enforce(table, f"{name}: {folder}", force=force)
        tags |= {GATES: "; ".join(failing) or ("passed" if table else "none are set")}
        tags |= {WHY: why} if why else {}
        now = _register(client, repo, name, folder, tags)
        if evidence is not None:
            _keep_evidence(client, now, evidence)
        return _move_alias(client, name, alias, now)


def _run_tag(client: "MlflowClient", tags: dict[str, str]) -> dict[str, str]:
    """The run of the cell that a bundle comes from, where `track sync` has made one."""
    known = client.get_experiment_by_name(sync.EXPERIMENT)
    query = " and ".join(f"tags.`{key}` = '{tags[key]}'" for key in (*KEY, FINGERPRINT))
    runs = client.search_runs([known.experiment_id], query, max_results=1) if known else []
    return {RUN: runs[0].info.run_id} if runs else {}


def _refuse_uncommitted(revision: str, folder: Path, why: str, *, force: bool) -> None:
    if force and not why.strip():
        raise _refusal("`--force` needs a reason", folder, "`--why TEXT`, which is kept")
    if revision == WORKSPACE and not force:
        raise _refusal(
            "dvc.lock is not as it is committed: nobody could make this bundle again",
            folder,
            "a bundle of a commit: `git add dvc.lock params.yaml && git commit`, then promote "
            "again; or `--force --why TEXT`",
        )


def _refusal(fault: str, where: Path, expected: str) -> ConfigurationError:
    return ConfigurationError(
        fault, where=where, expected=expected, next_step="correct it, then promote again"
    )


def _gates(
    repo: Path, loaded: bundles.Bundle, evidence: Evidence | None, champion: gates.Champion | None
) -> list[gates.Check]:
    """The gates of params.yaml, checked; a folder without params has none."""
    path = repo / params.PARAMS_FILE
    content = params.load(path) if path.is_file() else {}
    block = params.parse(content.get("gates", {}), gates.Gates, "gates", path)
    if block == gates.Gates():
        return []
    alpha = params.read("evaluate.alpha", float, path)
    candidate = gates.Candidate(evidence, loaded.calibration_scores, alpha)
    return gates.checks(block, candidate, champion)


def _champion(client: "MlflowClient", name: str, alias: str, sha256: str) -> gates.Champion | None:
    version = _version(lambda: client.get_model_version_by_alias(name, alias))
    if version is None:
        return None
    evidence = None
    with TemporaryDirectory() as folder:
        names = [f.path for f in client.list_artifacts(str(version.run_id), FOLDER)]
        if f"{FOLDER}/{evidences.NAME}" in names:
            client.download_artifacts(str(version.run_id), FOLDER, folder)
            with suppress(BundleError):  # damaged files say nothing
                evidence = evidence_of(Path(folder, FOLDER))
    return gates.Champion(evidence, version.tags.get(SHA256) == sha256)


def _keep_evidence(client: "MlflowClient", version: "ModelVersion", evidence: Evidence) -> None:
    """Put evaluation.json beside the files of a version; they may have been measured since."""
    with TemporaryDirectory() as folder:
        write_evidence(Path(folder), evidence)
        client.log_artifact(str(version.run_id), str(Path(folder, evidences.NAME)), FOLDER)


def rollback(repo: Path, task: str, alias: str) -> AliasMove:
    """Let the alias and `previous-ALIAS` change places.

    Raises:
        BundleError: there is no version before.
        SourceError: the registry is away.
    """
    name, previous = f"admodels-{task}", f"previous-{alias}"
    with sync.connect(repo, must_exist=True) as client:
        now = _version(lambda: client.get_model_version_by_alias(name, previous))
        if now is None:
            raise _no_version(f"models:/{name}@{previous}")
        return _move_alias(client, name, alias, now)


def _move_alias(client: "MlflowClient", name: str, alias: str, now: "ModelVersion") -> AliasMove:
    before = _version(lambda: client.get_model_version_by_alias(name, alias))
    # A number over REST is text.
    if before is not None and int(before.version) != int(now.version):
        client.set_registered_model_alias(name, f"previous-{alias}", str(before.version))
    client.set_registered_model_alias(name, alias, str(now.version))
    return AliasMove(f"models:/{name}@{alias}", now, before)


def _tags(repo: Path, folder: Path, loaded: bundles.Bundle) -> dict[str, str]:
    """What a version says of itself; of figures only those of this very bundle."""
    tags = {
        "admodels.method": loaded.method,
        "admodels.task": loaded.task,
        FINGERPRINT: loaded.model_fingerprint,
        SHA256: sha256_of(folder / "bundle.json"),
        REVISION: _revision(repo),
    }
    cell = f"{loaded.method}/{loaded.task}"
    costs = _json(repo / f"data/costs/evaluate/{cell}.json")
    if costs.get("model_fingerprint") == loaded.model_fingerprint:
        metrics = _json(repo / f"data/evaluation/{cell}/metrics.json")
        known = {key: metrics[key] for key in MEASURED if metrics.get(key) is not None}
        tags |= {f"admodels.{key}": str(value) for key, value in known.items()}
    return tags


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _revision(repo: Path) -> str:
    """The commit of the dvc.lock that stands here, WORKSPACE where it is in none."""

    def git(*words: str) -> str:
        command = ["git", *words]
        return subprocess.run(command, cwd=repo, capture_output=True, text=True, check=False).stdout

    changed = git("status", "--porcelain", "dvc.lock")
    return WORKSPACE if changed else git("rev-parse", "HEAD").strip() or WORKSPACE


def _register(
    client: "MlflowClient", repo: Path, name: str, folder: Path, tags: dict[str, str]
) -> "ModelVersion":
    """The version that holds the bundle, made where there is none."""
    query = f"name='{name}'"
    if not client.search_registered_models(query):
        client.create_registered_model(name)
    for version in client.search_model_versions(query):
        if version.tags.get(SHA256) == tags[SHA256]:
            for key, value in tags.items():  # it may have been measured since
                client.set_model_version_tag(name, str(version.version), key, value)
            return client.get_model_version(name, str(version.version))
    run = client.create_run(sync.experiment(client, repo, EXPERIMENT), tags=tags)
    client.log_artifacts(run.info.run_id, str(folder), FOLDER)
    client.set_terminated(run.info.run_id)
    source = f"{run.info.artifact_uri}/{FOLDER}"
    return client.create_model_version(
        name, source, run.info.run_id, tags=tags, description=_description(client, tags)
    )


def _description(client: "MlflowClient", tags: dict[str, str]) -> str:
    """Markdown for the page of a version, with a link to the run of the cell."""
    words = f"{tags['admodels.method']} on {tags['admodels.task']}, revision {tags[REVISION]}"
    if RUN not in tags:
        return words
    where = client.get_run(tags[RUN]).info.experiment_id
    return f"{words}: [figures, curves, pictures](#/experiments/{where}/runs/{tags[RUN]})"


def _version(ask: Callable[[], "ModelVersion"]) -> "ModelVersion | None":
    from mlflow.exceptions import MlflowException

    try:
        return ask()
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
        return None


def _no_version(address: str) -> BundleError:
    return BundleError(
        "the registry has no such version",
        where=address,
        expected="a version of a model that `admodels promote` made, or an alias of one",
        next_step="`admodels promote METHOD TASK`, or correct the address: models:/NAME@ALIAS",
    )


@contextmanager
def version_files(address: str, repo: Path = Path()) -> Iterator[tuple[Path, str]]:
    """The files of what models:/NAME@ALIAS or models:/NAME/VERSION means now, and its number.

    Raises:
        BundleError: there is no such version, or it is not what was registered.
        SourceError: the registry is away.
        StorageError: the local database cannot be used.
    """
    with sync.connect(repo, must_exist=True) as client, TemporaryDirectory() as folder:
        version = _find_version(client, address)
        client.download_artifacts(str(version.run_id), FOLDER, folder)
        if not _is_whole(Path(folder, FOLDER), version.tags[SHA256]):
            raise BundleError(
                f"version {version.version} is not the bundle that was registered",
                where=address,
                expected=f"a bundle.json of sha256 {version.tags[SHA256]} and the files it names",
                next_step="delete the version in MLflow, then `admodels promote` again",
            )
        yield Path(folder, FOLDER), str(version.version)


def version_now(address: str, repo: Path = Path()) -> tuple[str, str]:
    """The number of what an address means now, and the sha256 of its bundle.json.

    Raises:
        BundleError: there is no such version.
        SourceError: the registry is away.
    """
    with sync.connect(repo, must_exist=True) as client:
        version = _find_version(client, address)
        return str(version.version), version.tags[SHA256]


def _find_version(client: "MlflowClient", address: str) -> "ModelVersion":
    if not re.fullmatch(ADDRESS, address):
        raise _no_version(address)
    name, _, alias = address.removeprefix("models:/").partition("@")
    model, _, number = name.partition("/")
    version = _version(
        lambda: (
            client.get_model_version_by_alias(name, alias)
            if alias
            else client.get_model_version(model, number)
        )
    )
    if version is None or not re.fullmatch(HEX, version.tags.get(SHA256, "")):
        raise _no_version(address)
    return version


def _is_whole(folder: Path, sha256: str) -> bool:
    """Whether the files are a bundle, and that which was registered."""
    try:
        card.read_card(folder)
    except BundleError:
        return False
    return sha256_of(folder / "bundle.json") == sha256
