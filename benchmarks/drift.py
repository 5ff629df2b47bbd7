"""Drift: how often a stable line raises an alarm, and which planted faults are found in one night.

    python -m benchmarks.drift faults          # needs ADMODELS_SHARED_DATA
    python -m benchmarks.drift years --years 20

`years` resamples nights from real images of two datasets that the reference does not have, with
defects among them and an offset of the whole night in every statistic; scores are drawn, because
those of a detector would only add its own defects. `faults` alters real images at their stored
resolution and looks at the two sets' normal test images as one night.
"""

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path

import cv2
import numpy as np

from admodels.foundation.arrays import Float64, Records, UInt8
from admodels.images import decode
from admodels.images.describe import appearance, statistics
from admodels.nights.drift.hints import hint
from admodels.nights.drift.statistics import (
    FLOORS,
    IQR_OF_NORMAL,
    PAST_NIGHTS,
    Comparison,
    judge,
    values,
)

DATA = Path(os.environ.get("ADMODELS_SHARED_DATA", "../shared/data"))
SETS = {"bottle": "mvtec_ad/bottle", "magnetic_tile": "magnetic_tile"}
REFERENCE = {"bottle": 42, "magnetic_tile": 80}  # images: a fifth of those to learn from
NIGHTS = 365
HOUR = 3600 * 10**9


def rgbs(*folders: Path) -> list[UInt8]:
    return [
        decode.decode_image(f.read_bytes(), f).rgb for d in folders for f in sorted(d.iterdir())
    ]


def records(images: list[UInt8]) -> Records:
    return np.array([appearance(rgb, statistics(rgb)) for rgb in images])


# Planted faults.


def darker(rgb: UInt8) -> UInt8:
    return np.rint(rgb * 0.6).astype(np.uint8)


def defocused(rgb: UInt8) -> UInt8:
    return cv2.GaussianBlur(rgb, (0, 0), 2.0)


def shifted(rgb: UInt8) -> UInt8:
    """By 20 px; what comes in at the side continues the edge."""
    move = np.float32([[1, 0, 20], [0, 1, 0]])
    return cv2.warpAffine(rgb, move, rgb.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)


def cropped(rgb: UInt8) -> UInt8:
    """Without the first 20 columns: what a shift is to a surface without a border."""
    return np.ascontiguousarray(rgb[:, 20:])


def noisy(rgb: UInt8) -> UInt8:
    noise = np.random.default_rng(int(rgb.sum())).normal(0, 8, rgb.shape)
    return np.clip(np.rint(rgb + noise), 0, 255).astype(np.uint8)


def turned(rgb: UInt8) -> UInt8:
    """By 90 degrees to the left."""
    return np.ascontiguousarray(np.rot90(rgb))


def halved(rgb: UInt8) -> UInt8:
    """At half the resolution."""
    return cv2.resize(rgb, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def compressed(rgb: UInt8) -> UInt8:
    _, data = cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, 10])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def smeared(size: float, x: float, y: float) -> Callable[[UInt8], UInt8]:
    """Half-transparent grey around (x, y), about 2 `size` wide, fractions of the image."""

    def smear(rgb: UInt8) -> UInt8:
        rows, columns = np.mgrid[: rgb.shape[0], : rgb.shape[1]]
        across, down = columns / rgb.shape[1] - x, rows / rgb.shape[0] - y
        veil = 0.5 * np.exp(-0.5 * ((across / size) ** 2 + (down / size / 0.7) ** 2) ** 2)
        return np.rint(rgb * (1 - veil[..., None]) + 150 * veil[..., None]).astype(np.uint8)

    return smear


PLACES = ((0.62, 0.35), (0.3, 0.6), (0.5, 0.5), (0.75, 0.7))
FAULTS: dict[str, tuple[str, Callable[[UInt8], UInt8]]] = {
    "lighting -40 %": ("darker", darker),
    "defocus (sigma 2 px)": ("less sharp", defocused),
    "shift 20 px, edge kept": ("px to the right", shifted),
    "shift 20 px, cropped": ("px to the left", cropped),
    "noise (sigma 8)": ("more noise", noisy),
    "turned by 90 degrees": ("turned by 90 degrees to the left", turned),
    "half the resolution": ("fewer pixels a side", halved),
    "JPEG of quality 10": ("compression", compressed),
    **{f"smear .12 at {x}, {y}": ("dirt on the lens", smeared(0.12, x, y)) for x, y in PLACES},
    **{f"smear .06 at {x}, {y}": ("dirt on the lens", smeared(0.06, x, y)) for x, y in PLACES},
}


def found_in(night: Records, reference: Records, rng: np.random.Generator) -> dict[str, Comparison]:
    """In a night of eight hours whose images come in any order."""
    ours = values(reference, reference)
    times = np.sort(rng.integers(0, 8 * HOUR, len(night)))
    return judge(values(rng.permutation(night), reference), ours, {}, times)


