"""Which files a ledger holds, by its journal; all but the journal's end is kept in the index.

So a look reads the end of the journal, however long the history before it is.
"""

import re
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from admodels.foundation.errors import StorageError
from admodels.scoring.journal import Journal
from admodels.scoring.tables import runs_of

SCHEMA = """
CREATE TABLE IF NOT EXISTS files(name TEXT PRIMARY KEY, sha256 TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS judged(line TEXT, run TEXT, name TEXT,
  PRIMARY KEY(line, run, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS folded(place INTEGER, chain TEXT, run INTEGER);
"""
TABLES = ("files", "judged", "folded")
CONTENTS = [
    "SELECT * FROM files ORDER BY name",
    "SELECT * FROM judged ORDER BY line, run, name",
    "SELECT run FROM folded",
]
RUN = re.compile(r"(?:scores|appearance|regions)/[^/]+/(\d+)/|runs/(\d+)\.json")
VERDICTS = "verdicts/"
AFTER = "\U0010ffff"  # sorts behind every character of a name


class Catalogue:
    """The files of the ledger whose journal this is; `base` is its index."""

    def __init__(self, base: sqlite3.Connection, journal: Journal) -> None:
        self._base, self._journal = base, journal
        self._tail: dict[str, str | None] = {}
        self._judged: dict[str, set[str]] = {}
        row = base.execute("SELECT place, chain, run FROM folded").fetchone() or (0, "", 0)
        self._place, self._chain, self._run = int(row[0]), str(row[1]), int(row[2])

    def read(self) -> dict[str, str | None]:
        """The files that came (their sha256) or went (None) since the index was left.

        Raises:
            StorageError: the journal does not go on where the index was left, or is damaged.
        """
        for end, entry in self._journal.since(self._place, self._chain):
            self._place, self._chain = end, entry["chain"]
            self._tail |= entry["files"]
            for name in entry["files"]:
                self._run = max(self._run, _run_of(name))
                self._judged.pop(name, None)
        return self._tail

    def fold(self) -> None:
        """Keep what was read in the index; inside a transaction of its owner."""
        names = [(name,) for name in self._tail]
        self._base.executemany("DELETE FROM files WHERE name = ?", names)
        held = [(name, sha256) for name, sha256 in self._tail.items() if sha256 is not None]
        self._base.executemany("INSERT INTO files VALUES (?, ?)", held)
        verdicts = {name: _line_of(name) for name in self._tail if name.startswith(VERDICTS)}
        pairs = [(line, name) for name, line in verdicts.items()]
        self._base.executemany("DELETE FROM judged WHERE line = ? AND name = ?", pairs)
        rows = [
            (_line_of(name), run, name)
            for name, _ in held
            if name in verdicts
            for run in self._runs_of(name)
        ]
        self._base.executemany("INSERT INTO judged VALUES (?, ?, ?)", rows)
        self._base.execute("DELETE FROM folded")
        folded = (self._place, self._chain, self._run)
        self._base.execute("INSERT INTO folded VALUES (?, ?, ?)", folded)
        self._tail, self._judged = {}, {}

    def start_over(self) -> None:
        """Forget all, so that the whole journal is read; inside a transaction of its owner."""
        for table in TABLES:
            self._base.execute(f"DELETE FROM {table}")
        self._tail, self._judged = {}, {}
        self._place, self._chain, self._run = 0, "", 0

    @property
    def last_run(self) -> int:
        """The highest number that a run ever wrote under; 0 before the first."""
        self.read()
        return self._run

    def names(self, *folders: str) -> list[str]:
        """The names of the files below `folders`, sorted."""
        tail, names = self.read(), set[str]()
        for prefix in (f"{folder}/" for folder in folders):
            query = "SELECT name FROM files WHERE name >= ? AND name < ?"
            names |= {name for (name,) in self._base.execute(query, (prefix, prefix + AFTER))}
            names |= {name for name in tail if name.startswith(prefix)}
        return sorted(name for name in names if tail.get(name, "held") is not None)

    def knows(self, folder: str) -> bool:
        """Whether there is a file below `folder`."""
        prefix, tail = f"{folder}/", self.read()
        query = "SELECT name FROM files WHERE name >= ? AND name < ?"
        names = (name for (name,) in self._base.execute(query, (prefix, prefix + AFTER)))
        is_kept = any(tail.get(name, "held") is not None for name in names)
        return is_kept or any(sha and name.startswith(prefix) for name, sha in tail.items())

    def judgements(self, line: str, runs: Iterable[str]) -> list[str]:
        """The files that hold judgements on rows of `runs`; `line` is the folder's name."""
        tail, names, wanted = self.read(), set[str](), set(runs)
        query = "SELECT name FROM judged WHERE line = ? AND run = ?"
        for run in wanted:
            names |= {name for (name,) in self._base.execute(query, (line, run))} - tail.keys()
        return sorted(names | {n for n in self._new(line) if self._runs_of(n) & wanted})

    def runs_by_night(self, line: str) -> dict[str, set[str]]:
        """The runs of which each night of a line has judgements."""
        tail, nights = self.read(), dict[str, set[str]]()
        query = "SELECT run, name FROM judged WHERE line = ?"
        rows = [row for row in self._base.execute(query, (line,)) if row[1] not in tail]
        rows += [(run, name) for name in self._new(line) for run in self._runs_of(name)]
        for run, name in rows:
            nights.setdefault(name.split("/")[2], set()).add(run)
        return nights

    def _new(self, line: str) -> Iterator[str]:
        for name, sha256 in self._tail.items():
            if sha256 is not None and name.startswith(VERDICTS) and _line_of(name) == line:
                yield name

    def _runs_of(self, name: str) -> set[str]:
        if name not in self._judged:
            self._judged[name] = _runs(self._journal.folder / name)
        return self._judged[name]


def _line_of(name: str) -> str:
    return name.split("/")[1] if name.count("/") > 2 else ""


def _run_of(name: str) -> int:
    match = RUN.match(name)
    return int(match[1] or match[2]) if match else 0


def _runs(path: Path) -> set[str]:
    """The runs that a file of judgements names; none where it cannot be read: the check says so."""
    try:
        return runs_of(path)
    except (StorageError, ValueError, OSError):
        return set()
