"""Files and folders that appear whole or not at all: a reader never sees half of one."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from admodels.foundation.errors import StorageError


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A new empty folder beside `target` that takes its place when the block succeeds.

    Two names beside `target` carry the exchange. `.NAME.before` is always whole: the old version,
    for the moment between the two renames. `.NAME.partial` is always worth nothing: a new version
    in the making, or an old one that is being deleted. So whatever is interrupted, the next run
    finds the old or the new version whole, and puts it back under its name first.
    """
    partial, before = _beside(target)
    _settle(target)
    partial.mkdir(parents=True)
    try:
        yield partial
        if os.path.lexists(target):
            target.replace(before)
        partial.replace(target)
    finally:
        with suppress(OSError):  # the next run tries again
            _settle(target)


def _beside(target: Path) -> tuple[Path, Path]:
    return target.with_name(f".{target.name}.partial"), target.with_name(f".{target.name}.before")


def _settle(target: Path) -> None:
    """Leave one whole version under the name `target`, if there is one, and nothing beside it."""
    partial, before = _beside(target)
    if os.path.lexists(before) and not os.path.lexists(target):
        before.replace(target)
    _remove(partial)
    if os.path.lexists(before):
        before.replace(partial)  # at once, where deleting it under its own name leaves half of it
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def durable_folder(target: Path) -> Iterator[Path]:
    """`whole_folder` that a power cut cannot undo: on the disk itself before its name is there."""
    with whole_folder(target) as partial:
        yield partial
        for path in (*partial.rglob("*"), partial):
            sync(path)
    sync(target.parent)


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
        sync(partial)
    sync(target.parent)


def sync(path: Path) -> None:
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


def read_json(path: Path, next_step: str) -> Any:
    """The content of a JSON file that this program wrote.

    Raises:
        StorageError: it is empty, cut short or no JSON; with the file's name and `next_step`.
    """
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise StorageError(
            f"a file of {path.stat().st_size} bytes that is no JSON: {error}",
            where=path,
            expected="the JSON that this program wrote",
            next_step=next_step,
        ) from None


NAMES_SHOWN = 20


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, 64 lower-case hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def printable(name: str) -> str:
    """A name for a table or a terminal: two names never look alike, and none moves the cursor.

    A name with a backslash, or with a character that is not printable, comes with escapes.
    """
    if name.isprintable() and "\\" not in name:
        return name
    return name.encode("unicode_escape").decode("ascii")


def names_text(names: Iterable[str]) -> str:
    """The sorted names for a message: the first 20, then how many more there are."""
    ordered = sorted(map(printable, names))
    more = len(ordered) - NAMES_SHOWN
    return ", ".join(ordered[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
