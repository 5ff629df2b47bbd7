"""Flip one bit in the files of a ledger: refused by name or repaired, none silent.

    python -m benchmarks.flips --places 500

Each place is a bit of a part, of a JSON file, of the journal or of the index, chosen at random in
a copy of one small ledger. Size, times and inode are as before. Then comes the night of the next
day. `silent`: it read other values than were written and said nothing.
"""

import argparse
import json
import logging
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pandas as pd

from admodels.foundation.errors import AdmodelsError
from admodels.nights import marks
from admodels.nights.rejudge import rejudge
from admodels.nights.run import Options, nightly
from admodels.scoring.ledger import read_ledger
from tests import cards, plants
from tests.test_nightly import draw

KEY = ["line", "path", "image_sha256", "model_fingerprint", "contract_fingerprint"]
KINDS = {
    "part": ("ledger/scores/*/*/*.parquet", "ledger/appearance/*/*/*.parquet"),
    "judgement": ("ledger/verdicts/*/*/*.parquet",),
    "json": ("ledger/runs/*.json", "ledger/drift/*/*.json", "ledger/nights/*.json"),
    "calibration": ("ledger/calibration/*/*.json", "ledger/calibration/*/in_force/*.json"),
    "chain": ("ledger/journal.jsonl", "ledger/marks.jsonl", "deployments.jsonl"),
    "index": ("ledger/index.sqlite",),
}
LINES = ("press", "weld")


def night(place: Path) -> dict:
    return nightly(place, Options(0.0, pictures=0))


def make(place: Path) -> None:
    """Two lines, two looks, a mark and another opinion."""
    cards.save_draem(place / "models/draem/stripes", calibration=9, reference=True)
    plants.write_plant(place, {name: plants.line(name) for name in LINES})
    for name, seed in zip(LINES, (3, 4), strict=True):
        draw(place / name, 12, seed)
    night(place)
    for name, seed in zip(LINES, (5, 6), strict=True):
        draw(place / name / "later", 6, seed)
    night(place)
    table = place / "marks.csv"
    table.write_text("line,path,verdict\npress,0001.png,fine\n", encoding="utf-8")
    with read_ledger(place / "ledger") as ledger:
        marks.append(ledger, table, LINES)
        rejudge(ledger, "press", 0.5, why="another budget")


def rows(ledger: Path, table: str) -> pd.DataFrame:
    parts = sorted((ledger / table).rglob("*.parquet"))
    return pd.concat([pd.read_parquet(path) for path in parts]).sort_values(KEY, ignore_index=True)


def yesterday(ledger: Path) -> None:
    """The daily check is due: the day stands in the index, at bytes 60 to 63 of its header."""
    with (ledger / "index.sqlite").open("r+b") as file:
        file.seek(60)
        day = int.from_bytes(file.read(4), "big")
        file.seek(60)
        file.write((day - 1).to_bytes(4, "big"))


def flip(path: Path, rng: random.Random) -> int:
    """One bit, in place; the time of the last write as before."""
    status = path.stat()
    place = rng.randrange(status.st_size)
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0] ^ 1 << rng.randrange(8)
        file.seek(place)
        file.write(bytes([byte]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (
        status.st_size,
        status.st_mtime_ns,
        status.st_ino,
    )
    return place


def outcome(place: Path, name: str, expected: dict[str, pd.DataFrame]) -> str:
    """What the next night made of it."""
    ledger = place / "ledger"
    try:
        summary = night(place)
    except AdmodelsError as error:
        return "refused" if Path(name).name in str(error) and error.exit_code == 74 else "unnamed"
    except Exception as error:
        return f"bug: {type(error).__name__}"
    texts = json.dumps(
        [
            summary["ledger"],
            summary["page_faults"],
            [line["told"] for line in summary["lines"].values()],
        ]
    )
    is_named = Path(name).name in texts or (name.endswith("index.sqlite") and "the index" in texts)
    if summary["exit_code"] == 74:
        return "refused" if is_named else "unnamed"
    is_same = all(rows(ledger, table).equals(table_rows) for table, table_rows in expected.items())
    if is_named:
        return "repaired" if is_same else "doubled"
    return "no value changed" if is_same and summary["exit_code"] == 0 else "silent"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--places", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    rng, counts = random.Random(asked.seed), dict[str, Counter]()
    logging.disable(logging.CRITICAL)
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, "whole")
        make(whole)
        expected = {table: rows(whole / "ledger", table) for table in ("scores", "verdicts")}
        yesterday(whole / "ledger")
        for number in range(asked.places):
            place = Path(folder, "copy")
            shutil.copytree(whole, place)
            kind = rng.choice(list(KINDS))
            paths = sorted(path for pattern in KINDS[kind] for path in place.glob(pattern))
            path = rng.choice(paths)
            offset = flip(path, rng)
            name = path.relative_to(place).as_posix()
            result = outcome(place, name, expected)
            counts.setdefault(kind, Counter())[result] += 1
            if result not in ("refused", "repaired", "no value changed"):
                wrong.append({"number": number, "file": name, "byte": offset, "result": result})
            shutil.rmtree(place)
    report = {"places": asked.places, "seed": asked.seed, "wrong": wrong, **counts}
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
