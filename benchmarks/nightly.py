"""The whole of a night against plain scoring of the same images: speed, memory, the next night.

    python -m benchmarks.nightly --images 10000 100000           # light: widths 8/8 at 64 px
    python -m benchmarks.nightly --images 400 --folder FOLDER --px 256 --width 128 --plain 8

One untrained DRAEM, one folder that grows (or FOLDER as it is); each night is a process of its own,
which says where its CPU-seconds go: `start` (imports, the bundle and its golden images), `read`
(hash, decode, statistics, resize: one thread each), `ledger` (index, parts, verdicts); the rest is
the detector, pictures included.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch

from admodels.bundles import bundle as bundles
from admodels.bundles import runtime
from admodels.cli import app
from admodels.images import decode
from admodels.nights import run as night_run
from admodels.scoring import engine
from admodels.scoring import rows as scoring_rows
from admodels.scoring.ledger import Ledger
from tests import plants, tiny

ROOT = Path(__file__).parents[1]
CALIBRATION = 200
SPENT: Counter[str] = Counter()  # CPU-seconds of a night, in the process of its own
LOCK = threading.Lock()


def timed(owner: object, name: str, what: str) -> None:
    """Count the CPU-seconds of the calling thread in `owner.name` as those of `what`."""
    inner = getattr(owner, name)

    def outer(*words: object, **more: object) -> object:
        start = time.thread_time()
        try:
            return inner(*words, **more)
        finally:
            with LOCK:
                SPENT[what] += time.thread_time() - start

    setattr(owner, name, outer)


def drawn_from(found: Iterator[object]) -> Iterator[object]:
    """`found`; what is spent in it is none of the ledger's, which asks for it."""
    SPENT["start"] += time.process_time()
    while True:
        start = time.thread_time()
        one = next(found, None)
        SPENT["ledger"] -= time.thread_time() - start
        if one is None:
            return
        yield one


def child() -> None:
    """`admodels nightly`, which leaves what it needed in the file `needed`."""
    rows = engine.rows
    engine.rows = lambda *words: drawn_from(rows(*words))
    timed(scoring_rows, "_read", "read")
    timed(engine, "_keep", "ledger")
    timed(Ledger, "compact", "ledger")
    timed(night_run, "judge_look", "ledger")
    try:
        app.main()
    finally:  # ru_maxrss counts the parent from before exec; VmHWM is of the process alone
        peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
        needed = {"peak_mib": round(int(peak) / 1024, 1)}
        needed |= {f"cpu_seconds_{what}": round(spent, 3) for what, spent in SPENT.items()}
        Path("needed").write_text(json.dumps(needed))


def drawn(folder: Path, start: int, end: int) -> None:
    """Small pictures, no two alike: a moving wave and noise."""
    i, j = np.mgrid[:64, :64]
    for at in range(start, end):
        rng = np.random.default_rng(at)
        wave = 128 + 60 * np.sin((i + j) / 5 + at)[..., None] + rng.normal(0, 8, (64, 64, 3))
        home = folder / f"{at // 1000:03d}"
        home.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(home / f"{at:06d}.png"), wave.clip(0, 255).astype(np.uint8))


def save(folder: Path, px: int, width: int, files: list[Path]) -> bundles.Bundle:
    torch.manual_seed(2)
    widths = {"reconstructive_width": width, "discriminative_width": max(8, width // 2)}
    precision = runtime.precision("auto", runtime.device())
    more = {"image_px": px, "resize": "area", "score_chunk_images": 16}
    detector = tiny.detector("draem", precision, **widths, **more)
    pixels = prepared(files[:CALIBRATION], px)
    scores = np.resize(bundles.score(detector, pixels).anomaly_score, CALIBRATION)
    bundles.save(
        detector,
        folder,
        origin=bundles.Origin("draem", "bench", "texture", "CC0", {}, tiny.CONTRACT),
        calibration_scores=scores.tolist(),
        golden=pixels[:1],
    )
    return bundles.load(folder, runtime.device())


def prepared(files: list[Path], px: int) -> np.ndarray:
    read = (decode.decode_image(file.read_bytes(), file).rgb for file in files)
    return np.stack([decode.resize_image(rgb, (px, px), "area").transpose(2, 0, 1) for rgb in read])


def plain(bundle: bundles.Bundle, files: list[Path]) -> dict[str, float]:
    """The detector alone, on images that are decoded already."""
    pixels = prepared(files, bundle.params.image_px)
    start, cpu = time.monotonic(), time.process_time()
    bundles.score(bundle.detector, pixels)
    seconds, cpu = time.monotonic() - start, time.process_time() - cpu
    return {
        "images": len(files),
        "images_per_second": round(len(files) / seconds, 2),
        "cpu_seconds_per_image": round(cpu / len(files), 5),
    }


def night(place: Path) -> dict[str, float]:
    words = ["--plant", ".", "--settle-seconds", "0"]
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", "from benchmarks.nightly import child; child()", "nightly", *words],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    summary = json.loads(process.stdout.read().splitlines()[-1])
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds, line = time.monotonic() - start, summary["lines"]["bench"]
    return {
        "exit_code": process.returncode,
        "found": line["found"],
        "new": line["images"],
        "pictures": line["pictures"],
        "seconds": round(seconds, 1),
        "images_per_second": round(line["images"] / seconds, 2),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        **json.loads((place / "needed").read_text()),
    }


def rejudge_seconds(place: Path) -> float:
    start = time.monotonic()
    words = ["rejudge", "bench", "--alpha", "0.02", "--why", "bench", "--plant", "."]
    subprocess.run(
        [sys.executable, "-c", "from admodels.cli.app import main; main()", *words],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return round(time.monotonic() - start, 1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--px", type=int, default=64)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--plain", type=int, default=2000)
    parser.add_argument("--new", type=int, default=100)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        inbox = place / "in"
        if asked.folder:
            inbox.mkdir()
            for file in sorted(asked.folder.rglob("*.*"))[: max(asked.images)]:
                shutil.copy(file, inbox / file.name)
        else:
            drawn(inbox, 0, asked.plain)
        files = [file for file in sorted(inbox.rglob("*.*")) if file.is_file()]
        bundle = save(place / "models/draem/bench", asked.px, asked.width, files[: asked.plain])
        line = plants.line("in", bundle="draem/bench", alpha=0.01)
        plants.write_plant(place, {"bench": line})
        results: dict[str, object] = {"plain": plain(bundle, files[: asked.plain])}
        for count in asked.images:
            if not asked.folder:
                drawn(inbox, 0, count)
            shutil.rmtree(place / "ledger", ignore_errors=True)
            results[f"first night, {count}"] = night(place)
        if not asked.folder:
            drawn(inbox, count, count + asked.new)
            results[f"next night, {asked.new} new"] = night(place)
        results["nothing new"] = night(place)
        results["rejudge, all rows"] = rejudge_seconds(place)
        used = sum(f.stat().st_size for f in (place / "ledger").rglob("*") if f.is_file())
        results["ledger_mib"] = round(used / 2**20, 1)
    for what, figures in results.items():
        sys.stdout.write(f"{what}: {json.dumps(figures)}\n")


if __name__ == "__main__":
    main()
