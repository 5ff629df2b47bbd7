"""Score the new files of a line's folder with its model and write the rows into the ledger.

`admodels nightly`, `admodels score` and the stage `score` all call `score_line`.
"""

import hashlib
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from admodels.bundles import bundle as bundles
from admodels.bundles import runtime
from admodels.bundles.bundle import Bundle
from admodels.bundles.card import fingerprints, read_card
from admodels.foundation.arrays import Float64, Records
from admodels.foundation.files import durable_file, whole_folder
from admodels.foundation.progress import progress
from admodels.images.area import Area, AreaStamp
from admodels.scoring import appearances, tables
from admodels.scoring.candidates import Candidates, picture_path
from admodels.scoring.discover import is_match, is_older, is_settled, mtime_ns, path_text
from admodels.scoring.inbox import Folder, Inbox
from admodels.scoring.index import Index
from admodels.scoring.ledger import Ledger
from admodels.scoring.lines import Tile
from admodels.scoring.part_names import PartNames
from admodels.scoring.pictures import pictures_folder
from admodels.scoring.pointing import Pointing
from admodels.scoring.rows import Read, rows
from admodels.scoring.stopping import Stop
from admodels.scoring.tables import ScoreRow
from admodels.scoring.tiling import fingerprint

ROWS_PER_PART = 4096
STUCK_SECONDS = 24 * 3600  # without a change: nobody writes such a file any more
SECONDS_PER_PART = 2.0  # of work that a kill can cost, at most, and a chunk


@dataclass(frozen=True)
class Model:
    """A bundle by what identifies it; `load` reads the weights, once there is an image to score.

    `folder` is None where the bundle is only in memory. `reference` gives the appearances of the
    calibration images, None where the bundle has none. `calibration_map_max`: the largest map value
    of each of them, empty where an older bundle does not know it.
    """

    method: str
    task: str
    model_fingerprint: str
    contract_fingerprint: str
    calibration_scores: Float64
    load: Callable[[], Bundle]
    folder: Path | None = None
    area: AreaStamp | None = None
    reference: Callable[[], Records | None] = lambda: None
    calibration_map_max: Float64 = field(default_factory=lambda: np.empty(0))

    @classmethod
    def of(cls, bundle: Bundle) -> "Model":
        """The model of a loaded bundle."""
        return cls(
            bundle.method,
            bundle.task,
            bundle.model_fingerprint,
            bundle.contract_fingerprint,
            bundle.calibration_scores,
            lambda: bundle,
            area=bundle.contract.area,
            calibration_map_max=bundle.calibration_map_max,
        )

    def with_tiles(self, tile: Tile | None) -> "Model":
        """The model for images cut into tiles, whose scores need a calibration of their own."""
        if tile is None:
            return self
        changes: dict[str, Any] = {
            "contract_fingerprint": fingerprint(self.contract_fingerprint, tile),
            "calibration_scores": np.empty(0),
            "calibration_map_max": np.empty(0),
        }
        return replace(self, **changes, load=lambda: replace(self.load(), **changes))

    def with_page(self, page: int | None) -> "Model":
        """The model for a line whose images stand on that page of their files."""
        if page is None:
            return self
        text = f"{self.contract_fingerprint} page {page}"
        changed = hashlib.sha256(text.encode()).hexdigest()[:16]

        def load() -> Bundle:
            bundle = self.load()
            reading = bundle.contract.learnt.reading.model_copy(update={"page": page})
            learnt = bundle.contract.learnt.model_copy(update={"reading": reading})
            contract = bundle.contract.model_copy(update={"learnt": learnt})
            return replace(bundle, contract=contract, contract_fingerprint=changed)

        return replace(self, contract_fingerprint=changed, load=load)

    def with_area(self, area: Area | None) -> "Model":
        """The model for a line of which another area is inspected than of the task; None: the same.

        Scores of another area need a calibration of their own, and other names of zones do not.
        """
        if area is None:
            return self
        stamp = None if area.is_everywhere else area.stamp
        changes: dict[str, Any] = {}
        if stamp != self.area:
            text = f"{self.contract_fingerprint} area {stamp.sha256 if stamp else 'everywhere'}"
            changes["contract_fingerprint"] = hashlib.sha256(text.encode()).hexdigest()[:16]
            changes["calibration_scores"] = np.empty(0)
            changes["calibration_map_max"] = np.empty(0)

        def load() -> Bundle:
            bundle = self.load()
            contract = bundle.contract.model_copy(update={"area": stamp})
            own = area if stamp else None
            return replace(bundle, contract=contract, area=own, **changes)

        return replace(self, area=stamp, load=load, **changes)

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
            lambda: _load_once(folder, fingerprints(card)),
            folder,
            card.contract.area,
            lambda: bundles.reference(folder, card),
            np.array(card.calibration_map_max),
        )


