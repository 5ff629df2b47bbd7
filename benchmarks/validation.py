"""What `validate` costs on many small images: python -m benchmarks.validation --images 20000.

Writes that many grey noise images of 64 px in MVTec AD's layout to a temporary folder (7 of 8 to
learn from, one in 32 with a mask), runs the stage on them in a process of its own and prints time,
processor time and peak memory.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML

from admodels.images import decode

REPO = Path(__file__).parents[1]
SIDE_PX = 64


def planted(root: Path, number: int) -> None:
    rng = np.random.default_rng(number)
    coarse = rng.integers(60, 200, (8, 8), dtype=np.uint8)
    pixels = coarse.repeat(8, axis=0).repeat(8, axis=1)
    pixels += rng.integers(0, 8, pixels.shape, dtype=np.uint8)
    folder = "train/good" if number % 8 else "test/good" if number % 32 else "test/hole"
    decode.write_png(root / folder / f"{number:06}.png", pixels)
    if number % 32 == 0:
        mask = np.zeros((SIDE_PX, SIDE_PX), dtype=np.bool_)
        mask[8:16, 8:16] = True
        decode.write_png(root / f"ground_truth/hole/{number:06}_mask.png", mask)


def params(folder: Path) -> None:
    yaml = YAML()
    shipped = yaml.load((REPO / "params.yaml").read_text(encoding="utf-8"))
    source = {"kind": "path", "location": "raw", "sha256": "0" * 64}
    about = {"dataset": "mvtec_ad", "category": "", "kind": "texture", "licence": "CC0-1.0"}
    shipped["tasks"] = {"many": {**about, "source": source}}
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(shipped, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    count = parser.parse_args().images
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        params(folder)
        raw = folder / "data/raw/many"
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda number: planted(raw, number), range(count)))
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "stages.validate", "many"],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(REPO)},
        )
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        report = json.loads((folder / "data/validation/many/report.json").read_text("utf-8"))
        site = sum(p.stat().st_size for p in folder.glob("data/validation/**/*") if p.is_file())
        failed = {c["name"]: c["unexpected_count"] for c in report["checks"] if not c["success"]}
    print(f"exit {os.waitstatus_to_exitcode(status)}, {report['images']} images, failed: {failed}")
    print(f"{seconds:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of processors")
    print(f"peak memory {used.ru_maxrss / 1024:.0f} MiB, output {site / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
