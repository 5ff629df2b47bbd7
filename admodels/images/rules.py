"""What the images of a task look like: learnt by `validate`, kept in bundles, asked of every image.

An image that looks otherwise than all that was learnt from would get a score that means nothing:
it gets none, and a word that says why.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from admodels.foundation.errors import DataError
from admodels.foundation.params import Strict
from admodels.images import cost
from admodels.images.cost import Budget, Header
from admodels.images.describe import PLAIN_BITS, Look
from admodels.images.reading import LARGEST_PIXELS, Reading

SECTOR_BYTES = 512  # the least that a disk leaves unwritten
TAIL_LEEWAY = 2  # times as many zero bytes at the end as in any image learnt from
Misfit = Literal["wrong_bit_depth", "wrong_channels", "wrong_size", "blank", "overexposed"]
Fault = Misfit | Literal["damaged"]


class ImageRules(Strict):
    """What the normal images to learn from and to calibrate with are like; pairs: least, greatest.

    A side may be `size_tolerance` times smaller or larger than those of all these images, and the
    ratio of the sides may differ by the factor `ratio_tolerance`, since all get one shape.
    `brightness` and `min_contrast` are the bounds of `validate`, wider where these images need it.
    `zero_tails`: by format, the most zero bytes that a file ended with; older rules have none.
    """

    reading: Reading
    width_px: tuple[int, int]
    height_px: tuple[int, int]
    side_ratio: tuple[float, float]  # width over height
    size_tolerance: float = Field(ge=1)
    ratio_tolerance: float = Field(ge=1)
    bit_depths: tuple[int, ...] = Field(min_length=1)
    channels: Literal["grey", "colour", "both"]
    brightness: tuple[float, float]
    min_contrast: float
    zero_tails: dict[str, int] = Field(default_factory=dict)

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what older bundles do not say, so that their fingerprints stay."""
        content: dict[str, Any] = handler(self)
        return {k: v for k, v in content.items() if k != "zero_tails" or v}

    def budget(self, *, any_size: bool = False) -> Budget:
        """What decoding an image may take: of the largest that these rules let through."""
        largest = self.width_px[1] * self.height_px[1] * self.size_tolerance**2
        most = LARGEST_PIXELS if any_size else min(LARGEST_PIXELS, round(largest))
        return cost.budget(most, max(self.bit_depths))

    def header_fault(
        self, header: Header, zero_tail: int, *, any_size: bool = False
    ) -> tuple[Fault, str] | None:
        """Why an image need not be decoded, as in `fault`, from its header and its last bytes."""
        if self.reading.decoder == 1:
            return None
        most = self.zero_tails.get(header.format)
        if most is not None and zero_tail > max(SECTOR_BYTES, TAIL_LEEWAY * most):
            return "damaged", f"the last {zero_tail} bytes are 0, learnt from at most {most}"
        sides = header.width, header.height
        turned = sides[::-1] if self.reading.orientation == "exif" else sides
        faults = [self._shape_fault(*s, header.bit_depth, any_size) for s in (sides, turned)]
        return faults[0] if all(faults) else None

    def fault(self, look: Look, *, any_size: bool = False) -> tuple[Fault, str] | None:
        """Why an image must not be scored, in a word and in words; `any_size` where it is cut."""
        shape = self._shape_fault(look.width, look.height, look.bit_depth, any_size)
        if shape is not None:
            return shape
        darkest, brightest = self.brightness
        if look.brightness > brightest:
            return "overexposed", f"mean grey level {look.brightness:.4g} above {brightest:g}"
        if look.brightness < darkest or look.contrast < self.min_contrast:
            seen = f"mean grey level {look.brightness:.4g}, contrast {look.contrast:.4g}"
            return "blank", f"{seen}; at least {darkest:g} and {self.min_contrast:g}"
        channels = "grey" if look.is_grey else "colour"
        if self.channels not in ("both", channels):
            return "wrong_channels", f"{channels}, learnt from {self.channels}"
        return None

    def _shape_fault(
        self, width: int, height: int, bit_depth: int, any_size: bool
    ) -> tuple[Fault, str] | None:
        if max(PLAIN_BITS, bit_depth) not in self.bit_depths:
            learnt = " or ".join(map(str, self.bit_depths))
            return "wrong_bit_depth", f"{bit_depth} bits, learnt from {learnt}"
        if any_size or self._fits(width, height):
            return None
        sides = (*self.width_px, *self.height_px, self.size_tolerance)
        learnt = "learnt from {}..{} x {}..{} within a factor of {:g}".format(*sides)
        ratios = (*self.side_ratio, self.ratio_tolerance)
        learnt += ", width over height {:.3g}..{:.3g} within {:g}".format(*ratios)
        return "wrong_size", f"{width} x {height} px, {learnt}"

    def _fits(self, width: int, height: int) -> bool:
        if not height:
            return False
        asked = (
            (width, self.width_px, self.size_tolerance),
            (height, self.height_px, self.size_tolerance),
            (width / height, self.side_ratio, self.ratio_tolerance),
        )
        return all(
            least / factor <= value <= greatest * factor
            for value, (least, greatest), factor in asked
        )


def read(path: Path) -> ImageRules:
    """The image rules of a task as `validate` wrote it.

    Raises:
        DataError: it is missing, or another version wrote it.
    """
    try:
        return ImageRules.model_validate_json(path.read_text(encoding="utf-8"), strict=True)
    except (OSError, ValueError) as error:
        raise DataError(
            f"image rules cannot be read: {type(error).__name__}",
            where=path,
            expected="what the validate stage writes beside the manifests",
            next_step="dvc repro validate",
        ) from error
