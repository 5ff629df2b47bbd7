"""Is the ledger as it was written? Every file against the journal, the index against the parts.

What can be derived is made again or set aside, and the journal says so. A part or a calibration
that was changed cannot be: it is a fault of its line until a person restores it.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import pyarrow as pa

from admodels.foundation.errors import StorageError
from admodels.foundation.files import sync
from admodels.scoring import tables
from admodels.scoring.appearances import APPEARANCES
from admodels.scoring.index import Double, Index, delete, open_part
from admodels.scoring.journal import sha256_or_none
from admodels.scoring.layout import ASIDE, OURS
from admodels.scoring.ledger import Ledger
from admodels.scoring.lines import folder_name

LOG = logging.getLogger(__name__)
# Folders whose damaged files are set aside: nights go on without them.
DERIVED = ("runs", "drift", "lists")
RESTORE = (
    "restore it from the backup (its sha256 is in journal.jsonl); where there is none: move a part "
    "away, its images are then scored again; move a calibration away, then calibrate the line again"
)


@dataclass
class Check:
    """What a check found: `faults` by file, which people must repair, and `notes` of the rest."""

    files: int = 0
    faults: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def refuse(self, ledger: Path, name: str, *, parts: bool = False) -> None:
        """Refuse a line whose files were changed, or the judgements on `parts` of that name.

        Raises:
            StorageError: what is said next would rest on something else than what was written.
        """
        names = (file for file in self.faults if file.startswith("parts/") == parts)
        own = [file for file in names if _folder(file) == folder_name(name)]
        if own:
            raise _fault(ledger / own[0], self.faults[own[0]], len(own) - 1)


def _folder(name: str) -> str:
    """The line's folder in the name of a file."""
    return name.split("/")[1].removesuffix(".parquet")


def _fault(path: Path, reason: str, others: int) -> StorageError:
    more = f" (and {others} more of its files)" if others else ""
    return StorageError(
        f"{reason}{more}", where=path, expected="the file as it was written", next_step=RESTORE
    )


def check_daily(ledger: Ledger, night: date) -> Check:
    """`check`, unless the index was compared with the parts for this night."""
    return Check() if ledger.index.checked_on == night else check(ledger, night)


def check(ledger: Ledger, night: date | None = None) -> Check:
    """Verify every file of the ledger, for the close of `night`; repair what can be derived.

    Raises:
        StorageError: the journal itself is damaged.
    """
    result = Check()
    with ledger.commit():
        _verify_files(ledger, ledger.journal.hashes(), result)
        if not any(name.startswith(("scores/", "pruned/")) for name in result.faults):
            _compare_index(ledger, result)
        for text in result.notes:
            LOG.warning("%s: %s", ledger.folder, text)
        counts = {"verified": result.files, "faults": result.faults, "notes": result.notes}
        ledger.journal.append("check", {}, **counts)
        if night and not result.faults:
            ledger.index.checked_on = night
    return result


def _verify_files(ledger: Ledger, hashes: Mapping[str, str], result: Check) -> None:
    files = ledger.files()
    for name, sha256 in sorted(hashes.items()):
        path = ledger.folder / name
        now = sha256_or_none(path)
        result.files += 1
        if now is None:
            ledger.journal.append("lost", {name: None})
            result.notes.append(f"{name} is gone")
        elif now != sha256 and name.startswith(DERIVED):
            aside = ledger.folder / ASIDE / name
            aside.parent.mkdir(parents=True, exist_ok=True)
            path.replace(aside)
            ledger.journal.append("set aside", {name: None}, was=sha256, now=now)
            result.notes.append(f"{name} was changed since it was written; it is in {ASIDE}/ now")
        elif now != sha256:
            result.faults[name] = "a file of the ledger was changed since it was written"
    for name in sorted(set(files) - hashes.keys()):
        known = "not written by this ledger" if OURS.fullmatch(name) else "no file of a ledger"
        result.notes.append(f"{name} is left out: {known}")


def _compare_index(ledger: Ledger, result: Check) -> None:
    """Make the index of all parts anew, and keep the old one only where both are equal."""
    path = ledger.folder / ".index.check.sqlite"
    delete(path)
    fresh = Index(path, ledger.journal)
    for double in fresh.doubles:
        _take_out(ledger, double)
        text = f"scores/{double.part}: {len(double.positions)} rows stood twice and were taken out"
        result.notes.append(text)
    fresh.doubles = []
    fresh.follow()  # a part of doubles alone is gone
    ledger.index.follow()
    if ledger.index.equals(fresh):
        fresh.close()
        delete(path)
        return
    ledger.index.replace_by(fresh)
    ledger.journal.append("index", {})
    result.notes.append("the index differed from the parts and was made anew")


def _take_out(ledger: Ledger, double: Double) -> None:
    """Write a part, and its side table, without the rows whose keys stand in an earlier place."""
    scores = ledger.scores / double.part
    side, regions = ledger.sides(scores)
    rows = _table(scores, tables.SCORES)
    positions = set(double.positions)
    kept = rows.filter(pa.array([n not in positions for n in range(len(rows))], pa.bool_()))
    left, doubled = set(_keys(kept)), set(_keys(rows.take(double.positions)))
    if not len(kept):
        own_files = [path for path in (side, regions, scores) if path.is_file()]
        names = [path.relative_to(ledger.folder).as_posix() for path in own_files]
        ledger.journal.append("take out", dict.fromkeys(names))
        for path in reversed(own_files):
            path.unlink(missing_ok=True)
            sync(path.parent)
        return
    places = _table(regions, tables.REGIONS) if regions.is_file() else None
    if places is not None:
        own = [key not in doubled or key in left for key in _keys(places)]
        places = places.filter(pa.array(own, pa.bool_()))
    seen = _table(side, APPEARANCES)
    own = []
    for key in _keys(seen):
        own.append(key not in doubled or key in left)
        left.discard(key)
    seen = seen.filter(pa.array(own, pa.bool_()))
    written = [(side, APPEARANCES, seen), (regions, tables.REGIONS, places)]
    files = [file for file in (*written, (scores, tables.SCORES, kept)) if file[2] is not None]
    with ledger.store(*(path for path, *_ in files), do="take out") as partials:
        for partial, (_, schema, table) in zip(partials, files, strict=True):
            tables.write(partial, schema, [table])


def _table(path: Path, schema: pa.Schema) -> pa.Table:
    with open_part(path, schema) as file:
        return pa.Table.from_batches(list(tables.batches(file, schema)), schema)


def _keys(table: pa.Table) -> Iterator[tuple[str, ...]]:
    columns = (table[column.name].to_pylist() for column in tables.KEY)
    return zip(*columns, strict=True)
