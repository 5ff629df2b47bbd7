"""Which images are nearly the same, which stand out, and which come from another session.

All from one coarse thumbnail per image. Parts under one camera look alike to a usual perceptual
hash: of MVTec AD's bottles every second one has the hash of another. Here a bit says whether a
cell is brighter than in most images of the task, so that only what sets an image apart counts.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from admodels.foundation.arrays import Float32, Float64, Int64, UInt8, UInt16
from admodels.foundation.progress import progress
from admodels.images.describe import THUMBNAIL_PX

if TYPE_CHECKING:
    import pandas as pd

CELLS = THUMBNAIL_PX**2
HASH_BITS = CELLS
CHUNK_IMAGES = 1024  # compared with all others at once
REFERENCE_IMAGES = 4096  # that say what is usual; more add nothing but memory
ODDEST_CELLS = 5
LEAST_SPREAD = 0.05  # of a cell, in deviations of its image
CHANCE = 1e-3  # a p-value below which a shift is taken for real
SESSION_STATISTICS = ("brightness", "contrast", "sharpness")
Thumbnails = UInt16  # (N, CELLS), grey levels times 256
Hashes = UInt8  # (N, HASH_BITS / 8)


@dataclass(frozen=True)
class Pair:
    """Two images by path, `bits` of their hashes apart; `across` two splits or in one."""

    first: str
    second: str
    bits: int
    across: bool


def _relative(thumbnails: Thumbnails) -> Float32:
    """(N, CELLS): each image around 0 with deviation 1, so that exposure does not count."""
    values = thumbnails.astype(np.float32) / 256
    values -= values.mean(axis=1, keepdims=True)
    return np.asarray(values / np.maximum(values.std(axis=1, keepdims=True), 1.0))


def _usual(thumbnails: Thumbnails) -> tuple[Float32, Float32]:
    """The median of each cell, and how far images usually are from it."""
    values = _relative(thumbnails[:: math.ceil(len(thumbnails) / REFERENCE_IMAGES)])
    middle = np.median(values, axis=0)
    return middle, np.median(np.abs(values - middle), axis=0) * 1.4826  # of a normal distribution


def _chunks(thumbnails: Thumbnails) -> Iterator[Thumbnails]:
    for start in range(0, len(thumbnails), CHUNK_IMAGES):
        yield thumbnails[start : start + CHUNK_IMAGES]


def perceptual_hashes(thumbnails: Thumbnails) -> Hashes:
    """Is each cell of an image brighter than in most of these images?"""
    middle, _ = _usual(thumbnails)
    chunks = [np.packbits(_relative(c) > middle, axis=1) for c in _chunks(thumbnails)]
    return np.concatenate(chunks)


def oddity(thumbnails: Thumbnails) -> Float64:
    """(N,): how far the oddest cells of an image are from usual; 1 is the median of all images."""
    middle, spread = _usual(thumbnails)
    chunks = []
    for chunk in _chunks(thumbnails):
        distances = np.abs(_relative(chunk) - middle) / (spread + LEAST_SPREAD)
        chunks.append(np.sort(distances, axis=1)[:, -ODDEST_CELLS:].mean(axis=1))
    distance = np.concatenate(chunks).astype(np.float64)
    return np.asarray(distance / max(float(np.median(distance)), 1e-9))


def nearest(queries: Hashes, base: Hashes, own: Int64) -> NDArray[np.int32]:
    """(N, 2): the row of `base` nearest to each query, and the bits between; -1 if there is none.

    `own[i]` is the row of `base` that is query i itself, or -1.
    """
    near = np.full((len(queries), 2), -1, dtype=np.int32)
    candidates = min(2, len(base))
    starts = range(0, len(queries) if candidates else 0, CHUNK_IMAGES)
    for start in progress(starts, len(starts), "compare images"):
        chunk = slice(start, start + CHUNK_IMAGES)
        bits, rows = cv2.batchDistance(
            queries[chunk], base, cv2.CV_32S, normType=cv2.NORM_HAMMING, K=candidates
        )
        is_own = rows[:, 0] == own[chunk]
        chosen = np.where(is_own, candidates - 1, 0)
        line = np.arange(len(rows))
        known = ~is_own if candidates == 1 else np.full(len(rows), True)
        near[chunk][known] = np.stack([rows[line, chosen], bits[line, chosen]], axis=1)[known]
    return near


def near_clusters(hashes: Hashes, limit: int) -> list[list[int]]:
    """The rows of `hashes` that chains of at most `limit` bits a link connect, two or more each."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = [np.empty((0, 2), dtype=np.int64)]
    words = np.ascontiguousarray(hashes).view(np.uint64)
    starts = range(0, len(words), CHUNK_IMAGES)
    for start in progress(starts, len(starts), "compare images"):
        chunk = words[start : start + CHUNK_IMAGES]
        counts = (np.bitwise_count(chunk[:, [w]] ^ words[:, w]) for w in range(words.shape[1]))
        bits = sum(counts, start=np.uint16(0))  # 8 bits could not count to HASH_BITS
        links.append(np.argwhere(bits <= limit) + np.array((start, 0)))
    rows, columns = np.concatenate(links).T
    ones = np.ones(len(rows), dtype=np.bool_)
    graph = coo_array((ones, (rows, columns)), shape=(len(hashes), len(hashes)))
    _, labels = connected_components(graph, directed=False)
    clusters: dict[int, list[int]] = {}
    for row, label in enumerate(labels.tolist()):
        clusters.setdefault(label, []).append(row)
    return [members for members in clusters.values() if len(members) > 1]


