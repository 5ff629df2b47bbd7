"""`kill -9` while images are downloaded and unpacked: nothing half, and the rerun ends the same.

    python -m benchmarks.fetch_kills --kills 20

Each round begins with nothing there, fetches a tar.gz from a server on this machine that is slow
and drops connections, is killed at a random moment, and is run again to its end.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

from admodels.foundation.files import sha256_of
from admodels.sources.fetch import tree_sha256

REPO = Path(__file__).parents[1]
CODE = """
import sys
from pathlib import Path
from admodels.sources import fetch
from admodels.sources.source import Source
print("ready", flush=True)
fetch.fetch(Source.model_validate_json(sys.argv[1]), "", Path("raw/task"))
"""
IMAGE_BYTES, CHUNK_BYTES, DROP_AFTER_BYTES = 20_000, 1 << 16, 3_000_000


def archived(path: Path, images: int, rng: random.Random) -> None:
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for at in range(images):
            member = tarfile.TarInfo(f"train/good/{at:04}.png")
            member.size = IMAGE_BYTES
            archive.addfile(member, BytesIO(rng.randbytes(IMAGE_BYTES)))


class Slow(BaseHTTPRequestHandler):
    """Serves `server.data` with ranges, a little at a time, and drops every connection early."""

    def do_GET(self) -> None:
        data: bytes = self.server.data
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        for at in range(start, min(start + DROP_AFTER_BYTES, len(data)), CHUNK_BYTES):
            self.wfile.write(data[at : at + CHUNK_BYTES])
            time.sleep(0.005)

    def log_message(self, *_: object) -> None:
        """Nothing."""


class Server(ThreadingHTTPServer):
    data = b""

    def handle_error(self, *_: object) -> None:
        """A client that is killed is what this is about."""


@contextmanager
def served(file: Path) -> Iterator[str]:
    with Server(("127.0.0.1", 0), Slow) as server:
        server.data = file.read_bytes()
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/{file.name}"
        server.shutdown()
        thread.join()


def fetch(place: Path, source: str, kill_after: float | None = None) -> float:
    """One run in `place`; the seconds from when it was ready to its end."""
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, source],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(REPO)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    start = time.monotonic()
    if kill_after is not None:
        time.sleep(kill_after)
        process.send_signal(signal.SIGKILL)
    told = process.communicate()[1]
    if process.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(told.decode())
    return time.monotonic() - start


def phase(place: Path) -> str:
    """What a killed run was at."""
    if (place / "raw/task").exists():
        return "done"
    if any((place / "raw").rglob("*.png")):
        return "unpacking"
    return "downloading" if any((place / ".work").rglob("*.part")) else "before or between"


def faults(place: Path, expected: str) -> list[str]:
    found = []
    if tree_sha256(place / "raw/task") != expected:
        found.append("the target has another hash")
    left = sorted(p.name for p in (place / "raw").iterdir() if p.name != "task")
    return found + ([f"left behind: {left}"] if left else [])


def rounds(place: Path, kills: int, images: int, rng: random.Random) -> dict[str, object]:
    """Kill and rerun `kills` times below `place`; what was met, and every fault."""
    archive, work = place / "images.tar.gz", place / "work"
    archived(archive, images, rng)
    met: Counter[str] = Counter()
    wrong: list[str] = []
    with served(archive) as url:
        pin = {"kind": "url", "location": url, "sha256": sha256_of(archive)}
        source = json.dumps(pin)
        work.mkdir()
        seconds = fetch(work, source)
        expected = tree_sha256(work / "raw/task")
        for _ in range(kills):
            shutil.rmtree(work)
            work.mkdir()
            fetch(work, source, rng.uniform(0, seconds))
            met[phase(work)] += 1
            if (work / "raw/task").exists() and faults(work, expected):
                wrong.append("half of it stood under its final name")
            fetch(work, source)
            wrong += faults(work, expected)
    return {"kills": kills, "met": dict(met), "seconds": round(seconds, 2), "faults": wrong}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        told = rounds(Path(place), asked.kills, asked.images, random.Random(asked.seed))
    sys.stdout.write(json.dumps(told | {"seed": asked.seed}) + "\n")
    sys.exit(bool(told["faults"]))


if __name__ == "__main__":
    main()
