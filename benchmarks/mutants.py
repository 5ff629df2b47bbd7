"""Many damaged and expensive images, each decoded under a limit: no crash, none above the budgets.

    python -m benchmarks.mutants [--mutants 20000] [--seed 1]

Seeds are small images of every format and files whose headers are valid and cost much. A mutant is
a seed with bytes changed, cut, doubled or set to 0 or 255, or with a number of its header made
large. This process gives itself 1 GiB; a mutant of small images may take 64 MiB and 2 seconds of a
processor. Ends with 1 if one took more, or raised anything but a refusal.
"""

import argparse
import random
import resource
import sys
import time
from collections import Counter

import numpy as np
from PIL import Image

from admodels.images import cost, decode
from admodels.images.decode import STORED, UnreadableImage
from tests import costly
from tests.costly import encoded, picture

MEMORY_BYTES = 1 << 30
SECONDS = 2.0
READING = STORED.model_copy(update={"window": (0, 60_000)})
LARGE = (b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\xff\xff", b"\x00\x00\x40\x00", b"\x36\xee")


def seeds() -> dict[str, bytes]:
    """Whole images, and expensive ones, by name."""
    part, grey = picture(64), picture(64, "L")
    values = np.asarray(grey, np.uint16) * 200
    pages = {"save_all": True, "append_images": [part.resize((20, 20))]}
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "png": encoded(part, "PNG"),
        "png16": costly.large_png(64),
        "png palette": encoded(part.quantize(), "PNG"),
        "jpeg": encoded(part, "JPEG", quality=95, exif=exif),
        "jpeg progressive": encoded(part, "JPEG", progressive=True),
        "jpeg cmyk": encoded(part.convert("CMYK"), "JPEG"),
        "bmp": encoded(part, "BMP"),
        "tiff": encoded(part, "TIFF"),
        "tiff lzw": encoded(part, "TIFF", compression="tiff_lzw"),
        "tiff deflate": encoded(grey, "TIFF", compression="tiff_adobe_deflate"),
        "tiff of jpeg": encoded(part, "TIFF", compression="jpeg"),
        "tiff pages": encoded(part, "TIFF", **pages),
        "tiff white is zero": costly.grey_tiff(values, 0),
        "tiff float": costly.grey_tiff(values.astype(np.float32)),
        "webp": encoded(part, "WEBP"),
        "webp lossless": encoded(part, "WEBP", lossless=True),
        "webp frames": encoded(part, "WEBP", save_all=True, append_images=[part.rotate(90)]),
        "jpeg 2000": encoded(part, "JPEG2000"),
        "scan bomb": costly.scan_bomb(0, 90, part),
        "scan bomb of 4 MP": costly.scan_bomb(2_000, 3_000),
        "tile bomb": costly.tile_bomb(20_000),
        "tile bomb, little": costly.tile_bomb(256),
        "strip bomb": costly.strip_bomb(1_000_000),
        "canvas bomb": costly.canvas_bomb(14_000),
        "canvas bomb, little": costly.canvas_bomb(300),
        "large png": costly.large_png(3_000),
    }


def mutant(data: bytes, rng: random.Random) -> bytes:
    """A seed with one to four changes, most of them where headers stand."""
    body = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        end = len(body) if rng.random() < 0.5 else min(len(body), 200)
        place = rng.randrange(end)
        if rng.random() < 0.2:
            place = max(0, len(body) - rng.randint(1, 200))
        change(body, rng.randrange(7), place, rng)
    return bytes(body)


def change(body: bytearray, kind: int, place: int, rng: random.Random) -> None:
    """Change, take out, double or overwrite bytes, or cut the rest off; one always remains."""
    count = rng.randint(1, 60)
    new = {
        0: rng.randbytes(1),
        1: rng.randbytes(count),
        2: b"",
        3: body[place : place + count] * 2,
        4: bytes([255 * rng.randrange(2)]) * count,
        5: rng.choice(LARGE),
        6: b"",
    }[kind]
    last = len(body) if kind == 6 else place + (count if kind in (2, 3) else len(new))
    body[place:last] = new
    if not body:
        body.append(0)


def outcome(data: bytes) -> str:
    """The reason of the refusal, or `image`; a word in capitals is what must not be."""
    budget = cost.budget(64 * 64, 16)
    try:
        decode.decode_image(data, "mutant", READING, budget)
    except UnreadableImage as refusal:
        return refusal.reason
    except Exception as error:
        return f"RAISED {type(error).__name__}: {error}"
    return "image"


def peak_bytes() -> int:
    """The most memory that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutants", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    words = parser.parse_args()
    held = seeds()
    for data in held.values():
        outcome(data)
    names, start = sorted(held), time.monotonic()
    counts: Counter[str] = Counter()
    slowest, largest, before = (0.0, ""), (0, ""), peak_bytes()
    resource.setrlimit(resource.RLIMIT_AS, (before + 8 * MEMORY_BYTES, -1))
    for number in range(words.mutants):
        rng = random.Random(words.seed * 1_000_003 + number)
        name = rng.choice(names)
        data = mutant(held[name], rng)
        began = time.process_time()
        result = outcome(data)
        seconds, grown = time.process_time() - began, peak_bytes() - before
        before += max(0, grown)
        slowest = max(slowest, (seconds, f"{name} {number}"))
        largest = max(largest, (grown, f"{name} {number}"))
        if seconds > SECONDS:
            result = f"SLOW {name} {number}"
        if grown > cost.LEAST_MEMORY * 2:
            result = f"LARGE {name} {number}"
        counts[result] += 1
    print(f"{words.mutants} mutants of {len(names)} seeds in {time.monotonic() - start:.0f} s")
    for result, count in counts.most_common():
        print(f"  {count:6} {result}")
    print(f"slowest: {slowest[0]:.2f} CPU-s ({slowest[1]}); peak {before >> 20} MiB,")
    print(f"largest step {largest[0] >> 20} MiB ({largest[1]})")
    sys.exit(any(result[:4].isupper() for result in counts))


if __name__ == "__main__":
    main()
