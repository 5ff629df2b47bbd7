"""The files of a cell at any revision, from DVC's cache; nothing is checked out or fetched."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

WORKSPACE = "workspace"
KEPT = {  # of an out: which files of it, and the folder of the run that they stand in
    "data/evaluation/{method}/{task}": (
        ("intervals.json", "scores.csv", "power.csv", "overlays.png"),
        "evaluation",
    ),
    "data/models/{method}/{task}": (("bundle.json",), "bundle"),  # it names all others by hash
}
DATASETS = {  # what a cell was made from, and for what
    "data/manifests/{task}/train.csv": "training",
    "data/manifests/{task}/calibration.csv": "calibration",
    "data/manifests/{task}/test.csv": "testing",
}


def cache_of(repo: Path) -> Path:
    """The folder of DVC's cache that holds files by their hash."""
    from dvc.repo import Repo

    with Repo(str(repo)) as opened:
        return Path(opened.cache.local.path)


def files_of(
    cache: Path, outs: Mapping[str, Any], method: str, task: str
) -> Iterator[tuple[str, Path]]:
    """(name in the run, file in the cache) of what is kept of a cell and is still in the cache."""
    for pattern, (names, folder) in KEPT.items():
        out = outs.get(pattern.format(method=method, task=task)) or {}
        listing = _cache_file(cache, out.get("hash") or "")
        if listing is None or listing.suffix != ".dir":
            continue
        for entry in json.loads(listing.read_bytes()):
            file = _cache_file(cache, entry["md5"])
            if entry["relpath"] in names and file is not None:
                yield f"{folder}/{entry['relpath']}", file


def _cache_file(cache: Path, digest: str) -> Path | None:
    path = cache / digest[:2] / digest[2:]
    return path if len(digest) > 2 and path.is_file() else None


def datasets_of(outs: Mapping[str, Any], task: str) -> Iterator[tuple[str, str, str]]:
    """(name, md5, purpose) of each list of images that a cell was made from."""
    for pattern, purpose in DATASETS.items():
        out = outs.get(pattern.format(task=task)) or {}
        if out.get("hash"):
            yield f"{task}/{Path(pattern).stem}", out["hash"], purpose


def is_written_now(repo: Path) -> bool:
    """Whether a DVC process is at work on the workspace: its figures and files are of two states.

    DVC keeps a list of what each of its processes writes.
    """
    with suppress(OSError, ValueError, AttributeError):
        locks = json.loads((repo / ".dvc/tmp/rwlock").read_bytes())
        return any(lock.get("write") for lock in locks.values())
    return False
