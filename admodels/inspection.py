"""What is measured of every image and mask before anything is learnt from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from admodels import images
from admodels.errors import DataError
from admodels.manifest import Row
from admodels.statistics import perceptual_hash, statistics

MaskProblem = Literal["", "missing", "unreadable", "not binary", "other size", "empty"]
DIGITS = 4


@dataclass(frozen=True)
class Facts:
    """Of one image: its statistics, and what is wrong with its mask.

    `mask_area_share` is the anomalous share of the pixels, None without a readable mask.
    """

    brightness: float
    contrast: float
    sharpness: float
    perceptual_hash: str
    mask_problem: MaskProblem = ""
    mask_area_share: float | None = None


def inspected(rows: Sequence[Row], root: Path) -> list[Facts]:
    """The facts of each row, in its order; a few threads decode the images below `root`."""
    return images.in_threads(lambda row: facts(row, root), rows, f"inspect {root.name}")


def facts(row: Row, root: Path) -> Facts:
    """The facts of one image that decodes."""
    path = root / row.image_path
    rgb = images.decoded(path.read_bytes(), path).rgb
    seen = statistics(rgb)
    problem, share = _mask_facts(row, root)
    return Facts(
        brightness=round(seen.brightness, DIGITS),
        contrast=round(seen.contrast, DIGITS),
        sharpness=round(seen.sharpness, DIGITS),
        perceptual_hash=perceptual_hash(rgb),
        mask_problem=problem,
        mask_area_share=share,
    )


def _mask_facts(row: Row, root: Path) -> tuple[MaskProblem, float | None]:
    if not row.mask_sha256:
        return ("missing" if row.mask_path else ""), None
    path = root / row.mask_path
    try:
        mask = images.decoded_mask(path.read_bytes(), path)
    except images.UnreadableImage:
        return "unreadable", None
    except DataError:
        return "not binary", None
    share = round(float(mask.mean()), 6)
    if mask.shape != (row.height, row.width):
        return "other size", share
    return ("" if mask.any() else "empty"), share
