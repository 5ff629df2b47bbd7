"""The params block `methods.draem`."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from admodels.methods import MethodParams
from admodels.synthesis.params import Generator


class Params(MethodParams):
    """DRAEM's params; the values of the paper's code stand in presets/official.yaml."""

    image_px: int = Field(ge=32, le=2048, multiple_of=32)
    reconstructive_width: int = Field(ge=1)  # 128 in the paper's code
    discriminative_width: int = Field(ge=1)  # 64
    generator: Generator
    batch_images: int = Field(ge=2)  # batch norm needs two
    length: int = Field(ge=1)
    length_unit: Literal["epochs", "steps"]
    learning_rate: float = Field(gt=0)
    schedule: Literal["milestones", "cosine"]
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...]  # shares of the length
    milestone_factor: float = Field(gt=0, le=1)
    ema_decay: float = Field(ge=0, lt=1)  # 0 is off
    ssim_range: Literal["one", "auto"]
    score_window_px: int = Field(ge=1)

    @field_validator("score_window_px")
    @classmethod
    def _centred(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("an even window has no centre pixel")
        return value

    def steps(self, images: int) -> int:
        """Optimiser steps for `images` normal images; an epoch drops its partial last batch."""
        per_epoch = max(1, images // self.batch_images)
        return self.length * (per_epoch if self.length_unit == "epochs" else 1)
