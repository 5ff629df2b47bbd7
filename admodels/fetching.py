"""Sources and their pins: what a folder under data/raw or data/assets is made from.

A pin is the SHA-256 of what a source holds: the tree of a folder, the bytes of an archive or a
download, the photograph behind a sample. Hidden files (.DS_Store, ._x) are neither hashed nor
copied.
"""

import hashlib
import os
import shutil
import tarfile
import tempfile
import urllib.request
import zipfile
import zlib
from http.client import HTTPException
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from urllib.error import URLError

from admodels.errors import DataError, SourceError
from admodels.manifest import sha256_of
from admodels.progress import Progress, progress
from admodels.sources import Source as Source
from admodels.writing import whole_folder as whole_folder

URL_TIMEOUT_SECONDS = 60
MIB = CHUNK_BYTES = 1 << 20
URL_SCHEMES = ("http://", "https://", "file://")
SAMPLE_PREFIX = "scikit-image/"
SPLIT_TABLES = "split_csv"  # stands beside the categories and says how they are split (VisA)


class UnsafeMember(Exception):  # noqa: N818  becomes a DataError of its archive
    """A member of an archive that must not be unpacked."""


UNREADABLE = (
    *(UnsafeMember, tarfile.TarError, zipfile.BadZipFile, zlib.error, LZMAError, EOFError),
    *(RuntimeError, NotImplementedError),  # encrypted, or packed in a way of its own
)


def tree_sha256(root: Path, category: str = "") -> str:
    """The hash of a folder: its sorted POSIX paths and the SHA-256 of each file, no times.

    Of a dataset that holds the category as a sub-folder, only what `fetch` brings counts.
    """
    tree = hashlib.sha256()
    base, paths = _brought(root, category)
    for path in progress(paths, len(paths), "hash files"):
        tree.update(f"{path}\0{sha256_of(base / path)}\n".encode())
    return tree.hexdigest()


def _brought(root: Path, category: str) -> tuple[Path, list[str]]:
    """The files to bring, and the folder that their paths are relative to."""
    base, only = _narrowed(root, category)
    return base, sorted(f"{part}{path}" for part in only for path in _files(base / part))


def _files(root: Path) -> list[str]:
    """The sorted relative POSIX paths of the files below `root`, links followed.

    Raises:
        DataError: a link leads back to a folder above it.
        OSError: a folder cannot be listed; a part of a dataset is never taken for the whole.
    """
    paths = []
    for folder, _, names in os.walk(root, followlinks=True, onerror=_raised):
        if Path(folder).is_symlink() and Path(folder).resolve() in Path(folder).absolute().parents:
            raise DataError(
                "a link leads back to a folder above it",
                where=folder,
                expected="a folder that ends somewhere",
                next_step="remove the link, then run this again",
            )
        paths += [(Path(folder) / name).relative_to(root).as_posix() for name in names]
    return sorted(path for path in paths if not _hidden(path))


def _raised(error: OSError) -> None:
    raise error


def _hidden(path: str) -> bool:
    # __MACOSX is where macOS archives keep the ._ files
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(path).parts)


def _narrowed(root: Path, category: str) -> tuple[Path, tuple[str, ...]]:
    """The category's folder where `root`, or the only folder in it, is a whole dataset.

    A folder, and the parts of it that count: all of it is one part without a name.
    """
    inside = [p for p in root.iterdir() if not _hidden(p.name)]
    outer = [root, *(inside if len(inside) == 1 and inside[0].is_dir() else [])]
    found = [folder for folder in outer if category and (folder / category).is_dir()]
    if not found:
        return root, ("",)
    if (found[0] / SPLIT_TABLES).is_dir():
        return found[0], (f"{category}/", f"{SPLIT_TABLES}/")
    return found[0] / category, ("",)


def pinned(location: str, category: str = "") -> Source:
    """The source at `location` as it is now: its kind is recognised, its content hashed.

    Raises:
        SourceError: nothing can be reached there.
        ConfigurationError: a packaged photograph that does not exist.
    """
    if location.startswith(SAMPLE_PREFIX) and not Path(location).exists():
        return Source(kind="sample", location=location, sha256=_sample_sha256(Path(location).stem))
    if location.startswith(URL_SCHEMES):
        with tempfile.TemporaryDirectory() as folder:
            sha256 = sha256_of(_downloaded(location, Path(folder)))
        return Source(kind="url", location=location, sha256=sha256)
    path = _existing(location)
    if path.is_file():
        return Source(kind="archive", location=location, sha256=sha256_of(path))
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
            next_step="mount or restore it, or mend `source.location` in params.yaml",
        )
    return path


