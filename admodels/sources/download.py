"""URLs to files: resumed where they broke off, from the first mirror that has the right bytes.

What came stands under .work/downloads, named by its SHA-256, and serves every task that is cut
from it; what has only begun to come stands there as well, so that a killed run can go on. The
folder may be deleted at any time.
"""

import hashlib
import re
import time
from collections.abc import Sequence
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request

from filelock import FileLock

from admodels.foundation.errors import DataError, SourceError
from admodels.foundation.files import sha256_of
from admodels.foundation.progress import Progress
from admodels.sources.reply import LEAST_BYTES, Reply

DOWNLOADS = Path(".work/downloads")
URL_SCHEMES = ("http://", "https://", "file://")
LARGEST_BYTES = 64 << 30  # of a file: twelve times the archive of MVTec AD
LONGEST_SECONDS = 24 * 60 * 60  # of a file in one run: some 0.8 MB/s for the largest
FRUITLESS_TRIES = 3
PAUSE_SECONDS = 0.5
MIB = 1 << 20
PARTIAL, RANGE_REFUSED = 206, 416
WORTH_ANOTHER_TRY = (408, RANGE_REFUSED, 429)  # beside all of 5xx
CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")  # RFC 9110, section 14.4
BROKEN = (URLError, HTTPException, TimeoutError, ConnectionError, ValueError)


class TooMuch(HTTPException):
    """A file without end, or one that takes longer than any is worth."""


class OtherBytes(Exception):  # noqa: N818
    """A whole file whose SHA-256 is not that of the pin."""


def download(urls: Sequence[str], pin: str, remedy: str) -> Path:
    """The file at the first of `urls` whose SHA-256 begins with `pin`, which may be empty.

    `remedy` says what to do where another file is meant to come.

    Raises:
        SourceError: none can be reached.
        DataError: those that can be have other bytes.
    """
    DOWNLOADS.mkdir(parents=True, exist_ok=True)
    other, faults = "", []
    for url in urls:
        try:
            return _fetch(url, pin)
        except OtherBytes as error:
            other = str(error)
            faults.append(f"{url}: {error}")
        except BROKEN as error:
            faults.append(f"{url}: {error}")
    if other:
        raise DataError(
            f"source differs from its pin: {other}",
            where="; ".join(faults),
            expected=f"the pinned {pin}",
            next_step=f"if the change is meant: {remedy}",
        )
    raise SourceError(
        "source cannot be downloaded",
        where="; ".join(faults),
        expected="a reply with the file",
        next_step="check the URL and the network, then run this again: it goes on where it was",
    )


def _fetch(url: str, pin: str) -> Path:
    """The file with the bytes of `pin`, from the disk or from `url`, which one process asks.

    Raises:
        OtherBytes: `url` gives another file.
        HTTPException: without a pin nobody can tell whether the file is whole.
    """
    with FileLock(DOWNLOADS / f"{_key(url)}.lock"):
        kept = next(iter(sorted(DOWNLOADS.glob(f"{pin}*.whole"))), None) if pin else None
        if kept and sha256_of(kept) == kept.stem:
            return kept
        partial, has_end = _whole(url)
        sha256 = sha256_of(partial)
        if sha256.startswith(pin) and (pin or has_end):
            return partial.replace(DOWNLOADS / f"{sha256}.whole")
        partial.unlink()
        if has_end:
            raise OtherBytes(f"its sha256 is {sha256}")
        raise HTTPException(
            f"the reply does not say where it ends, so it may have broken off: its {sha256=!s}; "
            "download the file in another way, check it, and give its path"
        )


def _key(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:16]


