"""How small and how faint a defect may be and still be caught, on the user's own images.

Ellipses of chosen size and contrast are painted on normal images of `validation`: nothing learns
from these, though their synthetic anomalies may have chosen a checkpoint. They are painted at the
resolution of the camera and resized after, as a real defect is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from admodels.foundation.arrays import UInt8
from admodels.foundation.params import Strict

if TYPE_CHECKING:
    import pandas as pd

LONGEST_RATIO = 2.0  # of the axes of an ellipse, and the shortest is its inverse
LEVELS = 255
RELIABLE = 0.9
Share = Annotated[float, Field(gt=0, le=1)]
Levels = Annotated[float, Field(gt=0, le=LEVELS)]


class Power(Strict):
    """The grid of painted defects."""

    images: int = Field(ge=1, le=1000)  # of validation, each with every size and contrast
    diameter_shares: tuple[Share, ...] = Field(min_length=1)  # of the shorter side
    contrasts: tuple[Levels, ...] = Field(min_length=1)  # grey levels, darker or lighter


@dataclass(frozen=True)
class Defect:
    """A size, as the diameter of the disc of the same area, and a contrast in grey levels.

    Both are 0 where nothing is painted: what is caught then is a false alarm.
    """

    diameter_share: float
    diameter_px: float
    contrast: float


def grid(rgb: UInt8, block: Power) -> Iterator[Defect]:
    """No defect, and then one of every contrast and size for an image (H, W, 3)."""
    side = min(rgb.shape[:2])
    yield Defect(0, 0, 0)
    for contrast in sorted(block.contrasts):
        for share in sorted(block.diameter_shares):
            yield Defect(share, share * side, contrast)


def paint_defect(rgb: UInt8, matte: UInt8, defect: Defect, rng: np.random.Generator) -> UInt8:
    """A copy of (H, W, 3) with the defect around a random place where `matte` (h, w) is not 0.

    Its edge is a pixel soft, its angle and the ratio of its axes random; it is darker or lighter
    at random where both leave room.
    """
    drawn, (height, width) = rgb.copy(), rgb.shape[:2]
    places = np.argwhere(matte) if matte.any() else np.argwhere(matte == 0)
    centre = (rng.choice(places) + rng.random(2)) * (
        height / matte.shape[0],
        width / matte.shape[1],
    )
    ratio, angle = LONGEST_RATIO ** rng.uniform(-0.5, 0.5), rng.uniform(0, np.pi)
    radius, coin = defect.diameter_px / 2, rng.choice((-1, 1))
    reach = radius * LONGEST_RATIO + 2
    top, left = np.maximum(0, np.floor(centre - reach).astype(int))
    window = drawn[top : int(centre[0] + reach) + 1, left : int(centre[1] + reach) + 1]
    y, x = np.indices(window.shape[:2]) + 0.5 + np.reshape((top, left) - centre, (2, 1, 1))
    along = (x * np.cos(angle) + y * np.sin(angle)) / ratio
    across = (y * np.cos(angle) - x * np.sin(angle)) * ratio
    inside = np.clip(radius + 0.5 - np.hypot(along, across), 0, 1)[:, :, None]
    level = float((window * inside).sum() / (3 * inside.sum())) if inside.any() else 0.0
    if not 0 <= level + coin * defect.contrast <= LEVELS:
        coin = 1 if level < LEVELS / 2 else -1
    window[:] = np.rint(np.clip(window + coin * defect.contrast * inside, 0, LEVELS))
    return drawn


def smallest_caught(shares: Sequence[tuple[float, float | None]]) -> float | None:
    """The diameter from which on at least RELIABLE are caught; None: not even the largest.

    `shares` are the diameters and the shares caught of one contrast.
    """
    smallest = None
    for diameter_px, share in sorted(shares, reverse=True):
        if share is None or share < RELIABLE:
            break
        smallest = diameter_px
    return smallest


def table(
    defects: Sequence[Defect], scores: NDArray[np.floating], threshold: float | None
) -> "pd.DataFrame":
    """The share of defects whose image scores above the threshold, by contrast and size.

    `diameter_px` is the median; without a threshold nothing is caught and nothing missed.
    """
    import pandas as pd

    frame = pd.DataFrame([vars(defect) for defect in defects])
    frame["caught"] = scores > (np.inf if threshold is None else threshold)
    groups = frame.groupby(["contrast", "diameter_share"], sort=True)
    shares = groups.agg(
        diameter_px=("diameter_px", "median"), images=("caught", "size"), caught=("caught", "sum")
    ).reset_index()
    shares["diameter_px"] = shares["diameter_px"].round(2)
    shares["caught_share"] = (shares["caught"] / shares["images"]).round(6)
    if threshold is None:
        shares[["caught", "caught_share"]] = None
    return shares
