"""The ledger: parts with rows of scores, each written whole or not at all, and never changed.

Their names stand in `admodels.scoring.layout`. The journal names a part before it is on the disk
under its name, and both come before the index commits its rows. Where a run is killed in between,
the next one says that nothing was written, or reads the part into the index. So no row is lost,
doubled or half written. Files that the journal does not know do not count.
"""

import os
import shutil
import sqlite3
import stat
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from admodels.foundation.errors import DONE, BusyError, ConfigurationError, StorageError
from admodels.foundation.files import durable_file, read_json, sha256_of, sync, write_json
from admodels.scoring import tables
from admodels.scoring.appearances import APPEARANCES
from admodels.scoring.catalogue import Catalogue
from admodels.scoring.index import Index, open_part
from admodels.scoring.journal import Journal
from admodels.scoring.layout import FOLDERS, OF_OLD, OURS, WRITING
from admodels.scoring.lines import folder_name
from admodels.scoring.locks import commit_lock, run_lock
from admodels.scoring.merging import can_merge, full_groups
from admodels.scoring.tables import ScoreRow


class Ledger:
    """The ledger in `folder`: of a run, as `open_ledger` gives it, or beside one."""

    def __init__(self, folder: Path, run: str | None = None, *, is_run: bool = True) -> None:
        self.folder, self.scores = folder, folder / "scores"
        self.appearance, self.regions = folder / "appearance", folder / "regions"
        self.journal = Journal(folder)
        self._compacting, self._is_run = folder / "compacting", is_run
        self._commits = 0
        if is_run:
            self.scores.mkdir(exist_ok=True)
            with self.commit():
                self._repair()
                self._adopt()
                self.journal.settle()
        self.index = Index(folder / "index.sqlite", self.journal, writes=is_run)
        if is_run:
            self._adopt_verdicts()
        last = self.catalogue.last_run
        while (folder / "runs" / f"{last + 1:06d}.json").exists():
            last += 1
        self.run = run if run and int(run) == last else f"{last + 1:06d}"
        self.first_run = int(self.run)  # of those that this one reports, whatever became of them
        self._ends = dict[int, dict[str, Any]]()
        # By line: the runs of tonight and their rows, once this look has judged them.
        self.judged = dict[str, tuple[tuple[str, ...], pa.Table]]()

    @property
    def catalogue(self) -> Catalogue:
        """Which files there are."""
        return self.index.catalogue

    @contextmanager
    def commit(self) -> Iterator[None]:
        """Hold the commit lock; inside itself it is held already.

        Raises:
            BusyError: another process does not let go of it.
        """
        if self._commits:
            yield
            return
        with commit_lock(self.folder):
            self._commits += 1
            try:
                yield
            finally:
                self._commits -= 1

    @contextmanager
    def store(self, *targets: Path, do: str = "write") -> Iterator[list[Path]]:
        """Paths to write to: what is there takes its place under `targets`, in this order.

        A power cut cannot undo it: journal and files are on the disk before the names are.
        """
        writing = self.folder / WRITING
        partials = [writing / f"{number}.{path.name}" for number, path in enumerate(targets)]
        names = [path.relative_to(self.folder).as_posix() for path in targets]
        with self.commit():
            try:
                writing.mkdir(exist_ok=True)
                for path in targets:
                    path.parent.mkdir(parents=True, exist_ok=True)
                yield partials
                for partial in partials:
                    sync(partial)
                self.journal.append(do, dict(zip(names, map(sha256_of, partials), strict=True)))
                try:
                    for partial, path in zip(partials, targets, strict=True):
                        partial.replace(path)
                        sync(path.parent)
                except OSError:
                    with suppress(OSError):
                        self.journal.settle()
                    raise
            finally:
                for partial in partials:
                    partial.unlink(missing_ok=True)

    def store_json(self, path: Path, content: object) -> None:
        """Write JSON to `path` in the ledger, whole or not at all."""
        with self.store(path) as (partial,):
            write_json(partial, content)

    def files(self) -> list[str]:
        """The names of all files in the folders whose files the journal knows, sorted."""
        paths = (path for name in FOLDERS for path in (self.folder / name).rglob("*"))
        return sorted(p.relative_to(self.folder).as_posix() for p in paths if p.is_file())

    def _adopt(self) -> None:
        """Take over the files of a ledger that has no journal: of an older version, or lost."""
        if self.journal.path.exists():
            return
        if names := [name for name in self.files() if OURS.fullmatch(name)]:
            self.journal.append("adopt", {name: sha256_of(self.folder / name) for name in names})

    def _adopt_verdicts(self) -> None:
        """Take over the verdicts and lists that an older version did not name in its journal."""
        old = [name for name in OF_OLD if not self.catalogue.knows(name)]
        paths = (path for name in old for path in (self.folder / name).glob(OF_OLD[name]))
        names = sorted(path.relative_to(self.folder).as_posix() for path in paths)
        if names := [name for name in names if OURS.fullmatch(name)]:
            with self.commit():
                hashes = {name: sha256_of(self.folder / name) for name in names}
                self.journal.append("adopt", hashes)

    def tonight(self, line: str) -> tuple[str, ...]:
        """The runs that this one reports: itself, and all since the last that reported the line.

        The others died, were stopped before their end, or failed on this line. A run that closes a
        night reports all from `first_run` on. Runs before the first that has rows of the line are
        left out.
        """
        now, first = int(self.run), self.index.first_run(folder_name(line))
        runs = [now]
        for number in range(now - 1, (now if first is None else first) - 1, -1):
            end = self._end(number)
            is_reported = end["whole"] and end["codes"].get(line) in DONE
            if is_reported and number < self.first_run:
                break
            runs.append(number)
        return tuple(f"{number:06d}" for number in reversed(runs))

    def _end(self, run: int) -> dict[str, Any]:
        if run not in self._ends:
            self._ends[run] = _end(self.folder / "runs" / f"{run:06d}.json")
        return self._ends[run]

    def write(self, line: str, rows: list[ScoreRow], seen: pa.Table, places: pa.Table) -> None:
        """Write a part of rows, their appearances and regions; inside `index.change()` only."""
        place = Path(folder_name(line), self.run)
        home = self.scores / place
        home.mkdir(parents=True, exist_ok=True)
        numbers = [int(p.stem) for p in home.glob("*.parquet") if p.stem.isdigit()]
        name = place / f"{max(numbers, default=0) + 1:04d}.parquet"
        targets = (self.appearance / name, self.regions / name, self.scores / name)
        with self.store(*targets) as (side, regions, scores):
            tables.write(side, APPEARANCES, [seen])
            tables.write(regions, tables.REGIONS, [places])
            tables.write(scores, tables.SCORES, tables.scores(rows))
        sync(home.parent)
        self.index.add_part(name.as_posix())

    def parts(self, line: str, run: str = "*") -> list[Path]:
        """The parts of a line, or those of one run, in the order they were written."""
        folder = folder_name(line)
        names = self.index.parts(folder if run == "*" else f"{folder}/{run}")
        return [self.scores / name for name in names]

    def groups(self, line: str, run: str = "*") -> Iterator[tuple[str, pa.Table]]:
        """(run, rows of one model) of a line, or of one of its runs, a group at a time.

        Raises:
            BusyError: beside a run, which merges the parts meanwhile.
            StorageError: a part is damaged.
        """
        for path in self.parts(line, run):
            self.check_place(path)
            with open_part(path) as file:
                for batch in tables.batches(file, tables.SCORES):
                    for group in tables.by_model(pa.Table.from_batches([batch])):
                        yield path.parent.name, group

    def check_place(self, path: Path) -> None:
        """Refuse to read beside a run that has just merged the file at `path`."""
        if not self._is_run and not path.exists():
            raise BusyError(
                "a run merges the parts of this line",
                where=path.parent,
                expected="the parts that were there a moment ago",
                next_step="run this again",
            )

    def write_judgements(
        self, name: str, night: str, rows: pa.Table, kind: str = "verdicts"
    ) -> None:
        """Write judgements of a night, on rows of a line or of another kind of `tables.JUDGED`."""
        home = self.folder / kind / folder_name(name) / night
        step = tables.ROWS_PER_GROUP
        groups = (rows[start : start + step] for start in range(0, len(rows), step))
        with self.commit():
            numbers = [int(path.stem) for path in home.glob("*.parquet") if path.stem.isdigit()]
            target = home / f"{max(numbers, default=0) + 1:04d}.parquet"
            with self.store(target) as (partial,):
                runs = rows["run"].unique().to_pylist()
                tables.write(partial, tables.JUDGED[kind], groups, runs)

    def judgements(self, line: str, runs: Iterable[str]) -> pa.Table:
        """The judgements on all rows of `runs`, in the order in which they were written.

        Raises:
            BusyError: beside a run, which merges the files meanwhile.
            StorageError: a file is damaged.
        """
        wanted = pc.field("run").isin(list(runs))
        judgements = [tables.JUDGEMENTS.empty_table()]
        for name in self.catalogue.judgements(folder_name(line), runs):
            self.check_place(self.folder / name)
            with open_part(self.folder / name, tables.JUDGEMENTS) as file:
                batches = list(tables.batches(file, tables.JUDGEMENTS))
            judgements.append(pa.Table.from_batches(batches, tables.JUDGEMENTS).filter(wanted))
        return pa.concat_tables(judgements)

    def compact(self, line: str, at_most: int = 1) -> None:
        """Merge the parts of each run of tonight that has more.

        The old folder and the new one change places by two renames; a process that dies between
        them leaves the first half of its run's name empty until the next start.
        """
        for run in self.tonight(line):
            old = self.parts(line, run)
            home = self.scores / folder_name(line) / run
            side, regions = self.sides(home)
            if len(old) > at_most and can_merge((home, side, regions), old, tables.SCORES):
                with self.commit():
                    # The side tables first: later they would have parts without one of `scores`.
                    self._merge(side, APPEARANCES)
                    self._merge(regions, tables.REGIONS)
                    self._merge(home, tables.SCORES)
                    names = [path.relative_to(self.scores).as_posix() for path in old[1:]]
                    self.index.forget_parts(names)

    def sides(self, scores: Path) -> tuple[Path, Path]:
        """Of a part of `scores`, or of its folder: appearances and regions."""
        name = scores.relative_to(self.scores)
        return self.appearance / name, self.regions / name

    def merge_judgements(
        self, name: str, night: str, at_most: int = 1, kind: str = "verdicts"
    ) -> None:
        """Merge the files of judgements of a night if there are more; see `write_judgements`."""
        home = self.folder / kind / folder_name(name) / night
        with self.commit():
            old = sorted(home.glob("*.parquet"))
            if len(old) > at_most and can_merge((home,), old, tables.JUDGED[kind]):
                self._merge(home, tables.JUDGED[kind])

    def _merge(self, home: Path, schema: pa.Schema) -> None:
        old = sorted(home.glob("*.parquet"))
        if not old:
            return
        new = self._compacting / home.relative_to(self.folder)
        runs = set[str]().union(*map(tables.runs_of, old))
        with durable_file(new / "0001.parquet") as partial:
            tables.write(partial, schema, full_groups(old, schema), runs)
        names = [path.relative_to(self.folder).as_posix() for path in old]
        merged = (home / "0001.parquet").relative_to(self.folder).as_posix()
        files = dict.fromkeys(names) | {merged: sha256_of(new / "0001.parquet")}
        self.journal.append("merge", files)
        away = new.with_suffix(".old")
        home.rename(away)
        try:
            new.rename(home)
        except OSError:
            away.rename(home)
            with suppress(OSError):
                self.journal.settle()
            raise
        sync(home.parent)
        shutil.rmtree(self._compacting)

    def _repair(self) -> None:
        for old in self._compacting.glob("*/*/*.old"):
            home = self.folder / old.relative_to(self._compacting).with_suffix("")
            if not home.exists():
                old.with_suffix("").rename(home)
        for left in (self._compacting, self.folder / WRITING):
            shutil.rmtree(left, ignore_errors=True)
        for name in self.journal.last().get("files", {}):
            kind, _, place = name.partition("/")
            is_side = kind in ("appearance", "regions") and Path(place).parent.name.isdigit()
            if is_side and not (self.scores / place).exists():
                (self.folder / name).unlink(missing_ok=True)

    def finish(self, content: dict[str, object]) -> None:
        """Write the summary of the run."""
        self.store_json(self.folder / "runs" / f"{self.run}.json", content)


