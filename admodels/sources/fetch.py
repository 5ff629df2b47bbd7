"""Sources and their pins: what a folder under data/raw, data/textures or data/weights is made from.

A pin is the SHA-256 of what a source holds: the tree of a folder, the bytes of an archive or a
download, the photograph behind a sample, the text of a list. Hidden files, what a NAS or a desktop
leaves behind and links out of the folder are neither hashed nor copied. A list (NAME.urls) names
several files: a line is the SHA-256 of one and its URLs, mirrors in the order to be tried; archives
are unpacked over each other.
"""

import fcntl
import hashlib
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from admodels import datasets
from admodels.datasets import LeftOut
from admodels.foundation.errors import DataError, SourceError
from admodels.foundation.exclude import is_excluded
from admodels.foundation.files import sha256_of, whole_file
from admodels.foundation.files import whole_folder as whole_folder
from admodels.foundation.progress import progress
from admodels.sources.archive import extract, is_archive
from admodels.sources.download import URL_SCHEMES, download
from admodels.sources.source import Source

SAMPLE_PREFIX = "scikit-image/"
LIST_SUFFIX = ".urls"
LONGEST_LIST_BYTES = 16 << 20  # some 100,000 files
LINE_SHOWN = 200  # characters
FICLONE = 0x40049409  # linux/fs.h


def tree_sha256(root: Path, category: str = "", exclude: Sequence[str] = ()) -> str:
    """The hash of a folder: its sorted POSIX paths and the SHA-256 of each file, no times.

    Of a dataset that holds the category as a sub-folder, only what `fetch` copies counts.
    """
    tree = hashlib.sha256()
    base, paths, _ = _wanted_files(root, category, exclude)
    for path in progress(paths, len(paths), "hash files"):
        tree.update(f"{path}\0{sha256_of(base / path)}\n".encode())
    return tree.hexdigest()


def _wanted_files(
    root: Path, category: str, exclude: Sequence[str]
) -> tuple[Path, list[str], list[LeftOut]]:
    """The folder that paths are relative to, the sorted paths that count, what is left out."""
    folder, prefixes = datasets.narrow(root, category)
    base = root / folder
    paths, left_out = datasets.list_parts(base, prefixes, exclude)
    return base, paths, left_out


