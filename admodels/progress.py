"""How far a long work is: a bar on a terminal, about ten plain lines elsewhere (stderr)."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
LINES_PER_RUN = 10


class Progress:
    """For work that reports by itself; `progress` is for a loop."""

    def __init__(self, total: int, label: str) -> None:
        self._total, self._label, self._start = total, label, time.monotonic()
        self._told = 0  # of LINES_PER_RUN
        self._bar = tqdm(total=total, desc=label) if sys.stderr.isatty() else None

    def at(self, done: int) -> None:
        """Say that `done` of the total are done."""
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
            if done == self._total:
                self._bar.close()
        elif done * LINES_PER_RUN // self._total > self._told:
            self._told = done * LINES_PER_RUN // self._total
            seconds = time.monotonic() - self._start
            sys.stderr.write(f"{self._label}: {done}/{self._total} after {seconds:.0f} s\n")


def progress(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """`items`, each shown as done once the next one is asked for."""
    shown = Progress(total, label)
    for done, item in enumerate(items, 1):
        yield item
        shown.at(done)
