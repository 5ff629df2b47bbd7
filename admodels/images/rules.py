"""What the images of a task look like: learnt by `validate`, kept in bundles, asked of every image.

An image that looks otherwise than all that was learnt from would get a score that means nothing:
it gets none, and a word that says why.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field

from admodels.foundation.errors import DataError
from admodels.foundation.params import Strict
from admodels.images.decode import Reading
from admodels.images.describe import PLAIN_BITS, Look

Fault = Literal["wrong_bit_depth", "wrong_channels", "wrong_size", "blank", "overexposed"]


class ImageRules(Strict):
    """Of the normal images to learn from and to calibrate with; pairs are least and greatest.

    `size_tolerance`: so many times smaller or larger than any of them may a side be;
    `ratio_tolerance`: the same of the ratio of the sides, since every image is made square.
    Brightness and contrast: bounds of `validate`, wider where the images need it.
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

    def fault(self, look: Look, *, any_size: bool = False) -> tuple[Fault, str] | None:
        """Why an image must not be scored, in a word and in words; `any_size` where it is cut."""
        depth = max(PLAIN_BITS, look.bit_depth)
        if depth not in self.bit_depths:
            learnt = " or ".join(map(str, self.bit_depths))
            return "wrong_bit_depth", f"{look.bit_depth} bits, learnt from {learnt}"
        if not any_size and not self._fits(look):
            sides = (*self.width_px, *self.height_px, self.size_tolerance)
            learnt = "learnt from {}..{} x {}..{} within a factor of {:g}".format(*sides)
            ratios = (*self.side_ratio, self.ratio_tolerance)
            learnt += ", width over height {:.3g}..{:.3g} within {:g}".format(*ratios)
            return "wrong_size", f"{look.width} x {look.height} px, {learnt}"
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

    def _fits(self, look: Look) -> bool:
        asked = (
            (look.width, self.width_px, self.size_tolerance),
            (look.height, self.height_px, self.size_tolerance),
            (look.width / look.height, self.side_ratio, self.ratio_tolerance),
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