_LAST: dict[tuple[Path, tuple[str, str]], Bundle] = {}


def _load_once(folder: Path, fingerprints: tuple[str, str]) -> Bundle:
    """Load the bundle, unless it is the last that was loaded; only one is in memory."""
    if (folder, fingerprints) not in _LAST:
        _LAST.clear()
        _LAST[folder, fingerprints] = bundles.load(folder, runtime.device())
    return _LAST[folder, fingerprints]


@dataclass(frozen=True)
class LineImages:
    """Where the images of a line are, and when a file must be read.

    `pattern`: only files whose path below `folder` matches; `*` goes across folders, and capitals
    are like small letters if `ignore_case`.
    `settle_seconds`: a file that changed more recently waits for the next run; 0 takes every file.
    `exclude`: what is left out is counted, and not entered where it is a folder.
    `rehash`: also files with the size, time and inode of an earlier run are read.
    `candidates`: those of the night's audit, whose pictures are kept; None: there is no audit.
    `part_names`: how the part of an image and the time of its capture are read,
    None: not at all. `area`: the line's own; None: that of its bundle. `pointing`: which images get
    regions and pictures; None: none does.
    """

    line: str
    folder: Path
    pattern: str | None = None
    settle_seconds: float = 0.0
    rehash: bool = False
    tile: Tile | None = None
    exclude: Sequence[str] = ()  # patterns beside the usual ones
    page: int | None = None
    candidates: Candidates | None = None
    ignore_case: bool = True
    part_names: PartNames | None = None
    area: Area | None = None
    pointing: Pointing | None = None

    @property
    def with_exif(self) -> bool:
        """Whether the time of a capture stands in the EXIF of its image."""
        return self.part_names is not None and self.part_names.clock == "exif"

    @property
    def inbox(self) -> Inbox:
        """What the images are listed and read from."""
        return Folder(self.folder, self.exclude)


@dataclass
class Counts:
    """The files of a line's folder in a run: `old` ones have the row of an earlier run.

    `excluded` entries, files or whole folders, are nobody's images and have no row. `unmatched`
    files do not fit the pattern. Of the `unsettled` files, `stuck` ones did not change for a day.
    """

    paths: list[str] = field(default_factory=list)
    old: int = 0
    excluded: int = 0
    unmatched: int = 0
    unsettled: int = 0
    stuck: list[str] = field(default_factory=list)
    reused: int = 0
    pictures: int = 0
    statuses: Counter[str] = field(default_factory=Counter)


Engine = Callable[[LineImages, list[str], Model, Index, Stop], Iterator[Read]]


def local(
    images: LineImages, names: list[str], model: Model, index: Index, stopped: Stop
) -> Iterator[Read]:
    """Score in this process; see `rows`."""
    bundle = model.load()
    known = partial(
        index.answer, model=model.model_fingerprint, contract=model.contract_fingerprint
    )
    inbox, line, tile, candidates = images.inbox, images.line, images.tile, images.candidates
    more = (tile, candidates, images.with_exif, images.pointing)
    return rows(inbox, names, bundle, line, known, stopped, *more)


def score_line(
    ledger: Ledger, images: LineImages, model: Model, stop: Stop, engine: Engine = local
) -> Counts:
    """Write a row for every settled file of the line, and score each image that has no score yet.

    Raises:
        ConfigurationError: there is no such folder.
        BundleError: the bundle must not be used.
        SourceError: the engine's cluster is lost.
    """
    counts = Counts()
    names = list(_new_files(ledger, images, model, counts))
    if names:
        reads = engine(images, names, model, ledger.index, stop)
        reads = progress(reads, len(names), f"score {images.line}")
        if images.part_names:
            reads = map(partial(_with_part, images.part_names), reads)
        _keep(ledger, reads, counts, images)
    return counts


