"""What the worst place of an image is held against, as a picture for people."""

import numpy as np

from admodels.bundles.bundle import Bundle, Scored
from admodels.foundation.arrays import UInt8

LEAST_PX = 32  # of a side: less shows a person nothing


def reference_crop(
    bundle: Bundle, scored: Scored, index: int, share: tuple[float, float]
) -> UInt8 | None:
    """(h, w, 3) uint8 around what the maximum of a map was compared with; None: nothing is kept.

    That is a place in one normal image, or where the detector rebuilds images, the same place in
    the rebuilt one; both as the detector sees images. `share`: height and width of the crop, of the
    image's own.
    """
    if scored.compared is not None:
        image, *place = (int(number) for number in scored.compared[index])
        picture = bundle.evidence.image(image)
    elif scored.reconstruction is not None:
        rebuilt = scored.reconstruction[index].transpose(1, 2, 0)
        picture = (rebuilt.clip(0, 1) * 255).round().astype(np.uint8)
        anomaly_map = scored.anomaly_map[index]
        peak = np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)
        sides = zip(peak, anomaly_map.shape, picture.shape[:2], strict=True)
        place = [int(cell) * pixels // cells for cell, cells, pixels in sides]
    else:
        return None
    return None if picture is None else crop_around(picture, place, share)


def crop_around(picture: UInt8, place: list[int], share: tuple[float, float]) -> UInt8:
    """The part of (H, W, 3) around row and column, moved where it would leave the picture."""
    sides = [
        min(length, max(LEAST_PX, round(fraction * length)))
        for fraction, length in zip(share, picture.shape[:2], strict=True)
    ]
    (top, height), (left, width) = (
        (min(max(0, middle - side // 2), length - side), side)
        for middle, side, length in zip(place, sides, picture.shape[:2], strict=True)
    )
    return picture[top : top + height, left : left + width]
