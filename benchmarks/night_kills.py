"""`kill -9` at random moments of whole nights: nothing lost, doubled, half-written, said twice.

    python -m benchmarks.night_kills --kills 100

A child does, one after the other, what a plant sees in a day: `nightly --every` as files arrive,
marks, `rejudge`, a `nightly` by hand, `prune`, the check of the ledger. The
parent kills it after a random time. When one comes to its end, the ledger is compared with that of
an undisturbed day, and the next round starts with an empty one.
"""

import argparse
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd

from admodels.nights import every, marks, prune
from admodels.nights.rejudge import rejudge
from admodels.nights.run import Options, nightly
from admodels.scoring.integrity import check
from admodels.scoring.ledger import open_ledger, read_ledger
from admodels.scoring.tables import KEY
from benchmarks.kills import child
from tests import cards, plants
from tests.test_nightly import draw

KEYS = [field.name for field in KEY]
LINES = ("press", "weld")
PRUNED = "weld"
BATCHES, FILES = 3, 24  # that arrive, and files of each on a line
OPTIONS = Options(0.0, pictures=2)


def make(place: Path) -> None:
    """A plant of two lines with a bundle each, and what will arrive on them."""
    cards.save_draem(place / "models/draem/stripes", calibration=30, reference=True)
    plants.write_plant(place, {name: plants.line(name) for name in LINES})
    for number in range(BATCHES):
        for seed, name in enumerate(LINES):
            draw(place / "coming" / str(number) / name, FILES, seed=10 * number + seed)
            (place / "coming" / str(number) / name / "bad.png").write_bytes(b"bad")
    table = "line,path,verdict\npress,0/0001.png,fine\n"
    (place / "marks.csv").write_text(table, encoding="utf-8")
    for name in LINES:
        (place / name).mkdir()
    arrive(place, 0)


def arrive(place: Path, number: int) -> None:
    for name in LINES:
        source = place / "coming" / str(number) / name
        if source.is_dir():
            source.rename(place / name / str(number))


def day(place: Path) -> None:
    """What is done in a day, on a ledger that an earlier try may have begun."""
    looks = 0

    def pause(*_: object) -> None:
        nonlocal looks
        looks += 1
        arrive(place, looks)
        if looks == BATCHES:
            os.kill(os.getpid(), signal.SIGTERM)

    every.pause = pause
    every.look_every(place, OPTIONS, 0.01, lambda _: None)
    ledger = place / "ledger"
    with read_ledger(ledger) as held:
        marks.append(held, place / "marks.csv", LINES)
    with read_ledger(ledger) as held:
        rejudge(held, "press", 0.5, why="another budget")
    nightly(place, OPTIONS)
    with open_ledger(ledger) as held:
        for night in prune.old_nights(held, datetime.now(UTC) + timedelta(hours=1)):
            if night.line == PRUNED:
                prune.prune(held, night)
    with open_ledger(ledger) as held:
        check(held)


def scores(place: Path) -> pd.DataFrame:
    """Key, status and score of every row, of pruned nights too."""
    names = [*KEYS, "status", "anomaly_score"]
    paths = [p for table in ("scores", "pruned") for p in place.glob(f"ledger/{table}/*/*/*")]
    rows = pd.concat([pd.read_parquet(path, columns=names) for path in paths])
    return rows.sort_values(KEYS, ignore_index=True)


def faults(place: Path, expected: pd.DataFrame) -> list[str]:
    wrong, rows, ledger = [], scores(place), place / "ledger"
    if not rows.equals(expected):
        wrong.append(f"{len(rows)} rows, {len(expected)} expected, or other values")
    files = {name: sum(p.is_file() for p in (place / name).rglob("*")) for name in LINES}
    summaries = [json.loads(path.read_bytes()) for path in sorted(ledger.glob("runs/*.json"))]
    for name in LINES:
        whole = [s["lines"][name] for s in summaries if s["whole"] and name in s["lines"]]
        if sum(report["images"] for report in whole) != files[name]:
            wrong.append(f"{name}: {[report['images'] for report in whole]} images reported")
        runs = Counter(run for report in whole for run in report["runs"])
        wrong += [f"{name}: run {run} was reported twice" for run, n in runs.items() if n > 1]
    judged = [pd.read_parquet(path) for path in ledger.glob("verdicts/*/*/*.parquet")]
    first = pd.concat(judged).query("judgement == 1").sort_values(KEYS, ignore_index=True)
    kept = pd.concat([pd.read_parquet(path, columns=KEYS) for path in ledger.glob("scores/*/*/*")])
    own = first[first["line"] != PRUNED].reset_index(drop=True)
    if not own[KEYS].equals(kept[kept["line"] != PRUNED].sort_values(KEYS, ignore_index=True)):
        wrong.append("a row was not judged exactly once")
    if first.duplicated(KEYS).any():
        wrong.append("a row was judged twice")
    with open_ledger(ledger) as held:
        if not marks.count(held):
            wrong.append("the marks are lost")
        wrong += [str(noticed) for noticed in [check(held)] if noticed.faults or noticed.notes]
    left = [p.name for p in ledger.rglob("*") if p.name.endswith((".partial", ".old"))]
    left += [path.name for path in ledger.glob("writing/*")]
    return wrong + ([f"left behind: {left}"] if left else [])


def ended(work: object, seconds: float | None) -> int | None:
    """The exit code of a child, None where it was killed after `seconds`."""
    process = child(work)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(process, signal.SIGKILL)
    status = os.waitpid(process, 0)[1]
    return None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    asked = parser.parse_args()
    rng, wrong = random.Random(asked.seed), list[str]()
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        made, place = Path(folder, "made"), Path(folder, "plant")
        ended(lambda: make(made), None)
        shutil.copytree(made, place)
        start = time.monotonic()
        assert ended(lambda: day(place), None) == 0
        seconds, expected = time.monotonic() - start, scores(place)
        wrong += faults(place, expected)
        kills = rounds = 0
        shutil.rmtree(place)
        while kills < asked.kills or place.exists():
            if not place.exists():
                shutil.copytree(made, place)
            after = rng.uniform(0, seconds) if kills < asked.kills else None
            code = ended(lambda: day(place), after)
            if code is None:
                kills += 1
                continue
            if code:
                wrong.append(f"a day ended with {code}")
                break
            rounds += 1
            wrong += faults(place, expected)
            shutil.rmtree(place)
    report = {"kills": kills, "days": rounds, "undisturbed_seconds": round(seconds, 1)}
    report |= {"rows": len(expected), "seed": asked.seed, "faults": wrong}
    sys.stdout.write(json.dumps(report) + "\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
