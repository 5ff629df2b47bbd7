"""Files and folders that appear whole or not at all: a reader never sees half of one."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A new empty folder beside `target` that takes its place when the block succeeds."""
    partial = target.with_name(f".{target.name}.partial")
    before = target.with_name(f".{target.name}.before")
    _remove(partial, before)
    partial.mkdir(parents=True)
    try:
        yield partial
        if target.exists():
            target.replace(before)  # at once, where removing it in place would leave half of it
        partial.replace(target)
    finally:
        _remove(partial, before)


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A path beside `target`; what the block writes there takes its place."""
    partial = target.with_name(f".{target.name}.partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def durable_file(target: Path) -> Iterator[Path]:
    """`whole_file` that a power cut cannot undo: on the disk itself before its name is there."""
    with whole_file(target) as partial:
        yield partial
        on_disk(partial)
    on_disk(target.parent)


def on_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def write_text(target: Path, text: str) -> None:
    """Write UTF-8 with plain line ends."""
    with whole_file(target) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def write_json(target: Path, content: object) -> None:
    """Write to be read and compared: indented, keys sorted."""
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    write_text(target, text + "\n")


NAMES_SHOWN = 20


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, 64 lower-case hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def names_text(names: Iterable[str]) -> str:
    """The sorted names for a message: the first 20, then how many more there are."""
    ordered = sorted(names)
    more = len(ordered) - NAMES_SHOWN
    return ", ".join(ordered[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
