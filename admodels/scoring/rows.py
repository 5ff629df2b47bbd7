"""From the names of files to rows of `scores`: read and decode in threads, score in chunks.

Memory is bounded by the chunk and the number of threads, whatever the number of files. Which
files come, and what is already known of their bytes, is the caller's choice.
"""

import hashlib
import re
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from admodels import bundle as bundles
from admodels import images
from admodels.bundle import Bundle
from admodels.scoring.discover import Refused, Status, contents, shown
from admodels.scoring.tables import Row
from admodels.statistics import statistics

Pixels = NDArray[np.uint8]
Found = tuple[Row, Pixels | None]  # pixels (3, image_px, image_px) of what can be scored

PENDING_ROWS = 1024  # how many unscorable files may wait for a chunk to fill
REASON_CHARACTERS = 200


def rows(
    folder: Path,
    names: Iterable[str],
    bundle: Bundle,
    line: str,
    known: dict[str, float] | None = None,
) -> Iterator[Row]:
    """One row for each of `names` below `folder`, in their order.

    `known` maps image_sha256 to the score that this very model gave these bytes; it is added to.
    A known image is not scored again, its row is marked as reused.
    """
    known = {} if known is None else known
    fresh: dict[str, Pixels] = {}
    pending: list[Row] = []
    for row, pixels in _read_ahead(folder.resolve(), names, bundle, line):
        reused = pixels is not None and (row.image_sha256 in known or row.image_sha256 in fresh)
        if pixels is not None and not reused:
            fresh[row.image_sha256] = pixels
        pending.append(replace(row, reused=reused))
        if len(fresh) == bundle.params.score_chunk_images or len(pending) == PENDING_ROWS:
            yield from _scored(pending, fresh, bundle, known)
            fresh, pending = {}, []
    yield from _scored(pending, fresh, bundle, known)


def _scored(
    pending: list[Row], fresh: dict[str, Pixels], bundle: Bundle, known: dict[str, float]
) -> list[Row]:
    if fresh:
        found = bundles.score(bundle.detector, np.stack(list(fresh.values())))
        known.update(zip(fresh, found.anomaly_score.tolist(), strict=True))
    return [_with_score(row, known) if row.status == Status.SCORED else row for row in pending]


def _with_score(row: Row, known: dict[str, float]) -> Row:
    score = known[row.image_sha256]
    if np.isfinite(score):
        return replace(row, anomaly_score=score)
    return replace(row, status=Status.UNSCORABLE, reason=f"the detector's score is {score}")


def _read_ahead(root: Path, names: Iterable[str], bundle: Bundle, line: str) -> Iterator[Found]:
    """Each file as `_read` finds it, in order, a bounded number of them ahead of the scoring."""
    ahead = images.DECODING_THREADS + bundle.params.score_chunk_images
    waiting: deque[Future[Found]] = deque()
    with ThreadPoolExecutor(images.DECODING_THREADS) as pool:
        for name in names:
            waiting.append(pool.submit(_read, root, name, bundle, line))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _read(root: Path, name: str, bundle: Bundle, line: str) -> Found:
    row = Row(
        line=line,
        path=shown(name),
        model_fingerprint=bundle.model_fingerprint,
        contract_fingerprint=bundle.contract_fingerprint,
        method=bundle.method,
        task=bundle.task,
    )
    try:
        data = contents(root, name)
        row = replace(row, image_sha256=hashlib.sha256(data).hexdigest())
        image = images.decoded(data, row.path)
    except images.UnreadableImage as error:
        return _refused(row, Status(error.reason), error.found), None
    except Refused as error:
        return _refused(row, error.status, error.reason), None
    except FileNotFoundError:
        return _refused(row, Status.VANISHED, "no such file when it was read"), None
    except OSError as error:
        return _refused(row, Status.UNREADABLE, error.strerror or type(error).__name__), None
    facts = replace(
        row,
        width=image.width,
        height=image.height,
        bit_depth=image.bit_depth,
        **asdict(statistics(image.rgb)),
    )
    contract = bundle.contract
    resized = images.resized(image.rgb, contract.image_px, contract.resize)
    return facts, resized.transpose(2, 0, 1)


def _refused(row: Row, status: Status, reason: str) -> Row:
    told = re.sub(r" at 0x[0-9a-f]+", "", reason)  # a decoder names its buffers; rows must repeat
    return replace(row, status=status, reason=" ".join(told.split())[:REASON_CHARACTERS])