def _whole(url: str) -> tuple[Path, bool]:
    """The file with all that `url` gives, and whether the reply says where it ends.

    Tried again as long as enough bytes come.
    """
    partial = DOWNLOADS / f"{_key(url)}.part"
    tries, deadline = 0, time.monotonic() + LONGEST_SECONDS
    while True:
        before = _bytes_of(partial)
        try:
            return partial, _continue(url, partial, deadline)
        except BROKEN as error:
            status = error.code if isinstance(error, HTTPError) else 500
            if status == RANGE_REFUSED:
                partial.unlink(missing_ok=True)
            tries = 0 if _bytes_of(partial) - before >= LEAST_BYTES else tries + 1
            hopeless = status < 500 and status not in WORTH_ANOTHER_TRY
            if hopeless or tries == FRUITLESS_TRIES or isinstance(error, TooMuch):
                raise
            time.sleep(PAUSE_SECONDS * tries)


def _bytes_of(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _continue(url: str, partial: Path, deadline: float) -> bool:
    """Download what is missing of `partial`; all of it, unless the server says it is the same.

    Whether the reply says where the file ends.
    """
    version = partial.with_suffix(".version")  # the server's own mark of what has come so far
    have = _bytes_of(partial) if version.exists() else 0
    headers = {"User-Agent": "admodels"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": version.read_text("ascii")}
    with Reply(Request(url, headers=headers)) as reply:
        end = _end_of(reply, have)
        if (end or 0) > LARGEST_BYTES:
            raise TooMuch(f"the file has {end} bytes, the limit is {LARGEST_BYTES}")
        _mark(version, partial, reply)
        _append(partial, reply, end, deadline)
    is_chunked = reply.headers.get("Transfer-Encoding", "").lower() == "chunked"
    return end is not None or (is_chunked and reply.status != PARTIAL)


def _end_of(reply: Reply, have: int) -> int | None:
    """The bytes of the whole file, None where the reply does not say.

    Raises:
        HTTPException: the reply begins elsewhere than asked.
    """
    if reply.status != PARTIAL:
        is_chunked = "Transfer-Encoding" in reply.headers  # beside which a length does not count
        length = None if is_chunked else reply.headers.get("Content-Length")
        return None if length is None else int(length)
    given = reply.headers.get("Content-Range", "")
    match = CONTENT_RANGE.fullmatch(given)
    if not match or int(match[1]) != have:
        raise HTTPException(f"asked for bytes from {have}, got {given}")
    return None if match[2] == "*" else int(match[2])


def _mark(version: Path, partial: Path, reply: Reply) -> None:
    """Keep the server's mark of the bytes to come.

    The old part goes first: a mark beside bytes of another version would mix the two.

    Raises:
        HTTPException: the server goes on with another version.
    """
    mark = _mark_of(reply.headers)
    if reply.status == PARTIAL:
        if mark and mark != version.read_text("ascii"):
            partial.unlink(missing_ok=True)
            raise HTTPException(f"the file has changed: its mark is {mark}")
        return
    version.unlink(missing_ok=True)
    partial.unlink(missing_ok=True)
    if mark:
        version.write_text(mark, "ascii")


def _mark_of(headers: Message) -> str:
    mark: str = headers.get("ETag") or headers.get("Last-Modified") or ""
    is_strong = mark.isascii() and not mark.startswith("W/")  # a weak tag promises no same bytes
    return mark if is_strong else ""


def _append(partial: Path, reply: Reply, end: int | None, deadline: float) -> None:
    """Write what comes behind what is there.

    Raises:
        HTTPException: more or fewer bytes came than the reply says, or more than any file has.
    """
    shown = Progress((end or 0) // MIB, "download, MiB")
    limit = LARGEST_BYTES if end is None else end
    with partial.open("ab") as file:
        for data in reply.chunks():
            file.write(data)
            shown.at(file.tell() // MIB)
            if file.tell() > limit:
                partial.unlink()
                raise TooMuch(f"more than {limit} bytes came")
            if time.monotonic() > deadline:
                raise TooMuch(f"not whole after {LONGEST_SECONDS} s")
        if end is not None and file.tell() != end:
            raise HTTPException(f"{file.tell()} of {end} bytes came")