def _end(summary: Path) -> dict[str, Any]:
    """Whether a run came to its end, and the exit codes of its lines."""
    try:
        content = read_json(summary, "restore it from the backup")
        codes = {name: line["exit_code"] for name, line in content["lines"].items()}
        return {"whole": content.get("whole", True), "codes": codes}
    # Damaged, or set aside by the check of this run: as if unreported.
    except (FileNotFoundError, StorageError, TypeError, LookupError, AttributeError):
        return {"whole": False, "codes": {}}


@contextmanager
def open_ledger(folder: Path, run: str | None = None) -> Iterator[Ledger]:
    """The ledger in `folder`, made where there is none, for one look: it holds the run lock.

    The look goes on with the number `run`, if no other run has come since.

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
    with _index_errors(folder), run_lock(folder):
        ledger = Ledger(folder, run)
        with closing(ledger.index):
            yield ledger


@contextmanager
def read_ledger(folder: Path) -> Iterator[Ledger]:
    """The ledger in `folder` beside a run that may be at work; what is stored waits for a moment.

    Raises:
        BusyError: there is no index to read by, and a run is at work.
        StorageError: a part is damaged.
    """
    with _index_errors(folder):
        try:
            ledger = Ledger(folder, is_run=False)
        except sqlite3.Error:
            with open_ledger(folder):
                pass  # it makes the index
            ledger = Ledger(folder, is_run=False)
        with closing(ledger.index):
            yield ledger


@contextmanager
def _index_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StorageError(
            f"the index of the ledger cannot be used: {error}",
            where=folder / "index.sqlite",
            expected="a file that can be written, on a device with room",
            next_step="make room, then run again; the file may be deleted, the parts are the truth",
        ) from error


def summaries(ledger: Path) -> list[Path]:
    """The summaries of nights that came to their end, newest first: by number, not by the clock."""
    folder = ledger / "runs"
    with os.scandir(folder) if folder.is_dir() else nullcontext(()) as entries:
        names = [entry.name.removesuffix(".json") for entry in entries]
    numbers = sorted((name for name in names if name.isdigit()), key=int, reverse=True)
    return [folder / f"{number}.json" for number in numbers]
