"""The files of a source: which are looked at, and the reason for every other."""

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

from admodels.foundation.errors import DataError
from admodels.foundation.exclude import is_excluded
from admodels.foundation.files import names_text, printable, whole_file
from admodels.foundation.manifest import IMAGE_SUFFIXES

Reason = Literal[
    "excluded",  # by a pattern of `exclude`; a folder ends with `/` and is not entered
    "hidden",  # a name that starts with a dot
    "link_outside",  # a link that leads out of the source; not followed
    "link_to_folder",  # a link to a folder of the source, whose files stand in their own place
    "link_to_nothing",
    "not_a_file",  # a device, pipe or socket
    "unknown_suffix",  # no image by its name
    "unknown_folder",  # an image where the layout has none
    "not_in_manifest",  # an image that the dataset's table does not name
    "mask_without_image",
    "matte_without_image",
]
SUFFIXES = tuple(IMAGE_SUFFIXES)
COLUMNS = ("path", "reason", "detail")
LEFT_OUT_OF_COPY = ".left_out.csv"  # hidden: no file of this name comes from a source
SPLIT_TABLES = "split_csv"  # stands beside the categories and says how they are split (VisA)
OWN_FOLDERS = ("train", "normal", "good")  # a folder that holds one of these is a category itself


@dataclass(frozen=True)
class LeftOut:
    """One file, or folder, of a source that is not used, and why; texts are `printable`."""

    path: str
    reason: Reason
    detail: str = ""

    @classmethod
    def of(cls, path: str, reason: Reason, detail: str = "") -> Self:
        """What stands at the POSIX `path`, whatever its name."""
        return cls(printable(path), reason, printable(detail))


@dataclass(frozen=True)
class Files:
    """The files that a reader may use: POSIX paths relative to `root`, sorted.

    `base` is the category's folder with a `/` at its end, or empty where it is `root` itself.
    """

    root: Path
    category: str
    base: str
    paths: list[str]

    def images(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Every image file of the category: its path, and the parts of its path below `base`."""
        for path in self.paths:
            if path.startswith(self.base) and is_image(path):
                yield path, tuple(path.removeprefix(self.base).split("/"))


def write_left_out(path: Path, left_out: Iterable[LeftOut]) -> None:
    """Write the table path, reason, detail."""
    rows = sorted((entry.path, entry.reason, entry.detail) for entry in left_out)
    with whole_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


def read_left_out(path: Path) -> list[LeftOut]:
    """The rows of a table that `write_left_out` wrote; none where there is no table."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        _, *rows = csv.reader(file)
    return [LeftOut(*row) for row in rows]  # type: ignore[arg-type]


def list_parts(
    base: Path, prefixes: Iterable[str], exclude: Sequence[str] = (), *, is_copy: bool = False
) -> tuple[list[str], list[LeftOut]]:
    """`list_files` of some folders of `base`: prefixes that end with `/` or are empty."""
    paths: list[str] = []
    left_out: list[LeftOut] = []
    for prefix in prefixes:
        inside, others = list_files(base / prefix, exclude, is_copy=is_copy)
        paths += (prefix + path for path in inside)
        left_out += (replace(entry, path=printable(prefix) + entry.path) for entry in others)
    return sorted(paths), left_out


def is_image(path: str) -> bool:
    """Whether the suffix is one of an image."""
    return path.lower().endswith(SUFFIXES)  # `Path.suffix` takes ten times as long


def narrow(root: Path, category: str) -> tuple[str, tuple[str, ...]]:
    """Where the category stands in `root`, or in the only folder of it: a folder, its parts.

    The folder ends with `/` or is empty; the parts are prefixes of what counts below it. A folder
    with images to learn from is a category itself, and is not narrowed; nor is one with images
    right in it, unless the category has folders or a table: they would be passed over.
    """
    with os.scandir(root) as scanned:
        entries = [entry for entry in scanned if not _is_left_behind(entry.name)]
    inside = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    names = {name.casefold() for name in inside} - {category.casefold()}
    is_flat = any(is_image(e.name) for e in entries) and not _is_arranged(root / category)
    if not category or names & {*OWN_FOLDERS} or is_flat:
        return "", ("",)
    outer = ["", *(f"{name}/" for name in inside if len(inside) == 1)]
    for folder in (f for f in outer if (root / f / category).is_dir()):
        if (root / folder / SPLIT_TABLES).is_dir():
            return folder, (f"{category}/", f"{SPLIT_TABLES}/")
        return f"{folder}{category}/", ("",)
    return "", ("",)


def _is_arranged(folder: Path) -> bool:
    """Whether it holds folders or a table, and not images alone."""
    return folder.is_dir() and any(p.is_dir() or p.suffix == ".csv" for p in folder.iterdir())


def list_files(
    root: Path, exclude: Sequence[str] = (), *, is_copy: bool = False
) -> tuple[list[str], list[LeftOut]]:
    """The sorted POSIX paths of the files below `root`, and what is not looked at.

    A link is followed to a file below `root` only. `is_copy` is for a folder that `fetch` made,
    whose files DVC may keep as links to its cache: all are followed.

    Raises:
        DataError: names that are not UTF-8, which no manifest could hold.
        OSError: a folder cannot be listed; a part of a dataset is never taken for the whole.
    """
    real = Path(os.path.realpath(root))
    paths, left_out, waiting = [], [], [""]
    while waiting:
        folder = waiting.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                path = folder + entry.name
                left = _left_out(entry, path, real, exclude, is_copy)
                if left:
                    left_out.append(left)
                elif entry.is_dir():
                    waiting.append(f"{path}/")
                else:
                    paths.append(path)
    _refuse_no_text(paths)
    return sorted(paths), sorted(left_out, key=lambda left: left.path)


def _left_out(
    entry: os.DirEntry[str], path: str, real: Path, exclude: Sequence[str], is_copy: bool
) -> LeftOut | None:
    is_folder = entry.is_dir(follow_symlinks=False)
    shown = f"{path}/" if is_folder else path
    if is_excluded(path, exclude):
        return LeftOut.of(shown, "excluded", "a folder, not entered" if is_folder else "")
    if entry.name.startswith("."):
        return LeftOut.of(shown, "hidden", "a folder, not entered" if is_folder else "")
    if entry.is_symlink() and not is_copy:
        target = Path(os.path.realpath(entry.path))
        if not target.exists():
            return LeftOut.of(path, "link_to_nothing", str(target))
        if not target.is_relative_to(real):
            return LeftOut.of(path, "link_outside", str(target))
        if target.is_dir():
            return LeftOut.of(path, "link_to_folder", target.relative_to(real).as_posix())
    return None if entry.is_dir() or entry.is_file() else LeftOut.of(path, "not_a_file")


def _is_left_behind(name: str) -> bool:
    return name.startswith(".") or is_excluded(name)


def _refuse_no_text(paths: Sequence[str]) -> None:
    no_text = [path for path in paths if any("\ud800" <= c <= "\udfff" for c in path)]
    if no_text:
        raise DataError(
            f"{len(no_text)} files have names that are not UTF-8",
            where=names_text(no_text),
            expected="names that a manifest can hold",
            next_step="rename them (`convmv` does it for a whole tree), then run this again",
        )
