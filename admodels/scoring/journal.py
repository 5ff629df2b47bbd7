"""Files of chained lines, and the journal of a ledger: the sha256 of every file, in order.

journal.jsonl   a line of JSON for each change: `at`, `do`, `files` (path -> sha256, null: gone)

A line is on the disk before its files take their places, so a file that it does not know was not
written by this program, and one with other contents was changed since. `chain` is the sha256 of
the line and of the `chain` before it: a line that is lost or changed is noticed.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from getpass import getuser
from pathlib import Path
from typing import Any

from admodels.foundation.errors import StorageError
from admodels.foundation.files import sha256_of, sync

NAME = "journal.jsonl"
BLOCK = 65_536  # bytes that are read at once, from the end
# A process that dies may leave the files of these out of place.
MOVES = ("write", "merge", "take out", "prune")
Files = Mapping[str, str | None]


class Chain:
    """A file of JSON lines that are only appended, each with the time `at` of it.

    `add` is for the holder of the ledger's commit lock alone.
    """

    next_step = "restore it from the backup"

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, content: Mapping[str, object]) -> None:
        """Add a line, on the disk when this returns; what a dying process left half is cut off."""
        last, end = self._last()
        entry = {"at": datetime.now(UTC).isoformat(timespec="seconds"), **content}
        entry["chain"] = _chain(last.get("chain", ""), entry)
        is_new = not self.path.exists()
        with self.path.open("r+b" if not is_new else "xb") as file:
            file.truncate(end)
            file.seek(end)
            try:
                file.write(_text(entry).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):
                    os.ftruncate(file.fileno(), end)
                raise
        if is_new:
            sync(self.path.parent)

    def entries(self) -> Iterator[dict[str, Any]]:
        """Every line, in order.

        Raises:
            StorageError: a line is not as it was written: what was said before is not to be known.
        """
        return (entry for _, entry in self.since(0, ""))

    def since(self, place: int, chain: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """(where it ends, line) of every line from the byte `place` on, which follows `chain`.

        Raises:
            StorageError: a line is not as it was written, or none of this journal ends there.
        """
        if place > (self.path.stat().st_size if self.path.exists() else 0):
            raise self._damage(f"byte {place}")
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            end, after = file.seek(place), f" after byte {place}" if place else ""
            for number, line in enumerate(file, 1):
                if line.endswith(b"\n"):
                    entry = self._entry(line, f"line {number}{after}", chain)
                    chain, end = entry["chain"], end + len(line)
                    yield end, entry
                else:
                    self._refuse_whole(line)

    def _last(self) -> tuple[dict[str, Any], int]:
        """The last line, empty if there is none, and where the next one begins."""
        if not self.path.exists():
            return {}, 0
        with self.path.open("rb") as file:
            size = start = file.seek(0, os.SEEK_END)
            tail = b""
            while start and tail.count(b"\n") < 3:  # the last, the one before it, half a line
                start = max(0, start - BLOCK)
                file.seek(start)
                tail = file.read(size - start)
        end = size - len(tail) + tail.rfind(b"\n") + 1
        self._refuse_whole(tail[tail.rfind(b"\n") + 1 :])
        lines = tail[: tail.rfind(b"\n") + 1].splitlines()
        if not lines:
            return {}, 0
        before = self._entry(lines[-2], "the last line but one")["chain"] if len(lines) > 1 else ""
        return self._entry(lines[-1], "the last line", before), end

    def _refuse_whole(self, rest: bytes) -> None:
        """Refuse what stands after the last line end if its own was changed: it is not half."""
        text = rest.decode(errors="replace")
        with suppress(ValueError, RecursionError):
            _, end = json.JSONDecoder().raw_decode(text)
            if text[end:]:
                raise self._damage("the end of the last line")

    def _entry(self, line: bytes, name: str, chain: str | None = None) -> dict[str, Any]:
        with suppress(ValueError, TypeError, KeyError, RecursionError):
            entry: dict[str, Any] = json.loads(line)
            is_whole = isinstance(entry["chain"], str) and self._is_whole(entry)
            if is_whole and (chain is None or entry["chain"] == _chain(chain, entry)):
                return entry
        raise self._damage(name)

    def _damage(self, name: str) -> StorageError:
        return StorageError(
            f"{name} of {self.path.name} is not as it was written",
            where=self.path,
            expected="lines that follow from each other by their `chain`",
            next_step=self.next_step,
        )

    def _is_whole(self, entry: dict[str, Any]) -> bool:
        """Whether a line has the keys that every line has."""
        return isinstance(entry["at"], str)


class Journal(Chain):
    """The journal in `folder`."""

    next_step = (
        "restore it from the backup; where there is none move it away: the next run takes over the "
        "files as they are now"
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / NAME)
        self.folder = folder

    def append(self, do: str, files: Files, **more: object) -> None:
        """Add what was done to `files`."""
        self.add({"do": do, **more, "files": dict(files)})

    def _is_whole(self, entry: dict[str, Any]) -> bool:
        return isinstance(entry["files"], dict)

    def hashes(self) -> dict[str, str]:
        """The sha256 of every file that the ledger should hold, by its path in it."""
        hashes: dict[str, str | None] = {}
        for entry in self.entries():
            hashes.update(entry["files"])
        return {name: sha256 for name, sha256 in hashes.items() if sha256 is not None}

    def last(self) -> dict[str, Any]:
        """The last line, empty if there is none."""
        return self._last()[0]

    def settle(self) -> None:
        """Cancel the last change in the journal if its process died before the change was done."""
        last = self.last()
        if last.get("do") not in MOVES:
            return
        now = {name: sha256_or_none(self.folder / name) for name in last["files"]}
        if now == last["files"]:
            return
        *earlier, _ = self.entries()
        before: dict[str, str | None] = {}
        for entry in earlier:
            before.update(entry["files"])
        if all(now[name] in (last["files"][name], before.get(name)) for name in now):
            self.append("undo", now)


def _text(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, sort_keys=True)


def _chain(before: str, entry: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in entry.items() if key != "chain"}
    return hashlib.sha256(f"{before}\n{_text(rest)}".encode()).hexdigest()[:32]


def sha256_or_none(path: Path) -> str | None:
    """The SHA-256 of a file's bytes, None where there is no file."""
    return sha256_of(path) if path.is_file() else None


def user() -> str:
    """Who runs this, as `name@host`, for a record; behind sudo the one who called it."""
    try:
        name = os.environ.get("SUDO_USER") or getuser()
    except (OSError, KeyError):  # a number without a name, as in a container
        name = str(os.getuid())
    return f"{name}@{os.uname().nodename}"
