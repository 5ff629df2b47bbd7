"""What hostile archives and unruly servers were tried, and what happened, as a table.

    python -m benchmarks.attacks

The archives are unpacked below three folders, so that a climb out would land where it is seen:
after each one everything outside the target is compared with before. Ends with 1 if an archive was
unpacked, or a file taken that is not the one asked for.
"""

import os
import random
import sys
import tarfile
import tempfile
import threading
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from admodels.foundation.errors import AdmodelsError
from admodels.sources.archive import LARGEST_RATIO, LONGEST_HEADER_BYTES, SMALL_BYTES, extract
from admodels.sources.download import download
from tests import test_download as http
from tests.test_archive import special, surroundings, tar_of, zip_of

ZEROS = SMALL_BYTES + (1 << 20)
ESCAPES = {
    "climbs out": "../../../secret.txt",
    "climbs out from below": "x/../../../../secret.txt",
    "climbs out, Windows": "..\\..\\..\\secret.txt",
    "absolute": "/tmp/secret.txt",
    "drive letter": "C:secret.txt",
    "network share": "\\\\host\\share\\secret.txt",
}
DOUBLES = {
    "same name twice": ("0.png", "0.png"),
    "case collision": ("a/0.png", "a/0.PNG"),
    "folders collide": ("a/0.png", "A/1.png"),
    "composed and decomposed": ("\u00fc.png", "u\u0308.png"),
    "sharp s": ("stra\u00dfe.png", "STRASSE.png"),
    "file and folder": ("a", "a/0.png"),
}
SPECIAL = {
    "symbolic link, then through it": (tarfile.SYMTYPE, 0o120777),
    "hard link": (tarfile.LNKTYPE, None),
    "device": (tarfile.CHRTYPE, 0o020644),
    "pipe": (tarfile.FIFOTYPE, 0o010644),
}
CONTROLS = {"escape sequence in a name": "a\x1b[2J.png", "line end in a name": "a\n.png"}


def header_of_gigabytes(path: Path) -> Path:
    header = special("x", tarfile.XHDTYPE)
    header.size = 5 << 30
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    return path


def cut(path: Path, keep: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path


def archives(folder: Path) -> dict[str, Path]:
    """An archive for each attack."""
    made: dict[str, Path] = {}

    def add(name: str, *members: tuple[str, bytes]) -> None:
        made[f"{name} (tar)"] = tar_of(folder / f"{len(made)}.tar.gz", *members)
        made[f"{name} (zip)"] = zip_of(folder / f"{len(made)}.zip", *members)

    for name, path in (ESCAPES | CONTROLS).items():
        add(name, ("fine.png", b"1"), (path, b"evil"))
    for name, paths in DOUBLES.items():
        add(name, *((path, b"1") for path in paths))
    for name, (kind, mode) in SPECIAL.items():
        link = special("out", kind, "../../..")
        made[f"{name} (tar)"] = tar_of(folder / f"{len(made)}.tar", link, ("out/s.txt", b"evil"))
        if mode is not None:
            made[f"{name} (zip)"] = zip_of(folder / f"{len(made)}.zip", ("out", b"/"), mode=mode)
    add(f"bomb of {ZEROS >> 20} MiB, ratio above {LARGEST_RATIO}", ("0.bmp", bytes(ZEROS)))
    made[f"header above {LONGEST_HEADER_BYTES >> 20} MiB"] = header_of_gigabytes(folder / "h.tar")
    noise = ("0.png", random.Random(1).randbytes(100_000))
    for suffix in ("tar.gz", "zip"):
        pack: Callable[..., Path] = zip_of if suffix == "zip" else tar_of
        made[f"cut short ({suffix})"] = cut(pack(folder / f"cut.{suffix}", noise), 0.7)
    (folder / "page.zip").write_text("<html>please log in</html>")
    made["a page instead of an archive"] = folder / "page.zip"
    return made


def told(error: AdmodelsError) -> str:
    plain = error.fault.encode("ascii", "backslashreplace").decode().replace("|", "\\|")
    return " ".join(plain.split())[:110]


def attack(archive: Path, root: Path) -> str:
    (root / "a/b/c").mkdir(parents=True, exist_ok=True)
    (root / "a/secret.txt").write_bytes(b"as it is")
    before = surroundings(root)
    target = root / "a/b/c" / archive.name / "target"
    try:
        extract(archive, target, archive.name, "")
        outcome = "UNPACKED"
    except AdmodelsError as error:
        outcome = f"refused: {told(error)}"
    written = {path for path in surroundings(root) if archive.name not in path.parts}
    assert written == set(before), f"{archive.name} wrote outside its target"
    assert not Path(ESCAPES["absolute"]).exists(), f"{archive.name} wrote to an absolute path"
    return outcome


def serve(url: str) -> dict[str, str]:
    found = {}
    for name in ("drops", *http.FAULTS, "stalls", "short", "other", "gone"):
        try:
            whole = download([f"{url}/{name}"], http.SHA256, "mend it").read_bytes() == http.DATA
            found[name] = "whole" if whole else "WRONG BYTES"
            next(Path(".work/downloads").glob("*.whole")).unlink()
        except AdmodelsError as error:
            found[name] = f"refused: {told(error)}"
    return found


SAID = {
    "drops": "the connection drops every 700 kB",
    "busy": "503 twice",
    "no_ranges": "drops, and knows no ranges",
    "no_tag": "drops, and has no ETag",
    "weak_tag": "drops, has a weak ETag, and other bytes then",
    "changes": "drops, and has other bytes then",
    "lies": "answers with another range than asked for",
    "shrunk": "416 on the way",
    "stalls": "brings nothing more",
    "short": "a file that is cut short, told as whole",
    "other": "another file (wrong hash)",
    "gone": "404",
}


def main() -> None:
    wrong = 0

    def say(what: str, outcome: str) -> None:
        nonlocal wrong
        wrong += outcome in ("UNPACKED", "WRONG BYTES")
        sys.stdout.write(f"| {what} | {outcome} |\n")

    sys.stdout.write("| tried | what happened |\n|---|---|\n")
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile, of a double name
        os.chdir(place)
        made = Path(place, "made")
        made.mkdir()
        for name, archive in archives(made).items():
            say(name, attack(archive, Path(place, "root")))
        with http.Server(("127.0.0.1", 0), http.Unruly) as server:
            server.asked, server.counted = [], Counter()
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            for name, outcome in serve(f"http://127.0.0.1:{server.server_port}").items():
                say(f"HTTP: {SAID[name]}", outcome)
            server.shutdown()
            thread.join()
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
