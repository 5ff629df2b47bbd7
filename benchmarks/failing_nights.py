"""A night that fails in every documented way, and what `alert` and `doctor --max-age` say of it.

Every case begins with a ledger whose first night went well, so that the summary of an old night
could be taken for that of the new one. The night is a real process as cron starts it, the alert
goes to a real web server. Prints a table for people; ends with 1 if a case went another way.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

from admodels.images import decode
from tests import cards, plants, tiny

ROOT = Path(__file__).parents[1]
MANY = 3000  # images: some seconds of work, to be interrupted in
LITTLE_ROOM = 2000  # bytes that a file may have


class Told(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.texts.append(json.loads(body)["text"])
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def admodels(place: Path, *words: str, **how: object) -> subprocess.Popen[bytes]:
    code = "from admodels.cli.app import main; main()"
    return subprocess.Popen([sys.executable, "-c", code, *words], cwd=place, **how)


def night(place: Path, *words: str, **how: object) -> subprocess.Popen[bytes]:
    options = ["--plant", ".", "--settle-seconds", "0"]
    with (place / "nightly.log").open("ab") as log:
        return admodels(place, "nightly", *options, *words, stdout=log, stderr=log, **how)


def fill(folder: Path, count: int, seed: int) -> None:
    for at, pixels in enumerate(tiny.stripes(count, seed)):
        decode.write_png(folder / f"{seed}_{at:04d}.png", pixels.transpose(1, 2, 0))


def lines(place: Path, *folders: str) -> None:
    plants.write_plant(place, {name: plants.line(name) for name in folders})


def well(place: Path) -> int:
    return night(place).wait()


def bad_params(place: Path) -> int:
    (place / "plant.yaml").write_text("lines: {press: {folder: press}}", encoding="utf-8")
    return night(place).wait()


def lost_folder(place: Path) -> int:
    lines(place, "press", "gone")
    return night(place).wait()


def refused_data(place: Path) -> int:
    words = ("calibrate", "press", "empty", "--plant", ".")
    (place / "empty").mkdir()
    with (place / "nightly.log").open("ab") as log:
        return admodels(place, *words, stdout=log, stderr=log).wait()


def tampered_bundle(place: Path) -> int:
    (weights,) = place.glob("models/*/model.safetensors")
    with weights.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    return night(place).wait()


def unreadable_files(place: Path) -> int:
    for at in range(3):
        (place / f"press/bad{at}.png").write_bytes(b"bad")
    return night(place).wait()


def full_disk(place: Path) -> int:
    fill(place / "press", 6, seed=9)

    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (LITTLE_ROOM, LITTLE_ROOM))

    with (place / "out").open("wb") as out:  # the log has no room either
        code = admodels(
            place,
            *("nightly", "--plant", ".", "--settle-seconds", "0"),
            stdout=out,
            stderr=subprocess.STDOUT,
            preexec_fn=little_room,
        ).wait()
    with (place / "nightly.log").open("ab") as log:
        log.write((place / "out").read_bytes())
    return code


def held_lock(place: Path) -> int:
    fill(place / "press", MANY, seed=9)
    first = night(place)
    until(lambda: (place / "ledger/lock").read_text().startswith(f"{first.pid} "))
    code = night(place).wait()
    first.kill()
    first.wait()
    shutil.rmtree(place / "ledger/scores/press/000002", ignore_errors=True)
    return code


def stopped(number: signal.Signals) -> Callable[[Path], int]:
    def work(place: Path) -> int:
        fill(place / "press", MANY, seed=9)
        process = night(place)
        until(lambda: list((place / "ledger/scores/press").glob("000002/*.parquet")))
        process.send_signal(number)
        code = process.wait()
        return 128 - code if code < 0 else code  # as a shell tells it

    return work


def moved(**by: float) -> Callable[[Path], int]:
    """No new night, and the old one another time ago."""

    def work(place: Path) -> int:
        path = place / "ledger/runs/000001.json"
        told = json.loads(path.read_text(encoding="utf-8"))
        started = datetime.fromisoformat(told["started"]) + timedelta(**by)
        told["started"] = started.isoformat()
        path.write_text(json.dumps(told), encoding="utf-8")
        return 0

    return work


def until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.02)


CASES: dict[str, tuple[Callable[[Path], int], int, int]] = {  # the way, its code, the doctor's
    "a good night": (well, 0, 0),
    "params refused": (bad_params, 2, 0),
    "a line's folder is gone": (lost_folder, 2, 0),
    "calibration images refused": (refused_data, 3, 0),
    "a bundle tampered with": (tampered_bundle, 4, 0),
    "unreadable images": (unreadable_files, 5, 0),
    "disk full": (full_disk, 74, 0),
    "another night at work": (held_lock, 75, 0),
    "SIGINT": (stopped(signal.SIGINT), 130, 5),
    "SIGTERM": (stopped(signal.SIGTERM), 143, 5),
    "kill -9": (stopped(signal.SIGKILL), 137, 5),
    "no night for 30 hours": (moved(hours=-30), 0, 5),
    "a clock that went backwards": (moved(hours=3), 0, 5),
}


def told(place: Path, code: int, texts: list[str], environment: Mapping[str, str]) -> str:
    """As cron does it: `|| admodels alert`."""
    texts.clear()
    if code:
        words = ("alert", "--from", "nightly.log", "--code", str(code))
        if done := admodels(place, *words, env=environment).wait():
            return f"alert ended with {done}"
    return texts[0] if texts else "(nothing)"


def doctor(place: Path) -> tuple[int, str]:
    process = admodels(place, "doctor", "--max-age", "8h", stdout=subprocess.PIPE)
    out = process.communicate()[0]
    return process.returncode, out.decode().strip()


def main() -> None:
    os.environ |= {"PYTHONPATH": str(ROOT), "ADMODELS_DEVICE": "cpu"}
    server = HTTPServer(("127.0.0.1", 0), Told)
    os.environ["ADMODELS_PLANT"] = "."
    server.texts = []
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/"
    environment = os.environ | {"ADMODELS_ALERT_WEBHOOK": url}
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        plant = Path(folder, "plant")
        cards.save_draem(plant / "models/draem/stripes")
        fill(plant / "press", 6, seed=3)
        lines(plant, "press")
        if well(plant):
            sys.exit((plant / "nightly.log").read_text(encoding="utf-8"))
        for at, (name, (way, expected, verdict)) in enumerate(CASES.items()):
            place = shutil.copytree(plant, Path(folder, str(at)))
            code = way(place)
            text = told(place, code, server.texts, environment)
            checked, words = doctor(place)
            wrong += (code, checked, bool(code)) != (expected, verdict, text != "(nothing)")
            print(f"== {name}: exit code {code}\nalert:\n{text}\ndoctor --max-age 8h: {words}")
            print(f"  ends with {checked}\n", flush=True)
            shutil.rmtree(place)
    print(f"{len(CASES)} cases, {wrong} went another way")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
