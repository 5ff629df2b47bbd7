"""MLflow's model registry: which bundle is the champion of a task, and which one was before.

A registered model `admodels-TASK` has bundles as versions: their files as they are, no pickle and
no model flavour. An alias says which version counts, `previous-ALIAS` which one counted before.
"""

import json
import logging
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from admodels.bundles import bundle as bundles
from admodels.bundles import card, runtime
from admodels.foundation.errors import (
    BundleError,
    ConfigurationError,
    SourceError,
    StorageError,
)
from admodels.foundation.files import read_json, sha256_of, whole_folder, write_json
from admodels.foundation.params import Strict, parse
from admodels.tracking import sync

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

LOG = logging.getLogger(__name__)
EXPERIMENT = "admodels-bundles"
FOLDER = "bundle"  # of the run of a version: its files
SHA256 = "admodels.bundle_sha256"  # of bundle.json, which has the hashes of all other files
HEX = "^[0-9a-f]{64}$"
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


class KnownVersion(Strict):
    """Which version an address meant when the registry was asked last, and its files' folder."""

    version: str
    sha256: str = Field(pattern=HEX)


@dataclass(frozen=True)
class LocalVersion:
    """A local copy of a version; `note` says why it may not be the one that counts now."""

    folder: Path
    version: str
    note: str = ""


def _words(version: "ModelVersion") -> str:
    tags = version.tags
    figures = (f"{key} {tags.get(f'admodels.{key}', 'not measured')}" for key in MEASURED)
    return f"version {version.version}, {tags.get('admodels.method')}: {', '.join(figures)}"


def promote(repo: Path, folder: Path, alias: str) -> AliasMove:
    """Register the bundle in `folder`, once, and let the alias of its task point to it.

    Raises:
        BundleError: the bundle does not pass its own tests.
        SourceError: the registry is away.
        StorageError: the local database cannot be written.
    """
    loaded = bundles.load(folder, runtime.device())
    name, tags = f"admodels-{loaded.task}", _tags(repo, folder, loaded)
    with sync.connect(repo) as client:
        return _move_alias(client, name, alias, _register(client, repo, name, folder, tags))


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
        "admodels.model_fingerprint": loaded.model_fingerprint,
        SHA256: sha256_of(folder / "bundle.json"),
        "dvc.rev": _revision(repo),
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
    """The commit of the dvc.lock that stands here, `workspace` where it is in none."""

    def git(*words: str) -> str:
        command = ["git", *words]
        return subprocess.run(command, cwd=repo, capture_output=True, text=True, check=False).stdout

    changed = git("status", "--porcelain", "dvc.lock")
    return "workspace" if changed else git("rev-parse", "HEAD").strip() or "workspace"


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
    return client.create_model_version(name, source, run.info.run_id, tags=tags)


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
        next_step="`admodels promote METHOD TASK`, or correct `model` of the line",
    )


def fetch_version(address: str, repo: Path, cache: Path) -> LocalVersion:
    """A copy below `cache` of what models:/NAME@ALIAS or models:/NAME/VERSION means now.

    While the registry is away it is what the address meant last, with a note.

    Raises:
        BundleError: there is no such version, or it is not what was registered.
        SourceError: the registry is away, and the address is new to `cache`.
        StorageError: the local database cannot be used.
    """
    path, note = cache / "known.json", ""
    known = _known(path)
    try:
        with sync.connect(repo, must_exist=True) as client:
            known[address] = _fetch(client, address, cache)
    except SourceError as error:
        if address not in known or not _is_whole(cache, known[address].sha256):
            raise
        note = f"scored with the last version known: {error.fault}"
    else:
        write_json(path, {name: copy.model_dump() for name, copy in known.items()})
        kept = {copy.sha256 for copy in known.values()}
        for folder in cache.iterdir():
            if folder.is_dir() and folder.name not in kept:
                shutil.rmtree(folder)
    copy = known[address]
    return LocalVersion(cache / copy.sha256 / FOLDER, copy.version, note)


def _known(path: Path) -> dict[str, KnownVersion]:
    """What each address meant last; nothing where that is damaged: the registry says it again."""
    if not path.is_file():
        return {}
    try:
        return parse(read_json(path, "nothing"), dict[str, KnownVersion], "", path)
    except (StorageError, ConfigurationError) as error:
        LOG.warning("%s is damaged and read as empty: %s", path, error.fault)
        return {}


def _fetch(client: "MlflowClient", address: str, cache: Path) -> KnownVersion:
    """The version that the address means; afterwards its files are in `cache`."""
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
    copy = KnownVersion(version=str(version.version), sha256=version.tags[SHA256])
    if not _is_whole(cache, copy.sha256):
        with whole_folder(cache / copy.sha256) as building:
            client.download_artifacts(str(version.run_id), FOLDER, str(building))
        if not _is_whole(cache, copy.sha256):
            shutil.rmtree(cache / copy.sha256)
            raise BundleError(
                f"version {version.version} is not the bundle that was registered",
                where=address,
                expected=f"a bundle.json of sha256 {copy.sha256} and the files it names",
                next_step="delete the version in MLflow, then `admodels promote` again",
            )
    return copy


def _is_whole(cache: Path, sha256: str) -> bool:
    """Whether the copy is a bundle whose files have the hashes that its bundle.json names."""
    folder = cache / sha256 / FOLDER
    try:
        card.read_card(folder)
    except BundleError:
        return False
    return sha256_of(folder / "bundle.json") == sha256
