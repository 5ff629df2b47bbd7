"""The one engine: what is new of a line's folder goes through its model into the ledger.

`admodels nightly`, `admodels watch`, `admodels score` and the stage `score` all end up here.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from admodels.bundles import bundle as bundles
from admodels.bundles import runtime
from admodels.bundles.bundle import Bundle
from admodels.bundles.card import fingerprints, read_card
from admodels.foundation.arrays import Float64, Records
from admodels.foundation.progress import progress
from admodels.scoring import appearances
from admodels.scoring.discover import files, is_settled, mtime_ns, shown, stamp_of
from admodels.scoring.index import Index
from admodels.scoring.ledger import Ledger
from admodels.scoring.lines import Tile
from admodels.scoring.rows import Read, rows
from admodels.scoring.stopping import Stop
from admodels.scoring.tables import ScoreRow
from admodels.scoring.tiling import fingerprint

ROWS_PER_PART = 4096
SECONDS_PER_PART = 2.0  # of work that a kill can cost, at most, and a chunk


@dataclass(frozen=True)
class Model:
    """A bundle by what identifies it; `load` is asked for when there is an image to score.

    `reference`: the appearances of its calibration images, if it has them.
    """

    method: str
    task: str
    model_fingerprint: str
    contract_fingerprint: str
    calibration_scores: Float64
    load: Callable[[], Bundle]
    folder: Path | None = None  # None: in memory
    reference: Callable[[], Records | None] = lambda: None

    @classmethod
    def of(cls, bundle: Bundle) -> "Model":
        """A loaded bundle."""
        return cls(
            bundle.method,
            bundle.task,
            bundle.model_fingerprint,
            bundle.contract_fingerprint,
            bundle.calibration_scores,
            lambda: bundle,
        )

    def tiled(self, tile: Tile | None) -> "Model":
        """The model on images that are cut: other scores, which need a calibration of their own."""
        if tile is None:
            return self
        changes: dict[str, Any] = {
            "contract_fingerprint": fingerprint(self.contract_fingerprint, tile),
            "calibration_scores": np.empty(0),
        }
        return replace(self, **changes, load=lambda: replace(self.load(), **changes))

    @classmethod
    def at(cls, folder: Path) -> "Model":
        """The bundle in `folder`, its hashes checked.

        Raises:
            BundleError: the bundle must not be used.
        """
        card = read_card(folder)
        return cls(
            card.method,
            card.task,
            *fingerprints(card),
            np.array(card.calibration_scores),
            lambda: _loaded(folder, fingerprints(card)),
            folder,
            lambda: bundles.reference(folder, card),
        )


_LAST: dict[tuple[Path, tuple[str, str]], Bundle] = {}


def _loaded(folder: Path, fingerprints: tuple[str, str]) -> Bundle:
    """The bundle; the last one is kept, and gone before another is loaded."""
    if (folder, fingerprints) not in _LAST:
        _LAST.clear()
        _LAST[folder, fingerprints] = bundles.load(folder, runtime.device())
    return _LAST[folder, fingerprints]


@dataclass(frozen=True)
class LineImages:
    """Where a line's images come from, and how far the looks of a file are trusted.

    `pattern`: only files whose path below `folder` matches; `*` goes across folders.
    `settle_seconds`: a file younger than that waits for the next run; 0 takes every file.
    """

    line: str
    folder: Path
    pattern: str | None = None
    settle_seconds: float = 0.0
    rehash: bool = False
    tile: Tile | None = None


@dataclass
class Counts:
    """What a run found in a line's folder: `old` files have the row of an earlier run."""

    paths: list[str] = field(default_factory=list)
    old: int = 0
    unsettled: int = 0
    reused: int = 0
    statuses: Counter[str] = field(default_factory=Counter)


Engine = Callable[[LineImages, list[str], Model, Index, Stop], Iterator[Read]]


def local(
    source: LineImages, names: list[str], model: Model, index: Index, stopped: Stop
) -> Iterator[Read]:
    """The engine of this process; see `rows`."""
    bundle = model.load()
    known = partial(index.score, model=model.model_fingerprint, contract=model.contract_fingerprint)
    return rows(source.folder, names, bundle, source.line, known, stopped, source.tile)


def score_line(
    ledger: Ledger, source: LineImages, model: Model, stop: Stop, engine: Engine = local
) -> Counts:
    """Give every settled file of the line its row, and every image its score, unless it has one.

    Raises:
        ConfigurationError: there is no such folder.
        BundleError: the bundle must not be used.
        SourceError: the engine's cluster is lost.
    """
    counts = Counts()
    names = list(_new(ledger, source, model, counts))
    if names:
        found = engine(source, names, model, ledger.index, stop)
        _keep(ledger, progress(found, len(names), f"score {source.line}"), counts)
    return counts


def _new(ledger: Ledger, source: LineImages, model: Model, counts: Counts) -> Iterator[str]:
    """The files that must be read, in order."""
    fingerprints, now = (model.model_fingerprint, model.contract_fingerprint), time.time()
    for name in files(source.folder):
        path = shown(name)
        if source.pattern is not None and not fnmatchcase(path, source.pattern):
            continue
        counts.paths.append(path)
        looks = "" if source.rehash else stamp_of(source.folder / name)
        if looks and ledger.index.is_unchanged(source.line, path, looks, *fingerprints):
            counts.old += 1
        elif source.settle_seconds and not is_settled(name, looks, now, source.settle_seconds):
            counts.unsettled += 1
        else:
            yield name


def _keep(ledger: Ledger, found: Iterator[Read], counts: Counts) -> None:
    """Commit the rows, a part at a time."""
    while True:
        with ledger.index.change():
            part, ended = _part(ledger, found, counts)
            if part:
                _write(ledger, part)
        for row, _ in part:
            counts.statuses[row.status] += 1
            counts.reused += row.reused
        if ended:
            return


def _write(ledger: Ledger, part: list[tuple[ScoreRow, Read]]) -> None:
    seen = [
        (row, mtime_ns(read.stamp), read.appearance)
        for row, read in part
        if read.appearance is not None
    ]
    rows = [row for row, _ in part]
    ledger.write(rows[0].line, rows, appearances.table(seen))


def _part(
    ledger: Ledger, found: Iterator[Read], counts: Counts
) -> tuple[list[tuple[ScoreRow, Read]], bool]:
    """The rows that are new of the next few files, and whether these were the last."""
    part: list[tuple[ScoreRow, Read]] = []
    start = time.monotonic()
    for read in found:
        row = read.row
        if row is None:
            counts.unsettled += 1
            continue
        if ledger.index.holds(row):
            counts.old += 1
        else:
            ledger.index.add(row)
            part.append((row, read))
        ledger.index.saw(row, read.stamp)
        if len(part) >= ROWS_PER_PART or time.monotonic() - start >= SECONDS_PER_PART:
            return part, False
    return part, True
