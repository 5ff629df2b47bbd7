"""The index of the ledger: a SQLite cache of the keys and scores in its parts, rebuilt from them.

The parts are the truth. Only the stamps of files stand nowhere else: without them the files are
read again, but not scored again.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from itertools import zip_longest
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from admodels.foundation.errors import StorageError
from admodels.foundation.files import sync
from admodels.scoring import catalogue
from admodels.scoring.catalogue import Catalogue
from admodels.scoring.journal import Journal
from admodels.scoring.tables import (
    KEY,
    SCORES,
    Answer,
    ScoreRow,
    batches,
    check_schema,
    parquet_file,
)

WAIT_SECONDS = 60.0  # for a reader, or for the moment in which a run commits
CACHE_KIB = 4096  # the kernel has the rest: more only makes a long night larger than a short one
SCHEMA = (
    """
CREATE TABLE IF NOT EXISTS parts(name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS scores(sha TEXT, model TEXT, contract TEXT, score REAL, map_max REAL,
  PRIMARY KEY(sha, model, contract)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rows(line TEXT, path TEXT, sha TEXT, model TEXT, contract TEXT,
  PRIMARY KEY(line, path, sha, model, contract)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS seen(line TEXT, path TEXT, sha TEXT, stamp TEXT,
  PRIMARY KEY(line, path)) WITHOUT ROWID;
"""
    + catalogue.SCHEMA
)
ANSWERED = ("scored", "unscorable")  # statuses that answer for the bytes; the latter with no number
INSERT_ROW = "INSERT OR IGNORE INTO rows VALUES (?, ?, ?, ?, ?)"
STRAY_STAMP = (
    "SELECT 1 FROM seen WHERE NOT EXISTS (SELECT 1 FROM rows WHERE rows.line = seen.line"
    " AND rows.path = seen.path AND rows.sha = seen.sha) LIMIT 1"
)
KEEP_STAMP = """INSERT OR REPLACE INTO seen SELECT ?, ?, ?, ? WHERE EXISTS
  (SELECT 1 FROM rows WHERE (line, path, sha) = (?, ?, ?))"""
LAST = "SELECT sha FROM seen WHERE (line, path) = (?, ?)"
ONLY = """SELECT min(sha) FROM rows WHERE (line, path) = (?, ?)
  GROUP BY line HAVING min(sha) = max(sha)"""
CONTENTS = [
    "SELECT * FROM parts ORDER BY name",
    "SELECT * FROM rows ORDER BY line, path, sha, model, contract",
    "SELECT * FROM scores ORDER BY sha, model, contract",
    *catalogue.CONTENTS,
]
PROBE = "SELECT map_max FROM parts, scores, rows, seen, files, judged, folded LIMIT 1"
READ_COLUMNS = [*(field.name for field in KEY), "status", "anomaly_score", "map_max"]
PRUNED = pa.schema([SCORES.field(name) for name in READ_COLUMNS])  # what stays of an old part


@dataclass(frozen=True)
class Double:
    """Rows of a part, by position, whose keys stand in an earlier place too."""

    part: str
    positions: list[int]


class Index:
    """One SQLite file; every change waits for `commit`, and is undone if the process dies."""

    def __init__(self, path: Path, journal: Journal, *, writes: bool = True) -> None:
        """Open it, and read what the ledger's `journal` has since it was left, or rebuild it.

        Unless it `writes` it is as the last run left it.

        Raises:
            StorageError: a part of the ledger, or its journal, is damaged.
            sqlite3.Error: it only reads, and there is no index that can be read.
        """
        self._journal, self._folder, self.path = journal, journal.folder / "scores", path
        self.doubles: list[Double] = []
        if not writes:
            self._base = sqlite3.connect(
                f"{path.resolve().as_uri()}?mode=ro", WAIT_SECONDS, uri=True
            )
            self._base.execute(PROBE).fetchone()
            self.catalogue = Catalogue(self._base, journal)
            return
        try:
            self._open(path)
        except sqlite3.DatabaseError:
            delete(path)
            self._open(path)

    def _open(self, path: Path) -> None:
        self._base = sqlite3.connect(path, WAIT_SECONDS, isolation_level=None)
        self._base.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        self._base.execute("PRAGMA trusted_schema = OFF")
        self._base.executescript(SCHEMA)
        self._base.execute(PROBE).fetchone()  # an older version had fewer columns
        self.catalogue = Catalogue(self._base, self._journal)
        self.follow()

    def follow(self) -> None:
        """Take in the parts that the journal has since the index was left, all if one is gone."""
        try:
            files = self.catalogue.read()
        except StorageError:  # another journal, or a damaged one: read from its start that says so
            files = self._start_over()
        parts = {_part(name): sha256 for name, sha256 in files.items() if _is_part(name)}
        if any(sha256 is None and self._holds(name) for name, sha256 in parts.items()):
            parts = {
                _part(name): sha256 for name, sha256 in self._start_over().items() if _is_part(name)
            }
        for name in sorted(name for name, sha256 in parts.items() if sha256 is not None):
            if not self._holds(name) and (self._folder / name).exists():  # else: the check says so
                with self.change():
                    self._absorb(name)
                    self.add_part(name)
        if files:
            with self.change():
                self.catalogue.fold()

    def _start_over(self) -> dict[str, str | None]:
        with self.change():
            self.catalogue.start_over()
            for table in ("parts", "scores", "rows"):
                self._base.execute(f"DELETE FROM {table}")
        return self.catalogue.read()

    def _holds(self, name: str) -> bool:
        query = "SELECT 1 FROM parts WHERE name = ?"
        return self._base.execute(query, (name,)).fetchone() is not None

    def _absorb(self, name: str) -> None:
        positions: list[int] = []
        count = 0
        schema = PRUNED if name.startswith("../") else SCORES
        with open_part(self._folder / name, schema) as file:
            for group in batches(file, schema):
                columns = (group[name].to_pylist() for name in READ_COLUMNS)
                rows = list(zip(*columns, strict=True))
                positions += [count + position for position in self._add(rows)]
                count += len(rows)
        if positions:
            self.doubles.append(Double(name, positions))

    def _add(self, rows: list[tuple[object, ...]]) -> list[int]:
        """Add rows; the positions of those whose key was there."""
        keys = [row[:5] for row in rows]
        scores = [(*row[2:5], *row[6:8]) for row in rows if row[5] in ANSWERED]
        self._base.execute("SAVEPOINT batch")
        count = self._base.executemany(INSERT_ROW, keys).rowcount
        doubles: list[int] = []
        if count < len(keys):
            self._base.execute("ROLLBACK TO batch")
            doubles = [
                n for n, key in enumerate(keys) if not self._base.execute(INSERT_ROW, key).rowcount
            ]
        self._base.execute("RELEASE batch")
        self._base.executemany("INSERT OR IGNORE INTO scores VALUES (?, ?, ?, ?, ?)", scores)
        return doubles

    def parts(self, folder: str) -> list[str]:
        """The names of the parts in LINE or LINE/RUN that count, in the order they were written."""
        query = "SELECT name FROM parts WHERE name >= ? || '/' AND name < ? || '0' ORDER BY name"
        return [name for (name,) in self._base.execute(query, (folder, folder))]

    def first_run(self, line: str) -> int | None:
        """The first run of which a line's folder has a part, None where it has none."""
        query = "SELECT min(name) FROM parts WHERE name >= ? || '/' AND name < ? || '0'"
        (name,) = self._base.execute(query, (line, line)).fetchone()
        return None if name is None else int(name.split("/")[1])

    @property
    def checked_on(self) -> date | None:
        """The day on which it was last compared with the parts."""
        (day,) = self._base.execute("PRAGMA user_version").fetchone()
        return date.fromordinal(day) if 0 < day < date.max.toordinal() else None

    @checked_on.setter
    def checked_on(self, day: date) -> None:
        self._base.execute(f"PRAGMA user_version = {day.toordinal()}")

    def equals(self, other: "Index") -> bool:
        """Whether both say the same of all parts, and this one says nothing of other files."""
        try:
            (state,) = self._base.execute("PRAGMA integrity_check(1)").fetchone()
            stray = self._base.execute(STRAY_STAMP).fetchone()
            return (
                state == "ok"
                and stray is None
                and all(
                    ours == theirs
                    for query in CONTENTS
                    for ours, theirs in zip_longest(
                        self._base.execute(query), other._base.execute(query)
                    )
                )
            )
        except sqlite3.DatabaseError:
            return False

    def replace_by(self, other: "Index") -> None:
        """Take over another index, and of this one the stamps of files whose rows it has."""
        with suppress(sqlite3.DatabaseError), other.change():
            for stamp in self._base.execute("SELECT * FROM seen"):
                other._base.execute(KEEP_STAMP, (*stamp, *stamp[:3]))
        other.close()
        self.close()
        sync(other.path)
        delete(self.path)
        other.path.replace(self.path)
        sync(self.path.parent)
        self._open(self.path)

    @contextmanager
    def change(self) -> Iterator[None]:
        """A transaction: all changes inside are committed at its end, or none of them."""
        self._base.execute("BEGIN")
        try:
            yield
        except BaseException:
            self._base.execute("ROLLBACK")
            raise
        self._base.execute("COMMIT")

    def add(self, row: ScoreRow) -> None:
        """Remember a row."""
        self._add([(*key_of(row), row.status, row.anomaly_score, row.map_max)])

    def add_part(self, name: str) -> None:
        """Remember that all rows of a part are in the index."""
        self._base.execute("INSERT INTO parts VALUES (?)", (name,))

    def forget_parts(self, names: Iterable[str]) -> None:
        """Forget the names of parts whose rows were merged into another."""
        with self.change():
            self._base.executemany("DELETE FROM parts WHERE name = ?", [(name,) for name in names])

    def prune(self, names: Iterable[str], kept: str) -> None:
        """Forget the names of parts whose keys and scores stand in the part `kept` now."""
        with self.change():
            self._base.executemany("DELETE FROM parts WHERE name = ?", [(name,) for name in names])
            self._base.execute("INSERT OR IGNORE INTO parts VALUES (?)", (kept,))

    def remember_stamp(self, row: ScoreRow, stamp: str) -> None:
        """Remember the stamp that the file of a row had before it was read."""
        values = (row.line, row.path, row.image_sha256, stamp)
        self._base.execute("INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?)", values)

    def answer(self, sha256: str, model: str, contract: str) -> Answer | None:
        """What a model said of these bytes; None if it has not scored them."""
        query = "SELECT score, map_max FROM scores WHERE sha = ? AND model = ? AND contract = ?"
        answer = self._base.execute(query, (sha256, model, contract)).fetchone()
        if answer is None:
            return None
        score, map_max = answer
        return Answer(float("nan") if score is None else float(score), map_max)

    def score(self, sha256: str, model: str, contract: str) -> float | None:
        """The score of these bytes by a model, NaN if it was not finite; None if there is none."""
        answer = self.answer(sha256, model, contract)
        return None if answer is None else answer.score

    def knows(self, sha256: str) -> bool:
        """Whether these bytes have a score by any model."""
        return bool(self._base.execute("SELECT 1 FROM scores WHERE sha = ?", (sha256,)).fetchone())

    def digests(self, model: str, contract: str) -> Iterator[str]:
        """The sha256 of all bytes that have a score by the model, sorted."""
        query = "SELECT sha FROM scores WHERE model = ? AND contract = ? ORDER BY sha"
        return (sha256 for (sha256,) in self._base.execute(query, (model, contract)))

    def holds(self, row: ScoreRow) -> bool:
        """Whether there is a row of the same key."""
        query = "SELECT 1 FROM rows WHERE (line, path, sha, model, contract) = (?, ?, ?, ?, ?)"
        return self._base.execute(query, key_of(row)).fetchone() is not None

    def is_unchanged(self, line: str, path: str, stamp: str, model: str, contract: str) -> bool:
        """Whether a file looks as it did when the row that it has was written."""
        query = """SELECT 1 FROM seen NATURAL JOIN rows WHERE (line, path, stamp, model, contract)
            = (?, ?, ?, ?, ?)"""
        answer = self._base.execute(query, (line, path, stamp, model, contract)).fetchone()
        return answer is not None

    def last(self, line: str, path: str) -> str:
        """The sha256 of a file when it was last read; empty where it never was.

        A lost index has lost which of several contents came last: then it is empty, too.
        """
        for query in (LAST, ONLY):
            if answer := self._base.execute(query, (line, path)).fetchone():
                return str(answer[0])
        return ""

    def close(self) -> None:
        """Let go of the file."""
        self._base.close()


def _is_part(name: str) -> bool:
    return name.startswith(("scores/", "pruned/"))


def _part(name: str) -> str:
    """The name of a part in the index, from `scores` on, of that in the journal."""
    return name.removeprefix("scores/") if name.startswith("scores/") else f"../{name}"


def delete(path: Path) -> None:
    """Remove an index and what SQLite keeps beside it."""
    for name in (path.name, f"{path.name}-journal"):
        path.with_name(name).unlink(missing_ok=True)


def key_of(row: ScoreRow) -> tuple[str, str, str, str, str]:
    """The key of a row, in the order of the tables' columns."""
    return row.line, row.path, row.image_sha256, row.model_fingerprint, row.contract_fingerprint


@contextmanager
def open_part(path: Path, schema: pa.Schema = SCORES) -> Iterator[pq.ParquetFile]:
    """A part of the ledger, opened.

    Raises:
        StorageError: it is not a table of scores, or of another `schema`.
    """
    try:
        with parquet_file(path) as file:
            check_schema(file.schema_arrow, schema)
            yield file
    except (ValueError, OSError) as error:  # pyarrow's errors are one or the other
        raise StorageError(
            f"a part of the ledger cannot be read: {error}",
            where=path,
            expected="a table as it was written",
            next_step="restore it from a copy, or move it away: its images are then scored again",
        ) from error
