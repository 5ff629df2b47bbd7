"""How the images of a task are read, and what reading one gives: an image or a refusal."""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from admodels.foundation.arrays import UInt8
from admodels.foundation.errors import DataError
from admodels.foundation.params import Strict
from admodels.images.pixels import Orientation as Orientation
from admodels.images.pixels import Window

Reason = Literal["empty", "truncated", "undecodable", "damaged", "too_large", "too_costly"]

DECODER: Literal[2] = 2  # 1 knew no JPEG 2000 and no 32 bits, and took what a decoder warns of
LARGEST_PIXELS = 200_000_000


class UnreadableImage(DataError):  # noqa: N818
    """A file that does not give an image; `reason` is a closed word, `where` the file."""

    def __init__(self, reason: Reason, detail: str, where: object) -> None:
        super().__init__(
            f"image is {reason.replace('_', ' ')}: {detail}",
            where=where,
            expected=f"a whole image of at most {LARGEST_PIXELS // 1_000_000} million pixels",
            next_step="replace or remove the file, then `admodels task refresh` of its task",
        )
        self.reason, self.detail, self.where = reason, detail, where


class NoWindow(UnreadableImage):
    """An image of 32 bits, of which no window is known yet."""


class Reading(Strict):
    """How stored values become 8-bit RGB: fixed for a task, never chosen by the image itself.

    For images with more than 8 bits, values in `window` (low, high) map linearly to 0..255; None
    is the whole range of 16 bits. `orientation` `stored` leaves pixels as the camera stored them,
    so that masks, which have no EXIF, fit; `exif` turns them as their EXIF says. `page` counts
    the pages of a TIFF from 0. `decoder` is the version of the rules of decoding that a bundle was
    calibrated with.
    """

    window: Window | None
    orientation: Orientation
    decoder: Literal[1, 2] = 1
    page: int | None = Field(default=None, ge=0)

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what older bundles do not say, so that their fingerprints stay."""
        content: dict[str, Any] = handler(self)
        later = {"decoder": 1, "page": None}
        return {k: v for k, v in content.items() if k not in later or v != later[k]}


STORED = Reading(window=None, orientation="stored", decoder=DECODER)


@dataclass(frozen=True)
class Image:
    """A decoded image: `rgb` (H, W, 3) uint8; `mode` and `bit_depth` as stored."""

    rgb: UInt8
    width: int
    height: int
    mode: str
    bit_depth: int
