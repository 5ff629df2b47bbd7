"""Make rows of `scores` from names of files: read and decode in threads, score in chunks.

Memory is bounded by the chunk and the number of threads, whatever the number of files. The caller
chooses the files, and says which bytes have a score already.
"""

import hashlib
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial

import numpy as np

from admodels import methods
from admodels.bundles.bundle import Bundle, Scored
from admodels.foundation.arrays import Float32, Float64, Records, UInt8
from admodels.images import load
from admodels.images.area import Area
from admodels.images.decode import Image, UnreadableImage
from admodels.images.describe import appearance
from admodels.inference import model
from admodels.inference.evidence import reference_crop
from admodels.inference.model import Description
from admodels.inference.regions import Region
from admodels.scoring import tiling
from admodels.scoring.candidates import Candidates, picture, shrunk_shape
from admodels.scoring.discover import FILE_BYTES_MAX, Refused, Status, Unsettled, path_text
from admodels.scoring.exif import exif_time
from admodels.scoring.inbox import Inbox
from admodels.scoring.lines import Tile
from admodels.scoring.pointing import Places, Pointing, point
from admodels.scoring.tables import Answer, ScoreRow

Known = Callable[[str], Answer | None]  # of an image by its sha256

HELD_BYTES = 256 << 20  # of decoded images that wait for their score
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
    asked for. `place` is that of the part, see `Views`. `original` gives the image (H, W, 3) until
    it is scored; `regions` and `pictures` are those of an image that is flagged or among the worst.
    """

    row: ScoreRow | None
    stamp: str
    pixels: UInt8 | None = None
    appearance: Records | None = None
    picture: bytes | None = None
    path: str = ""
    exif: str = ""
    place: Float64 | None = None
    original: Callable[[], UInt8] | None = None
    regions: tuple[Region, ...] = ()
    pictures: Mapping[str, bytes] = field(default_factory=dict)


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
    pointing: Pointing | None = None,
) -> Iterator[Read]:
    """One row for each of `names` of `inbox`, in their order; fewer once `stopped`.

    `known` gives the score of bytes that were scored before, also of rows that this function has
    yielded: such an image is not scored again, unless `pointing` flags it and its regions are not
    known any more; its row is marked as reused. An image that `candidates` asks for gets a picture.
    """
    fresh, pending = dict[str, Read](), list[Read]()
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
        held_bytes=HELD_BYTES // (ahead + chunk) if pointing else 0,
    )
    score = partial(_scores, bundle=bundle, tile=tile, pointing=pointing)
    for read in _read_ahead(read_file, names, ahead, stopped):
        row = read.row
        if row is not None and read.pixels is not None:
            answer = known(row.image_sha256)
            reused = row.image_sha256 in fresh or answer is not None
            if answer is None or _lacks_regions(row.image_sha256, answer, pointing):
                fresh.setdefault(row.image_sha256, read)
            row = replace(row, reused=reused)
        pending.append(replace(read, row=row, pixels=None, place=None, original=None))
        if len(fresh) == chunk or len(pending) == PENDING_ROWS:
            yield from _with_scores(pending, score(fresh), known, pointing)
            fresh, pending = {}, []
    yield from _with_scores(pending, score(fresh), known, pointing)


def _lacks_regions(sha256: str, answer: Answer, pointing: Pointing | None) -> bool:
    is_known = pointing is None or sha256 in pointing.known
    return not is_known and pointing is not None and pointing.is_flagged(answer.score)


Scores = dict[str, tuple[Answer, Places]]


def _scores(
    fresh: dict[str, Read], bundle: Bundle, tile: Tile | None, pointing: Pointing | None
) -> Scores:
    """What the detector says of images by their sha256, and what is pointed at."""
    if not fresh:
        return {}
    reads = list(fresh.values())
    if tile is not None:
        results = [_score_tiles(read, bundle, tile) for read in reads]
    else:
        places = [read.place for read in reads]
        scored = model.score_planes(bundle, [pixels_of(read) for read in reads], places)
        results = [_result(scored, index, bundle) for index in range(len(reads))]
    return {
        sha: (result.answer, _places(sha, read, result, pointing, bundle.area))
        for (sha, read), result in zip(fresh.items(), results, strict=True)
    }


@dataclass(frozen=True)
class _Result:
    """Score and map of one image, and the crop to compare with for shares of the image."""

    answer: Answer
    anomaly_map: Float32
    reference: Callable[[tuple[float, float]], UInt8 | None]


def _result(scored: Scored, index: int, bundle: Bundle) -> _Result:
    score, largest = float(scored.anomaly_score[index]), float(scored.map_max[index])
    answer = Answer(score, largest if np.isfinite(largest) else None)
    return _Result(
        answer, scored.anomaly_map[index], partial(reference_crop, bundle, scored, index)
    )


def _score_tiles(read: Read, bundle: Bundle, tile: Tile) -> _Result:
    score, anomaly_map = tiling.score_tiles(bundle, pixels_of(read), tile)
    largest = float(anomaly_map.max())
    answer = Answer(score, largest if np.isfinite(largest) else None)
    return _Result(answer, anomaly_map, lambda _: None)


def pixels_of(read: Read) -> UInt8:
    """What the detector gets of a read image."""
    assert read.pixels is not None
    return read.pixels


def _places(
    sha256: str, read: Read, result: _Result, pointing: Pointing | None, area: Area | None
) -> Places:
    row, original = read.row, read.original
    if pointing is None or original is None or row is None:
        return Places()

    def whole_map() -> Float32:
        shape = shrunk_shape(row.height or 1, row.width or 1)
        return model.map_to_image(result.anomaly_map, *shape, read.place)

    score = result.answer.score
    return point(pointing, score, sha256, whole_map, original, result.reference, area)


def _with_scores(
    pending: list[Read], scores: Scores, known: Known, pointing: Pointing | None
) -> Iterator[Read]:
    for read in pending:
        row = read.row
        if row is None or row.status != Status.SCORED:
            yield read
            continue
        sha256 = row.image_sha256
        fresh, places = scores.get(sha256, (None, Places()))
        row = with_score(row, known(sha256) or fresh)
        regions = pointing.known.get(sha256, ()) if pointing else ()
        yield replace(read, row=row, regions=regions, pictures=places.pictures)


def with_score(row: ScoreRow, answer: Answer | None) -> ScoreRow:
    """The row of a decoded image, with its score if that is a number."""
    if answer is not None and np.isfinite(answer.score):
        return replace(row, anomaly_score=answer.score, map_max=answer.map_max)
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
    held_bytes: int,
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
        read = _decode(data, row, looks, bundle, whole, candidates, held_bytes)
        is_decoded = read.appearance is not None
        return replace(read, exif=exif_time(data)) if with_exif and is_decoded else read
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
    held_bytes: int,
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
    row = _with_image(row, image, description)
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
    return Read(
        row,
        looks,
        pixels,
        record,
        picture(image.rgb) if is_wanted else None,
        place=place,
        original=_original(data, row.path, image.rgb, bundle, whole, held_bytes),
    )


def _with_image(row: ScoreRow, image: Image, description: Description) -> ScoreRow:
    own = asdict(description.statistics)
    return replace(row, width=image.width, height=image.height, bit_depth=image.bit_depth, **own)


def _original(
    data: bytes, path: str, rgb: UInt8, bundle: Bundle, whole: bool, held_bytes: int
) -> Callable[[], UInt8] | None:
    """What gives the image again: itself, or its file in memory where it is larger than that."""
    if not held_bytes:
        return None
    if whole or rgb.nbytes <= held_bytes:
        return lambda: rgb
    return lambda: model.decode_image(data, path, bundle.contract).rgb


def _refusal(row: ScoreRow, status: Status, reason: str) -> ScoreRow:
    words = re.sub(r" at 0x[0-9a-f]+", "", reason)  # a decoder names its buffers; rows must repeat
    return replace(row, status=status, reason=" ".join(words.split())[:REASON_CHARACTERS])
