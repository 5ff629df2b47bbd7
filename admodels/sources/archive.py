"""Archives unpacked safely: plain files only, all below one folder, within bounds.

Refused are members that leave the folder or are links or devices, two members that some file
system would take for one, and bombs: more data, more files or longer headers than images need.
"""

import errno
import os
import shutil
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO, Self

from admodels.foundation.errors import DataError
from admodels.foundation.progress import Progress, progress

CHUNK_BYTES = 1 << 20
SMALL_BYTES = 256 << 20  # that much may come out of any archive
LARGEST_RATIO = 100  # of unpacked to packed; images hardly shrink, uncompressed ones some fivefold
MOST_MEMBERS = 2_000_000
FEW_MEMBERS = 10_000  # that many may come out of any archive
LEAST_PACKED_BYTES = 32  # of a member, on average: an image has hundreds; tar headers take a few
MOST_EMPTY_FILES = 1_000  # an image is never empty
LONGEST_NAME_BYTES = 255  # NAME_MAX of Linux file systems
LONGEST_PATH_BYTES = 1024  # PATH_MAX of macOS; 4096 on Linux, the folder above included
MOST_PADDING_BYTES = 16 << 20  # zeros behind the end of a tar; `tar` itself pads to 10 KiB
END_RECORD_BYTES = 22  # of a zip, without its comment: PKWARE APPNOTE 6.3.10, section 4.3.16
END_RECORD = b"PK\x05\x06"
LONGEST_HEADER_BYTES = 1 << 20  # of a tar: names longer than any file system takes
TABLES = (".csv", ".txt")  # what a layout may read beside names
NO_TEXT = ("Cc", "Cs")  # control characters; bytes that are no UTF-8
ZIP_BEGINNINGS = (b"PK\x03\x04", END_RECORD)
TAR_HEADERS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
TAR_NAMES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


class UnsafeMember(Exception):  # noqa: N818  becomes a DataError of its archive
    """A member of an archive that must not be unpacked."""


UNREADABLE = (
    *(UnsafeMember, tarfile.TarError, zipfile.BadZipFile, zlib.error, LZMAError, EOFError),
    RuntimeError,  # encrypted, or packed in a way of its own (zipfile's other class is one, too)
    *(ValueError, struct.error),  # headers of nonsense
)


def extract(
    archive: Path, target: Path, where: object, next_step: str, *, outline: bool = False
) -> list[str]:
    """Unpack into the folder `target`; hidden files (.DS_Store, ._x) are left out and returned.

    An `outline` has every name, hidden ones as well, and only tables have their content.

    Raises:
        DataError: not an archive, or one that could overwrite or read any file of this machine,
            fill its disk, or come out otherwise elsewhere.
    """
    target.mkdir(parents=True, exist_ok=True)
    room = _Room(target, archive.stat().st_size, outline)
    try:
        with archive.open("rb") as file:
            (_zip if file.read(4) in ZIP_BEGINNINGS else _tar)(archive, room)
    except (OSError, *UNREADABLE) as error:
        # the disk's errors have a number, but for a seek to where the archive says; gzip and bz2
        # complain of their data without one
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise DataError(
            f"archive cannot be read: {error}",
            where=where,
            expected="a zip or tar archive of plain files",
            next_step=next_step,
        ) from error
    return room.hidden


def is_archive(file: Path) -> bool:
    """Whether the file looks like a zip or tar archive."""
    with file.open("rb") as opened:
        is_zip = opened.read(4) in ZIP_BEGINNINGS
    return is_zip or tarfile.is_tarfile(file)


def is_hidden(path: str) -> bool:
    """Whether a part of the path is one that file managers leave behind."""
    # __MACOSX is where macOS archives keep the ._ files
    return any(name.startswith(".") or name == "__MACOSX" for name in PurePosixPath(path).parts)