def pin_source(
    location: str,
    category: str = "",
    mirrors: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Source:
    """The source at `location` as it is now: its kind is recognised, its content hashed.

    Of a folder, what `exclude` and `foundation/exclude.py` name does not count.

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
    path = local_path(location)
    if path.is_file():
        sha256 = sha256_of(path)
        return Source(kind="urls" if is_list else "archive", location=location, sha256=sha256)
    return Source(kind="path", location=location, sha256=tree_sha256(path, category, exclude))


def _sample_sha256(category: str) -> str:
    from admodels.datasets import sample

    return hashlib.sha256(sample.photograph(category)).hexdigest()


def local_path(location: str) -> Path:
    """The file or folder of a source on this machine, `~` expanded.

    Raises:
        SourceError: nothing is there.
    """
    path = Path(location).expanduser()
    if not path.exists():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise SourceError(
            f"source is missing{datasets.nearest(path.name, beside)}",
            where=location,
            expected="a folder, an archive, an http(s) or file URL, or scikit-image/NAME.png",
            next_step="mount or restore it, or correct the path; of a task that exists already, "
            "`source.location` in params.yaml",
        )
    return path


def fetch(source: Source, category: str, target: Path, exclude: Sequence[str] = ()) -> None:
    """Copy or download the source to the folder `target`, whole or not at all.

    Of a dataset that holds the category as a sub-folder, only that folder is copied. What is not
    copied of it stands with its reason in `datasets.LEFT_OUT_OF_COPY`.

    Raises:
        SourceError: the source cannot be reached.
        DataError: it differs from its pin, or it is an archive that cannot be trusted or read.
        OSError: the source cannot be read or `target` cannot be written.
    """
    with whole_folder(target) as content:
        refresh = f"admodels task refresh {target.name}"
        if left_out := fetch_source(source, category, content, refresh, exclude):
            datasets.write_left_out(content / datasets.LEFT_OUT_OF_COPY, left_out)


def fetch_source(
    source: Source, category: str, content: Path, refresh: str, exclude: Sequence[str] = ()
) -> list[LeftOut]:
    """`fetch` into the empty folder `content`, and what is not copied.

    `refresh` is the command that pins anew.
    """
    if source.kind == "sample":
        from admodels.datasets import sample

        photograph = Path(source.location).stem
        refuse_other(source, _sample_sha256(photograph), refresh)
        sample.draw(photograph, content)
        return []
    if source.kind == "path":
        base, paths, left_out = _wanted_files(_folder(source.location), category, exclude)
        _copy(base, paths, content)
        refuse_other(source, tree_sha256(content), refresh)
        return left_out
    return _unpack(source, category, content, refresh)


def _unpack(source: Source, category: str, content: Path, refresh: str) -> list[LeftOut]:
    """The archives and files of a source in `content`; what an archive hides is not unpacked."""
    unpacked = content / ".unpacked"  # hidden: nothing of this name can come out of an archive
    unpacked.mkdir()
    hidden: list[str] = []
    for file, name in _parcels(source, refresh):
        if source.kind == "urls" and not is_archive(file):
            shutil.copyfile(file, unpacked / PurePosixPath(urlsplit(name).path).name)
        else:
            hidden += extract(file, unpacked, name, f"pack the dataset anew, then `{refresh}`")
    folder, prefixes = datasets.narrow(unpacked, category)
    base = unpacked / folder
    inside = base.iterdir() if prefixes == ("",) else (base / prefix for prefix in prefixes)
    for path in sorted(inside):
        path.replace(content / path.name)
    shutil.rmtree(unpacked)
    names = (name.removeprefix(folder) for name in hidden if name.startswith(folder))
    kept = (name for name in names if name.startswith(prefixes))
    return [LeftOut.of(name, "excluded" if is_excluded(name) else "hidden") for name in kept]


def _parcels(source: Source, refresh: str) -> Iterator[tuple[Path, str]]:
    """The files that a source consists of, checked against their pins, and their names."""
    urls, remedy = (source.location, *source.mirrors), f"`{refresh}`"
    if source.location.startswith(URL_SCHEMES):
        file = download(urls, source.sha256, remedy)
    else:
        file = local_path(source.location)
        refuse_other(source, sha256_of(file), refresh)
    if source.kind != "urls":
        yield file, source.location
        return
    remedy = f"correct the list, then {remedy}"
    for pin, mirrors in _list_entries(file, source.location, remedy):
        yield download(mirrors, pin, remedy), mirrors[0]


def _list_entries(file: Path, where: str, remedy: str) -> Iterator[tuple[str, list[str]]]:
    """The pin and the URLs of each line of a list.

    Raises:
        DataError: it is no list: a page of an error, say, or a file without end.
    """
    if file.stat().st_size > LONGEST_LIST_BYTES:
        raise _no_list(f"the list has {file.stat().st_size} bytes", where, remedy)
    text = file.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), 1):
        pin, *mirrors = line.split() or [""]
        if pin and not (re.fullmatch("[0-9a-f]{64}", pin) and mirrors):
            raise _no_list(f"line {number} of the list is `{line[:LINE_SHOWN]}`", where, remedy)
        if pin:
            yield pin, mirrors


def _no_list(fault: str, where: str, remedy: str) -> DataError:
    return DataError(
        fault,
        where=where,
        expected="a SHA-256 and at least one URL, between blanks, on each line",
        next_step=remedy,
    )


def fetch_file(location: str, pin: str, target: Path, key: str) -> None:
    """One file by path or URL; `pin` is the start of its SHA-256 and stands at `key`.

    Raises:
        SourceError: it cannot be reached.
        DataError: it differs from its pin: its weights could be anything.
    """
    if location.startswith(URL_SCHEMES):
        origin = download([location], pin, f"correct `{key}`")
    else:
        origin = local_path(location)
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
    path = local_path(location)
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
