"""A single part turned upright: its main axis vertical, its heavy end below, in a band of one size.

The part is what stands out from the border of its image (`part`). Its axis is that of the largest
second moment of its area, its heavy end the one that the third moment points away from. All bands
of a task have the size that the parts to learn from need, in shares of the image, so a part that is
too short looks too short. A part whose ends weigh alike is scored both ways, and the smaller score
counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from admodels.foundation.arrays import Bool, Float32, Float64, UInt8
from admodels.foundation.params import Resize
from admodels.images import decode
from admodels.images.part import estimate_matte
from admodels.images.shape import Band, Shape

LOOK_PX = 512  # the longer side of the image that the part is found in
OPENING = 0.5  # of the largest inscribed circle's radius: thinner than that is no part of the part
SECOND_SHARE = 0.1  # of the largest component's area: from there on, there are two
LEAST_ELONGATION = 1.2  # standard deviation along the axis to that across: below, there is no axis
LEAST_SKEWNESS = 0.1  # of the area along the axis: below, the ends weigh alike
USUALLY = 0.9  # of the images to learn from: show one part, have a heavy end, fit into the band
MARGIN = 1.1  # of the band around the parts


@dataclass(frozen=True)
class Part:
    """A part in its image: `middle` (x, y) of its band and `axis`, a vector to the heavy end.

    `length`, `width` of its outline and `middle` are in shares of the root of the image's area,
    `elongation` and `skewness` have no unit and are at least 1 and 0.
    """

    middle: Float64
    axis: Float64
    length: float
    width: float
    elongation: float
    skewness: float


def find_part(rgb: UInt8) -> Part | None:
    """The part of (H, W, 3) uint8 RGB; None where the image shows none, or several."""
    scale = min(1.0, LOOK_PX / max(rgb.shape[:2]))
    shape = max(1, round(rgb.shape[0] * scale)), max(1, round(rgb.shape[1] * scale))
    matte = estimate_matte(decode.resize_image(rgb, shape, "area").transpose(2, 0, 1))
    if matte is None:
        return None
    reach = OPENING * cv2.distanceTransform(matte, cv2.DIST_L2, 5).max()
    side = 2 * int(reach) + 1
    opened = cv2.morphologyEx(
        matte, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    )
    _, labels, boxes, _ = cv2.connectedComponentsWithStats(opened)
    areas = boxes[1:, cv2.CC_STAT_AREA]
    if len(areas) == 0 or (areas >= SECOND_SHARE * areas.max()).sum() != 1:
        return None
    rows_columns = np.argwhere(labels == 1 + int(areas.argmax())) + 0.5
    pixels = rows_columns[:, ::-1] * (np.array(rgb.shape[1::-1]) / np.array(shape[::-1]))
    return _measure(pixels / np.sqrt(rgb.shape[0] * rgb.shape[1]))


def _measure(points: Float64) -> Part | None:
    """The moments of (n, 2) points x, y."""
    centre = points.mean(axis=0)
    variances, axes = np.linalg.eigh(np.cov((points - centre).T))
    if len(points) < 3 or not variances[0] > 0:
        return None
    axis = axes[:, 1]
    along = (points - centre) @ axis
    skewness = float((along**3).mean() / along.std() ** 3)
    if skewness > 0 or (skewness == 0 and axis[1] < 0):  # the long tail is the light end
        axis, along = -axis, -along
    right = np.array([axis[1], -axis[0]])
    across = (points - centre) @ right
    ends = [(side.min(), side.max()) for side in (along, across)]
    middle = centre + axis * sum(ends[0]) / 2 + right * sum(ends[1]) / 2
    length, width = (float(end - start) for start, end in ends)
    elongation = float(np.sqrt(variances[1] / variances[0]))
    return Part(middle, axis, length, width, elongation, abs(skewness))


def learn_band(parts: Sequence[Part | None]) -> Band | str:
    """The band of the parts of the images to learn from, or why images stay as they are."""
    known = [piece for piece in parts if piece is not None]
    if len(known) < USUALLY * len(parts) or not known:
        return f"{len(parts) - len(known)} of {len(parts)} images show several parts, or none"
    if np.median([piece.elongation for piece in known]) < LEAST_ELONGATION:
        return "the parts have no main axis"
    length, width = (
        round(MARGIN * float(np.quantile([getattr(piece, side) for piece in known], USUALLY)), 4)
        for side in ("length", "width")
    )
    heavy = np.mean([piece.skewness >= LEAST_SKEWNESS for piece in known]) >= USUALLY
    return Band(length=length, width=width, heavy_end=bool(heavy))


def turned_sentence(turned: int, images: int) -> str:
    """How many of the images were turned, and what happened to the others."""
    rest = f"{images - turned} stay as they are: several parts, or none"
    return f"{turned} of {images} images turned upright, {rest}"


@dataclass(frozen=True)
class Views:
    """What a detector gets of an image: `planes` (3 V, h, w) uint8, V = 2 for both ways up, else 1.

    `place` is that of the first view in the image, in shares of the band and of the image: a matrix
    (2, 3) from (across, down) to (x, y). None: the whole image.
    """

    planes: UInt8
    place: Float64 | None


def views(rgb: UInt8, shape: Shape, resize: Resize, band: Band | None) -> Views:
    """Of (H, W, 3) uint8 RGB: the band around its part; the whole image where there is no such."""
    piece = None if band is None else find_part(rgb)
    if band is None or piece is None:
        return Views(decode.resize_image(rgb, shape, resize).transpose(2, 0, 1), None)
    place = place_of(piece, band, *rgb.shape[:2])
    planes = cut_band(rgb, place, shape, resize).transpose(2, 0, 1)
    if not band.heavy_end:
        planes = np.concatenate([planes, planes[:, ::-1, ::-1]])
    return Views(planes, place)


def place_of(piece: Part, band: Band, height: int, width: int) -> Float64:
    """Where the band lies in an image of that size, as `Views` says it."""
    right = np.array([piece.axis[1], -piece.axis[0]])
    across, down = right * band.width, piece.axis * band.length
    corner = piece.middle - across / 2 - down / 2
    shares = np.sqrt(height * width) / np.array([[width], [height]])
    place: Float64 = np.stack([across, down, corner], axis=1) * shares
    return place


def _between_pixels(place: Float64, shape: Shape, size: Shape) -> Float64:
    """From pixels of the band, `shape`, to pixels of the image, `size`, by their middles."""
    (height, width), image = shape, np.array([[size[1]], [size[0]]])
    to_shares = np.array([[1 / width, 0, 0.5 / width], [0, 1 / height, 0.5 / height], [0, 0, 1]])
    return np.asarray(image * (place @ to_shares) - np.array([0, 0, 0.5]))


def native_shape(place: Float64, size: Shape) -> Shape:
    """The band at the resolution of its image."""
    width, height = np.linalg.norm(place[:, :2] * np.array([[size[1]], [size[0]]]), axis=0)
    return max(1, round(float(height))), max(1, round(float(width)))


def cut_band(image: UInt8, place: Float64, shape: Shape, resize: Resize) -> UInt8:
    """The band of (H, W, 3) uint8 as (*shape, 3); beyond the image, its edge goes on."""
    native = native_shape(place, image.shape[:2])
    matrix = _between_pixels(place, native, image.shape[:2])
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    band = cv2.warpAffine(image, matrix, native[::-1], flags=how, borderMode=cv2.BORDER_REPLICATE)
    return decode.resize_image(np.asarray(band, np.uint8), shape, resize)


def cut_mask(mask: Bool, place: Float64, shape: Shape) -> Bool:
    """The band of (H, W) bool as `shape`, nearest; False beyond the image."""
    matrix = _between_pixels(place, shape, mask.shape[:2])
    how = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(mask.astype(np.uint8), matrix, shape[::-1], flags=how) > 0)


def map_from_band(anomaly_map: Float32, place: Float64, height: int, width: int) -> Float32:
    """A map (h, w) of the band as (height, width) of its image, 0 beside the band."""
    native = native_shape(place, (height, width))
    resized = cv2.resize(anomaly_map, native[::-1], interpolation=cv2.INTER_LINEAR)
    matrix = _between_pixels(place, native, (height, width))
    turned = cv2.warpAffine(resized, matrix, (width, height), flags=cv2.INTER_LINEAR)
    return np.asarray(turned, np.float32)