def usual_limit(limit: int, images: int) -> int:
    """`limit` bits, and one more for each cell whose median may run between two copies."""
    return limit + HASH_BITS // max(images, 1)


def near_pairs(table: "pd.DataFrame", limit: int) -> list[Pair]:
    """Each image with its nearest one in its split, and in the other splits, nearest first.

    At most `limit` bits apart, and one more for each cell whose median may run between two copies,
    which in few images is no rare thing. Copies to the byte are no pair. `table` has image_path,
    image_sha256, split and perceptual_hash (empty: unreadable).
    """
    hashed = table[table["perceptual_hash"] != ""]
    known = hashed.drop_duplicates(["image_sha256", "split"])
    data = bytes.fromhex("".join(known["perceptual_hash"]))
    hashes = np.frombuffer(data, dtype=np.uint8).reshape(-1, HASH_BITS // 8)
    paths, splits = known["image_path"].to_numpy(), known["split"].to_numpy()
    shas = known["image_sha256"].to_numpy()
    limit = usual_limit(limit, len(hashed))
    pairs = set()
    for split in sorted(set(splits)):
        mine, others = np.flatnonzero(splits == split), np.flatnonzero(splits != split)
        for base, own in ((mine, np.arange(len(mine))), (others, np.full(len(mine), -1))):
            near = nearest(hashes[mine], hashes[base], own)
            for query, (row, bits) in zip(mine, near.tolist(), strict=True):
                if row >= 0 and bits <= limit and shas[base[row]] != shas[query]:
                    first, second = sorted((paths[query], paths[base[row]]))
                    pairs.add(Pair(first, second, bits, base is others))
    return sorted(pairs, key=lambda pair: (not pair.across, pair.bits, pair.first, pair.second))


def session_shift(table: "pd.DataFrame") -> dict[str, float]:
    """How far the normal images of test are from those to learn from, by statistic, in 0..1.

    The Kolmogorov-Smirnov distance; 0 where chance explains it.
    """
    from scipy.stats import ks_2samp

    normal = table[(table["label"] == "normal") & table["brightness"].notna()]
    tested = normal["part"] == "test"
    shifts = dict.fromkeys(SESSION_STATISTICS, 0.0)
    if tested.any() and not tested.all():
        for name in SESSION_STATISTICS:
            result = ks_2samp(normal.loc[tested, name], normal.loc[~tested, name])
            shifts[name] = round(float(result.statistic), 3) if result.pvalue < CHANCE else 0.0
    return shifts
