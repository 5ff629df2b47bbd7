"""How far a long work is: a bar on a terminal, about ten plain lines elsewhere (stderr).

Work that is short shows nothing.
"""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from admodels.foundation.logs import is_json

T = TypeVar("T")
LOG = logging.getLogger(__name__)
LINES_PER_RUN = 10
SHORT_SECONDS = 2.0


class Progress:
    """For work that reports by itself; `progress` is for a loop. A total of 0 is not known."""

    def __init__(self, total: int, label: str) -> None:
        self._total, self._label, self._start = total, label, time.monotonic()
        self._lines = 0  # written, of LINES_PER_RUN
        self._bar = None
        if sys.stderr.isatty() and not is_json():
            self._bar = tqdm(total=total, desc=label, delay=SHORT_SECONDS)

    def at(self, done: int) -> None:
        """Say that `done` of the total are done."""
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
            if done == self._total:
                self._bar.close()
        elif self._total:
            self._write(done, time.monotonic() - self._start)

    def _write(self, done: int, seconds: float) -> None:
        reached = done * LINES_PER_RUN // self._total
        if seconds >= SHORT_SECONDS and reached > self._lines:
            self._lines = reached
            rate = done / max(seconds, 1e-9)
            left = f"{rate:.3g}/s, {(self._total - done) / rate:.0f} s left"
            state = f"{done}/{self._total} after {seconds:.0f} s, {left}"
            LOG.info("%s: %s", self._label, state)


def progress(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """`items`, each shown as done once the next one is asked for."""
    shown = Progress(total, label)
    for done, item in enumerate(items, 1):
        yield item
        shown.at(done)
