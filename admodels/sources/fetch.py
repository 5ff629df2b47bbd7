"""Sources and their pins: what a folder under data/raw, data/textures or data/weights is made from.

A pin is the SHA-256 of what a source holds: the tree of a folder, the bytes of an archive or a
download, the photograph behind a sample, the text of a list. Hidden files (.DS_Store, ._x) are
neither hashed nor copied. A list (NAME.urls) names several files: a line is the SHA-256 of one
and its URLs, mirrors in the order to be tried; archives are unpacked over each other.
"""

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from admodels.foundation.errors import DataError, SourceError
from admodels.foundation.files import names_text, sha256_of, whole_file
from admodels.foundation.files import whole_folder as whole_folder
from admodels.foundation.progress import progress
from admodels.sources.archive import extract, is_archive, is_hidden
from admodels.sources.download import URL_SCHEMES, download
from admodels.sources.source import Source as Source

SAMPLE_PREFIX = "scikit-image/"
LIST_SUFFIX = ".urls"
FICLONE = 0x40049409  # linux/fs.h
SPLIT_TABLES = "split_csv"  # stands beside the categories and says how they are split (VisA)


def tree_sha256(root: Path, category: str = "") -> str:
    """The hash of a folder: its sorted POSIX paths and the SHA-256 of each file, no times.

    Of a dataset that holds the category as a sub-folder, only what `fetch` copies counts.
    """
    tree = hashlib.sha256()
    base, paths = _wanted_files(root, category)
    for path in progress(paths, len(paths), "hash files"):
        tree.update(f"{path}\0{sha256_of(base / path)}\n".encode())
    return tree.hexdigest()


def _wanted_files(root: Path, category: str) -> tuple[Path, list[str]]:
    """The folder that paths are relative to, and the sorted paths of the files that count."""
    base, only = _narrow_root(root, category)
    return base, sorted(f"{inner}{path}" for inner in only for path in _files(base / inner))


def _files(root: Path) -> list[str]:
    """The sorted relative POSIX paths of the files below `root`, links followed.

    Raises:
        DataError: a link leads back to a folder above it.
        OSError: a folder cannot be listed; a part of a dataset is never taken for the whole.
    """
    paths = []
    for folder, _, names in os.walk(root, followlinks=True, onerror=_raise):
        if Path(folder).is_symlink() and Path(folder).resolve() in Path(folder).absolute().parents:
            raise DataError(
                "a link leads back to a folder above it",
                where=folder,
                expected="a folder that ends somewhere",
                next_step="remove the link, then run this again",
            )
        paths += [(Path(folder) / name).relative_to(root).as_posix() for name in names]
    kept = sorted(path for path in paths if not is_hidden(path))
    no_text = [ascii(path) for path in kept if not path.isascii() and not _is_utf8(path)]
    if no_text:
        raise DataError(
            f"{len(no_text)} files have names that are not UTF-8",
            where=names_text(no_text),
            expected="names that a manifest can hold",
            next_step="rename them (`convmv` does it for a whole tree), then run this again",
        )
    return kept


def _raise(error: OSError) -> None:
    raise error


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _narrow_root(root: Path, category: str) -> tuple[Path, tuple[str, ...]]:
    """The category's folder where `root`, or the only folder in it, is a whole dataset.

    A folder, and those inside it that count; `("",)` where all of it counts.
    """
    inside = [p for p in root.iterdir() if not is_hidden(p.name)]
    outer = [root, *(inside if len(inside) == 1 and inside[0].is_dir() else [])]
    datasets = [folder for folder in outer if category and (folder / category).is_dir()]
    if not datasets:
        return root, ("",)
    if (datasets[0] / SPLIT_TABLES).is_dir():
        return datasets[0], (f"{category}/", f"{SPLIT_TABLES}/")
    return datasets[0] / category, ("",)


def pin_source(location: str, category: str = "", mirrors: Sequence[str] = ()) -> Source:
    """The source at `location` as it is now: its kind is recognised, its content hashed.

    Raises:
        SourceError: nothing can be reached there.
        ConfigurationError: a packaged photograph that does not exist.
    """
    urls, is_list = (location, *mirrors), location.endswith(LIST_SUFFIX)
    if location.startswith(SAMPLE_PREFIX) and not Path(location).exists():
        return Source(kind="sample", location=location, sha256=_sample_sha256(Path(location).stem))
    if location.startswith(URL_SCHEMES):
        sha256 = sha256_of(download(urls, "", "run this again"))
        return Source(
            kind="urls" if is_list else "url",
            location=location,
            sha256=sha256,
            mirrors=tuple(mirrors),
        )
    path = _existing(location)
    if path.is_file():
        sha256 = sha256_of(path)
        return Source(kind="urls" if is_list else "archive", location=location, sha256=sha256)
    return Source(kind="path", location=location, sha256=tree_sha256(path, category))


def _sample_sha256(category: str) -> str:
    from admodels.datasets import sample

    return hashlib.sha256(sample.photograph(category)).hexdigest()


