"""Remove whole old nights: their rows, judgements, pictures and pages.

pruned/LINE/RUN/0001.parquet   keys, statuses and scores of the rows that went

The index reads these, so that no image is scored or reported twice. Summaries, calibrations and
records of drift stay: they are small, and trends are made of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow as pa

from admodels.foundation.files import sync
from admodels.nights.history import NightSummary
from admodels.nights.judgements import picture_path
from admodels.nights.parts import FOLDER
from admodels.scoring import tables
from admodels.scoring.index import PRUNED, open_part
from admodels.scoring.ledger import Ledger, summaries
from admodels.scoring.lines import folder_name
from admodels.scoring.pictures import pictures_folder


@dataclass(frozen=True)
class OldNight:
    """What one line has of an old run: `parts` of scores, and the bytes of all that would go."""

    line: str
    run: str
    parts: list[Path]
    others: list[Path]
    rows: int

    @property
    def bytes(self) -> int:
        """Of parts, side tables and pictures."""
        return sum(path.stat().st_size for path in (*self.parts, *self.others) if path.is_file())

    def __str__(self) -> str:
        return f"{self.line} {self.run}: {self.rows} rows, {self.bytes / 2**20:.1f} MiB"


def old_nights(ledger: Ledger, before: datetime) -> Iterator[OldNight]:
    """What is older than `before`: runs in the order of their numbers, whatever a clock said.

    Rows that no page has shown yet are never old.
    """
    last, names = _last_old_run(ledger, before)
    for line in sorted(names):
        reported = int(ledger.tonight(line)[0]) - 1
        by_run: dict[str, list[Path]] = {}
        for path in ledger.parts(line):
            by_run.setdefault(path.parent.name, []).append(path)
        for run, parts in by_run.items():
            if int(run) <= min(last, reported):
                yield _old_night(ledger, line, run, parts)


def _last_old_run(ledger: Ledger, before: datetime) -> tuple[int, set[str]]:
    """The last run before the first night that is not old, and the names of all lines."""
    last, names, is_old = 0, set[str](), True
    for path in reversed(summaries(ledger.folder)):
        if (night := NightSummary.of(path.read_bytes())) is not None:
            names |= set(night.lines)
            is_old = is_old and night.end < before
            last = int(night.run) if is_old else last
    return last, names


def _old_night(ledger: Ledger, line: str, run: str, parts: list[Path]) -> OldNight:
    sides = [side for path in parts for side in ledger.sides(path)]
    pictures = _pictures(ledger, line, {run})
    for other in {path.parent.name for path in ledger.parts(line)} - {run}:
        if pictures:
            pictures -= _pictures(ledger, line, {other})  # the same image came again
    rows = sum(len(group) for _, group in ledger.groups(line, run))
    named = [*sides, ledger.folder / "lists" / run / f"{folder_name(line)}.csv"]
    others = [*filter(Path.is_file, named), *_judgements(ledger, line, run), *sorted(pictures)]
    return OldNight(line, run, parts, others, rows)


@dataclass(frozen=True)
class OldParts:
    """What was said of one kind of parts in an old night; `others` are its files."""

    name: str
    night: str
    others: list[Path]

    def __str__(self) -> str:
        mib = sum(path.stat().st_size for path in self.others if path.is_file()) / 2**20
        return f"parts {self.name} {self.night}: judgements, {mib:.1f} MiB"


def old_parts(ledger: Ledger, before: datetime) -> Iterator[OldParts]:
    """The judgements on parts whose runs are all older than `before`."""
    last, _ = _last_old_run(ledger, before)
    nights: dict[tuple[str, str], list[Path]] = {}
    for file in ledger.catalogue.names(FOLDER):
        _, name, night, _ = file.split("/")
        nights.setdefault((name, night), []).append(ledger.folder / file)
    for (name, night), files in nights.items():
        if all(int(run) <= last for path in files for run in tables.runs_of(path)):
            yield OldParts(name, night, files)


def prune_parts(ledger: Ledger, night: OldParts) -> None:
    """Remove what was said of parts in an old night."""
    with ledger.commit():
        _remove(ledger, night.others)


def _judgements(ledger: Ledger, line: str, run: str) -> Iterator[Path]:
    """Judgements and audit pictures of nights of which this run is the last with judged rows."""
    folder = folder_name(line)
    for night, runs in ledger.catalogue.runs_by_night(folder).items():
        if max(runs, key=int) == run:
            kinds = (f"{kind}/{folder}/{night}" for kind in ("verdicts", "regions"))
            names = ledger.catalogue.names(*kinds)
            yield from (ledger.folder / name for name in names)
            yield from sorted((ledger.folder / "audit" / folder / night).glob("*.webp"))


def _pictures(ledger: Ledger, line: str, runs: set[str]) -> set[Path]:
    names = ("line", "image_sha256", "model_fingerprint", "contract_fingerprint")
    keys = (
        key
        for run in runs
        for _, group in ledger.groups(line, run)
        for key in zip(*(group[name].to_pylist() for name in names), strict=True)
    )
    folders = {
        ledger.folder / name(*key) for key in keys for name in (picture_path, pictures_folder)
    }
    return {path for folder in folders for path in (folder, *folder.glob("*")) if path.is_file()}


def prune(ledger: Ledger, night: OldNight) -> None:
    """Remove an old night; where the process dies meanwhile nothing is lost or doubled."""
    kept = ledger.folder / "pruned" / folder_name(night.line) / night.run / "0001.parquet"
    with ledger.commit():
        with ledger.store(kept) as (partial,):
            tables.write(partial, PRUNED, _slim(night.parts))
        ledger.index.prune(
            [path.relative_to(ledger.scores).as_posix() for path in night.parts],
            f"../{kept.relative_to(ledger.folder).as_posix()}",
        )
        pictures = [path for path in night.others if path.suffix in (".jpg", ".webp")]
        tables_of_night = [*night.parts, *(p for p in night.others if p not in pictures)]
        _remove(ledger, tables_of_night, pictures)
    (ledger.folder / "pages" / f"{night.run}.html").unlink(missing_ok=True)


def _remove(ledger: Ledger, tables_of_night: Sequence[Path], pictures: Sequence[Path] = ()) -> None:
    names = [path.relative_to(ledger.folder).as_posix() for path in tables_of_night]
    ledger.journal.append("prune", dict.fromkeys(names))
    for path in (*tables_of_night, *pictures):
        path.unlink(missing_ok=True)
    for folder in {path.parent for path in tables_of_night}:
        sync(folder)
    for folder in {path.parent for path in pictures}:
        if not any(folder.iterdir()):
            folder.rmdir()


def _slim(parts: list[Path]) -> Iterator[pa.Table]:
    for path in parts:
        with open_part(path) as file:
            for batch in tables.batches(file, tables.SCORES):
                yield pa.Table.from_batches([batch]).select(PRUNED.names)
