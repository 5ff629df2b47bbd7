"""Make rows of `scores` from names of files: read and decode in threads, score in chunks.

Memory is bounded by the chunk and the number of threads, whatever the number of files. The caller
chooses the files, and says which bytes have a score already.
"""

import hashlib
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np

from admodels import methods
from admodels.bundles.bundle import Bundle
from admodels.foundation.arrays import Float64, Records, UInt8
from admodels.images import decode, load
from admodels.images.decode import UnreadableImage
from admodels.images.describe import appearance
from admodels.inference import model
from admodels.scoring import tiling
from admodels.scoring.candidates import Candidates, picture
from admodels.scoring.discover import FILE_BYTES_MAX, Refused, Status, Unsettled, path_text
from admodels.scoring.inbox import Inbox
from admodels.scoring.lines import Tile
from admodels.scoring.tables import ScoreRow

Known = Callable[[str], float | None]  # image_sha256 -> its score, NaN if that was no number

PENDING_ROWS = 1024  # how many unscorable files may wait for a chunk to fill
REASON_CHARACTERS = 200
OUTSIDE = "the part lies outside the inspected area"
UNTURNED = "not turned upright: several parts, or none"  # of an image that is scored as it is


@dataclass(frozen=True)
class Read:
    """A file that was read: its row, None where the next run tries again.

    That is where the file at `path` changed meanwhile, or memory was lacking.

    `stamp` is that of the file before it was read. `appearance` is the record of its image.
    `pixels` (3, h, w) uint8 is what the detector gets, or (H, W, 3) uint8 what will be cut into
    tiles; None where there is nothing to score. `picture` is a WebP of an image that may come into
    the night's audit set, None of every other. `exif` is when the image was captured, if that is
    asked for. `place` is that of the part, see `Views`.
    """

    row: ScoreRow | None
    stamp: str
    pixels: UInt8 | None = None
    appearance: Records | None = None
    picture: bytes | None = None
    path: str = ""
    exif: str = ""
    place: Float64 | None = None


def rows(
    inbox: Inbox,
    names: Iterable[str],
    bundle: Bundle,
    line: str,
    known: Known,
    stopped: Callable[[], bool] = lambda: False,
    tile: Tile | None = None,
    candidates: Candidates | None = None,
    with_exif: bool = False,
) -> Iterator[Read]:
    """One row for each of `names` of `inbox`, in their order; fewer once `stopped`.

    `known` gives the score of bytes that were scored before, also of rows that this function has
    yielded: such an image is not scored again, and its row is marked as reused. An image that
    `candidates` asks for when it is decoded gets a picture.
    """
    fresh: dict[str, Read] = {}
    pending: list[Read] = []
    chunk = 1 if tile else methods.images_at_once(bundle.detector)
    ahead = 1 if tile else load.DECODING_THREADS + chunk
    read_file = partial(
        _read,
        inbox,
        bundle=bundle,
        line=line,
        whole=tile is not None,
        candidates=candidates,
        with_exif=with_exif,
    )
    for read in _read_ahead(read_file, names, ahead, stopped):
        row = read.row
        if row is not None and read.pixels is not None:
            reused = row.image_sha256 in fresh or known(row.image_sha256) is not None
            if not reused:
                fresh[row.image_sha256] = read
            row = replace(row, reused=reused)
        pending.append(replace(read, row=row, pixels=None, place=None))
        if len(fresh) == chunk or len(pending) == PENDING_ROWS:
            yield from _with_scores(pending, _scores(fresh, bundle, tile), known)
            fresh, pending = {}, []
    yield from _with_scores(pending, _scores(fresh, bundle, tile), known)


def _scores(fresh: dict[str, Read], bundle: Bundle, tile: Tile | None) -> dict[str, float]:
    if not fresh:
        return {}
    pixels = [read.pixels for read in fresh.values() if read.pixels is not None]
    if tile is not None:
        scores = [tiling.score_tiles(bundle, rgb, tile)[0] for rgb in pixels]
    else:
        places = [read.place for read in fresh.values()]
        scores = model.score_planes(bundle, pixels, places).anomaly_score.tolist()
    return dict(zip(fresh, scores, strict=True))


def _with_scores(pending: list[Read], scores: dict[str, float], known: Known) -> Iterator[Read]:
    for read in pending:
        row = read.row
        if row is not None and row.status == Status.SCORED:
            score = scores.get(row.image_sha256)
            row = with_score(row, known(row.image_sha256) if score is None else score)
        yield replace(read, row=row)


