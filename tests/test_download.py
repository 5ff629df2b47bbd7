"""Downloads from a real server that misbehaves as servers do."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from admodels.foundation.errors import DataError, SourceError
from admodels.sources import download as download_module
from admodels.sources import reply
from admodels.sources.download import DOWNLOADS, download

REPO = Path(__file__).parents[1]
DATA = random.Random(5).randbytes(3_000_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
REMEDY = "`admodels task refresh x`"


class Unruly(BaseHTTPRequestHandler):
    """Serves DATA at /good; the other paths are the faults that their names say."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Range")))
        count = self.server.counted[self.path] = self.server.counted[self.path] + 1
        getattr(self, "serve_" + self.path.strip("/"))(count)

    def log_message(self, *_):
        pass

    def give(self, data=DATA, tag='"1"', ranges=True, send=None, pause=0.0):
        """The data from where it was asked for, of which only `send` bytes arrive."""
        start = 0
        asked = self.headers.get("Range")
        if asked and ranges and self.headers.get("If-Range") == tag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if tag:
            self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        end = len(data) if send is None else start + send
        for at in range(start, min(end, len(data)), 1 << 16):
            self.wfile.write(data[at : min(at + (1 << 16), end)])
            time.sleep(pause)
        self.close_connection = True

    def serve_good(self, _):
        self.give()

    def serve_gone(self, _):
        self.send_error(404)

    def serve_lost(self, _):
        self.send_error(410)

    def serve_other(self, _):
        self.give(data=b"something else")

    def serve_drops(self, _):
        self.give(send=700_000)

    def serve_stalls(self, count):
        self.give(send=1_000_000 if count == 1 else 0)

    def serve_busy(self, count):
        self.give() if count > 2 else self.send_error(503)

    def serve_no_ranges(self, count):
        self.give(ranges=False, send=1_000_000 if count < 3 else None)

    def serve_no_tag(self, count):
        self.give(tag="", send=1_000_000 if count < 3 else None)

    def serve_changes(self, count):
        if count == 1:
            self.give(data=bytes(3_000_000), tag='"0"', send=1_000_000)
        else:
            self.give()

    def serve_weak_tag(self, count):
        if count == 1:
            self.give(data=bytes(3_000_000), tag='W/"1"', send=1_000_000)
        else:
            self.give(tag='W/"1"')

    def serve_lies(self, count):
        if count != 2:
            self.give(send=1_000_000 if count == 1 else None)
            return
        self.send_response(206)
        self.send_header("Content-Range", "bytes 5-9/10")
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"wrong")

    def serve_shrunk(self, count):
        if count == 1:
            self.give(send=1_000_000)
        elif self.headers.get("Range"):
            self.send_error(416)
        else:
            self.give()

    def serve_short(self, _):
        self.give(data=DATA[:1000])

    def serve_slow(self, _):
        self.give(pause=0.01)

    def begin(self, *headers, status=200):
        """The status and the headers of a reply that ends with the connection."""
        self.close_connection = True
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()

    def drip(self, data, pause=0.02):
        """A byte from time to time, until the client has enough."""
        for _ in range(2_000):
            self.wfile.write(data)
            time.sleep(pause)

    def serve_endless(self, _):
        self.begin()
        while True:
            self.wfile.write(bytes(1 << 16))

    def serve_endless_chunks(self, _):
        self.begin(("Transfer-Encoding", "chunked"))
        while True:
            self.wfile.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")

    def serve_huge(self, _):
        self.begin(("Content-Length", str(1 << 50)))
        self.wfile.write(DATA)

    def serve_huge_rest(self, count):
        if count == 1:
            self.give(send=1_000_000)
        else:
            self.begin(("Content-Range", f"bytes 1000000-{1 << 50}/{1 << 51}"), status=206)

    def serve_drip(self, _):
        self.begin(("Content-Length", str(len(DATA))))
        self.drip(b"x")

    def serve_drip_without_length(self, _):
        self.begin()
        self.drip(b"x")

    def serve_drip_of_headers(self, _):
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        self.drip(b"x")

    def serve_drip_of_chunk_sizes(self, _):
        self.begin(("Transfer-Encoding", "chunked"))
        self.wfile.write(b"5;")
        self.drip(b"x")

    def serve_drip_after_much(self, count):
        if count == 1:
            self.give(send=1_000_000)
        else:
            start = self.headers["Range"].removeprefix("bytes=")
            self.begin(("Content-Range", f"bytes {start}2999999/3000000"), status=206)
            self.drip(b"x")

    def serve_silence(self, _):
        self.drip(b"", pause=0.01)

    def serve_no_length(self, _):
        self.begin()
        self.wfile.write(DATA)

    def serve_no_length_breaks_off(self, _):
        self.begin(("ETag", '"1"'))
        self.wfile.write(DATA[:2_000_000])

    def serve_chunks(self, _):
        self.begin(("Transfer-Encoding", "chunked"), ("Content-Length", "5"))
        self.wfile.write(f"{len(DATA):x}\r\n".encode() + DATA + b"\r\n0\r\n\r\n")

    def serve_chunks_break_off(self, _):
        self.begin(("Transfer-Encoding", "chunked"))
        self.wfile.write(f"{2_000_000:x}\r\n".encode() + DATA[:2_000_000] + b"\r\n")

    def serve_chunk_breaks_off(self, _):
        self.begin(("Transfer-Encoding", "chunked"))
        self.wfile.write(f"{len(DATA):x}\r\n".encode() + DATA[:2_000_000])

    def serve_range_ends_early(self, count):
        """Each range says truly that it is not the rest, and has a length that fits itself."""
        start = (count - 1) * 1_000_000
        if count == 1:
            self.give(send=1_000_000)
            return
        last = start + 1_000_000 - 1
        rest = ("Content-Range", f"bytes {start}-{last}/{len(DATA)}")
        self.begin(rest, ("Content-Length", "1000000"), ("ETag", '"1"'), status=206)
        self.wfile.write(DATA[start : last + 1])

    def serve_range_of_unknown_end(self, count):
        if count == 1:
            self.give(send=1_000_000)
            return
        rest = ("Content-Range", "bytes 1000000-1999999/*")
        self.begin(rest, ("Content-Length", "1000000"), status=206)
        self.wfile.write(DATA[1_000_000:2_000_000])

    def serve_range_of_another(self, count):
        """It says that it goes on, with another mark."""
        if count == 2:
            rest = ("Content-Range", f"bytes 1000000-2999999/{len(DATA)}")
            self.begin(rest, ("ETag", '"2"'), status=206)
            self.wfile.write(bytes(2_000_000))
        else:
            self.give(send=1_000_000 if count == 1 else None)

    def serve_too_much(self, count):
        if count == 1:
            self.give(send=1_000_000)
        elif self.headers.get("Range"):
            self.begin(("Content-Range", f"bytes 1000000-2999999/{len(DATA)}"), status=206)
            self.wfile.write(DATA)
        else:
            self.give()


