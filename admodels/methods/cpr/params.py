"""The params block `methods.cpr`."""

import math
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Field, model_validator

from admodels.foundation.params import Kind, PerKind
from admodels.images.shape import SHORTEST_PX
from admodels.methods.parts.backbone_params import (
    NONE,
    RANDOM,
    WHITENED,
    BackboneParams,
    Sha256,
    refuse_wrong_pin,
)
from admodels.synthesis.params import SelfMix


def _odd(side: int) -> int:
    if side % 2 == 0:
        raise ValueError("an even side has no centre cell")
    return side


Region = Annotated[int, Field(ge=1, le=15), AfterValidator(_odd)] | Literal["whole"]
Sigma = Annotated[float, Field(ge=0, le=15)]  # of Gaussian means; 0: none
Weight = Annotated[float, Field(gt=0, le=1)]


class Params(BackboneParams):
    """CPR's params; the values of the paper's code stand in presets/official.yaml."""

    image_px: int = Field(ge=64, le=2048, multiple_of=16)
    head_weights: str = Field(min_length=1)  # none, whitened, random, or a file of the authors
    head_sha256: Sha256
    smoothing_cells: PerKind[tuple[Sigma, Sigma]]  # second tap, before and after its roots
    tap_strides: tuple[Literal[4, 8], Literal[8, 16]]
    head_channels: int = Field(ge=12, multiple_of=12)  # inside the heads; 192 in the paper's code
    descriptor_channels: int = Field(ge=1)
    references: int = Field(ge=1)  # K: normal images a test image is compared with
    histogram_blocks: int = Field(ge=1)  # S: per side
    dropped_blocks: int = Field(ge=0)  # tau: the worst-matching ones do not count
    codebook_words: int = Field(ge=2, le=255)
    regions: tuple[Region, Region]  # searched at each tap: side in cells, or whole
    tap_weights: PerKind[tuple[Weight, Weight]]  # of each tap's distance in their sum
    foreground: PerKind[bool]  # whether only the part counts, found by clustering
    reference_foreground: Literal["max", "median"] = "max"  # of K images; older bundles name none
    generator: SelfMix
    smallest_anomaly_share: float = Field(ge=0, lt=1)  # of the image; smaller components vanish
    synthetic_images: int = Field(ge=1)  # the pool that training draws from
    photometric_share: float = Field(ge=0, le=1)  # of the images, for each of two augmentations
    batch_pairs: int = Field(ge=1)
    steps: PerKind[Annotated[int, Field(ge=0)]]
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    positive_margin: float = Field(gt=-1, le=1)
    negative_margin: float = Field(gt=-1, le=1)
    loss_exponent: int = Field(ge=1)
    points_per_image: int = Field(ge=1)  # of each kind of pair
    blur_sigma_px: float = Field(gt=0)
    score_pixels: int = Field(ge=1)  # T
    cache_mib: int = Field(ge=0)  # of frozen features kept while fitting; changes no result
    bank: Literal["fp16"] = "fp16"  # how descriptors are kept; older bundles name it
    parity: bool  # the official code's: own image by rank, points half a cell off, weights cubed

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.tap_strides[0] >= self.tap_strides[1]:
            raise ValueError("tap_strides: the second is the larger")
        if self.dropped_blocks >= self.histogram_blocks**2:
            raise ValueError("dropped_blocks: no block of the histogram grid would be left")
        if self.score_pixels > math.prod(self.shape):
            raise ValueError("score_pixels: more than the image has")
        if int(4 * self.blur_sigma_px) >= min(self.shape):
            raise ValueError("blur_sigma_px: its window is larger than the image")
        return self

    def training_steps(self, kind: Kind, images: int) -> int:
        """Of the heads, however many images there are."""
        del images
        return self.steps.of(kind)

    def with_steps(self, steps: int) -> Self:
        """The heads trained for so few steps; none where there is nothing to train."""
        few = {kind: min(steps, self.steps.of(kind)) for kind in get_args(Kind)}
        return self.model_copy(update={"steps": PerKind[int](**few)})

    def side_multiple(self) -> int:
        """The largest stride of a tap, and the tiles of the generator."""
        return math.lcm(16, self.generator.tiles_per_side)

    def shortest_px(self) -> int:
        """More than half of the window of the blur, which mirrors the map at its edges."""
        return max(SHORTEST_PX, int(4 * self.blur_sigma_px) + 1)

    @model_validator(mode="after")
    def _headless(self) -> Self:
        smoothing = (*self.smoothing_cells.object, *self.smoothing_cells.texture)
        has_heads = self.head_weights not in (NONE, WHITENED)
        if not has_heads and (self.steps.object or self.steps.texture):
            raise ValueError(
                f"steps: nothing to train where head_weights is {self.head_weights}; write random, "
                "and zeros for smoothing_cells"
            )
        if has_heads and "whole" in self.regions:
            raise ValueError("regions: heads learn that far places differ; write a side in cells")
        if has_heads and any(smoothing):
            raise ValueError(
                "smoothing_cells: in place of heads; where there are heads write zeros"
            )
        return self

    @model_validator(mode="after")
    def _refuse_unpinned(self) -> Self:
        refuse_wrong_pin("head", self.head_weights, self.head_sha256, (NONE, WHITENED, RANDOM))
        return self
