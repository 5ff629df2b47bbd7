"""A frozen camera: do files under new names hold the same bytes again and again?

The noise of a sensor makes every picture another one, so equal bytes are no coincidence. A copy of
a folder holds each content twice, which says nothing of the camera.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from admodels.foundation.arrays import Int64
from admodels.nights.drift.statistics import iso_time

FILES = 5  # of one content, at least
SHARE = 0.1  # of the images, at least: less is a picture that stands for a missed one


@dataclass(frozen=True)
class Repeats:
    """`files` of the `images` hold only `contents` different contents.

    `since`: the time of the first repeated one, ISO 8601, UTC; None where all are from the start.
    """

    files: int
    images: int
    contents: int
    since: str | None


def repeats(contents: Sequence[str], mtimes: Int64) -> Repeats | None:
    """What is repeated among (N,) hashes of contents of files of these times (ns), if much is."""
    counts = Counter(contents)
    often = {content for content, count in counts.items() if count >= FILES}
    repeated = np.array([content in often for content in contents], bool)
    if not often or repeated.mean() < SHARE:
        return None
    order = np.argsort(mtimes, kind="stable")
    again = repeated[order]
    again[np.unique([contents[index] for index in order], return_index=True)[1]] = False
    start = int(again.argmax())
    since = iso_time(int(mtimes[order][start])) if start > len(often) else None
    return Repeats(int(repeated.sum()), len(contents), len(often), since)