class Server(ThreadingHTTPServer):
    def handle_error(self, *_):
        """A client that goes away is what some tests are about."""


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(download_module, "PAUSE_SECONDS", 0.01)
    with Server(("127.0.0.1", 0), Unruly) as found:
        found.asked, found.counted = [], Counter()
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def url(server, name):
    return f"http://127.0.0.1:{server.server_port}/{name}"


def starts(server, name):
    return [asked for path, asked in server.asked if path == f"/{name}"]


def left():
    return sorted(p.name for p in DOWNLOADS.iterdir() if p.suffix not in (".lock", ".version"))


def test_a_connection_that_drops_is_taken_up_where_it_broke(server):
    assert download([url(server, "drops")], SHA256, REMEDY).read_bytes() == DATA
    assert starts(server, "drops") == [None, *(f"bytes={n}00000-" for n in (7, 14, 21, 28))]
    assert left() == [f"{SHA256}.whole"]


FAULTS = [
    *("busy", "no_ranges", "no_tag", "weak_tag", "changes", "lies", "shrunk", "chunks"),
    *("range_ends_early", "range_of_another"),
]


@pytest.mark.parametrize("name", FAULTS)
def test_bytes_of_two_replies_are_never_mixed(server, name):
    assert download([url(server, name)], "", REMEDY).read_bytes() == DATA
    resumed = [asked for asked in starts(server, name) if asked]
    assert bool(resumed) == (name not in ("busy", "no_tag", "weak_tag", "chunks"))


