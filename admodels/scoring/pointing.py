"""Where a flagged image is anomalous, taken from its map while that is in memory.

No image is read, decoded or scored again for it: a map is too large to be kept for every image.
"""

from bisect import insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from admodels.foundation.arrays import Float32, UInt8
from admodels.images.area import Area
from admodels.inference.regions import Region, find_regions
from admodels.scoring.pictures import Scale, draw

ALWAYS = 5  # the worst of a night get a picture though they are not flagged


@dataclass
class Pointing:
    """What decides, for a line and a model, which images get regions and pictures.

    An image above `threshold` is flagged (None: none is) and has regions above `level` (None: the
    one around its maximum). Of a night, the `pictures` images with the highest scores get pictures
    where they are flagged, and the first ALWAYS in any case; `highest` has the scores so far,
    ascending; `drawn` those of pictures that this look has written, with the sha256. `known`: the
    regions of images that this process has seen, by their sha256.
    """

    threshold: float | None
    level: float | None
    scale: Scale
    mm_per_px: float | None = None
    pictures: int = 0
    highest: list[float] = field(default_factory=list)
    drawn: list[tuple[float, str]] = field(default_factory=list)
    known: dict[str, tuple[Region, ...]] = field(default_factory=dict)

    def is_flagged(self, score: float | None) -> bool:
        """Whether the verdict on an image of this score points at something."""
        return score is not None and self.threshold is not None and score > self.threshold

    def gets_pictures(self, score: float) -> bool:
        """Whether an image is among those of the night so far that get pictures; counts it."""
        if not self.pictures or not np.isfinite(score):
            return False
        insort(self.highest, score)
        del self.highest[: -self.pictures]
        most = self.pictures if self.is_flagged(score) else min(ALWAYS, self.pictures)
        return score >= self.highest[-min(most, len(self.highest))]

    def outrank(self, score: float, image_sha256: str) -> Iterator[str]:
        """Count an image whose pictures were written; whose are one too many now."""
        insort(self.drawn, (score, image_sha256))
        if len(self.drawn) > self.pictures:
            yield self.drawn.pop(0)[1]


@dataclass(frozen=True)
class Places:
    """What is kept of a map: regions, and pictures by their names."""

    regions: tuple[Region, ...] = ()
    pictures: dict[str, bytes] = field(default_factory=dict)


def point(
    pointing: Pointing,
    score: float,
    sha256: str,
    anomaly_map: Callable[[], Float32],
    original: Callable[[], UInt8],
    reference: Callable[[tuple[float, float]], UInt8 | None],
    area: Area | None = None,
) -> Places:
    """The regions of an image, and its pictures if it gets any.

    `anomaly_map` gives (h, w) of the whole image, at most as large as it is; `original` (H, W, 3)
    uint8 is the image.
    """
    is_flagged, is_drawn = pointing.is_flagged(score), pointing.gets_pictures(score)
    if not (is_flagged or is_drawn):
        return Places()
    values = anomaly_map()
    inspected = None if area is None else area.seen(values.shape)
    regions, labels = find_regions(values, pointing.level, inspected)
    if area is not None and area.zones:
        regions = _with_zones(regions, labels, area)
    rgb = original()
    down, across = (side / own for side, own in zip(rgb.shape[:2], values.shape, strict=True))
    scaled = tuple(region.scale(across, down) for region in regions)
    own = scaled if is_flagged else ()
    pointing.known[sha256] = own
    if not is_drawn:
        return Places(own)
    return Places(own, draw(rgb, values, scaled, labels, pointing.scale, reference))


def _with_zones(regions: list[Region], labels: NDArray[np.int32], area: Area) -> list[Region]:
    height, width = labels.shape
    levels = cv2.resize(area.levels, (width, height), interpolation=cv2.INTER_NEAREST)
    small = replace(area, levels=np.asarray(levels, np.uint8))
    zones = [small.zone_of(labels == number) for number in range(1, len(regions) + 1)]
    return [replace(region, zone=zone) for region, zone in zip(regions, zones, strict=True)]
