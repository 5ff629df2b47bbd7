"""Files and folders that appear whole or not at all: a reader never sees half of one."""

import json
import shutil
from collections.abc import Iterator
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


def write_text(target: Path, text: str) -> None:
    """Write UTF-8 with plain line ends."""
    with whole_file(target) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def write_json(target: Path, content: object) -> None:
    """Write to be read and compared: indented, keys sorted."""
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    write_text(target, text + "\n")
