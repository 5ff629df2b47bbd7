"""The ledger: parts with rows of scores, each written whole or not at all, and never changed.

scores/LINE/RUN/NNNN.parquet   the truth; RUN is the number of the invocation
appearance/LINE/RUN/NNNN.parquet   its side table (`admodels.scoring.appearances`)
verdicts/LINE.parquet          derived from scores and calibration, rewritten whole
runs/RUN.json                  what a run did, with times and host; whole once its page stands
index.sqlite                   a cache (`admodels.scoring.index`)

A part is on the disk under its name before the index commits its rows. Where a run is killed
between the two, the next one reads the part into the index. So no row is lost, doubled or half
written. The part of the side table is written first; without its part of `scores` it is deleted.
"""

import fcntl
import hashlib
import os
import re
import shutil
import sqlite3
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from admodels.foundation.errors import DONE, BusyError, ConfigurationError, StorageError
from admodels.foundation.files import durable_file, read_json, sync, write_json
from admodels.scoring import tables
from admodels.scoring.appearances import APPEARANCES
from admodels.scoring.index import Index, open_part
from admodels.scoring.tables import ScoreRow

HELD = 256  # batches: each costs memory of its own, however small


def folder_name(line: str) -> str:
    """The name of a line's folder: other names than plain ones become `_` and a hash."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", line)[:40]
    return plain if plain == line else f"{plain}-{hashlib.sha256(line.encode()).hexdigest()[:12]}"


class Ledger:
    """The ledger in `folder`, locked for this process by `open_ledger`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.scores = folder, folder / "scores"
        self.appearance = folder / "appearance"
        self.scores.mkdir(exist_ok=True)
        self._compacting = folder / "compacting"
        self._repair()
        self.index = Index(folder / "index.sqlite", self.scores)
        taken = [p.stem for p in (*folder.glob("runs/*.json"), *self.scores.glob("*/*"))]
        number = max((int(name) for name in taken if name.isdigit()), default=0) + 1
        self.run = f"{number:06d}"
        self._before, self._ends = summaries(folder), dict[Path, dict[str, Any]]()

    def tonight(self, line: str) -> tuple[str, ...]:
        """The runs that this one reports: itself, and all since the last that reported the line.

        The others died, were stopped before their end, or failed on this line.
        """
        last = 0
        for path in self._before:
            if path not in self._ends:
                self._ends[path] = _end(path)
            end = self._ends[path]
            if end["whole"] and end["codes"].get(line) in DONE:
                last = int(path.stem)
                break
        return tuple(f"{number:06d}" for number in range(last + 1, int(self.run) + 1))

    def write(self, line: str, rows: list[ScoreRow], seen: pa.Table) -> None:
        """Write a part of rows and one of their appearances; inside `index.change()` only."""
        place = Path(folder_name(line), self.run)
        home = self.scores / place
        home.mkdir(parents=True, exist_ok=True)
        number = max((int(p.stem) for p in home.glob("*.parquet")), default=0) + 1
        name = place / f"{number:04d}.parquet"
        with durable_file(self.appearance / name) as partial:
            tables.write(partial, APPEARANCES, [seen])
        with durable_file(self.scores / name) as partial:
            tables.write(partial, tables.SCORES, tables.scores(rows))
        sync(home.parent)
        self.index.add_part(name.as_posix())

    def parts(self, line: str, run: str = "*") -> list[Path]:
        """The parts of a line, or those of one run, in the order they were written."""
        return sorted((self.scores / folder_name(line)).glob(f"{run}/*.parquet"))

    def groups(self, line: str, run: str = "*") -> Iterator[tuple[str, pa.Table]]:
        """(run, rows of one model) of a line, or of one of its runs, a group at a time.

        Raises:
            StorageError: a part is damaged.
        """
        for path in self.parts(line, run):
            with open_part(path) as file:
                for batch in tables.batches(file, tables.SCORES):
                    for group in tables.by_model(pa.Table.from_batches([batch])):
                        yield path.parent.name, group

    def statuses_of_tonight(self, line: str) -> Counter[str]:
        """The statuses of rows of tonight that earlier runs wrote."""
        statuses = Counter[str]()
        for run in self.tonight(line):
            for _, rows in self.groups(line, run):
                statuses.update(rows["status"].to_pylist())
        return statuses

    def compact(self, line: str, at_most: int = 1) -> None:
        """Merge the parts of this run, or of all runs if `at_most` is 1, that has more parts.

        The old folder and the new one change places by two renames; a process that dies between
        them leaves the first half of its run's name empty until the next start.
        """
        runs = "*" if at_most == 1 else self.run
        for home in sorted((self.scores / folder_name(line)).glob(runs)):
            old = sorted(home.glob("*.parquet"))
            if len(old) <= at_most:
                continue
            # The side table first: later it would have parts without one of `scores` for a while.
            self._merge(self.appearance / home.relative_to(self.scores), APPEARANCES)
            self._merge(home, tables.SCORES)
            self.index.forget_parts([p.relative_to(self.scores).as_posix() for p in old[1:]])

    def _merge(self, home: Path, schema: pa.Schema) -> None:
        old = sorted(home.glob("*.parquet"))
        new = self._compacting / home.relative_to(self.folder)
        if old:
            with durable_file(new / "0001.parquet") as partial:
                tables.write(partial, schema, _full_groups(old, schema))
            away = new.with_suffix(".old")
            home.rename(away)
            try:
                new.rename(home)
            except OSError:
                away.rename(home)
                raise
            sync(home.parent)
            shutil.rmtree(self._compacting)

    def _repair(self) -> None:
        for old in self._compacting.glob("*/*/*.old"):
            home = self.folder / old.relative_to(self._compacting).with_suffix("")
            if not home.exists():
                old.with_suffix("").rename(home)
        shutil.rmtree(self._compacting, ignore_errors=True)
        for table in (self.scores, self.appearance):
            for half in table.glob("*/*/.*.partial"):
                half.unlink()
        for side in self.appearance.glob("*/*/*.parquet"):
            if not (self.scores / side.relative_to(self.appearance)).exists():
                side.unlink()

    def finish(self, content: dict[str, object]) -> None:
        """Write the summary of the run."""
        with durable_file(self.folder / "runs" / f"{self.run}.json") as partial:
            write_json(partial, content)