def _downloaded(url: str, folder: Path) -> Path:
    target = folder / "download"
    try:
        with (
            urllib.request.urlopen(url, timeout=URL_TIMEOUT_SECONDS) as reply,
            target.open("wb") as file,
        ):
            promised = int(reply.headers.get("Content-Length") or 0)
            shown = Progress(promised // MIB, "download, MiB")
            while data := reply.read(CHUNK_BYTES):
                file.write(data)
                shown.at(file.tell() // MIB)
            if promised and file.tell() != promised:
                raise HTTPException(f"{file.tell()} of {promised} bytes came")
    except (URLError, HTTPException, TimeoutError, ConnectionError, ValueError) as error:
        raise SourceError(
            f"source cannot be downloaded: {error}",
            where=url,
            expected="a reply with the archive",
            next_step="check the URL and the network, then `dvc repro` again",
        ) from error
    return target


def fetch(source: Source, category: str, target: Path) -> None:
    """Bring the source to the folder `target`, whole or not at all.

    Of a dataset that holds the category as a sub-folder, only that folder is brought.

    Raises:
        SourceError: the source cannot be reached.
        DataError: it differs from its pin, or it is an archive that cannot be trusted or read.
        OSError: the source cannot be read or `target` cannot be written.
    """
    with whole_folder(target) as content:
        bring(source, category, content, f"admodels task refresh {target.name}")


def bring(source: Source, category: str, content: Path, refresh: str) -> None:
    """`fetch` into the empty folder `content`; `refresh` is the command that pins anew."""
    if source.kind == "sample":
        from admodels.datasets import sample

        photograph = Path(source.location).stem
        refuse_other(source, _sample_sha256(photograph), refresh)
        sample.draw(photograph, content)
    elif source.kind == "path":
        _copy(*_brought(_folder(source.location), category), content)
        refuse_other(source, tree_sha256(content), refresh)
    else:
        with tempfile.TemporaryDirectory(dir=content.parent, prefix=content.name) as folder:
            url = source.kind == "url"
            place = source.location
            archive = _downloaded(place, Path(folder)) if url else _existing(place)
            refuse_other(source, sha256_of(archive), refresh)
            extracted = Path(folder) / "extracted"
            _extract(archive, extracted, source, refresh)
            base, only = _narrowed(extracted, category)
            for name in only:
                (base / name).replace(content / name)


def bring_file(location: str, pin: str, target: Path, key: str) -> None:
    """One file by path or URL; `pin` is the start of its SHA-256 and stands at `key`.

    Raises:
        SourceError: it cannot be reached.
        DataError: it differs from its pin: its weights could be anything.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        is_url = location.startswith(URL_SCHEMES)
        origin = _downloaded(location, Path(folder)) if is_url else _existing(location)
        found = sha256_of(origin)
        if not found.startswith(pin):
            raise DataError(
                f"file differs from its pin: its sha256 is {found}",
                where=location,
                expected=f"the pinned {pin}",
                next_step=f"take the right file; if the change is meant, mend `{key}`",
            )
        shutil.copyfile(origin, target)


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
            next_step="mend `source.kind` in params.yaml (an archive is `kind: archive`)",
        )
    return path


def _copy(origin: Path, paths: list[str], content: Path) -> None:
    for path in progress(paths, len(paths), "copy files"):
        (content / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(origin / path, content / path)


def _extract(archive: Path, target: Path, source: Source, refresh: str) -> None:
    """Unpack plain files only, all below `target`.

    Raises:
        DataError: a member that leaves the folder or is a link (it could overwrite or read any
            file of this machine), or not an archive.
    """
    target.mkdir()
    try:
        if zipfile.is_zipfile(archive):
            _extract_zip(archive, target)
        else:
            _extract_tar(archive, target)
    except (OSError, *UNREADABLE) as error:
        # the disk's errors have a number; gzip and bz2 complain of their data without one
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(
            f"archive cannot be read: {error}",
            where=source.location,
            expected="a zip or tar archive of plain files",
            next_step=f"pack the dataset anew, then `{refresh}`",
        ) from error


def _extract_zip(archive: Path, target: Path) -> None:
    with zipfile.ZipFile(archive) as content:
        members = content.infolist()
        for member in progress(members, len(members), "extract files"):
            is_link = (member.external_attr >> 16) & 0o170000 == 0o120000  # Unix mode: S_IFLNK
            _refuse_unsafe(member.filename, is_link)
            if not _hidden(member.filename):
                content.extract(member, target)


def _extract_tar(archive: Path, target: Path) -> None:
    shown = Progress(archive.stat().st_size // MIB, "extract, MiB read")
    with archive.open("rb") as file, tarfile.open(fileobj=file) as content:
        for member in content:
            shown.at(file.tell() // MIB)  # the number of members is only known at the end
            _refuse_unsafe(member.name, not (member.isfile() or member.isdir()))
            if not _hidden(member.name):
                _extract_member(content, member, target / member.name)
        # the checksum of gz, xz and bz2 stands at the end, behind what tarfile reads
        while content.fileobj and content.fileobj.read(CHUNK_BYTES):
            pass


def _extract_member(content: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    # by hand: Python before 3.11.4 has no safe `extract`
    data = content.extractfile(member)
    if data is None:
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with data, path.open("wb") as file:
        shutil.copyfileobj(data, file)


def _refuse_unsafe(name: str, is_link: bool) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if is_link or path.is_absolute() or ".." in path.parts or ":" in name[:2]:
        raise UnsafeMember(f"member `{name}` is a link or leaves its folder")
