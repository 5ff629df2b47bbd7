"""A night with files that cost a decoder minutes or gigabytes, beside a night without them.

    python -m benchmarks.costly_night [--images 1000] [--cases OUT/files]

Each night scores the same small images with an untrained DRAEM, in a process of its own. The
second has a scan bomb, a tile bomb, a canvas bomb, 16 bits of 200 million pixels and a sparse file
among them. Ends with 1 if a file has no row.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from admodels.images import decode
from tests import costly, tiny
from tests.cards import save_draem

NIGHT = """
import json, resource, sys, time
from pathlib import Path
import torch
from admodels.nights.run import Options
from tests import plants
torch.set_num_threads(1)
lines = {"press": plants.line(Path(sys.argv[1]).resolve())}
start = time.monotonic()
plants.write_plant(Path(sys.argv[2]), lines, Path("models"))
summary = plants.night(lines, Path(sys.argv[2]), Options(0.0, pictures=0))
seconds = time.monotonic() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
print(json.dumps([summary["lines"]["press"], seconds, time.process_time(), peak]))
"""


def write_costly(folder: Path) -> list[str]:
    """The expensive files, their names among those of the images."""
    files = {
        "0100_scan_bomb.jpg": costly.scan_bomb(6_000, 20_000),
        "0300_tile_bomb.tif": costly.tile_bomb(43_680),
        "0500_canvas_bomb.webp": costly.canvas_bomb(14_142),
        "0700_large16.png": costly.large_png(14_142),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    with (folder / "0900_sparse.png").open("wb") as stream:
        stream.truncate(1_600_000_000)
    return [*files, "0900_sparse.png"]


def night(place: Path, inbox: str) -> tuple[dict[str, object], float, float, int]:
    command = [sys.executable, "-c", NIGHT, inbox, f"ledger_{inbox}_{time.time_ns()}"]
    ended = subprocess.run(command, cwd=place, capture_output=True, text=True, check=True)
    report, seconds, processor, peak = json.loads(ended.stdout)
    return report, seconds, processor, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1_000)
    count = parser.parse_args().images
    missing = 0
    print("| night | rows | without a score | images/s | CPU-s | peak MiB |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        sides = {"width_px": (tiny.PX, tiny.PX), "height_px": (tiny.PX, tiny.PX)}
        tiny.CONTRACT = tiny.CONTRACT.model_copy(update=sides | {"bit_depths": (8,)})
        save_draem(place / "models/draem/stripes")
        for number, pixels in enumerate(tiny.stripes(count, seed=3)):
            name = f"{number:04}.png"
            decode.write_png(place / "plain" / name, pixels.transpose(1, 2, 0))
            decode.write_png(place / "costly" / name, pixels.transpose(1, 2, 0))
        bombs = write_costly(place / "costly")
        for inbox, expected in (("plain", count), ("costly", count + len(bombs))) * 2:
            report, seconds, processor, peak = night(place, inbox)
            statuses = report["statuses"]
            others = {name: n for name, n in statuses.items() if name != "scored"}
            rows = sum(statuses.values())
            missing += expected - rows
            print(
                f"| {inbox} | {rows} of {expected} | {others or 'none'} | {count / seconds:.0f} "
                f"| {processor:.1f} | {peak} |",
                flush=True,
            )
    sys.exit(bool(missing))


if __name__ == "__main__":
    main()
