"""What pixels outside an inspected area still do to scores, for every method, on real images.

    python -m benchmarks.area data/models/METHOD/bottle ... --images FOLDER [--border 0.1]

Every image is scored with an area that leaves a border out, as it is and with other pixels in
that border: black, noise, the border of another image. Map values there count for nothing; what
is left is what reaches the map inside: receptive fields, blur before the map, and, of CPR, the
histogram of the whole image that chooses its references.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from admodels.bundles import bundle as bundles
from admodels.bundles import runtime
from admodels.bundles.bundle import Bundle
from admodels.foundation.arrays import Float32, UInt8
from admodels.images.area import Area
from admodels.inference import model

MOST = 20  # images
SEED = 7


def with_border(bundle: Bundle, area: Area) -> Bundle:
    """The bundle for images of which the border is left out."""
    contract = bundle.contract.model_copy(update={"area": area.stamp})
    return replace(bundle, contract=contract, area=area)


def score(bundle: Bundle, images: list[UInt8]) -> tuple[Float32, Float32]:
    """Scores and largest map values."""
    seen = [model.prepare_views(rgb, bundle.contract) for rgb in images]
    planes, places = [views.planes for views in seen], [views.place for views in seen]
    scored = model.score_planes(bundle, planes, places)
    return scored.anomaly_score, scored.map_max


def changed(images: list[UInt8], inside: UInt8) -> dict[str, list[UInt8]]:
    """The images with other pixels where `inside` (H, W, 1) is 0."""
    rng = np.random.default_rng(SEED)
    noise = [rng.integers(0, 256, rgb.shape, np.uint8) for rgb in images]
    others = [*images[1:], images[0]]
    return {
        "black": [rgb * inside for rgb in images],
        "noise": [np.where(inside, a, b) for a, b in zip(images, noise, strict=True)],
        "border of another image": [
            np.where(inside, a, b) for a, b in zip(images, others, strict=True)
        ],
    }


def main(
    folders: list[Path],
    images: Annotated[Path, typer.Option(help="normal images that nothing learnt from")],
    border: Annotated[float, typer.Option(help="share of each side that is left out")] = 0.1,
) -> None:
    """Print one table: how far scores move, in spreads of the scores of these images."""
    paths = sorted(p for p in images.iterdir() if p.suffix.lower() in (".png", ".jpg"))[:MOST]
    print("| method | border | score moves: median | largest | the same with no area |")
    print("|---|---|---|---|---|")
    for folder in folders:
        bundle = bundles.load(folder, runtime.device())
        pictures = [
            model.decode_image(path.read_bytes(), path, bundle.contract).rgb for path in paths
        ]
        height, width = pictures[0].shape[:2]
        levels = np.zeros((height, width), np.uint8)
        out = round(border * height), round(border * width)
        levels[out[0] : height - out[0], out[1] : width - out[1]] = 1
        inner = with_border(bundle, Area(levels))
        whole = replace(bundle, area=None)
        base = {name: score(b, pictures)[0] for name, b in (("in", inner), ("all", whole))}
        spread = float(np.std(base["in"]))
        for name, others in changed(pictures, levels[:, :, None]).items():
            moved = np.abs(score(inner, others)[0] - base["in"]) / spread
            without = np.abs(score(whole, others)[0] - base["all"]) / spread
            print(
                f"| {bundle.method} | {name} | {np.median(moved):.2f} | {moved.max():.2f} "
                f"| {np.median(without):.2f} |"
            )


if __name__ == "__main__":
    typer.run(main)