def with_score(row: ScoreRow, score: float | None) -> ScoreRow:
    """The row of a decoded image, with its score if that is a number."""
    if score is not None and np.isfinite(score):
        return replace(row, anomaly_score=score)
    return replace(row, status=Status.UNSCORABLE, reason="the detector's score is not finite")


def _read_ahead(
    read_file: Callable[[str], Read], names: Iterable[str], ahead: int, stopped: Callable[[], bool]
) -> Iterator[Read]:
    """The result of `read_file` for each name, in order, a bounded number ahead of the scoring."""
    waiting: deque[Future[Read]] = deque()
    pool = ThreadPoolExecutor(load.DECODING_THREADS)
    try:
        for name in names:
            waiting.append(pool.submit(read_file, name))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
            if stopped():
                return
        while waiting and not stopped():
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _read(
    inbox: Inbox,
    name: str,
    *,
    bundle: Bundle,
    line: str,
    whole: bool,
    candidates: Candidates | None,
    with_exif: bool,
) -> Read:
    row = ScoreRow(
        line=line,
        path=path_text(name),
        model_fingerprint=bundle.model_fingerprint,
        contract_fingerprint=bundle.contract_fingerprint,
        method=bundle.method,
        task=bundle.task,
    )
    looks = inbox.state(name).stamp
    try:
        data = inbox.read(name, _most_bytes(bundle, whole))
        read = _decode(data, row, looks, bundle, whole, candidates)
        is_decoded = read.appearance is not None
        return replace(read, exif=decode.exif_time(data)) if with_exif and is_decoded else read
    except (Unsettled, MemoryError):  # the next run tries again
        return Read(None, looks, path=row.path)
    except Refused as error:
        return Read(_refusal(row, error.status, error.reason), looks)
    except FileNotFoundError:
        return Read(_refusal(row, Status.VANISHED, "no such file when it was read"), looks)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return Read(_refusal(row, Status.UNREADABLE, reason), "")  # the next run tries again


def _most_bytes(bundle: Bundle, whole: bool) -> int:
    """How long a file may be: no image is kept in more bytes than decoding it takes."""
    budget = bundle.contract.learnt.budget(any_size=whole)
    return min(FILE_BYTES_MAX, budget.memory_bytes)


def _decode(
    data: bytes,
    row: ScoreRow,
    looks: str,
    bundle: Bundle,
    whole: bool,
    candidates: Candidates | None,
) -> Read:
    row = replace(row, image_sha256=hashlib.sha256(data).hexdigest())
    refused = model.header_fault(data, bundle.contract, any_size=whole)
    if refused is not None:
        header, (word, reason) = refused
        row = replace(row, width=header.width, height=header.height, bit_depth=header.bit_depth)
        return Read(_refusal(row, Status(word), reason), looks)
    try:
        image = model.decode_image(data, row.path, bundle.contract, any_size=whole)
    except UnreadableImage as error:
        return Read(_refusal(row, Status(error.reason), error.detail), looks)
    description = model.describe_image(image, bundle.contract, any_size=whole)
    record = appearance(image.rgb, description.statistics)
    row = replace(
        row,
        width=image.width,
        height=image.height,
        bit_depth=image.bit_depth,
        **asdict(description.statistics),
    )
    if description.fault is not None:
        word, reason = description.fault
        return Read(_refusal(row, Status(word), reason), looks, None, record)
    pixels, place = image.rgb, None
    if not whole:
        views = model.prepare_views(image.rgb, bundle.contract)
        pixels, place = views.planes, views.place
        if place is not None and not model.is_inspected(bundle, place):
            return Read(_refusal(row, Status.UNSCORABLE, OUTSIDE), looks, None, record)
        is_turned = bundle.contract.band is None or place is not None
        row = row if is_turned else replace(row, reason=UNTURNED)
    is_wanted = candidates is not None and candidates.is_candidate(row.image_sha256)
    shown = picture(image.rgb) if is_wanted else None
    return Read(row, looks, pixels, record, shown, place=place)


def _refusal(row: ScoreRow, status: Status, reason: str) -> ScoreRow:
    words = re.sub(r" at 0x[0-9a-f]+", "", reason)  # a decoder names its buffers; rows must repeat
    return replace(row, status=status, reason=" ".join(words.split())[:REASON_CHARACTERS])