def _new_files(ledger: Ledger, images: LineImages, model: Model, counts: Counts) -> Iterator[str]:
    """The names of the files that must be read, in order; count the others."""
    fingerprints, now = (model.model_fingerprint, model.contract_fingerprint), time.time()
    inbox = images.inbox
    listing = inbox.files()
    counts.excluded = listing.excluded
    for name in listing.names:
        path = path_text(name)
        if not is_match(path, images.pattern, ignore_case=images.ignore_case):
            counts.unmatched += 1
            continue
        counts.paths.append(path)
        state = inbox.state(name)
        is_known = partial(ledger.index.is_unchanged, images.line, path, state.stamp)
        if state.stamp and not images.rehash and is_known(*fingerprints):
            counts.old += 1
        elif images.settle_seconds and not is_settled(name, state, now, images.settle_seconds):
            counts.unsettled += 1
            if is_older(state, now, STUCK_SECONDS):
                counts.stuck.append(path)
        else:
            yield name


def _with_part(names: PartNames, read: Read) -> Read:
    if read.row is None:
        return read
    return replace(read, row=names.with_part(read.row, read.exif, mtime_ns(read.stamp)))


def _keep(ledger: Ledger, reads: Iterator[Read], counts: Counts, images: LineImages) -> None:
    """Write the rows into the ledger, a part at a time, each with its change of the index."""
    while True:
        with ledger.index.change():
            pairs, ended = _next_rows(ledger, reads, counts)
            if pairs:
                if images.candidates is not None:
                    _keep_candidates(ledger, pairs, images.candidates)
                for row, read in pairs:
                    counts.pictures += keep_pictures(ledger, row, read, images.pointing)
                _write(ledger, pairs, images.pointing)
        for row, _ in pairs:
            counts.statuses[row.status] += 1
            counts.reused += row.reused
        if ended:
            return


def keep_pictures(ledger: Ledger, row: ScoreRow, read: Read, pointing: Pointing | None) -> int:
    """Write the pictures of an image, if it got any that are not there, before its row.

    How many images have pictures more than before: of too many the mildest loses its own.
    """

    def folder_of(image_sha256: str) -> Path:
        key = (row.model_fingerprint, row.contract_fingerprint)
        return ledger.folder / pictures_folder(row.line, image_sha256, *key)

    folder = folder_of(row.image_sha256)
    if pointing is None or not read.pictures or folder.exists():
        return 0
    with whole_folder(folder) as partial:
        for name, data in read.pictures.items():
            (partial / name).write_bytes(data)
    removed = list(pointing.outrank(row.anomaly_score or 0.0, row.image_sha256))
    for image_sha256 in removed:
        shutil.rmtree(folder_of(image_sha256), ignore_errors=True)
    return 1 - len(removed)


def _keep_candidates(
    ledger: Ledger, pairs: list[tuple[ScoreRow, Read]], candidates: Candidates
) -> None:
    """Write the pictures of the candidates before their rows: a row that stands has its picture."""
    for row, read in pairs:
        sha256 = row.image_sha256
        if row.anomaly_score is None or not candidates.is_candidate(sha256):
            continue
        path = picture_path(ledger.folder, candidates.line, candidates.night, sha256)
        if read.picture is not None and not path.exists():
            with durable_file(path) as partial:
                partial.write_bytes(read.picture)
        candidates.add(sha256)


def _write(ledger: Ledger, pairs: list[tuple[ScoreRow, Read]], pointing: Pointing | None) -> None:
    appearance_rows = [
        (row, mtime_ns(read.stamp), read.appearance)
        for row, read in pairs
        if read.appearance is not None
    ]
    rows = [row for row, _ in pairs]
    mm_per_px = pointing.mm_per_px if pointing else None
    places = tables.regions(((row, read.regions) for row, read in pairs), mm_per_px)
    ledger.write(rows[0].line, rows, appearances.table(appearance_rows), places)


def _next_rows(
    ledger: Ledger, reads: Iterator[Read], counts: Counts
) -> tuple[list[tuple[ScoreRow, Read]], bool]:
    """The next new rows, each with its file, and whether no file is left."""
    pairs: list[tuple[ScoreRow, Read]] = []
    start = time.monotonic()
    for read in reads:
        row = read.row
        if row is None:
            counts.unsettled += 1
            if read.stamp and time.time() - mtime_ns(read.stamp) / 1e9 >= STUCK_SECONDS:
                counts.stuck.append(read.path)
            continue
        if ledger.index.holds(row):
            counts.old += 1
        else:
            ledger.index.add(row)
            pairs.append((row, read))
        ledger.index.remember_stamp(row, read.stamp)
        if len(pairs) >= ROWS_PER_PART or time.monotonic() - start >= SECONDS_PER_PART:
            return pairs, False
    return pairs, True
