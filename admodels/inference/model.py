"""The way of an image through a bundle, from encoded bytes to a map in the image's own size.

    image = decode_image(data, path, preparation)        # (H, W, 3) uint8, read as the task was
    description = describe_image(image, preparation)     # its fault says why not to score it
    views = prepare_views(image.rgb, preparation)        # planes (3, H, W) uint8, of the shape
    scored = score_planes(bundle, [views.planes], [views.place])  # any number of images
    anomaly_map = map_to_image(scored.anomaly_map[0], image.height, image.width, views.place)

Scored folders, tiles, pictures of a night and the stage `evaluate` all take these steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from admodels.bundles import bundle as bundles
from admodels.bundles.bundle import Bundle, Scored
from admodels.bundles.card import Preparation
from admodels.foundation.arrays import Float32, Float64, UInt8
from admodels.images import cost, decode
from admodels.images.cost import Header
from admodels.images.describe import DIGITS, Look, Statistics, statistics
from admodels.images.pose import Views, map_from_band, views
from admodels.images.rules import Fault


@dataclass(frozen=True)
class Description:
    """What an image looks like; `fault` is a word and a reason, None where it may be scored."""

    statistics: Statistics
    fault: tuple[Fault, str] | None


def header_fault(
    data: bytes, preparation: Preparation, *, any_size: bool = False
) -> tuple[Header, tuple[Fault, str]] | None:
    """The header of an image that the rules refuse without decoding it, and why."""
    learnt = preparation.learnt
    pages = cost.read_pages(data)
    header = cost.page_of(pages, learnt.reading.page)
    if header is None or cost.needs_page(pages, learnt.reading.page):
        return None  # decoding says what is wrong
    fault = learnt.header_fault(header, cost.zero_tail(data), any_size=any_size)
    return None if fault is None else (header, fault)


def decode_image(
    data: bytes, where: object, preparation: Preparation, *, any_size: bool = False
) -> decode.Image:
    """An encoded image, read as the images that the bundle learnt from; `where` names the file.

    It may cost no more than they do, or than any image where it is cut into tiles (`any_size`).

    Raises:
        UnreadableImage: the bytes do not give an image.
    """
    learnt = preparation.learnt
    return decode.decode_image(data, where, learnt.reading, learnt.budget(any_size=any_size))


def describe_image(
    image: decode.Image, preparation: Preparation, *, any_size: bool = False
) -> Description:
    """Describe an image and compare it with the rules of those that the bundle learnt from.

    A score of an image of another kind means nothing. `any_size`: the image is cut into tiles.
    """
    plain = statistics(image.rgb)
    look = Look(
        image.width,
        image.height,
        image.bit_depth,
        decode.is_grey(image.rgb),
        round(plain.brightness, DIGITS),
        round(plain.contrast, DIGITS),
    )
    fault = preparation.learnt.fault(look, any_size=any_size)
    if fault is None and preparation.area is not None:
        other_size = preparation.area.fault(image.width, image.height)
        fault = ("wrong_size", other_size) if other_size else None
    return Description(plain, fault)


def prepare_views(rgb: UInt8, preparation: Preparation) -> Views:
    """(H, W, 3) uint8 RGB as the detector takes it: planes (3 V, *preparation.shape) uint8.

    V is 2 where a part is seen both ways up; `place` is None where the whole image is seen.
    """
    return views(rgb, preparation.shape, preparation.resize, preparation.band)


def prepare_image(rgb: UInt8, preparation: Preparation) -> UInt8:
    """The planes of `prepare_views`, for a score without a map."""
    return prepare_views(rgb, preparation).planes


def is_inspected(bundle: Bundle, place: Float64) -> bool:
    """Whether any of a band is inspected: else a score would say that nothing is wrong."""
    return bundle.area is None or bool(bundle.area.seen(bundle.contract.shape, place).any())


def score_planes(
    bundle: Bundle, planes: Sequence[UInt8], places: Sequence[Float64 | None] | None = None
) -> Scored:
    """Score at least one prepared image where it is inspected; no score depends on the others.

    `places`: of the band in each image, as in `Views`; None: whole images.
    """
    area = bundle.area
    if area is None:
        return bundles.score_views(bundle.detector, planes)
    shape = bundle.contract.shape
    whole = area.seen(shape)
    inspected = [
        whole if place is None else area.seen(shape, place)
        for place in places or [None] * len(planes)
    ]
    return bundles.score_views(bundle.detector, planes, inspected)


def map_to_image(
    anomaly_map: Float32, height: int, width: int, place: Float64 | None = None
) -> Float32:
    """A map (h, w) float32 as (height, width) float32, bilinear: a value for every pixel.

    Where the map is that of a band at `place`, it is 0 beside the band.
    """
    if place is not None:
        return map_from_band(anomaly_map, place, height, width)
    resized = cv2.resize(anomaly_map, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, np.float32)
