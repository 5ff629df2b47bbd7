"""End a run after a signal: it finishes the chunk that it has begun."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """`signal` is the number of the signal that asked for the end, 0 before."""

    def __init__(self) -> None:
        self.signal = 0

    def __call__(self) -> bool:
        """Whether the end was asked for."""
        return self.signal != 0


@contextmanager
def on_signals() -> Iterator[Stop]:
    """SIGTERM and SIGINT ask for the end; a second one has its usual effect."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, _: FrameType | None) -> None:
        stop.signal = number
        restore()

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        restore()
