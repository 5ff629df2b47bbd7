"""What a run of 1,000 new images costs with no history, and with millions of rows of it.

    python -m benchmarks.history                 # 0, 1 and 10 million rows; 12 GB below /tmp

The history is made up: parts, judgements, summaries, records of drift, journal and index, as runs
write them, by the package's own functions. Side tables have no rows: only a run's own night reads
them. The inbox holds the new images alone. Each measured run is a process of its own, which closes
a night, without the daily check. The figures are the least of `--repeat` runs.
"""

import argparse
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from admodels.nights.calibrations import calibration_in_force
from admodels.nights.judgements import judgement_of
from admodels.scoring import integrity, journal, tables
from admodels.scoring.appearances import APPEARANCES
from admodels.scoring.ledger import open_ledger, read_ledger
from benchmarks.nightly import drawn, save
from tests import plants

ROOT = Path(__file__).parents[1]
LINE = "press"
SHAPES = {  # rows: (runs, rows of each)
    "0 rows": (0, 0),
    "1,000,000 rows in 1,000 runs": (1_000, 1_000),
    "10,000,000 rows in 1,000 runs": (1_000, 10_000),
    "10,000,000 rows in 10,000 runs": (10_000, 1_000),
}
NIGHTS = 1_000  # of the history
FIRST = 50  # images of the first run, which is a real one


def child() -> None:
    """A night of the plant here; what it needed is left in the file `needed`."""
    from admodels.nights.run import Options, nightly

    days = timedelta(int(Path("days").read_text()))
    integrity.check_daily = lambda *_: integrity.Check()
    summary = nightly(Path(), Options(0.0, clock=lambda: datetime.now(UTC) + days))
    peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
    times = os.times()
    report = summary["lines"][LINE]
    needed = {"cpu_s": round(times.user + times.system, 2), "peak_mib": round(int(peak) / 1024, 1)}
    needed |= {"images": report["images"], "exit_code": summary["exit_code"]}
    needed["closes"] = summary["closes"]
    Path("needed").write_text(json.dumps(needed))


