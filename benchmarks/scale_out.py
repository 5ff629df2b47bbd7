"""A night on Ray against a night on this machine: speed, fixed cost, and whatever can go wrong.

    OMP_NUM_THREADS=1 python -m benchmarks.scale_out --images 2000

Each night is a process of its own on the same images, with an empty ledger; its rows are compared
with those of the local engine. What is to go wrong does so when the first part is in the ledger.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import psutil
from ray.cluster_utils import Cluster

from admodels.scoring import ray as ray_rows
from admodels.scoring import tables
from benchmarks import nightly
from tests import plants
from tests.test_ray import is_worker

ROOT = Path(__file__).parents[1]
HUNG_SECONDS = 60  # a busy machine needs as much to start workers
PROGRAM = """
import sys
from admodels.cli.app import main
from admodels.scoring import ray
ray.STALLED_SECONDS = int(sys.argv.pop())
main()
"""
WORDS = ["--settle-seconds", "0", "--pictures", "0"]


def workers(process: int) -> list[psutil.Process]:
    """The actors of Ray below a process."""
    return [p for p in psutil.Process(process).children(recursive=True) if is_worker(p)]


def kill(process: int) -> None:
    workers(process)[0].kill()


def hang(process: int) -> None:
    for one in workers(process):
        one.suspend()


def terminate(process: int) -> None:
    os.kill(process, signal.SIGTERM)


def night(place: Path, ledger: str, *words: str, act: Callable[[int], None] | None = None) -> dict:
    """What a night took and said; `act` is given its process when the first part is there."""
    line = plants.line((place / "in").absolute(), bundle="draem/bench", alpha=0.01)
    plants.write_plant(place / ledger, {"bench": line}, place / "models")
    start, patience = time.monotonic(), HUNG_SECONDS if act is hang else ray_rows.STALLED_SECONDS
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            PROGRAM,
            "nightly",
            *WORDS,
            "--plant",
            ledger,
            *words,
            f"{patience}",
        ],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=(place / "told").open("w"),
        text=True,
    )
    while act and process.poll() is None:
        if list((place / ledger / "ledger/scores").glob("*/*/*.parquet")):
            act(process.pid)
            act = None
        time.sleep(0.1)
    told = json.loads(process.communicate()[0].splitlines()[-1])
    line = told["lines"]["bench"]
    return {
        "exit_code": process.returncode,
        "seconds": round(time.monotonic() - start, 1),
        "of_them_scoring": round(line["seconds"], 1),
        "images_per_second": round(line["images"] / max(line["seconds"], 1e-3), 1),
        "new_rows": line["images"],
        "told": line["told"],
    }


def rows(place: Path, ledger: str) -> pd.DataFrame:
    found = pd.read_parquet(place / ledger / "ledger/scores").reindex(columns=tables.SCORES.names)
    return found.sort_values("path").reset_index(drop=True)


def plant(place: Path, images: int) -> None:
    """A light bundle (DRAEM, widths 8 / 8, 64 px) and pictures, some of them copies or broken."""
    inbox = place / "in"
    nightly.drawn(inbox, 0, images)
    files = sorted(inbox.rglob("*.png"))
    nightly.save(place / "models/draem/bench", 64, 8, files)
    for at in range(0, images, 50):
        shutil.copy(files[at], inbox / f"copy {at}.png")
        (inbox / f"broken {at}.png").write_bytes(files[at].read_bytes()[:500])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=2000)
    asked = parser.parse_args()
    ray = ("--engine", "ray", "--ray-workers")
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        plant(place, asked.images)

        def show(what: str, told: dict, ledger: str) -> None:
            nonlocal wrong
            equal = rows(place, ledger).equals(rows(place, "local"))
            wrong += not equal and told["exit_code"] == 0
            sys.stdout.write(f"{what}: {json.dumps(told | {'rows_equal': equal})}\n")
            sys.stdout.flush()

        show("local", night(place, "local"), "local")
        show("local, nothing new", night(place, "local"), "local")
        show("ray, 1 worker", night(place, "one", *ray, "1"), "one")
        show("ray, nothing new", night(place, "one", *ray, "1"), "one")
        show("ray, 2 workers", night(place, "two", *ray, "2"), "two")
        show("a worker killed", night(place, "killed", *ray, "2", act=kill), "killed")
        show("SIGTERM", night(place, "stopped", *ray, "2", act=terminate), "stopped")
        show("the run after it", night(place, "stopped", *ray, "2"), "stopped")
        show("all workers hang", night(place, "hung", *ray, "2", act=hang), "hung")
        show("the run after it", night(place, "hung", *ray, "2"), "hung")
        for cpus, what in ((2, "the other has room"), (1, "the other has no room")):
            cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus})
            second = cluster.add_node(num_cpus=1)
            words = ("--ray-address", cluster.address, *ray, "2")

            def remove(_: int, cluster: Cluster = cluster, node: object = second) -> None:
                cluster.remove_node(node, allow_graceful=False)

            told = night(place, f"node {cpus}", *words, act=remove)
            show(f"one of two machines removed, {what}", told, f"node {cpus}")
            cluster.shutdown()
    sys.exit(wrong)


if __name__ == "__main__":
    main()