def test_a_server_that_brings_nothing_more_is_left_and_what_came_is_kept(server):
    with pytest.raises(SourceError, match=r"stalls: 1000000 of 3000000 bytes"):
        download([url(server, "stalls")], SHA256, REMEDY)
    assert len(starts(server, "stalls")) == 4
    assert (DOWNLOADS / left()[0]).read_bytes() == DATA[:1_000_000]


def test_mirrors_are_tried_in_order_until_one_has_the_right_bytes(server):
    names = ("gone", "other", "short", "good", "drops")
    found = download([url(server, name) for name in names], SHA256, REMEDY)
    assert found.read_bytes() == DATA
    assert [path for path, _ in server.asked] == ["/gone", "/other", "/short", "/good"]
    assert left() == [found.name]


def test_wrong_bytes_are_refused_and_every_mirror_is_named(server):
    urls = [url(server, name) for name in ("other", "gone", "short")]
    with pytest.raises(DataError, match="differs from its pin") as refusal:
        download(urls, SHA256, REMEDY)
    for named in (*urls, "404", hashlib.sha256(b"something else").hexdigest(), SHA256, REMEDY):
        assert named in str(refusal.value)
    assert left() == []


def test_what_has_come_once_does_not_come_again(server):
    first = download([url(server, "good")], "", REMEDY)
    assert first.name == f"{SHA256}.whole"
    assert download([url(server, "gone")], SHA256, REMEDY) == first
    assert download([url(server, "gone")], SHA256[:8], REMEDY) == first
    assert len(server.asked) == 1
    download([url(server, "good")], "", REMEDY)  # asked how it is now
    assert len(server.asked) == 2


def test_what_has_spoilt_on_the_disk_comes_again(server):
    path = download([url(server, "good")], SHA256, REMEDY)
    path.write_bytes(DATA[:-1] + b"x")
    assert download([url(server, "good")], SHA256, REMEDY).read_bytes() == DATA


def test_nobody_there_is_a_source_error(server):
    with pytest.raises(SourceError, match="refused"):
        download(["http://127.0.0.1:9/a.zip"], "", REMEDY)


