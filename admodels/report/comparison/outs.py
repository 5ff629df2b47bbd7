"""The files of a revision: git has the small ones, DVC's cache the others. Nothing is fetched."""

import json
import subprocess
from functools import cached_property
from pathlib import Path
from typing import Any

from admodels.foundation.errors import ConfigurationError, DataError

WORKSPACE = "workspace"
FOLDER = ".dir"  # ends the hash of a folder, whose object lists its files


class Revision:
    """A commit, a branch, a tag or an experiment; `workspace` is the files as they are now."""

    def __init__(self, repo: Path, name: str) -> None:
        self.repo, self.name = repo, name
        self.commit = "" if name == WORKSPACE else _commit(repo, name)

    @cached_property
    def params(self) -> dict[str, Any]:
        """The content of params.yaml."""
        return self._yaml("params.yaml")

    def exists(self, path: str) -> bool:
        """Whether the revision has that out, or file of an out, wherever its bytes are."""
        if not self.commit:
            return (self.repo / path).is_file()
        return self._hash(path) is not None

    def file(self, path: str) -> Path:
        """Where the bytes of an out, or of a file in one, stand on this machine.

        Raises:
            DataError: the revision has no such file, or its bytes are not here.
        """
        digest = self._hash(path) if self.commit else None
        if self.commit and digest is None:
            raise self._missing(path, "the revision has no such file")
        file = self._object(digest) if digest else self.repo / path
        if not file.is_file():
            raise self._missing(path, "its bytes are not on this machine")
        return file

    def _hash(self, path: str) -> str | None:
        """The md5 of a file, from dvc.lock and the list of the folder that it stands in."""
        for above in (path, *(parent.as_posix() for parent in Path(path).parents)):
            digest = self._outs.get(above)
            if digest is not None:
                below = Path(path).relative_to(above).as_posix()
                return self._files(digest, above).get(below) if below != "." else digest
        return None

    def _files(self, digest: str, path: str) -> dict[str, str]:
        if not digest.endswith(FOLDER):
            return {}
        try:
            listed = json.loads(self._object(digest).read_bytes())
        except OSError as error:
            raise self._missing(path, f"it is not on this machine: {error.strerror}") from None
        return {entry["relpath"]: entry["md5"] for entry in listed}

    @cached_property
    def _outs(self) -> dict[str, str]:
        stages = self._yaml("dvc.lock").get("stages") or {}
        outs = (out for stage in stages.values() for out in stage.get("outs", ()))
        return {out["path"]: out["md5"] for out in outs}

    def _yaml(self, name: str) -> dict[str, Any]:
        from ruamel.yaml import YAML

        text = self.text(name)
        content = YAML(typ="safe").load(text) if text else None
        return content if isinstance(content, dict) else {}

    def text(self, name: str) -> str:
        """A file that git tracks; empty where the revision has none."""
        if not self.commit:
            file = self.repo / name
            return file.read_text(encoding="utf-8") if file.is_file() else ""
        words = ("git", "show", f"{self.commit}:./{name}")
        done = subprocess.run(words, cwd=self.repo, capture_output=True, check=False)
        return done.stdout.decode("utf-8") if done.returncode == 0 else ""

    @cached_property
    def _cache(self) -> Path:
        from dvc.repo import Repo

        with Repo(self.repo) as repo:
            return Path(repo.cache.local.path)

    def _object(self, digest: str) -> Path:
        return self._cache / digest[:2] / digest[2:]

    def _missing(self, path: str, fault: str) -> DataError:
        here = "`dvc checkout`, or `dvc repro evaluate`"
        fetch = f"`dvc fetch -A {path}` or, of an experiment, `dvc exp pull origin {self.name}`"
        again = f"`dvc exp apply {self.name}`, or `git checkout` it, and `dvc repro evaluate`"
        return DataError(
            f"{path} of {self.name}: {fault}",
            where=path,
            expected="the outs of the stages `validate` and `evaluate`, here or in DVC's cache",
            next_step=f"{fetch}; if no remote has it: {again}" if self.commit else here,
        )


def _commit(repo: Path, name: str) -> str:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import SCMError, resolve_rev

    try:
        with Repo(repo) as opened:
            return str(resolve_rev(opened.scm, name))
    except (DvcException, SCMError) as error:
        raise ConfigurationError(
            f"`{name}` is no revision and no table of scores: {error}",
            where=repo.resolve(),
            expected="`workspace`, a commit, a branch or tag, or an experiment, then `:METHOD` if "
            "wanted; or a CSV of scores",
            next_step="`dvc exp show`, or `git branch`, names them",
        ) from None