def _existing(location: str) -> Path:
    path = Path(location).expanduser()
    if not path.exists():
        raise SourceError(
            "source is missing",
            where=location,
            expected="a folder, an archive, an http(s) or file URL, or scikit-image/NAME.png",
            next_step="mount or restore it, or correct `source.location` in params.yaml",
        )
    return path


def fetch(source: Source, category: str, target: Path) -> None:
    """Copy or download the source to the folder `target`, whole or not at all.

    Of a dataset that holds the category as a sub-folder, only that folder is copied.

    Raises:
        SourceError: the source cannot be reached.
        DataError: it differs from its pin, or it is an archive that cannot be trusted or read.
        OSError: the source cannot be read or `target` cannot be written.
    """
    with whole_folder(target) as content:
        fetch_source(source, category, content, f"admodels task refresh {target.name}")


def fetch_source(source: Source, category: str, content: Path, refresh: str) -> None:
    """`fetch` into the empty folder `content`; `refresh` is the command that pins anew."""
    if source.kind == "sample":
        from admodels.datasets import sample

        photograph = Path(source.location).stem
        refuse_other(source, _sample_sha256(photograph), refresh)
        sample.draw(photograph, content)
    elif source.kind == "path":
        _copy(*_wanted_files(_folder(source.location), category), content)
        refuse_other(source, tree_sha256(content), refresh)
    else:
        unpacked = content / ".unpacked"  # hidden: nothing of this name can come out of an archive
        unpacked.mkdir()
        for file, name in _parcels(source, refresh):
            if source.kind == "urls" and not is_archive(file):
                shutil.copyfile(file, unpacked / PurePosixPath(urlsplit(name).path).name)
            else:
                extract(file, unpacked, name, f"pack the dataset anew, then `{refresh}`")
        base, parts = _narrow_root(unpacked, category)
        for path in sorted(base.iterdir() if parts == ("",) else (base / inner for inner in parts)):
            path.replace(content / path.name)
        shutil.rmtree(unpacked)


def _parcels(source: Source, refresh: str) -> Iterator[tuple[Path, str]]:
    """The files that a source consists of, checked against their pins, and their names."""
    urls, remedy = (source.location, *source.mirrors), f"`{refresh}`"
    if source.location.startswith(URL_SCHEMES):
        file = download(urls, source.sha256, remedy)
    else:
        file = _existing(source.location)
        refuse_other(source, sha256_of(file), refresh)
    if source.kind != "urls":
        yield file, source.location
        return
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        pin, *mirrors = line.split() or [""]
        if pin and not (re.fullmatch("[0-9a-f]{64}", pin) and mirrors):
            raise DataError(
                f"line {number} of the list is `{line}`",
                where=source.location,
                expected="a SHA-256 and at least one URL, between blanks",
                next_step=f"correct the list, then {remedy}",
            )
        if pin:
            yield download(mirrors, pin, f"correct the list, then {remedy}"), mirrors[0]


def fetch_file(location: str, pin: str, target: Path, key: str) -> None:
    """One file by path or URL; `pin` is the start of its SHA-256 and stands at `key`.

    Raises:
        SourceError: it cannot be reached.
        DataError: it differs from its pin: its weights could be anything.
    """
    if location.startswith(URL_SCHEMES):
        origin = download([location], pin, f"correct `{key}`")
    else:
        origin = _existing(location)
    sha256 = sha256_of(origin)
    if not sha256.startswith(pin):
        raise DataError(
            f"file differs from its pin: its sha256 is {sha256}",
            where=location,
            expected=f"the pinned {pin}",
            next_step=f"take the right file; if the change is meant, correct `{key}`",
        )
    with whole_file(target) as partial:
        shutil.copyfile(origin, partial)


def refuse_other(source: Source, sha256: str, refresh: str) -> None:
    """Refuse what differs from its pin: nobody has looked at it.

    Raises:
        DataError: `sha256` is not the pinned one.
    """
    if sha256 != source.sha256:
        raise DataError(
            f"source differs from its pin: its sha256 is {sha256}",
            where=source.location,
            expected=f"the pinned {source.sha256}",
            next_step=f"if the change is meant: `{refresh}`",
        )


def _folder(location: str) -> Path:
    path = _existing(location)
    if not path.is_dir():
        raise SourceError(
            "source is not a folder",
            where=location,
            expected="a folder, for `kind: path`",
            next_step="correct `source.kind` in params.yaml (an archive is `kind: archive`)",
        )
    return path


def _copy(origin: Path, paths: list[str], content: Path) -> None:
    for path in progress(paths, len(paths), "copy files"):
        (content / path).parent.mkdir(parents=True, exist_ok=True)
        _copy_file(origin / path, content / path)


def _copy_file(origin: Path, target: Path) -> None:
    """A copy that shares its blocks with the origin where the file system can (Btrfs, XFS)."""
    try:
        with origin.open("rb") as source, target.open("wb") as copy:
            fcntl.ioctl(copy, FICLONE, source.fileno())
    except OSError:  # what is wrong with the files themselves meets the plain copy as well
        shutil.copyfile(origin, target)
