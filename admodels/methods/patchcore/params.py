"""The params block `methods.patchcore`."""

from typing import Literal, Self

from pydantic import Field, model_validator

from admodels.images.shape import SHORTEST_PX
from admodels.methods.parts.backbone_params import BackboneParams


class Params(BackboneParams):
    """PatchCore's params; the values of the paper's code stand in presets/official.yaml."""

    image_px: int = Field(ge=64, le=2048, multiple_of=16)
    tap_strides: tuple[Literal[4, 8], Literal[8, 16]]
    pool_cells: int = Field(ge=2)  # patches that the coreset is chosen from, at random if more
    coreset_share: float = Field(gt=0, le=1)  # of the pool
    projected_channels: int = Field(ge=1)  # while the coreset is chosen
    neighbours: int = Field(ge=2)  # of a patch of the bank; weigh the image score
    blur_sigma_px: float = Field(gt=0)
    cache_mib: int = Field(ge=0)  # of frozen features kept while fitting; changes no result

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.tap_strides[0] >= self.tap_strides[1]:
            raise ValueError("tap_strides: the second is the larger")
        if self.coreset_share * self.pool_cells < 1:
            raise ValueError("coreset_share: no patch of the pool would be left")
        if int(4 * self.blur_sigma_px) >= min(self.shape):
            raise ValueError("blur_sigma_px: its window is larger than the image")
        return self

    def side_multiple(self) -> int:
        """The largest stride of a tap."""
        return 16

    def shortest_px(self) -> int:
        """More than half of the window of the blur, which mirrors the map at its edges."""
        return max(SHORTEST_PX, int(4 * self.blur_sigma_px) + 1)