@pytest.mark.slow
def test_two_at_once_download_once(server):
    found = []
    threads = [
        threading.Thread(
            target=lambda: found.append(download([url(server, "slow")], SHA256, REMEDY))
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert found[0].read_bytes() == DATA
    assert starts(server, "slow") == [None]


@pytest.mark.parametrize("name", ["endless", "endless_chunks", "huge", "huge_rest", "too_much"])
def test_a_file_without_end_is_left_and_does_not_fill_the_disk(server, monkeypatch, name):
    monkeypatch.setattr(download_module, "LARGEST_BYTES", 4_000_000)
    with pytest.raises(SourceError, match=r"more than|the limit is"):
        download([url(server, name)], "", REMEDY)
    assert sum(path.stat().st_size for path in DOWNLOADS.iterdir()) <= 1_000_100
    found = download([url(server, name), url(server, "good")], SHA256, REMEDY)
    assert found.read_bytes() == DATA


DRIPS = [
    *("drip", "drip_without_length", "drip_of_headers", "drip_of_chunk_sizes"),
    *("drip_after_much", "silence"),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", DRIPS)
def test_a_server_that_sends_a_byte_now_and_then_is_left(server, monkeypatch, name):
    monkeypatch.setattr(reply, "STALL_SECONDS", 0.3)
    start = time.monotonic()
    with pytest.raises(SourceError, match=r"fewer than 65536 bytes came in 0\.3 s|timed out"):
        download([url(server, name)], "", REMEDY)
    assert time.monotonic() - start < 10
    assert len(starts(server, name)) == 3 + (name == "drip_after_much")


@pytest.mark.slow
def test_a_slow_server_that_sends_enough_is_not_left(server, monkeypatch):
    monkeypatch.setattr(reply, "STALL_SECONDS", 0.5)
    assert download([url(server, "slow")], "", REMEDY).read_bytes() == DATA
    assert starts(server, "slow") == [None]


@pytest.mark.slow
def test_a_download_that_takes_too_long_is_left_and_goes_on_in_the_next_run(server, monkeypatch):
    monkeypatch.setattr(download_module, "LONGEST_SECONDS", 0.2)
    with pytest.raises(SourceError, match=r"not whole after 0\.2 s"):
        download([url(server, "slow")], "", REMEDY)
    (part,) = DOWNLOADS.glob("*.part")
    have = part.stat().st_size
    assert 0 < have < len(DATA)
    monkeypatch.setattr(download_module, "LONGEST_SECONDS", 60)
    assert download([url(server, "slow")], "", REMEDY).read_bytes() == DATA
    assert starts(server, "slow") == [None, f"bytes={have}-"]


@pytest.mark.parametrize(
    "name",
    [
        *("no_length", "no_length_breaks_off", "chunks_break_off", "chunk_breaks_off"),
        "range_of_unknown_end",
    ],
)
def test_a_reply_that_may_have_broken_off_is_never_pinned(server, name):
    with pytest.raises(SourceError):
        download([url(server, name)], "", REMEDY)
    assert list(DOWNLOADS.glob("*.whole")) == []


def test_a_reply_without_length_counts_where_its_bytes_are_those_of_the_pin(server):
    assert download([url(server, "no_length")], SHA256, REMEDY).read_bytes() == DATA
    with pytest.raises(SourceError, match="does not say where it ends"):  # not: the pin is wrong
        download([url(server, "no_length_breaks_off")], SHA256[::-1], REMEDY)


def test_a_kill_between_the_old_part_and_the_new_mark_mixes_nothing(server, monkeypatch):
    class Killed(BaseException):
        """Passes every handler, as a kill does."""

    write_text = Path.write_text

    def write_and_die(path, *words):
        write_text(path, *words)
        if server.counted["/changes"] == 2:
            raise Killed

    monkeypatch.setattr(Path, "write_text", write_and_die)
    with pytest.raises(Killed):
        download([url(server, "changes")], "", REMEDY)
    monkeypatch.setattr(Path, "write_text", write_text)
    assert download([url(server, "changes")], "", REMEDY).read_bytes() == DATA


@pytest.mark.slow
def test_two_that_share_a_mirror_do_not_write_into_one_part(server):
    found = []

    def fetch(name, pin):
        found.append(download([url(server, name), url(server, "slow")], pin, REMEDY).read_bytes())

    for pin, requests in ((SHA256, 1), ("", 2)):
        threads = [threading.Thread(target=fetch, args=(name, pin)) for name in ("gone", "lost")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [DATA, DATA]
        assert starts(server, "slow") == [None] * requests
        found.clear()
        server.asked.clear()


CODE = f"""
from admodels.sources.download import download
import sys
download([sys.argv[1]], "{SHA256}", "")
"""


@pytest.mark.slow
def test_a_killed_download_goes_on_where_it_was(server):
    words = [sys.executable, "-c", CODE, url(server, "slow")]
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    process = subprocess.Popen(words, env=environment)
    part = None
    while part is None or part.stat().st_size < 1_000_000:
        time.sleep(0.005)
        part = next(DOWNLOADS.glob("*.part"), None)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    have = part.stat().st_size
    assert 0 < have < len(DATA)
    subprocess.run(words, env=environment, check=True)
    assert starts(server, "slow") == [None, f"bytes={have}-"]
    assert (DOWNLOADS / f"{SHA256}.whole").read_bytes() == DATA
