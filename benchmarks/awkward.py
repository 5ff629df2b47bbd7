"""What broke the rivals on the same inputs (measured, see the notes), and what happens here.

    python -m benchmarks.awkward

Every case is a real `admodels nightly` in a process of its own, without a network: a socket that is
opened ends it.
"""

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

import numpy as np
import pandas as pd
from PIL import Image

from admodels.images import decode
from tests import cards, plants, tiny

ROOT = Path(__file__).parents[1]
CODE = """
import socket
class Shut(socket.socket):
    def __init__(self, *_, **__): raise SystemExit("a socket was opened")
socket.socket = Shut
from pathlib import Path
from admodels.cli.app import main
try:
    main()
finally:  # ru_maxrss counts the parent from before exec; VmHWM is of the process alone
    told = Path("/proc/self/status").read_text()
    Path("peak").write_text(told.split("VmHWM:")[1].split()[0])
"""


class Plant:
    """A folder, a bundle and a ledger."""

    def __init__(self, place: Path) -> None:
        self.place, self.inbox, self.ledger = place, place / "in", place / "ledger"
        cards.save_draem(place / "models/draem/stripes")
        plants.write_plant(place, {"press": plants.line("in")})
        self.inbox.mkdir()

    def draw(self, count: int, seed: int = 1, start: int = 0) -> None:
        for at, pixels in enumerate(tiny.stripes(count, seed), start):
            decode.write_png(self.inbox / f"{at:04d}.png", pixels.transpose(1, 2, 0))

    def start(self) -> subprocess.Popen[str]:
        words = ["--plant", ".", "--settle-seconds", "0"]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [sys.executable, "-c", CODE, "nightly", *words],
            cwd=self.place,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=pipe,
            stderr=pipe,
            text=True,
        )

    def night(self) -> tuple[int, dict, float]:
        """Exit code, what is told of the line, peak MiB."""
        process = self.start()
        out, told = process.stdout.read(), process.stderr.read()
        process.wait()
        line = json.loads(out.splitlines()[-1])["lines"]["press"] if out else {"told": told}
        return process.returncode, line, int((self.place / "peak").read_text()) / 1024

    def rows(self) -> pd.DataFrame:
        return pd.read_parquet(self.ledger / "scores").set_index("path")


def one_bad_file(plant: Plant, harm: Callable[[bytes], bytes]) -> str:
    plant.draw(20)
    path = plant.inbox / "0007.png"
    path.write_bytes(harm(path.read_bytes()))
    code, _, _ = plant.night()
    statuses = plant.rows()["status"]
    assert (statuses == "scored").sum() == 19
    return f"19 scores, 1 row `{statuses['0007.png']}`, exit {code} (above 2 %)"


def deep(plant: Plant) -> str:
    wave = tiny.stripes(1, 1)[0][0]
    Image.fromarray(wave).save(plant.inbox / "8.png")
    Image.fromarray(wave.astype(np.uint16) << 8).save(plant.inbox / "16.png")
    plant.night()
    rows = plant.rows()
    assert rows["anomaly_score"].nunique() == 1
    return "the same score as its 8-bit twin, bit depth 16 in the row"


def same_names(plant: Plant) -> str:
    for day, pixels in zip(("20", "21"), tiny.stripes(2, 3), strict=True):
        decode.write_png(plant.inbox / day / "shift1/IMG_1.png", pixels.transpose(1, 2, 0))
    plant.night()
    pictures = len(list(plant.ledger.rglob("*.jpg")))
    assert (len(plant.rows()), pictures) == (2, 2)
    return "2 rows, 2 pictures"


def exif(plant: Plant) -> str:
    picture = Image.fromarray(np.ascontiguousarray(tiny.stripes(1, 1)[0].transpose(1, 2, 0)))
    tags = picture.getexif()
    tags[0x0112] = 6
    picture.save(plant.inbox / "turned.png", exif=tags)
    picture.save(plant.inbox / "plain.png")
    plant.night()
    assert plant.rows()["anomaly_score"].nunique() == 1
    return "pixels as the camera stored them, by contract: masks carry no EXIF"


def mac_files(plant: Plant) -> str:
    plant.draw(2)
    (plant.inbox / "._0000.png").write_bytes(b"\0\5\26\7")
    code, _, _ = plant.night()
    assert plant.rows()["status"].value_counts().to_dict() == {"scored": 2, "not_an_image": 1}
    return f"2 scores, 1 row `not_an_image`, exit {code}"


def empty(plant: Plant) -> str:
    code, line, _ = plant.night()
    assert (code, line["found"]) == (0, 0)
    return "exit 0, found 0"


def huge(plant: Plant) -> str:
    rng = np.random.default_rng(1)
    small = rng.integers(0, 255, (900, 1200, 3), dtype=np.uint8)
    Image.fromarray(small).resize((12000, 9000)).save(plant.inbox / "huge.jpg", quality=60)
    start = time.monotonic()
    code, _, peak = plant.night()
    assert plant.rows()["status"].tolist() == ["scored"]
    return f"scored, {time.monotonic() - start:.1f} s, peak {peak:.0f} MiB, exit {code}"


