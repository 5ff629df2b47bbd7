"""Where the images of a line are: list the files, look at one, read one.

`Inbox` is all that scoring asks for; `Folder` is the one there is. A folder that is being written
to is hostile by accident: files become links or pipes between two looks. So a name is followed
folder by folder with descriptors, links are resolved by hand, and nothing below is believed that
the open file does not say itself.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from admodels.foundation.errors import ConfigurationError
from admodels.foundation.exclude import is_excluded
from admodels.foundation.manifest import IMAGE_SUFFIXES
from admodels.scoring.discover import (
    FILE_BYTES_MAX,
    NO_STATE,
    Refused,
    State,
    Status,
    Unsettled,
    file_name,
    path_text,
)

LINKS_MAX = 40  # on the way to one file, as Linux allows
FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class Listing:
    """The names of the files, sorted as printed, and how many entries a pattern excluded.

    A folder that is excluded is not entered, and counts once.
    """

    names: list[str]
    excluded: int


class Inbox(Protocol):
    """A place that files arrive in; a name is relative to it, with `/` between folders."""

    def files(self) -> Listing:
        """List every file; a folder that must not or cannot be entered is listed like a file."""

    def state(self, name: str) -> State:
        """When a file changed last, without reading it."""

    def read(self, name: str, most_bytes: int = FILE_BYTES_MAX) -> bytes:
        """The bytes of one file.

        Raises:
            Refused: it is nothing that may be read as an image.
            Unsettled: it changed meanwhile.
            OSError: the storage says no.
        """


@dataclass(frozen=True)
class Folder:
    """A folder, which may itself be a link, and all below it; see `Inbox`.

    `exclude` are patterns beside the usual ones.
    """

    path: Path
    exclude: Sequence[str] = ()

    def files(self) -> Listing:
        """Every file, relative, POSIX; a link to a folder is listed and not entered.

        Raises:
            ConfigurationError: this is not a folder, or cannot be listed.
        """
        try:
            walk = _Walk(self.path)
        except OSError as error:
            raise _no_folder(self.path, error) from error
        with closing(walk):
            return self._list(walk)

    def _list(self, walk: "_Walk") -> Listing:
        names: list[str] = []
        excluded, waiting = 0, [""]
        by_path = any("/" in pattern for pattern in self.exclude)
        while waiting:
            above = waiting.pop()
            try:
                walk.go(_names(above))
                entries = walk.entries()
            except OSError as error:
                if not above:
                    raise _no_folder(self.path, error) from error
                names.append(above.rstrip("/"))
                continue
            for name, is_folder in entries:
                if is_excluded(above + name if by_path else name, self.exclude):
                    excluded += 1
                elif is_folder:
                    waiting.append(f"{above}{name}/")
                else:
                    names.append(above + name)
        return Listing(sorted(names, key=path_text), excluded)

    def state(self, name: str) -> State:
        """Of the file, or of what a link leads to; that of no file where there is none."""
        try:
            return State.of((self.path / name).stat())
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:  # the whole path, not the name
                return NO_STATE
        try:
            with self._find(name) as place:
                return State.of(place.status)
        except (OSError, Refused):
            return NO_STATE

    def read(self, name: str, most_bytes: int = FILE_BYTES_MAX) -> bytes:
        """The bytes of one file; see `Inbox`."""
        with self._find(name) as place:
            _check_kind(place.status.st_mode, place.is_linked)
            _check_name(name)
            descriptor = os.open(place.name, FILE, dir_fd=place.folder)
        with os.fdopen(descriptor, "rb") as stream:
            before = os.fstat(descriptor)
            _check_kind(before.st_mode, is_linked=False)  # it may be another than was looked at
            if before.st_size > most_bytes:
                reason = f"{before.st_size} bytes, more than {most_bytes}"
                raise Refused(Status.TOO_LARGE, reason)
            data = stream.read(before.st_size + 1)
            if State.of(os.fstat(descriptor)).stamp != State.of(before).stamp:
                raise Unsettled
        return data

    @contextmanager
    def _find(self, name: str) -> Iterator["_Place"]:
        """Where the file of this name stands, every link on the way resolved below this folder."""
        walk, left = _Walk(self.path), _names(name)
        try:
            while True:
                inner = left.pop(0) if left else "."
                target = walk.link(inner)
                if target is not None:
                    left = walk.follow(target) + left
                elif inner == "..":
                    left = walk.restart(-1) + left
                elif left:
                    walk.enter(inner)
                else:
                    break
            status = os.stat(inner, dir_fd=walk.folder, follow_symlinks=False)
            yield _Place(walk.folder, inner, status, walk.links > 0)
        finally:
            walk.close()


@dataclass(frozen=True)
class _Place:
    """A file by its folder, open, and its name in it; `is_linked`: a link led here."""

    folder: int
    name: str
    status: os.stat_result
    is_linked: bool


class _Walk:
    """A way down from `root`, one folder after the other, of which only the last is open."""

    def __init__(self, root: Path) -> None:
        self.root, self.entered, self.links = root, list[str](), 0
        self.folder = os.open(root, FOLDER)

    def enter(self, name: str) -> None:
        """Go into a folder; a link is none."""
        inner = os.open(name, FOLDER | os.O_NOFOLLOW, dir_fd=self.folder)
        self.close()
        self.folder = inner
        self.entered.append(name)

    def go(self, names: list[str]) -> None:
        """Go to the folder of this way from the root: on from here if it is further down."""
        if names[: len(self.entered)] != self.entered:
            self.restart(0)
        for name in names[len(self.entered) :]:
            self.enter(name)

    def entries(self) -> list[tuple[str, bool]]:
        """The names in the folder, and which of them are folders; a link is none."""
        descriptor = os.open(".", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.folder)
        try:
            with os.scandir(descriptor) as entries:
                return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        finally:
            os.close(descriptor)

    def link(self, name: str) -> str | None:
        """The target of the link of this name; None: it is no link."""
        try:
            return os.readlink(name, dir_fd=self.folder)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return None

    def follow(self, target: str) -> list[str]:
        """The names to go by from here to the target of a link.

        Raises:
            Refused: it leads out of the root.
            OSError: there are too many links.
        """
        self.links += 1
        if self.links > LINKS_MAX:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if not target.startswith("/"):
            return _names(target)
        for root in (os.path.realpath(self.root), os.path.abspath(self.root)):  # noqa: PTH100
            if f"{target}/".startswith(f"{root.rstrip('/')}/"):
                self.restart(0)
                return _names(target[len(root) :])
        raise _outside()

    def restart(self, keep: int) -> list[str]:
        """Go back to the root; the names of the folders to enter again, all but the last -keep."""
        if keep and not self.entered:
            raise _outside()
        root = os.open(self.root, FOLDER)
        self.close()
        names, self.entered, self.folder = self.entered[:keep], [], root
        return names

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.folder)


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in ("", ".")]


def _outside() -> Refused:
    return Refused(Status.OUTSIDE_FOLDER, "a link that leads out of the folder")


def same_contents(inbox: Inbox, path: str, sha256: str) -> bytes | None:
    """The bytes of the file of a row's `path`, if they are still those of this hash."""
    try:
        data = inbox.read(file_name(path))
    except (OSError, Refused, Unsettled):
        return None
    return data if hashlib.sha256(data).hexdigest() == sha256 else None


def _check_name(name: str) -> None:
    if any(inner.startswith(".") for inner in name.split("/")):
        raise Refused(Status.NOT_AN_IMAGE, "a hidden name")
    if Path(name).suffix.lower() not in IMAGE_SUFFIXES:
        raise Refused(Status.NOT_AN_IMAGE, f"not a suffix of an image: {path_text(name)!r}")


def _check_kind(mode: int, is_linked: bool) -> None:
    if stat.S_ISREG(mode):
        return
    if not stat.S_ISDIR(mode):
        raise Refused(Status.NOT_AN_IMAGE, "a device, pipe or socket")
    if is_linked:
        raise Refused(Status.NOT_AN_IMAGE, "a link to a folder, whose files stand in their place")
    raise Refused(Status.UNREADABLE, "a folder that cannot be listed")


def _no_folder(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"no folder to score: {error.strerror}",
        where=path_text(os.fspath(path)),
        expected="a folder of images that this user may list",
        next_step="correct the path, or mount the storage that holds it",
    )
