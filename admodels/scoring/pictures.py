"""Pictures of what a person should look at, as files beside the ledger's tables.

overlays/LINE/IMAGE-MODEL/image.webp      the image
                          map.webp        its map to lay over it: clear is what half of the normal
                                          images reach, and it covers more the larger a value is
                          regions.webp    contours of its regions, to lay over it
                          crop.webp       the worst region at the resolution of the camera
                          reference.webp  what that was compared with, where the bundle has it

One colour scale for a line and a model: a stretch per image would paint noise.
"""

from collections.abc import Callable, Sequence
from io import BytesIO
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from admodels.foundation.arrays import Float32, UInt8
from admodels.inference.regions import Region
from admodels.scoring.candidates import METHOD, QUALITY, shrink
from admodels.scoring.lines import folder_name

MAP_PX_MAX = 400  # of the longer side of a map, which is smooth
SMALLEST_RANGE = 1e-12  # a constant scale is clear, not a division by zero
OPACITY_MOST = 0.8  # so that the image stays visible under the largest value
CONTOUR = (255, 0, 0, 255)  # red, opaque
MARGIN_SHARE = 0.5  # of the sides of a region, around it in its crop
CROP_PX_LEAST, CROP_PX_MAX = 96, 900
A = TypeVar("A", Float32, UInt8)
Scale = tuple[float, float]  # the map values that are clear, and as strong as any


def pictures_folder(line: str, image_sha256: str, model: str, contract: str) -> str:
    """Where the pictures of an image stand in the ledger: by content, whatever its name."""
    return f"overlays/{folder_name(line)}/{image_sha256[:32]}-{model[:8]}{contract[:8]}"


def draw(
    rgb: UInt8,
    anomaly_map: Float32,
    regions: Sequence[Region],
    labels: NDArray[np.int32],
    scale: Scale,
    reference: Callable[[tuple[float, float]], UInt8 | None],
) -> dict[str, bytes]:
    """The pictures of (H, W, 3) uint8 by their names.

    `anomaly_map` and `labels` (h, w) are of the whole image, `regions` in its own pixels.
    `reference` gives the crop to compare with for height and width as shares of the image.
    """
    small = shrink(rgb)
    pictures = {
        "image": webp(small),
        "map": webp(_map_layer(anomaly_map, scale)),
        "regions": webp(_contours(labels, small.shape[:2]), lossless=True),
    }
    if regions:
        crop = _crop(rgb, regions[0])
        share = (crop.shape[0] / rgb.shape[0], crop.shape[1] / rgb.shape[1])
        compared = reference(share)
        pictures["crop"] = webp(_at_most(crop, CROP_PX_MAX))
        if compared is not None:
            pictures["reference"] = webp(compared)
    return {f"{name}.webp": data for name, data in pictures.items()}


def webp(pixels: UInt8, *, lossless: bool = False) -> bytes:
    """(H, W, 3) RGB or (H, W, 4) RGBA as a file."""
    encoded = BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.save(encoded, "WEBP", quality=QUALITY, method=METHOD, lossless=lossless)
    return encoded.getvalue()


def _map_layer(anomaly_map: Float32, scale: Scale) -> UInt8:
    low, high = scale
    small = _at_most(anomaly_map, MAP_PX_MAX)
    share = np.clip((small - low) / max(high - low, SMALLEST_RANGE), 0, 1)
    levels = np.rint(share * 255).astype(np.uint8)
    colours = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[..., ::-1]
    opacity = np.rint(share * OPACITY_MOST * 255).astype(np.uint8)
    return np.dstack([colours, opacity])


def _contours(labels: NDArray[np.int32], shape: tuple[int, int]) -> UInt8:
    layer = np.zeros((*shape, 4), np.uint8)
    whole = cv2.resize(labels.astype(np.uint16), shape[::-1], interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(
        (np.asarray(whole) > 0).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE
    )
    thickness = max(1, round(max(shape) / 500))
    return np.asarray(cv2.drawContours(layer, contours, -1, CONTOUR, thickness))


def _crop(rgb: UInt8, region: Region) -> UInt8:
    slices = []
    for start, side, length in (
        (region.top, region.height, rgb.shape[0]),
        (region.left, region.width, rgb.shape[1]),
    ):
        wanted = min(length, max(CROP_PX_LEAST, round(side * (1 + 2 * MARGIN_SHARE))))
        first = min(max(0, start + side // 2 - wanted // 2), length - wanted)
        slices.append(slice(first, first + wanted))
    return rgb[slices[0], slices[1]]


def _at_most(pixels: A, longest: int) -> A:
    scale = min(1.0, longest / max(pixels.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    if scale == 1:
        return pixels
    resized = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(resized, pixels.dtype)