def _end(summary: Path) -> dict[str, Any]:
    """Whether a run came to its end, and the exit codes of its lines."""
    try:
        content = read_json(summary, "restore it from the backup")
        codes = {name: line["exit_code"] for name, line in content["lines"].items()}
        return {"whole": content.get("whole", True), "codes": codes}
    except (StorageError, TypeError, LookupError, AttributeError):  # damaged: as if unreported
        return {"whole": False, "codes": {}}


def _full_groups(paths: list[Path], schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows of many small parts in few large groups, which are smaller and faster to read."""
    held: list[pa.RecordBatch] = []
    count = 0
    for path in paths:
        with open_part(path, schema) as file:
            for batch in tables.batches(file, schema):
                if held and (len(held) == HELD or count + len(batch) > tables.ROWS_PER_GROUP):
                    yield pa.Table.from_batches(held)
                    held, count = [], 0
                held.append(batch)
                count += len(batch)
    yield pa.Table.from_batches(held, schema)


@contextmanager
def open_ledger(folder: Path) -> Iterator[Ledger]:
    """The ledger in `folder`, made where there is none, for this process alone.

    Raises:
        BusyError: another process has it.
        ConfigurationError: others may write to it.
        StorageError: a part is damaged.
    """
    folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    if folder.stat().st_mode & stat.S_IWOTH:
        raise ConfigurationError(
            "everybody may write to the ledger",
            where=folder,
            expected="a folder that only trusted users may write to",
            next_step=f"chmod o-w {folder}",
        )
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o640)
    try:
        _take(lock, folder)
        ledger = Ledger(folder)
        with closing(ledger.index):
            yield ledger
        os.ftruncate(lock, 0)  # nobody is at work any more
    except sqlite3.Error as error:
        raise StorageError(
            f"the index of the ledger cannot be used: {error}",
            where=folder / "index.sqlite",
            expected="a file that can be written, on a device with room",
            next_step="make room, then run again; the file may be deleted, the parts are the truth",
        ) from error
    finally:
        os.close(lock)


def _take(lock: int, folder: Path) -> None:
    """Lock the open file; the kernel lets go of it when the process ends, however it does."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BusyError(
            f"another run is at work here: process {os.read(lock, 100).decode('ascii', 'replace')}",
            where=folder,
            expected="one run at a time on one output",
            next_step="wait for its end, or name another output",
        ) from None
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()} on {os.uname().nodename}".encode())


def summaries(ledger: Path) -> list[Path]:
    """The summaries of nights that came to their end, newest first: by number, not by the clock."""
    paths = [path for path in ledger.glob("runs/*.json") if path.stem.isdigit()]
    return sorted(paths, key=lambda path: int(path.stem), reverse=True)
