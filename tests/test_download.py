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


FAULTS = ["busy", "no_ranges", "no_tag", "weak_tag", "changes", "lies", "shrunk"]


@pytest.mark.parametrize("name", FAULTS)
def test_bytes_of_two_replies_are_never_mixed(server, name):
    assert download([url(server, name)], "", REMEDY).read_bytes() == DATA
    resumed = [asked for asked in starts(server, name) if asked]
    assert bool(resumed) == (name not in ("busy", "no_tag", "weak_tag"))


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


CODE = f"""
from admodels.sources.download import download
import sys
download([sys.argv[1]], "{SHA256}", "")
"""


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
