"""What a layout makes of a source: every file is used, a companion, or left out with a reason."""

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

from admodels.datasets._files import (
    LEFT_OUT_OF_COPY,
    Files,
    LeftOut,
    Reason,
    is_image,
    list_parts,
    narrow,
    read_left_out,
)
from admodels.foundation.errors import ConfigurationError, DataError
from admodels.foundation.files import names_text
from admodels.foundation.manifest import FOREGROUND, DatasetImage

COMPANION = re.compile(
    r"(.*[\W_])?(licen[cs]e|readme|copying|notice|citation|changelog)([\W_].*)?", re.IGNORECASE
)
MASK_FOLDERS = {"ground_truth", "masks", "label"}


@dataclass(frozen=True)
class Layout:
    """What a layout makes of the files of a source; paths are POSIX, relative to `root`.

    Every file is in one of `images`, `masks`, `mattes`, `companions` and `left_out`.
    """

    dataset: str
    category: str
    root: Path
    images: list[DatasetImage]
    masks: list[str]
    mattes: list[str]
    companions: list[str]
    left_out: list[LeftOut]

    @property
    def learnable(self) -> int:
        """How many normal images there are to learn from."""
        return sum(image.label == "normal" and image.part == "learn" for image in self.images)

    @property
    def defect_types(self) -> dict[str, int]:
        """How many anomalous images there are of each type, by its name."""
        kinds = (image.defect_type for image in self.images if image.label == "anomalous")
        return dict(sorted(Counter(kinds).items()))

    def sentence(self) -> str:
        """As `used 214 of 260 files: 46 unknown suffix, 1 folder excluded`."""
        used = len(self.images) + len(self.masks) + len(self.mattes) + len(self.companions)
        files = [entry for entry in self.left_out if not entry.path.endswith("/")]
        folders = [entry for entry in self.left_out if entry.path.endswith("/")]
        counts = [f"{n} {reason}" for reason, n in _reasons(files)]
        counts += [f"{n} folder{'s' * (n > 1)} {reason}" for reason, n in _reasons(folders)]
        total = f"used {used} of {used + len(files)} files"
        return f"{total}: {', '.join(counts)}" if counts else total


def _reasons(left_out: Sequence[LeftOut]) -> list[tuple[str, int]]:
    """The reasons in words, the most frequent first, with their numbers."""
    return Counter(entry.reason.replace("_", " ") for entry in left_out).most_common()


def read_layout(
    dataset: str,
    category: str,
    root: Path,
    exclude: Sequence[str] = (),
    normal_folders: Sequence[str] = (),
    *,
    is_copy: bool = False,
) -> Layout:
    """What the layout `dataset` makes of `root`, or of the folder `category` in it.

    `exclude` adds to the patterns that are usual; `normal_folders` are names, beside `good` and
    `normal`, of folders that hold normal images; `is_copy` says that
    `fetch` made `root`: its links are followed, and what it did not copy is left out as well.

    Raises:
        ConfigurationError: there is no such layout, or a folder could be normal or a defect.
        DataError: `root` is missing, or a table of the dataset is unclear.
    """
    reader = layout_module(dataset)
    files, left_out = _files_of(root, category, exclude, is_copy)
    images = sorted(reader.images_of(files, normal_folders), key=lambda image: image.image_path)
    _refuse_wrong_paths(images, files)
    mattes = {f"{FOREGROUND}/{PurePosixPath(i.image_path).with_suffix('.png')}" for i in images}
    masks = {image.mask_path for image in images}
    used = {image.image_path for image in images}
    others = [path for path in files.paths if path not in used]
    rest = [path for path in others if path not in masks and path not in mattes]
    companions = [path for path in rest if _is_companion(path, files, reader)]
    unused = sorted({*rest} - {*companions})
    has_table = any(PurePosixPath(path).suffix == ".csv" for path in companions)
    return Layout(
        dataset=dataset,
        category=category,
        root=root,
        images=images,
        masks=[path for path in others if path in masks],
        mattes=[path for path in others if path in mattes],
        companions=companions,
        left_out=[*left_out, *(_left_out(path, files, has_table) for path in unused)],
    )