def night(place: Path, days: int) -> dict[str, float]:
    """A look that closes a night, `days` from now."""
    (place / "days").write_text(str(days))
    words = [sys.executable, "-c", "from benchmarks.history import child; child()"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(words, cwd=place, env=environment, check=True, stderr=subprocess.DEVNULL)
    return json.loads((place / "needed").read_text())


class History:
    """Made-up runs of the line, from run 2 on, after the real first one."""

    def __init__(self, place: Path) -> None:
        self.ledger = place / "ledger"
        with read_ledger(self.ledger) as ledger:
            _, group = next(ledger.groups(LINE))
            self.first = group.slice(0, 1)
            self.kept = calibration_in_force(ledger, LINE, *tables.model_of(group))
        self.summary = json.loads((self.ledger / "runs/000001.json").read_bytes())
        self.drift = json.loads((self.ledger / f"drift/{LINE}/000001.json").read_bytes())
        (record,) = (self.ledger / "nights").glob("*.json")
        self.record = json.loads(record.read_bytes())
        self.chain = journal.Journal(self.ledger).last()["chain"]
        self.lines: list[str] = []
        self.nights: dict[str, list[str]] = {}

    def write(self, runs: int, rows: int) -> None:
        base = sqlite3.connect(self.ledger / "index.sqlite", isolation_level=None)
        base.execute("PRAGMA synchronous = OFF")
        base.execute("BEGIN")
        for number in range(runs):
            table = self._rows(number * rows, rows)
            self._run(number + 2, table, date(2016, 1, 1) + timedelta(number * NIGHTS // runs))
            self._index(base, number + 2, table)
        base.execute("COMMIT")
        base.close()
        with (self.ledger / journal.NAME).open("a", encoding="utf-8") as file:
            file.writelines(self.lines)

    def _rows(self, start: int, count: int) -> pa.Table:
        """Scores of images that are no more in the inbox, as of the first."""
        numbers = range(start, start + count)
        rng = np.random.default_rng(start)
        own = {
            "path": [f"then/{number // 1000:05d}/{number:08d}.png" for number in numbers],
            "image_sha256": [_sha256(number) for number in numbers],
            "anomaly_score": np.quantile(self.kept.scores, rng.random(count)),
        }
        columns = [
            pa.array(own[name], field.type)
            if name in own
            else pa.repeat(self.first[name][0], count).cast(field.type)
            for name, field in zip(tables.SCORES.names, tables.SCORES, strict=True)
        ]
        return pa.table(columns, tables.SCORES)

    def _run(self, number: int, table: pa.Table, night: date) -> None:
        run, files = f"{number:06d}", {}
        part = f"{LINE}/{run}/0001.parquet"
        marked = table.append_column("run", pa.repeat(pa.scalar(run), len(table)))
        true = pa.chunked_array([pa.repeat(pa.scalar(True), len(table))])
        said = judgement_of(marked, self.kept, 0.01, true, why="benchmark")
        folder = f"verdicts/{LINE}/{night}"
        verdicts = f"{folder}/{len(list((self.ledger / folder).glob('*'))) + 1:04d}.parquet"
        for name, schema, rows in (
            (f"appearance/{part}", APPEARANCES, APPEARANCES.empty_table()),
            (f"scores/{part}", tables.SCORES, table),
            (verdicts, tables.JUDGEMENTS, said),
        ):
            path = self.ledger / name
            path.parent.mkdir(parents=True, exist_ok=True)
            step = tables.ROWS_PER_GROUP
            groups = [rows[start : start + step] for start in range(0, max(1, len(rows)), step)]
            tables.write(path, schema, groups, [run] if name == verdicts else ())
            files[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        record = f"nights/{night}.json"
        self.nights.setdefault(record, []).append(run)
        texts = {
            record: self.record | {"night": str(night), "runs": self.nights[record]},
            f"drift/{LINE}/{run}.json": self.drift | {"run": run},
            f"runs/{run}.json": self._summary(run, night, len(table)),
        }
        for name, content in texts.items():
            (self.ledger / name).write_text(json.dumps(content), encoding="utf-8")
            files[name] = hashlib.sha256((self.ledger / name).read_bytes()).hexdigest()
        shutil.copyfile(self.ledger / "pages/000001.html", self.ledger / f"pages/{run}.html")
        for name, sha256 in files.items():
            self._note(f"{night}T02:00:00+00:00", {name: sha256})

    def _summary(self, run: str, night: date, count: int) -> dict[str, object]:
        report = self.summary["lines"][LINE] | {"runs": [run], "images": count}
        started = {"run": run, "night": str(night), "started": f"{night}T02:00:00+00:00"}
        return self.summary | started | {"lines": {LINE: report}}

    def _note(self, moment: str, files: dict[str, str]) -> None:
        entry = {"at": moment, "do": "write", "files": files}
        self.chain = entry["chain"] = journal._chain(self.chain, entry)
        self.lines.append(journal._text(entry) + "\n")

    def _index(self, base: sqlite3.Connection, number: int, table: pa.Table) -> None:
        names = [field.name for field in tables.KEY]
        keys = list(zip(*(table[name].to_pylist() for name in names), strict=True))
        scores = table["anomaly_score"].to_pylist()
        base.execute("INSERT INTO parts VALUES (?)", (f"{LINE}/{number:06d}/0001.parquet",))
        base.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?)", keys)
        pairs = zip(keys, scores, strict=True)
        base.executemany(
            "INSERT INTO scores VALUES (?, ?, ?, ?)", ((*key[2:], score) for key, score in pairs)
        )
        stamps = ((*key[:3], f"{number} 1 1") for key in keys)
        base.executemany("INSERT INTO seen VALUES (?, ?, ?, ?)", stamps)


def _sha256(number: int) -> str:
    """Ascending, so that the index is made fast, and with digits as a hash has them."""
    return (
        f"{number * 1_800_000_000_000:016x}" + hashlib.sha256(str(number).encode()).hexdigest()[16:]
    )


def measured(place: Path, repeat: int, images: int, start: int) -> Iterator[dict[str, float]]:
    for number in range(repeat):
        shutil.rmtree(place / "in")
        drawn(place / "in", start + number * images, start + (number + 1) * images)
        yield night(place, number + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        base = Path(name, "base")
        drawn(base / "in", 0, FIRST)
        save(base / "models-here/draem/bench", 64, 8, sorted((base / "in").rglob("*.png")))
        line = plants.line("in", bundle="draem/bench", alpha=0.01)
        plants.write_plant(base, {LINE: line}, models=base / "models-here")
        night(base, 0)
        for shape in asked.shapes:
            place = Path(name, "plant")
            shutil.copytree(base, place)
            start = time.monotonic()
            if SHAPES[shape][0]:
                History(place).write(*SHAPES[shape])
            with open_ledger(place / "ledger"):
                pass  # folds what the journal has into the index, once
            made = round(time.monotonic() - start)
            size = sum(f.stat().st_size for f in (place / "ledger").rglob("*") if f.is_file())
            runs = list(measured(place, asked.repeat, asked.images, FIRST))
            figures = {key: min(run[key] for run in runs) for key in ("cpu_s", "peak_mib")}
            figures |= {"runs": runs, "made_in_s": made, "ledger_mib": round(size / 2**20)}
            sys.stdout.write(f"{shape}: {json.dumps(figures)}\n")
            sys.stdout.flush()
            shutil.rmtree(place)


if __name__ == "__main__":
    main()