class _Room:
    """A folder to unpack into, and what may still come."""

    def __init__(self, folder: Path, packed_bytes: int, outline: bool) -> None:
        self._folder = folder
        self._outline = outline
        self._bytes = max(SMALL_BYTES, LARGEST_RATIO * packed_bytes)
        self._members = min(MOST_MEMBERS, FEW_MEMBERS + packed_bytes // LEAST_PACKED_BYTES)
        self._empty_files = MOST_EMPTY_FILES
        self.hidden: list[str] = []  # files that nobody wants
        # what a file system may take for one: how it is spelt, and whether it is a folder
        self._taken: dict[str, tuple[str, bool]] = {}

    def take(self, name: str, size: int, is_plain: bool, is_folder: bool) -> None:
        """Count a member in; `is_plain` is a plain file or a folder.

        Raises:
            UnsafeMember: it must not be unpacked, or not after the others.
        """
        path = PurePosixPath(name.replace("\\", "/"))
        if not is_plain or path.is_absolute() or ".." in path.parts or ":" in name[:2]:
            raise UnsafeMember(f"member `{name}` is a link or leaves its folder")
        if any(unicodedata.category(character) in NO_TEXT for character in name):
            raise UnsafeMember(f"member {name!a} has a name that is no text")
        longest = max(len(element.encode()) for element in (*path.parts, ""))
        if longest > LONGEST_NAME_BYTES or len(name.encode()) > LONGEST_PATH_BYTES:
            raise UnsafeMember(f"member `{name[:80]}...` has a longer name than file systems take")
        self._bytes -= size
        self._members -= 1
        self._empty_files -= not (size or is_folder)
        if min(self._bytes, self._members, self._empty_files) < 0:
            raise UnsafeMember(f"member `{name}` is more than images need: a bomb?")

    def wants(self, name: str) -> bool:
        """Whether to write the file of this name; a hidden name is added to `hidden` instead."""
        if self._outline:
            return True
        if is_hidden(name):
            self.hidden.append(str(PurePosixPath(name)))
        return not is_hidden(name)

    def claim(self, name: str) -> Path:
        """The path of a plain file that is to be written.

        Raises:
            UnsafeMember: another member has this path, or one that differs in case alone.
        """
        path = PurePosixPath(name)
        for place, is_folder in ((path, False), *((above, True) for above in path.parents[:-1])):
            entry = (str(place), is_folder)
            seen = unicodedata.normalize("NFC", str(place)).casefold()
            before = self._taken.setdefault(seen, entry)
            if before is not entry and not (is_folder and before == entry):
                raise UnsafeMember(f"members `{before[0]}` and `{place}` are one to some systems")
        return self._folder / path

    def write(self, data: IO[bytes], path: Path) -> None:
        """Write a plain file; `tarfile.data_filter` would let links in, and a zip has none."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            raise UnsafeMember(f"`{path.name}` came with another archive already")
        with path.open("wb") as file:
            if not self._outline or path.suffix.lower() in TABLES:
                shutil.copyfileobj(data, file, CHUNK_BYTES)


def _zip(archive: Path, room: _Room) -> None:
    with zipfile.ZipFile(archive) as content:
        members = content.infolist()
        _refuse_data_around(archive, content)
        for member in members:  # a bomb is refused before it is lit
            kind = (member.external_attr >> 16) & 0o170000  # Unix: a plain file, a folder, or none
            is_plain = kind in (0, 0o100000, 0o040000)
            room.take(member.filename, member.file_size, is_plain, member.is_dir())
        for member in progress(members, len(members), "extract files"):
            if not member.is_dir() and room.wants(member.filename):
                path = room.claim(member.filename)
                with content.open(member) as data:
                    room.write(data, path)


def _refuse_data_around(archive: Path, content: zipfile.ZipFile) -> None:
    """Refuse a zip with data before or behind it, such as a second zip: `zipfile` overlooks it."""
    with archive.open("rb") as file:
        end = file.seek(-END_RECORD_BYTES - len(content.comment), os.SEEK_END)
        is_end = file.read(4) == END_RECORD
    starts = [member.header_offset for member in content.infolist()]
    if not is_end or min(starts, default=end) != 0:
        raise UnsafeMember("data stands before the beginning or behind the end")


class _Header(tarfile.TarInfo):
    def _proc_member(self, archive: tarfile.TarFile) -> Self:
        # tarfile reads these into memory, however long
        if self.type in (*TAR_HEADERS, *TAR_NAMES) and self.size > LONGEST_HEADER_BYTES:
            raise UnsafeMember(f"a header of {self.size} bytes")
        return super()._proc_member(archive)  # type: ignore[misc,no-any-return]


def _tar(archive: Path, room: _Room) -> None:
    shown = Progress(archive.stat().st_size // CHUNK_BYTES, "extract, MiB read")
    with archive.open("rb") as file, tarfile.open(fileobj=file, tarinfo=_Header) as content:
        for member in content:
            content.members = []  # type: ignore[attr-defined]  # it would keep them all
            shown.at(file.tell() // CHUNK_BYTES)  # the number of members is only known at the end
            is_plain = member.isfile() or member.isdir()
            room.take(member.name, member.size, is_plain, member.isdir())
            data = content.extractfile(member)
            if data and room.wants(member.name):
                room.write(data, room.claim(member.name))
        if content.fileobj:
            if content.fileobj.tell() == content.offset:  # no block of zeros was read
                raise UnsafeMember("the end mark is missing: a part of an archive?")
            _refuse_data_behind(content.fileobj.read)
        if file.tell() != archive.stat().st_size:  # bz2 and xz stop where no stream begins
            raise UnsafeMember("data stands behind the end")


def _refuse_data_behind(read: Callable[[int], bytes]) -> None:
    """Read on behind the members, where the checksum of gz, xz and bz2 stands, and zeros alone.

    A second tar would be overlooked there, and zeros without end would unpack for hours.
    """
    padding = 0
    while data := read(CHUNK_BYTES):
        padding += len(data)
        if padding > MOST_PADDING_BYTES or data.strip(b"\0"):
            raise UnsafeMember("data stands behind the end")
