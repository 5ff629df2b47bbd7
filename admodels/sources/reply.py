"""Replies of servers, read within bounds of time.

`urllib` bounds each read of a socket alone: a server that sends a byte each half second, in the
headers or behind them, would hold a process for ever.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from queue import Empty, Queue
from threading import Thread
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

CHUNK_BYTES = 1 << 20
CHUNKS_AHEAD = 4  # of the one who reads
STALL_SECONDS = 60  # a file server that waits for a tape or packs an archive answers sooner
LEAST_BYTES = 64 << 10  # in STALL_SECONDS: some 1 KiB/s, less than any line of today


class Reply:
    """A reply whose bytes come through a thread, which may hang: the one who reads does not.

    `status` is None for a file URL. Use it as a context, which lets the thread end.

    Raises:
        TimeoutError: the headers took longer than STALL_SECONDS.
    """

    def __init__(self, request: Request) -> None:
        self._queue: Queue[Any] = Queue(CHUNKS_AHEAD)
        self._is_wanted = True
        Thread(target=self._receive, args=(request,), daemon=True).start()
        self.status, self.headers = self._next(time.monotonic() + STALL_SECONDS)

    def __enter__(self) -> "Reply":
        return self

    def __exit__(self, *_: object) -> None:
        self._is_wanted = False
        with suppress(Empty):  # makes room for what the thread holds, after which it looks and ends
            while True:
                self._queue.get_nowait()

    def chunks(self) -> Iterator[bytes]:
        """The bytes as they come.

        Raises:
            TimeoutError: fewer than LEAST_BYTES came in STALL_SECONDS.
        """
        count, deadline = 0, time.monotonic() + STALL_SECONDS
        while data := self._next(deadline):
            yield data
            count += len(data)
            if count >= LEAST_BYTES:
                count, deadline = 0, time.monotonic() + STALL_SECONDS

    def _next(self, deadline: float) -> Any:
        try:
            item = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
        except Empty:
            self._is_wanted = False
            slow = f"fewer than {LEAST_BYTES} bytes came in {STALL_SECONDS} s"
            raise TimeoutError(slow) from None
        if isinstance(item, Exception):
            raise item
        return item

    def _receive(self, request: Request) -> None:
        try:
            with urlopen(request, timeout=STALL_SECONDS) as reply:
                self._queue.put((reply.status, reply.headers))
                while self._is_wanted and (data := reply.read1(CHUNK_BYTES)):
                    self._queue.put(data)
            self._queue.put(b"")
        except HTTPError as error:
            error.close()
            self._queue.put(error)
        except Exception as error:  # raised again where the reply is read
            self._queue.put(error)
