"""The morning page of a night with 5,000 flagged images: its weight, and how quick it is.

    python -m benchmarks.page --flagged 5000

The ledger is made up: rows of one line, a region for each that is flagged, and the most pictures
that a night draws of it, each a crop of a photograph with a map. Then Debian's Chromium opens the
page from disk, as it is and with its processor slowed down fourfold, as a phone would be.
"""

import argparse
import hashlib
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from playwright.sync_api import Browser, sync_playwright
from skimage import data

from admodels.inference.regions import Region, find_regions
from admodels.nights.calibrations import Calibration, keep_calibration
from admodels.nights.judgements import judge_look
from admodels.nights.page import render
from admodels.nights.report import LineReport
from admodels.scoring import appearances, pictures, tables
from admodels.scoring.ledger import Ledger, open_ledger
from admodels.scoring.tables import ScoreRow
from tests.browser import CHROMIUM, FLAGS

LINE, MODEL, CONTRACT, CALIBRATION = "press", "m" * 16, "c" * 16, 100
FIRST_PICTURE = """() => new Promise((done) => {
    const look = () => {
        const image = document.querySelector("#cards img");
        if (image?.complete && image.naturalWidth) done(performance.now());
        else requestAnimationFrame(look);
    };
    look();
})"""
FILTERED = """() => new Promise((done) => {
    const start = performance.now(), input = document.querySelector("[name=path]");
    input.value = "99";
    input.dispatchEvent(new Event("input", { bubbles: true }));
    requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start)));
})"""
SCROLLED = """() => new Promise((done) => {
    const start = performance.now(), more = document.querySelectorAll("#more, #more-rows");
    let worst = 0, last = start;
    const on = (now) => {
        worst = Math.max(worst, now - last);
        last = now;
        window.scrollBy({ top: 2000, behavior: "instant" });
        const ended = [...more].every((button) => button.hidden || !button.checkVisibility());
        ended ? done([performance.now() - start, worst]) : requestAnimationFrame(on);
    };
    requestAnimationFrame(on);
})"""


def draw(ledger: Ledger, sha256: str, side: int, rng: np.random.Generator) -> None:
    """The pictures such as a night draws, of an image with one bright place in its map."""
    photograph = data.brick()
    y, x = rng.integers(0, np.array(photograph.shape) - 256)
    crop = np.repeat(photograph[y : y + 256, x : x + 256, None], 3, axis=2)
    image = np.asarray(Image.fromarray(crop).resize((side, side), Image.Resampling.BICUBIC))
    coarse = rng.uniform(0, 0.5, (8, 8)).astype(np.float32)
    coarse[tuple(rng.integers(1, 7, 2))] = 2
    values = cv2.resize(coarse, (128, 128), interpolation=cv2.INTER_CUBIC)
    regions, labels = find_regions(values, 1.0)
    scaled = [region.scale(side / 128, side / 128) for region in regions]
    drawn = pictures.draw(image, values, scaled, labels, (0.2, 1.5), lambda _: image[:200, :200])
    folder = ledger.folder / pictures.pictures_folder(LINE, sha256, MODEL, CONTRACT)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in drawn.items():
        (folder / name).write_bytes(content)


def a_region(side: int, rng: np.random.Generator) -> Region:
    x, y = rng.integers(0, side - 90, 2).tolist()
    width, height = rng.integers(10, 90, 2).tolist()
    middle = (x + width / 2, y + height / 2)
    share = width * height / side**2
    return Region(x, y, width, height, *middle, 0.7 * width * height, share, 2.0, 1.5)


