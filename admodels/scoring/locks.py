"""Two locks of a ledger, both of the kernel: it lets go of them when their process ends.

lock          the run lock: one look at a time, from listing to its end; another is refused
commit.lock   the commit lock: for the moment of a write, by every command; others wait

Reading takes none. The text in `lock` is for people alone.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from admodels.foundation.errors import BusyError

RUN, COMMIT = "lock", "commit.lock"
RUN_SECONDS = 1.0  # so long a look waits: `is_at_work` asks by taking the lock for an instant
COMMIT_SECONDS = 120.0
STEP_SECONDS = 0.05


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the run lock.

    Raises:
        BusyError: another run is at work; the process is named.
    """
    with _hold(folder, RUN, RUN_SECONDS) as lock:
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()} on {os.uname().nodename}".encode(), 0)
        yield
        os.ftruncate(lock, 0)


@contextmanager
def commit_lock(folder: Path) -> Iterator[None]:
    """Hold the commit lock, which others hold for a moment only.

    Raises:
        BusyError: another process has held it for two minutes.
    """
    with _hold(folder, COMMIT, COMMIT_SECONDS):
        yield


def is_at_work(folder: Path) -> bool:
    """Whether a look is at work, whatever number its process has and on whichever host."""
    try:
        lock = os.open(folder / RUN, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


@contextmanager
def _hold(folder: Path, name: str, seconds: float) -> Iterator[int]:
    lock = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o640)
    try:
        _take(lock, folder / name, seconds)
        yield lock
    finally:
        os.close(lock)


def _take(lock: int, path: Path, seconds: float) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < until:
                time.sleep(STEP_SECONDS)
                continue
        holder = os.pread(lock, 100, 0).decode("ascii", "replace")
        raise BusyError(
            "another run is at work here" + (f": process {holder}" if holder else ""),
            where=path,
            expected="one run at a time on one output",
            next_step="wait for its end, or name another output",
        )
