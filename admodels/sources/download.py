"""URLs to files: resumed where they broke off, from the first mirror that has the right bytes.

What came stands under .work/downloads, named by its SHA-256, and serves every task that is cut
from it; what has only begun to come stands there as well, so that a killed run can go on. The
folder may be deleted at any time.
"""

import hashlib
import time
import urllib.request
from collections.abc import Sequence
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError

from filelock import FileLock

from admodels.foundation.errors import DataError, SourceError
from admodels.foundation.files import sha256_of
from admodels.foundation.progress import Progress

DOWNLOADS = Path(".work/downloads")
URL_TIMEOUT_SECONDS = 60
URL_SCHEMES = ("http://", "https://", "file://")
TRIES_WITHOUT_A_BYTE = 3
PAUSE_SECONDS = 0.5
MIB = CHUNK_BYTES = 1 << 20
PARTIAL, RANGE_REFUSED = 206, 416
WORTH_ANOTHER_TRY = (408, RANGE_REFUSED, 429)  # beside all of 5xx
BROKEN = (URLError, HTTPException, TimeoutError, ConnectionError, ValueError)


def download(urls: Sequence[str], pin: str, remedy: str) -> Path:
    """The file at the first of `urls` whose SHA-256 begins with `pin`, which may be empty.

    `remedy` says what to do where another file is meant to come.

    Raises:
        SourceError: none can be reached.
        DataError: those that can be have other bytes.
    """
    DOWNLOADS.mkdir(parents=True, exist_ok=True)
    with FileLock(DOWNLOADS / f"{_key(urls[0])}.lock"):
        kept = next(iter(sorted(DOWNLOADS.glob(f"{pin}*.whole"))), None) if pin else None
        if kept and sha256_of(kept) == kept.stem:
            return kept
        other, faults = "", []
        for url in urls:
            try:
                partial = _whole(url)
            except BROKEN as error:
                faults.append(f"{url}: {error}")
                continue
            sha256 = sha256_of(partial)
            if sha256.startswith(pin):
                return partial.replace(DOWNLOADS / f"{sha256}.whole")
            partial.unlink()
            other = sha256
            faults.append(f"{url}: its sha256 is {sha256}")
    if other:
        raise DataError(
            f"source differs from its pin: its sha256 is {other}",
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


def _key(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:16]


def _whole(url: str) -> Path:
    """The file with all that `url` gives, tried again as long as more bytes come."""
    partial = DOWNLOADS / f"{_key(url)}.part"
    tries = 0
    while True:
        before = partial.stat().st_size if partial.exists() else 0
        try:
            _continue(url, partial)
            return partial
        except BROKEN as error:
            status = error.code if isinstance(error, HTTPError) else 500
            if status == RANGE_REFUSED:
                partial.unlink(missing_ok=True)
            grown = partial.exists() and partial.stat().st_size > before
            tries = 0 if grown else tries + 1
            hopeless = status < 500 and status not in WORTH_ANOTHER_TRY
            if hopeless or tries == TRIES_WITHOUT_A_BYTE:
                raise
            time.sleep(PAUSE_SECONDS * tries)


def _continue(url: str, partial: Path) -> None:
    """Download what is missing of `partial`; all of it, unless the server says it is the same."""
    version = partial.with_suffix(".version")  # the server's own mark of what has come so far
    have = partial.stat().st_size if partial.exists() and version.exists() else 0
    headers = {"User-Agent": "admodels"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": version.read_text("ascii")}
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=URL_TIMEOUT_SECONDS) as reply:
        given = reply.headers.get("Content-Range", "")
        if reply.status == PARTIAL and not given.startswith(f"bytes {have}-"):
            raise HTTPException(f"asked for bytes from {have}, got {given}")
        have = have if reply.status == PARTIAL else 0
        _mark(version, reply.headers)
        promised = have + int(reply.headers.get("Content-Length") or 0)
        shown = Progress(promised // MIB, "download, MiB")
        with partial.open("ab" if have else "wb") as file:
            while data := reply.read(CHUNK_BYTES):
                file.write(data)
                shown.at(file.tell() // MIB)
            if promised > have and file.tell() != promised:
                raise HTTPException(f"{file.tell()} of {promised} bytes came")


def _mark(version: Path, headers: Message) -> None:
    mark = headers.get("ETag") or headers.get("Last-Modified") or ""
    if mark and mark.isascii() and not mark.startswith("W/"):  # a weak tag promises no same bytes
        version.write_text(mark, "ascii")
    else:
        version.unlink(missing_ok=True)