def fill(ledger: Ledger, flagged: int, normal: int, drawn: int, side: int) -> None:
    """One night of `flagged + normal` rows, those that are flagged with a region each."""
    rng = np.random.default_rng(5)
    scores = tuple(np.linspace(0, 1, CALIBRATION))
    own = Calibration(origin="bundle", scores=scores, map_max=scores)
    kept = keep_calibration(ledger, LINE, (MODEL, CONTRACT), own, why="benchmark")
    values = [*rng.uniform(1.01, 3, flagged), *rng.uniform(0, 0.9, normal)]
    digests = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(len(values))]
    common = {"line": LINE, "method": "cpr", "task": "brick", "width": side, "height": side}
    keys = {"model_fingerprint": MODEL, "contract_fingerprint": CONTRACT}
    rows = [
        ScoreRow(
            path=f"cam{n % 4}/{n:06d}.png", image_sha256=sha, anomaly_score=value, **common, **keys
        )
        for n, (sha, value) in enumerate(zip(digests, values, strict=True))
    ]
    places = tables.regions([(row, [a_region(side, rng)]) for row in rows[:flagged]], 0.05)
    with ledger.index.change():
        ledger.write(LINE, rows, appearances.table([]), places)
    judge_look(ledger, LINE, "2026-11-26", 0.02, kept, drifted=())
    for n in np.argsort(values)[::-1][:drawn]:
        draw(ledger, digests[n], side, rng)
    known = {"bundle": "cpr/brick", "images": len(rows), "flagged": flagged}
    report = LineReport("in", 0.02, [ledger.run], **known, **keys)
    summary = {
        "run": ledger.run,
        "exit_code": 0,
        "started": "2026-11-26T02:00:00+00:00",
        "host": "h",
    }
    summary |= {"seconds": 1.0, "unclaimed": 0, "command": "admodels nightly", "directory": "/"}
    ledger.finish(summary | {"versions": {}, "lines": {LINE: report.content()}})


def opening(browser: Browser, address: str, slowdown: int) -> dict[str, object]:
    """How a browser fares with the page."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    tab = context.new_page()
    talk = context.new_cdp_session(tab)
    talk.send("Emulation.setCPUThrottlingRate", {"rate": slowdown})
    talk.send("Performance.enable")
    tab.goto(address, wait_until="commit")
    figures = {"first_picture_ms": round(tab.evaluate(FIRST_PICTURE))}
    tab.wait_for_load_state("load")
    figures["loaded_ms"] = round(
        tab.evaluate("performance.timing.loadEventEnd - performance.timing.navigationStart")
    )
    figures["filter_ms"] = round(tab.evaluate(FILTERED))
    tab.locator("[type=reset]").click()
    whole, longest = tab.evaluate(SCROLLED)
    figures |= {"scroll_to_end_ms": round(whole), "longest_frame_ms": round(longest)}
    figures["cards"] = tab.locator("#cards li").count()
    figures["rows"] = tab.locator("#rows tr").count()
    metrics = {one["name"]: one["value"] for one in talk.send("Performance.getMetrics")["metrics"]}
    figures["script_heap_mib"] = round(metrics["JSHeapUsedSize"] / 2**20, 1)
    context.close()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flagged", type=int, default=5000)
    parser.add_argument("--normal", type=int, default=95000)
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--side", type=int, default=900)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, open_ledger(Path(place) / "ledger") as ledger:
        fill(ledger, asked.flagged, asked.normal, asked.pictures, asked.side)
        before = resource.getrusage(resource.RUSAGE_SELF)
        start = time.monotonic()
        written = render.write(ledger)
        after = resource.getrusage(resource.RUSAGE_SELF)
        figures: dict[str, object] = {
            "page_mib": round(written.stat().st_size / 2**20, 2),
            "write_s": round(time.monotonic() - start, 1),
            "write_cpu_s": round(after.ru_utime - before.ru_utime, 1),
            "peak_mib": after.ru_maxrss // 1024,
            "peak_mib_before": before.ru_maxrss // 1024,
        }
        sys.stdout.write(f"page: {json.dumps(figures)}\n")
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            for slowdown in (1, 4):
                figures = opening(browser, written.resolve().as_uri(), slowdown)
                sys.stdout.write(f"processor 1/{slowdown}: {json.dumps(figures)}\n")
            browser.close()


if __name__ == "__main__":
    main()
