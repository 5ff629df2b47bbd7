"""The params of the anomaly generator, embedded by methods, and the block `synthesize`."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from admodels.foundation.params import PerKind, Resize, Strict
from admodels.images.shape import SHORTEST_PX, Aspect, Shape, shape_of, square


class Anomaly(Strict):
    """How one anomaly is painted: where (noise above a threshold) and with what (a texture)."""

    lattice_exponent_max: int = Field(ge=0, le=5)  # 2^0..2^max noise cells per axis
    noise_rotation_degrees: float = Field(ge=0, le=180)
    mask_threshold: float = Field(ge=0, lt=1)  # of the noise, which spans -1..1; 0 outside it
    image_opacity_min: float = Field(ge=0, le=1)  # of the normal image inside the mask
    image_opacity_max: float = Field(ge=0, le=1)
    augmenters_per_texture: int = Field(ge=0, le=10)

    @model_validator(mode="after")
    def _opacities_are_ordered(self) -> Self:
        if self.image_opacity_min > self.image_opacity_max:
            raise ValueError("image_opacity_min is above image_opacity_max")
        return self


class Generator(Anomaly):
    """How a training sample is drawn."""

    clean_share: float = Field(ge=0, le=1)  # of the samples stay normal
    image_rotation_share: float = Field(ge=0, le=1)  # of the normal images are rotated first
    image_rotation_degrees: float = Field(ge=0, le=180)


class SelfMix(Anomaly):
    """How a training sample is drawn where an anomaly may be painted with the image itself."""

    clean_share: float = Field(ge=0, le=1)  # of the samples stay normal
    self_share: PerKind[Annotated[float, Field(ge=0, le=1)]]  # of the anomalies
    augmenters_per_self: int = Field(ge=0, le=10)
    tiles_per_side: int = Field(ge=3, le=64)  # of the image, shuffled; two would often stay


class Synthesize(Strict):
    """The held-out synthetic set of the stage `synthesize`: every image of it is anomalous.

    Drawn on `image_px`^2 pixels, a square or of the shape of the images.
    """

    image_px: int = Field(ge=32, le=4096, multiple_of=32)
    resize: Resize
    aspect: Aspect = "square"
    per_image: int = Field(ge=1, le=100)  # anomalies per validation image
    generator: Anomaly

    def shape(self, ratio: float) -> Shape:
        """Height and width for images of that width over height."""
        if self.aspect == "square":
            return square(self.image_px)
        return shape_of(ratio, self.image_px, 32, SHORTEST_PX)
