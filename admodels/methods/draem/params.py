"""The params block `methods.draem`."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from admodels.methods import TrainedParams
from admodels.synthesis.params import Generator

# Of the reconstructive and the discriminative network, in data/weights/draem.
OFFICIAL_FILES = "reconstructive.pth", "discriminative.pth"


class Params(TrainedParams):
    """DRAEM's params; the values of the paper's code stand in presets/official.yaml."""

    image_px: int = Field(ge=32, le=2048, multiple_of=32)
    reconstructive_width: int = Field(ge=1)  # 128 in the paper's code
    discriminative_width: int = Field(ge=1)  # 64
    generator: Generator
    learning_rate: float = Field(gt=0)
    schedule: Literal["milestones", "cosine"]
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...]  # shares of the length
    milestone_factor: float = Field(gt=0, le=1)
    ssim_range: Literal["one", "auto"]
    score_window_px: int = Field(ge=1)

    @field_validator("initial_weights")
    @classmethod
    def _is_one_detector(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) > 2:
            raise ValueError("name one bundle's model.safetensors, or the authors' two files")
        return value

    @field_validator("score_window_px")
    @classmethod
    def _is_odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("an even window has no centre pixel")
        return value