def killed(plant: Plant) -> str:
    plant.draw(1000)
    process = plant.start()
    while not list(plant.ledger.rglob("scores/*/*/*.parquet")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    code, line, _ = plant.night()
    rows = plant.rows()
    assert (code, len(rows), rows.index.nunique()) == (0, 1000, 1000)
    return f"all 1000 have one row, {line['old']} kept from before, none unreadable"


def next_night(plant: Plant) -> str:
    plant.draw(40)
    plant.night()
    plant.draw(5, seed=9, start=40)
    code, line, _ = plant.night()
    assert (code, line["images"], line["old"]) == (0, 5, 40)
    return "5 scored of 45"


def memory(plant: Plant) -> str:
    peaks = []
    for count in (100, 1500):
        plant.draw(count)
        shutil.rmtree(plant.ledger, ignore_errors=True)
        peaks.append(plant.night()[2])
    return f"{(peaks[1] - peaks[0]) / 1400 * 1024:.1f} KiB per image (100 against 1500)"


def full_disk(plant: Plant) -> str:
    plant.draw(300)
    plant.ledger.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k,mode=750", "tmpfs", str(plant.ledger)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        return "not run: may not mount"
    try:
        codes = [plant.night()[0]]
        grow = ["mount", "-o", "remount,size=50m", str(plant.ledger)]
        subprocess.run(grow, check=True)
        codes.append(plant.night()[0])
        assert (codes, len(plant.rows())) == ([74, 0], 300)
    finally:
        subprocess.run(["umount", str(plant.ledger)], check=True)
    return "exit 74, after making room exit 0 and 300 rows"


def read_only(plant: Plant) -> str:
    plant.draw(3)
    plant.ledger.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "ro,mode=750", "tmpfs", str(plant.ledger)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        return "not run: may not mount"
    try:
        code, line, _ = plant.night()
    finally:
        subprocess.run(["umount", str(plant.ledger)], check=True)
    assert code == 74, line
    return "exit 74 before anything is scored"


def clock(plant: Plant) -> str:
    plant.draw(10)
    plant.night()
    for path in plant.inbox.iterdir():
        os.utime(path, (time.time() + 10**6,) * 2)
    plant.draw(1, seed=9, start=10)
    os.utime(plant.inbox / "0010.png", (100, 100))
    code, line, _ = plant.night()
    assert (code, line["images"], line["old"], len(plant.rows())) == (0, 1, 10, 11)
    return "no time of a file orders anything: 10 old, 1 new"


def two_runs(plant: Plant) -> str:
    plant.draw(1000)
    first = plant.start()
    while not (plant.ledger / "index.sqlite").exists():
        time.sleep(0.01)
    code, _, _ = plant.night()
    first.communicate()
    assert (code, first.returncode, len(plant.rows())) == (75, 0, 1000)
    return "the second ends with 75, the first with 1000 rows"


def vanishing(plant: Plant) -> str:
    plant.draw(300)
    process = plant.start()
    while not (plant.ledger / "index.sqlite").exists():
        time.sleep(0.01)
    for at in range(200, 300, 2):
        (plant.inbox / f"{at:04d}.png").unlink()
    for at in range(201, 300, 2):
        with (plant.inbox / f"{at:04d}.png").open("ab") as file:
            file.write(b"more")
    process.communicate()
    code, _, _ = plant.night()
    statuses = plant.rows()["status"]
    assert statuses.index.isin([p.name for p in plant.inbox.iterdir()]).sum() >= 250
    return f"rows: {statuses.value_counts().to_dict()}, second run exit {code}"


CASES = {
    "corrupt PNG": ("whole run aborts", lambda p: one_bad_file(p, lambda _: b"\x89PNG no")),
    "truncated PNG": ("whole run aborts", lambda p: one_bad_file(p, lambda d: d[: len(d) // 2])),
    "zero bytes": ("whole run aborts", lambda p: one_bad_file(p, lambda _: b"")),
    "16-bit grey": ("silently white, anomalous 1.0", deep),
    "same names in two folders": ("one picture overwrites the other", same_names),
    "EXIF orientation": ("ignored, undocumented", exif),
    "._ files of a Mac": ("whole run aborts", mac_files),
    "empty folder": ("ValueError, exit 1", empty),
    "12000 x 9000 JPEG": ("5.8 GB, 15.4 s", huge),
    "kill -9, again": ("scores all again, 1 half picture", killed),
    "next night, 40 old + 5 new": ("scores 45", next_night),
    "memory": ("1.33 MB per image", memory),
    "disk full": ("not measured", full_disk),
    "read-only output": ("not measured", read_only),
    "clock backwards and ahead": ("not measured", clock),
    "files vanish and change meanwhile": ("not measured", vanishing),
    "two runs at once": ("not measured", two_runs),
}


def main() -> None:
    wanted = sys.argv[1:]
    sys.stdout.write("| case | anomalib 2.7.0 | here, without a network |\n|---|---|---|\n")
    for name, (rival, case) in CASES.items():
        if wanted and not any(word in name for word in wanted):
            continue
        with tempfile.TemporaryDirectory() as place:
            sys.stdout.write(f"| {name} | {rival} | {case(Plant(Path(place)))} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
