"""`kill -9` at random moments: no row lost, doubled or half-written, no image kept twice.

    python -m benchmarks.kills --files 2000 --kills 100

Children are forked from a process that has loaded torch and not used it. Each scores the same
folder into the same ledger; the parent kills it after a random time. When one comes to its end the
ledger is compared with that of an undisturbed run, and the next round starts with an empty one.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from admodels.nights import marks
from admodels.nights.calibrations import ensure_calibration
from admodels.nights.pictures import pointing_of
from admodels.nights.plant import PlantLine
from admodels.scoring import engine
from admodels.scoring.engine import LineImages, Model, score_line
from admodels.scoring.integrity import check
from admodels.scoring.ledger import open_ledger, read_ledger
from admodels.scoring.stopping import Stop
from admodels.scoring.tables import KEY
from tests import cards

KEYS = [field.name for field in KEY]
BAD_SHARE, COPY_SHARE = 0.05, 0.02


def fill(folder: Path, count: int, rng: random.Random) -> None:
    """PNGs of which some are cut short or empty, and some are copies; the marked first is whole."""
    for at in range(count):
        path = folder / f"cam{at % 7}" / f"{at:05d}.png"
        cards.card(path, at % 200 + 20, side=24 + at // 200)
        drawn = rng.random()
        if at and drawn < BAD_SHARE:
            data = path.read_bytes()
            path.write_bytes(data[: rng.randrange(len(data))])
        elif at and drawn < BAD_SHARE + COPY_SHARE:
            shutil.copyfile(folder / "cam0" / "00000.png", path)


def score(folder: Path, ledger: Path, scored: Path) -> None:
    """One run; every image that the detector sees is noted in `scored`."""
    bundle = cards.make_bundle()
    inner = bundle.detector.score

    def noted(images, inspected=None):
        with scored.open("a", encoding="utf-8") as file:
            file.write("".join(f"{hash(image.numpy().tobytes())}\n" for image in images))
        return inner(images, inspected)

    bundle.detector.score = noted
    engine.ROWS_PER_PART, engine.SECONDS_PER_PART = 24, 0.02  # many commits to be killed in
    model, run = Model.of(bundle), None
    line = PlantLine(folder=str(folder), alpha=cards.ALPHA)
    for _ in range(2):  # two looks of one run, as `--every` takes them
        with open_ledger(ledger, run) as held:
            kept = ensure_calibration(held, "press", model)
            pointing = pointing_of(held, "press", line, model, kept, 5)
            images = LineImages("press", folder, pointing=pointing)
            score_line(held, images, model, Stop())
            held.compact("press")
            cards.judge(held, "press", model)
            held.merge_judgements("press", "2026-11-30")
            held.finish({"whole": False, "lines": {}})
            run = held.run
        with read_ledger(ledger) as held:
            marks.append(held, folder.with_name("marks.csv"), ["press"])
    with open_ledger(ledger) as held:
        check(held)


def child(work: Callable[[], None]) -> int:
    process = os.fork()
    if process == 0:
        code = 1
        try:
            work()
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    return process


def rows(ledger: Path) -> pd.DataFrame:
    """All rows by key; any unreadable part is an error here."""
    parts = sorted(ledger.glob("scores/*/*/*.parquet"))
    table = pd.concat([pq.read_table(part).to_pandas() for part in parts])
    return table.sort_values(KEYS).reset_index(drop=True)


def places(ledger: Path) -> pd.DataFrame:
    """All regions by key and number."""
    table = pd.concat([pq.read_table(path).to_pandas() for path in ledger.glob("regions/*/*/*")])
    return table.sort_values([*KEYS, "number"]).reset_index(drop=True)


def faults(ledger: Path, expected: pd.DataFrame, regions: pd.DataFrame) -> list[str]:
    scores = rows(ledger)
    faults_seen = []
    if scores["path"].duplicated().any() or len(scores) != len(expected):
        faults_seen.append(
            f"{len(scores)} rows, {scores['path'].nunique()} paths, {len(expected)} files"
        )
    first = scores[(scores["status"] == "scored") & ~scores["reused"]]
    if first["image_sha256"].duplicated().any():
        faults_seen.append("the same bytes were scored twice")
    if not scores.equals(expected):
        faults_seen.append("rows differ from an undisturbed run")
    if not places(ledger).equals(regions):
        faults_seen.append("regions differ from an undisturbed run")
    judged = cards.judged(ledger).reset_index()
    if not judged.sort_values(KEYS)[KEYS].reset_index(drop=True).equals(scores[KEYS]):
        faults_seen.append("a row was not judged exactly once")
    seen = pd.concat([pd.read_parquet(p, columns=KEYS) for p in ledger.glob("appearance/*/*/*")])
    decoded = scores.loc[scores["width"].notna(), KEYS].reset_index(drop=True)
    if not seen.sort_values(KEYS).reset_index(drop=True).equals(decoded):
        faults_seen.append("the side table is not of the images that were decoded")
    with open_ledger(ledger) as held:
        faults_seen += [
            str(noticed) for noticed in [check(held)] if noticed.faults or noticed.notes
        ]
    faults_seen += [] if (ledger / marks.NAME).is_file() else ["the marks are lost"]
    left = [p.name for p in ledger.rglob("*") if p.name.endswith((".partial", ".old"))]
    left += [p.name for p in ledger.glob("writing/*")]
    return faults_seen + ([f"left behind: {left}"] if left else [])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    asked = parser.parse_args()
    rng = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as place:
        folder, whole, broken = (Path(place, name) for name in ("in", "whole", "broken"))
        fill(folder, asked.files, rng)
        marks = "line,path,verdict\npress,cam0/00000.png,fine\n"
        folder.with_name("marks.csv").write_text(marks, encoding="utf-8")
        start = time.monotonic()
        if os.waitpid(child(lambda: score(folder, whole, Path(place, "once"))), 0)[1]:
            sys.exit("the undisturbed run failed")
        seconds = time.monotonic() - start
        expected, regions = rows(whole), places(whole)
        once = len(Path(place, "once").read_text().splitlines())
        told: dict[str, object] = {"files": asked.files, "undisturbed_seconds": round(seconds, 2)}
        kills, rounds, again, parts_seen, wrong = 0, 0, 0, 0, list[str]()
        while kills < asked.kills or broken.exists():
            process = child(lambda: score(folder, broken, Path(place, "seen")))
            if kills < asked.kills:
                time.sleep(rng.uniform(0, seconds / 3))
                os.kill(process, signal.SIGKILL)
            status = os.waitpid(process, 0)[1]
            parts_seen = max(parts_seen, len(list(broken.glob("scores/*/*/*.parquet"))))
            if os.WIFSIGNALED(status):
                kills += 1
                continue
            if status:
                wrong.append(f"a rerun ended with {os.waitstatus_to_exitcode(status)}")
                break
            rounds += 1
            wrong += faults(broken, expected, regions)
            again += len(Path(place, "seen").read_text().splitlines()) - once
            shutil.rmtree(broken)
            Path(place, "seen").unlink()
        told |= {"kills": kills, "ledgers": rounds, "images_repeated_per_kill": again / kills}
        told |= {"parts_at_most": parts_seen, "seed": asked.seed, "faults": wrong}
    sys.stdout.write(json.dumps(told) + "\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