def faults(seeds: int) -> None:
    for name, place in SETS.items():
        train = records(rgbs(DATA / place / "train/good"))
        test = rgbs(DATA / place / "test/good")
        other = next(p for n, p in SETS.items() if n != name)
        defects = [d for d in sorted((DATA / place / "test").iterdir()) if d.name != "good"]
        nights = {fault: (word, records([*map(f, test)])) for fault, (word, f) in FAULTS.items()}
        nights["another product"] = ("another product", records(rgbs(DATA / other / "test/good")))
        nights["unchanged"] = ("", records(test))
        nights["defects alone"] = ("", records(rgbs(*defects)))
        for fault, (word, night) in nights.items():
            right, hints = 0, Counter[str]()
            for seed in range(seeds):
                rng = np.random.default_rng(seed)
                reference = rng.permutation(train)[: REFERENCE[name]]
                said = hint(found_in(night, reference, rng), None, UTC)
                right += word in said if word else not said
                hints[said] += 1
            usual = hints.most_common(1)[0][0]
            row = {"set": name, "fault": fault, "images": len(night), "right": f"{right}/{seeds}"}
            sys.stdout.write(json.dumps(row | {"usual_hint": usual}) + "\n")
            sys.stdout.flush()


# Stable lines.


@dataclass(frozen=True)
class Scenario:
    """Nights of these many images, in turn; `offset`: of a whole night, in the images' spreads."""

    images: tuple[int, ...]
    defects: float = 0.0
    offset: float = 0.0
    heavy: bool = False

    def __str__(self) -> str:
        tails = ", scores with heavy tails" * self.heavy
        return f"{self.images} images, {self.defects:.0%} defects, offset {self.offset:g}{tails}"


SCENARIOS = (
    Scenario((200,), defects=0.1, offset=0.2),
    Scenario((10, 2000), offset=0.1),
    Scenario((10,)),
    Scenario((200,)),
    Scenario((200,), defects=0.01, offset=0.1),
    Scenario((200,), defects=0.1, offset=0.2, heavy=True),
    Scenario((2000,), defects=0.1, offset=0.2),
)


def year(
    name: str, scenario: Scenario, pool: Records, bad: Records, seed: int, with_spot: bool
) -> Counter[str]:
    """The alarms of each statistic in a simulated year."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(pool)
    reference, rest = order[: REFERENCE[name]], order[REFERENCE[name] :]
    ours, good, broken = (values(each, reference) for each in (reference, rest, bad))
    draw = rng.standard_t(3, 4000) if scenario.heavy else rng.normal(size=4000)
    ours["anomaly_score"], good["anomaly_score"] = np.split(draw[:, None], [len(reference)])
    broken["anomaly_score"] = good["anomaly_score"][: len(bad)] + 5
    sizes = [scenario.images[at % len(scenario.images)] for at in range(NIGHTS)]
    alarm_counts = Counter[str]()
    for statistic in FLOORS:
        if statistic == "spot" and not with_spot:
            continue
        low, high = np.percentile(ours[statistic], [25, 75], axis=0)
        spread = np.maximum((high - low) / IQR_OF_NORMAL, FLOORS[statistic])

        def night(count: int, statistic: str = statistic, spread: Float64 = spread) -> Float64:
            worse = rng.binomial(count, scenario.defects)
            normal, other = good[statistic], broken[statistic]
            drawn = normal[rng.integers(len(normal), size=count - worse)]
            drawn = np.concatenate([drawn, other[rng.integers(len(other), size=worse)]])
            offset = scenario.offset * rng.normal(size=spread.shape) * spread
            return rng.permutation(drawn + offset)

        offset = scenario.offset * rng.normal(size=spread.shape) * spread
        # The reference was taken in a night of its own.
        alarm_counts[statistic] = alarms(statistic, map(night, sizes), ours[statistic] + offset)
    return alarm_counts


def alarms(statistic: str, nights: Iterable[Float64], reference: Float64) -> int:
    count, past = 0, list[tuple[float, float]]()
    for night in nights:
        times = np.arange(len(night)) * 10**9
        compared = judge({statistic: night}, {statistic: reference}, {statistic: past}, times)
        comparison = compared.get(statistic)
        if comparison is not None and comparison.alarm:
            count += 1
        elif comparison is not None:
            past = [*past[1 - PAST_NIGHTS[1] :], (comparison.night, comparison.effect)]
    return count


def years(count: int, spot_count: int) -> None:
    for name, place in reversed(SETS.items()):
        folder = DATA / place
        pool = records(rgbs(folder / "train/good"))
        kinds = [d for d in sorted((folder / "test").iterdir()) if d.name != "good"]
        bad = records(rgbs(*kinds))
        for scenario in SCENARIOS:
            start, alarm_counts = time.process_time(), Counter[str]()
            for seed in range(count):
                alarm_counts += year(name, scenario, pool, bad, seed, seed < spot_count)
            row = {"set": name, "line": str(scenario), "years": count, "spot_years": spot_count}
            row |= {"alarms": {n: alarm_counts[n] for n in FLOORS}}
            row |= {"cpu_seconds": round(time.process_time() - start)}
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["faults", "years"])
    parser.add_argument("--years", type=int, default=10)
    parser.add_argument("--spot-years", type=int, default=1)
    parser.add_argument("--references", type=int, default=20)
    asked = parser.parse_args()
    faults(asked.references) if asked.what == "faults" else years(asked.years, asked.spot_years)


if __name__ == "__main__":
    main()
