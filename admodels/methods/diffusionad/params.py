"""The params block `methods.diffusionad`."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from admodels.methods import TrainedParams
from admodels.synthesis.params import SelfMix

Schedule = Literal["constant", "cosine", "waves"]  # waves: to 0 and back in 20 steps


class Params(TrainedParams):
    """DiffusionAD's params; the values of the authors' code stand in presets/official.yaml."""

    image_px: int = Field(ge=32, le=2048, multiple_of=32)
    pixel_range: Literal["unit", "symmetric"]  # 0..1 (official) or -1..1
    base_channels: int = Field(ge=32, multiple_of=32)  # norms have 32 groups
    channel_multipliers: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1, max_length=6)
    blocks_per_level: int = Field(ge=1)
    attention_px: tuple[int, ...]  # sides of the maps that attend, were they square; the lowest do
    segmentation_width: int = Field(ge=1)
    noise_steps: int = Field(ge=2)
    t_split: int = Field(ge=1)  # the small scale trains on [0, t_split), the big on the rest
    t_b_max: int  # up to here, exclusive
    guidance_weight: float = Field(ge=0)
    eval_t_s: int = Field(ge=0)
    eval_t_b: int
    eval_draws: int = Field(ge=1)  # of inference noise, averaged
    foreground: Literal["auto", "whole"]  # auto: the user's mattes, else an estimate for objects
    generator: SelfMix
    micro_batch_images: int = Field(ge=1)  # in the denoiser at once: memory, and last digits
    checkpointing: bool  # of the denoiser's blocks; changes memory alone
    denoiser_learning_rate: float = Field(gt=0)
    segmentation_learning_rate: float = Field(gt=0)
    denoiser_schedule: Schedule
    segmentation_schedule: Schedule
    score_pixels: int = Field(ge=1)  # the image's score is the mean of so many

    @field_validator("initial_weights")
    @classmethod
    def _is_one_bundle(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) > 1 or any(not name.endswith(".safetensors") for name in value):
            raise ValueError(
                "name one bundle's model.safetensors; a checkpoint of the authors is a pickle and "
                "is not read. Where you trust its origin, two lines save its tensors alone:\n"
                '    c = torch.load("params-last.pt", map_location="cpu", weights_only=False)\n'
                '    save_file({f"{n}.{k}": v for n in ("unet", "seg") for k, v in '
                'c[f"{n}_model_state_dict"].items()}, "authors.safetensors")\n'
                "but the names of its tensors are not ours, so it cannot be started from"
            )
        return value

    @model_validator(mode="after")
    def _scales_are_ordered(self) -> Self:
        if not self.eval_t_s < self.t_split <= self.eval_t_b < self.t_b_max <= self.noise_steps:
            raise ValueError(
                "needs eval_t_s < t_split <= eval_t_b < t_b_max <= noise_steps: nothing is scored "
                "at a scale that was not trained"
            )
        if self.micro_batch_images > self.batch_images:
            raise ValueError("micro_batch_images is more than batch_images")
        return self

    @model_validator(mode="after")
    def _sides_exist(self) -> Self:
        strays = set(self.attention_px) - set(self._sides())
        if strays:
            raise ValueError(f"attention_px {sorted(strays)} not among the sides {self._sides()}")
        if self.score_pixels > math.prod(self.shape):
            raise ValueError("score_pixels is more than the image has")
        return self

    def side_multiple(self) -> int:
        """As halved five times by the networks, and cut into tiles by the generator."""
        return math.lcm(32, self.generator.tiles_per_side)

    def _sides(self) -> list[int]:
        return [self.image_px // 2**level for level in range(len(self.channel_multipliers))]

    def attention_levels(self) -> list[int]:
        """The levels of the U-Net, 0 at full resolution, whose maps attend."""
        return [level for level, side in enumerate(self._sides()) if side in self.attention_px]
