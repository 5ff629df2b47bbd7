"""Which files a folder holds, and what may be read of them; no file is passed over in silence."""

import hashlib
import os
import stat
from enum import StrEnum
from pathlib import Path

from admodels.foundation.errors import ConfigurationError
from admodels.images.decode import IMAGE_SUFFIXES, LARGEST_PIXELS

FILE_BYTES_MAX = 8 * LARGEST_PIXELS  # the largest image with 16 bits in each of four channels


class Status(StrEnum):
    """The result for a file: one of these words and no other, so that programs can rely on them."""

    SCORED = "scored"
    EMPTY = "empty"  # zero bytes
    TRUNCATED = "truncated"
    UNDECODABLE = "undecodable"
    TOO_LARGE = "too_large"  # more bytes or pixels than are safe to decode
    WRONG_BIT_DEPTH = "wrong_bit_depth"  # this and the next four: none of the kind learnt from
    WRONG_SIZE = "wrong_size"
    WRONG_CHANNELS = "wrong_channels"  # grey where all were colour, or the other way round
    BLANK = "blank"  # nothing is on it: a closed shutter, a lamp out
    OVEREXPOSED = "overexposed"
    UNSCORABLE = "unscorable"  # decoded, but the detector's answer is not a finite number
    NOT_AN_IMAGE = "not_an_image"  # by name or kind; not read
    OUTSIDE_FOLDER = "outside_folder"  # a link that leads out; not read
    VANISHED = "vanished"  # gone between listing and reading, or a link to nothing
    UNREADABLE = "unreadable"  # the storage or its permissions refuse


LOCK_SUFFIXES = (".part", ".partial", ".filepart", ".crdownload", ".tmp", ".lock")


NOT_IMAGES = (Status.NOT_AN_IMAGE, Status.OUTSIDE_FOLDER)


class Unsettled(Exception):  # noqa: N818  it waits for the next run
    """A file that changed while it was read."""


class Refused(Exception):  # noqa: N818  one row of a table, not the failure of a run
    """A file that is not scored, its status and the reason in words."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


def printable(name: str) -> str:
    """`name` as text that any file can hold: only bytes that are no UTF-8 change, to their hex."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return name if text == name else text  # one object for two lists of a million names


def files(folder: Path) -> list[str]:
    """Every file below `folder`, relative, POSIX, sorted by its printable name.

    A link to a folder is listed and not entered; a folder that cannot be listed is itself listed.

    Raises:
        ConfigurationError: `folder` is not a folder, or cannot be listed.
    """
    root, names_below = os.fspath(folder), []
    closed: list[OSError] = []
    for where, folders, names in os.walk(root, onerror=closed.append):
        inside = os.path.relpath(where, root)
        links = [name for name in folders if Path(where, name).is_symlink()]
        names_below += [name if inside == "." else f"{inside}/{name}" for name in [*names, *links]]
    names_below += [os.path.relpath(error.filename, root) for error in closed]
    if "." in names_below:
        raise ConfigurationError(
            f"no folder to score: {closed[0].strerror}",
            where=printable(root),
            expected="a folder of images that this user may list",
            next_step="correct the path, or mount the storage that holds it",
        )
    return sorted(names_below, key=printable)


def stamp(status: os.stat_result) -> str:
    """Size, time and inode of a file: it has not changed where they are the same."""
    return f"{status.st_size}:{status.st_mtime_ns}:{status.st_ino}"


def stamp_of(path: Path) -> str:
    """The stamp of the file at `path`; empty where there is none."""
    try:
        return stamp(path.stat())
    except OSError:
        return ""


def mtime_ns(stamped: str) -> int:
    """When a file was last written, from its stamp, within 64 bits; 0 where that is not known."""
    return min(int(stamped.split(":")[1]), 2**63 - 1) if stamped else 0


def is_settled(name: str, stamped: str, now: float, seconds: float) -> bool:
    """Whether a file looks finished: by its name, and no change within `seconds`.

    A time that lies further ahead than that is a wrong clock, and says nothing.
    """
    changed = mtime_ns(stamped) / 1e9
    return not name.lower().endswith(LOCK_SUFFIXES) and abs(now - changed) >= seconds


def contents(root: Path, name: str) -> bytes:
    """The bytes of the image file `name` below `root`, a resolved path.

    Raises:
        Refused: not a file that may be read as an image.
        Unsettled: it changed meanwhile.
        OSError: the storage says no.
    """
    real = Path(os.path.realpath(root / name))
    if not real.is_relative_to(root):
        raise Refused(Status.OUTSIDE_FOLDER, "a link that leads out of the folder")
    status = real.stat()
    _check_kind(root / name, status.st_mode)
    if any(name_part.startswith(".") for name_part in Path(name).parts):
        raise Refused(Status.NOT_AN_IMAGE, "a hidden name")
    if Path(name).suffix.lower() not in IMAGE_SUFFIXES:
        raise Refused(Status.NOT_AN_IMAGE, f"not a suffix of an image: {printable(name)!r}")
    if status.st_size > FILE_BYTES_MAX:
        raise Refused(Status.TOO_LARGE, f"{status.st_size} bytes, more than {FILE_BYTES_MAX}")
    # A link put in its place since it was resolved is not followed.
    with os.fdopen(os.open(real, os.O_RDONLY | os.O_NOFOLLOW), "rb") as stream:
        before = stamp(os.fstat(stream.fileno()))
        data = stream.read(FILE_BYTES_MAX)
        if stamp(os.fstat(stream.fileno())) != before:
            raise Unsettled
    return data


def same_contents(root: Path, name: str, sha256: str) -> bytes | None:
    """The bytes of `name` below `root`, if they are still those of this hash."""
    try:
        data = contents(root.resolve(), name)
    except (OSError, Refused, Unsettled):
        return None
    return data if hashlib.sha256(data).hexdigest() == sha256 else None


def _check_kind(path: Path, mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    if not stat.S_ISDIR(mode):
        raise Refused(Status.NOT_AN_IMAGE, "a device, pipe or socket")
    if path.is_symlink():
        raise Refused(Status.NOT_AN_IMAGE, "a link to a folder, whose files stand in their place")
    raise Refused(Status.UNREADABLE, "a folder that cannot be listed")
