"""The frozen networks that a method's params may name; without torch, as params are."""

from typing import Literal

BackboneName = Literal[
    "efficientnet_lite2", "densenet201", "resnet18", "efficientnet_b0", "wide_resnet50_2"
]