def layouts() -> list[str]:
    """The names of the dataset layouts that exist, sorted."""
    return sorted(p.stem for p in Path(__file__).parent.glob("[!_]*.py"))


def nearest(word: str, names: Iterable[str]) -> str:
    """As `; did you mean `bottle`?`, or nothing where no name is close."""
    lower = {name.casefold(): name for name in names}
    close = difflib.get_close_matches(word.casefold(), lower, n=1)
    return f"; did you mean `{lower[close[0]]}`?" if close else ""


def layout_module(dataset: str) -> Any:
    """The module of a layout.

    Raises:
        ConfigurationError: there is none of this name.
    """
    if dataset not in layouts():
        raise ConfigurationError(
            f"no dataset layout named `{dataset}`{nearest(dataset, layouts())}",
            where="admodels/datasets/",
            expected=f"one of {', '.join(layouts())}",
            next_step="correct `dataset` of the task (`--dataset`)",
        )
    return import_module(f"admodels.datasets.{dataset}")


def _files_of(
    root: Path, category: str, exclude: Sequence[str], is_copy: bool
) -> tuple[Files, list[LeftOut]]:
    if not root.is_dir():
        raise DataError(
            "the task's raw images are missing",
            where=root,
            expected="the folder that the fetch stage writes",
            next_step="dvc repro fetch",
        )
    folder, prefixes = narrow(root, category)
    inside = tuple(folder + prefix for prefix in prefixes)
    paths, left_out = list_parts(root, inside, exclude, is_copy=is_copy)
    if is_copy:
        left_out = [entry for entry in left_out if entry.path != LEFT_OUT_OF_COPY]
        left_out += read_left_out(root / LEFT_OUT_OF_COPY)
    return Files(root, category, inside[0], paths), left_out


def _refuse_wrong_paths(images: Sequence[DatasetImage], files: Files) -> None:
    """A table may name a file twice, outside the folder, or one that does not exist.

    Raises:
        DataError: names the images.
    """
    paths, known = [image.image_path for image in images], {*files.paths}
    outside = [
        path
        for path in {*paths, *(image.mask_path for image in images)}
        if path.startswith("/") or ".." in PurePosixPath(path).parts
    ]
    twice = [path for path, before in zip(paths[1:], paths, strict=False) if path == before]
    missing = [path for path in paths if path not in known]
    faults = {"stand outside": outside, "are named twice": twice, "are not there": missing}
    for what, wrong in faults.items():
        if wrong:
            raise DataError(
                f"{len(wrong)} files that the dataset names {what}",
                where=names_text(wrong),
                expected=f"files below {files.root}, each named once",
                next_step="fix the dataset's table, then `admodels task refresh` of its task",
            )


def _is_companion(path: str, files: Files, reader: Any) -> bool:
    """A licence or a readme, or a table that the layout reads."""
    if COMPANION.fullmatch(PurePosixPath(path).name):
        return not is_image(path)
    below = path.removeprefix(files.base).casefold()
    return any(fnmatchcase(below, pattern) for pattern in getattr(reader, "COMPANIONS", ()))


def _left_out(path: str, files: Files, has_table: bool) -> LeftOut:
    folders = [p.casefold() for p in PurePosixPath(path.removeprefix(files.base)).parts[:-1]]
    reason: Reason = "not_in_manifest" if has_table else "unknown_folder"
    if not is_image(path):
        return LeftOut.of(path, "unknown_suffix", PurePosixPath(path).suffix.lower() or "no suffix")
    if path.startswith(f"{FOREGROUND}/") or FOREGROUND in folders:
        reason = "matte_without_image"
    elif MASK_FOLDERS & {*folders}:
        reason = "mask_without_image"
    return LeftOut.of(path, reason)
