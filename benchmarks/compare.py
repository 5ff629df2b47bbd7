"""How often `admodels compare` says better or worse of two detectors with the same true AUROC.

    python -m benchmarks.compare [--sets 1000] [--permutations 199]

prints the share for test sets with 20 normal images, by the number of anomalous images, the true
AUROC, how much of the noise both share, and how wide the anomalous scores of the second are. A last
line exchanges both detectors in each image at random, which is the null itself.
"""

import argparse
from itertools import product

import numpy as np
from scipy.stats import norm

from admodels.evaluation.paired import Pair, exchange
from admodels.report.comparison.verdicts import LEVEL

NORMAL = 20


def scored_twice(
    rng: np.random.Generator, anomalous: int, area: float, shared: float, width: float
) -> Pair:
    """Two detectors of true AUROC `area`, binormal, the second with wider anomalous scores."""
    labels = np.arange(NORMAL + anomalous) < anomalous
    common, *own = rng.standard_normal((3, len(labels)))
    noise = [np.sqrt(shared) * common + np.sqrt(1 - shared) * each for each in own]
    before = noise[0] + labels * norm.ppf(area) * np.sqrt(2)
    after = np.where(labels, width, 1.0) * noise[1] + labels * norm.ppf(area) * np.hypot(1, width)
    return Pair(before, after, labels, np.arange(len(labels)))


def exchanged_at_random(rng: np.random.Generator, pair: Pair) -> Pair:
    """Both as ranks, and then exchanged in half of the images."""
    early, late = (np.argsort(np.argsort(s)).astype(float) for s in (pair.before, pair.after))
    swap = rng.random(len(early)) < 0.5
    return Pair(
        np.where(swap, late, early), np.where(swap, early, late), pair.anomalous, pair.units
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--permutations", type=int, default=199)
    asked = parser.parse_args()
    rng = np.random.default_rng(23)

    def differs(pair: Pair) -> bool:
        return exchange(pair, asked.permutations).p_value() <= LEVEL

    for case in product((20, 60), (0.8, 0.95, 0.99), (0.0, 0.8), (1.0, 3.0)):
        wrong = sum(differs(scored_twice(rng, *case)) for _ in range(asked.sets))
        count, area, shared, width = case
        print(
            f"{count} anomalous, AUROC {area}, shared {shared}, width {width}: "
            f"{wrong / asked.sets:.3f}",
            flush=True,
        )
    pair = scored_twice(rng, 60, 0.9, 0.5, 3.0)
    wrong = sum(differs(exchanged_at_random(rng, pair)) for _ in range(asked.sets))
    print(f"exchanged at random: {wrong / asked.sets:.3f}")


if __name__ == "__main__":
    main()
