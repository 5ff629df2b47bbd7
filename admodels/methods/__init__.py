"""The contract that every method keeps, and how a method is found: by its folder's name."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

from pydantic import Field, model_validator

from admodels.foundation import cores
from admodels.foundation.errors import ConfigurationError, DataError
from admodels.foundation.params import Kind, Resize, Strict
from admodels.images.shape import SHORTEST_PX, Aspect, Band, Pose, Shape, shape_of, square

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Group = tuple[Tensor, Tensor | None]  # images, and where they are inspected

MOST_CHUNKS_AT_ONCE = 8  # bounds the memory


class Train(Strict):
    """How every method is trained."""

    threads: int = Field(ge=1, le=1024)  # of torch


class MethodParams(Strict):
    """What the params of every method hold.

    A network sees `image_px`^2 pixels: a square, or what `shape_px` (height, width) says, which
    training resolves where `aspect` is `keep`, as it learns the `band` where `pose` is `upright`.
    Older bundles name none of these.
    """

    image_px: int = Field(ge=32, le=4096)
    resize: Resize
    aspect: Aspect = "square"
    shape_px: Shape | None = None
    pose: Pose = "none"
    band: Band | None = None
    score_chunk_images: int = Field(ge=1, le=1024)
    precision: Literal["auto", "fp32", "bf16"]

    @property
    def shape(self) -> Shape:
        """Height and width of what the network sees."""
        return self.shape_px or square(self.image_px)

    def side_multiple(self) -> int:
        """What both sides must be multiples of."""
        return 32

    def shortest_px(self) -> int:
        """What no side may be shorter than."""
        return SHORTEST_PX

    def training_steps(self, kind: Kind, images: int) -> int:
        """Steps of training for that many normal images; 0 where nothing is trained."""
        del kind, images
        return 0

    def with_steps(self, steps: int) -> Self:
        """The same params with so few steps, for a look at what a step costs."""
        del steps
        return self

    def resolve_shape(self, ratio: float, band: Band | None = None) -> Self:
        """The same params for images of that width over height, or for a band of them."""
        values: dict[str, Any] = {} if band is None else {"band": band.model_dump()}
        if self.aspect == "keep" and not self.shape_px:
            seen = ratio if band is None else band.ratio
            shape = shape_of(seen, self.image_px, self.side_multiple(), self.shortest_px())
            values["shape_px"] = None if shape == square(self.image_px) else shape
        return type(self).model_validate(self.model_dump() | values)

    @model_validator(mode="after")
    def _shape_fits(self) -> Self:
        if self.shape_px and self.aspect == "square":
            raise ValueError("shape_px: only where aspect is keep")
        if self.band and self.pose == "none":
            raise ValueError("band: only where pose is upright")
        if any(side % self.side_multiple() for side in self.shape):
            raise ValueError(f"the sides {self.shape} are no multiples of {self.side_multiple()}")
        if self.shape_px and min(self.shape_px) < self.shortest_px():
            raise ValueError(f"the sides {self.shape}: one is below {self.shortest_px()}")
        return self


INITIAL = "initial.safetensors"  # a copy of a bundle's weights, in data/weights/<method>


class TrainedParams(MethodParams):
    """What the params of a method also hold that trains its networks on batches."""

    batch_images: int = Field(ge=2)  # batch norm needs two
    length: int = Field(ge=0)  # 0: the initial weights stay as they are
    length_unit: Literal["epochs", "steps"]
    ema_decay: float = Field(ge=0, lt=1)  # 0 is off
    initial_weights: tuple[str, ...] = ()  # files or URLs; none: random weights
    initial_sha256: tuple[str, ...] = ()  # of each of these files

    @model_validator(mode="after")
    def _starts_from_something(self) -> Self:
        if len(self.initial_weights) != len(self.initial_sha256):
            raise ValueError("initial_sha256 needs one entry for each file of initial_weights")
        if not all(re.fullmatch("[0-9a-f]{64}", pin) for pin in self.initial_sha256):
            raise ValueError("initial_sha256 has an entry that is no sha256 (64 hex digits)")
        if self.length == 0 and not self.initial_weights:
            raise ValueError("length: 0 trains nothing: name initial_weights, or a length above 0")
        return self

    def steps(self, images: int) -> int:
        """Optimiser steps for `images` normal images; an epoch drops its partial last batch."""
        per_epoch = max(1, images // self.batch_images)
        return self.length * (per_epoch if self.length_unit == "epochs" else 1)

    def training_steps(self, kind: Kind, images: int) -> int:
        """The same for every kind."""
        del kind
        return self.steps(images)

    def with_steps(self, steps: int) -> Self:
        """A length in steps."""
        return self.model_copy(update={"length": steps, "length_unit": "steps"})


@dataclass(frozen=True)
class Synthetic:
    """Synthetic anomalies: `images` (N, 3, H, W) uint8 RGB, `masks` (N, H, W) bool."""

    images: Tensor
    masks: Tensor


@dataclass(frozen=True)
class TrainingData:
    """All that `fit` may see; there is no way from here to a test image."""

    normal: Tensor  # (N, 3, H, W) uint8 RGB
    textures: Tensor  # (T, 3, H, W) uint8 RGB
    validation: Synthetic  # held out: watches training, and a method may choose by it
    foreground: Tensor | None  # (N, 1, H, W) uint8 mattes, or the method estimates its own
    weights: dict[str, Path]  # what the stage `weights` fetched for this method, by file stem
    inspected: Tensor | None = None  # (N, H, W) bool: where to paint anomalies; None: anywhere


@dataclass(frozen=True)
class Prediction:
    """Higher is more anomalous.

    `anomaly_map` (B, h, w) float32, `anomaly_score` (B,) float32, and, where a method has one,
    `reconstruction` (B, 3, H, W) float32 in 0..1, or `compared` (B, 3) int64: the place that the
    map's maximum was compared with, as index of an image of `fit`, row and column in pixels of
    `params.shape`; -1 where that is not known. All on the CPU.
    """

    anomaly_map: Tensor
    anomaly_score: Tensor
    reconstruction: Tensor | None = None
    compared: Tensor | None = None


class Log(Protocol):
    """Where `fit` reports a step: one row of history.csv and the progress bar."""

    def __call__(self, step: int, steps: int, values: dict[str, float]) -> None:
        """Record `values` at `step` of `steps`."""


class Detector(ABC):
    """One method on one device; after `fit` or `restore` it scores."""

    Params: ClassVar[type[MethodParams]]
    params: MethodParams
    device: torch.device
    precision: torch.dtype

    @abstractmethod
    def __init__(self, params: Any, *, device: torch.device, precision: torch.dtype) -> None:
        """Build without weights; `precision` (float32 or bfloat16) is the compute type."""

    @abstractmethod
    def fit(
        self, data: TrainingData, *, kind: Kind, seed: int, checkpoints: Path, log: Log
    ) -> None:
        """Learn from normal images; resume from `checkpoints` where a run was interrupted."""

    @abstractmethod
    def score(self, images: Tensor, inspected: Tensor | None = None) -> Prediction:
        """Score (B, 3, *params.shape) uint8 RGB; pure: no state changes, no randomness.

        Where `inspected` (B, *params.shape) bool is False, the map, whose other values are 0 or
        more, is 0 before the method reduces it to a score. None: everything is inspected.
        """

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Everything that `restore` needs to score again, on the CPU."""

    @abstractmethod
    def restore(self, state: dict[str, Tensor]) -> None:
        """Take a `state` back.

        Raises:
            BundleError: keys or shapes differ from what the params ask for.
        """


def available() -> list[str]:
    """The names of the methods that exist, sorted."""
    return sorted(p.parent.name for p in Path(__file__).parent.glob("*/params.py"))


def detector_class(method: str) -> type[Detector]:
    """The `Detector` of the folder `admodels/methods/<method>`; imports torch.

    Raises:
        ConfigurationError: there is no such folder.
    """
    if method not in available():
        raise ConfigurationError(
            f"no method named `{method}`",
            where="admodels/methods/",
            expected=f"one of {', '.join(available())}",
            next_step="fix `run.methods` in params.yaml",
        )
    detector: type[Detector] = import_module(f"admodels.methods.{method}.detector").Detector
    return detector


def images_at_once(detector: Detector) -> int:
    """How many images `predict` scores at the same time: a chunk for each core, one on a GPU."""
    return detector.params.score_chunk_images * _chunks_at_once(detector)


def _chunks_at_once(detector: Detector) -> int:
    import torch

    if detector.device.type != "cpu":
        return 1
    return min(torch.get_num_threads(), cores.available(), MOST_CHUNKS_AT_ONCE)


def predict(
    detector: Detector, images: Tensor, chunk: int, inspected: Tensor | None = None
) -> Prediction:
    """Score (N, 3, H, W) uint8 RGB, N > 0, as one `Prediction`, in chunks of exactly `chunk`.

    Kernels may differ by shape, so one shape for every call is what makes the score of an image
    independent of its neighbours and of their number. Sums may differ by the number of threads
    too, so a chunk is scored by one thread; several chunks at the same time use several cores,
    and no thread waits for another at every layer, which is slow on a busy machine.

    Only where `inspected` (N, H, W) bool is True an image is looked at; None: everywhere.
    """
    import torch

    _refuse_other_images(detector, images)
    groups = [
        (images[i : i + chunk], None if inspected is None else inspected[i : i + chunk])
        for i in range(0, len(images), chunk)
    ]
    predictions = _score_groups(detector, groups, partial(_score_with_padding, detector, chunk))
    pictures = [p.reconstruction for p in predictions if p.reconstruction is not None]
    compared = [p.compared for p in predictions if p.compared is not None]
    return Prediction(
        torch.cat([p.anomaly_map for p in predictions]),
        torch.cat([p.anomaly_score for p in predictions]),
        torch.cat(pictures) if pictures else None,
        torch.cat(compared) if compared else None,
    )


def _score_groups(
    detector: Detector, groups: list[Group], score: Callable[[Group], Prediction]
) -> list[Prediction]:
    import torch

    if detector.device.type != "cpu":
        return list(map(score, groups))
    threads, count = torch.get_num_threads(), _chunks_at_once(detector)
    try:
        with ThreadPoolExecutor(count, "score", torch.set_num_threads, (1,)) as pool:
            return list(pool.map(score, groups))
    finally:
        torch.set_num_threads(threads)  # it is a setting of the whole process


def _refuse_other_images(detector: Detector, images: Tensor) -> None:
    height, width = detector.params.shape
    if images.shape[1:] != (3, height, width) or str(images.dtype) != "torch.uint8":
        raise DataError(
            f"images of shape {tuple(images.shape)} and type {images.dtype}",
            where="the images to score",
            expected=f"(N, 3, {height}, {width}) uint8, as the detector's params say",
            next_step="prepare them with `admodels.inference.model.prepare_image`",
        )


def _score_with_padding(detector: Detector, chunk: int, group: Group) -> Prediction:
    """Score at most `chunk` images as a whole chunk, the last image repeated."""
    images, inspected = group
    count, where = len(images), None if inspected is None else _pad(inspected, chunk)
    prediction = detector.score(_pad(images, chunk), where)
    reconstruction, compared = prediction.reconstruction, prediction.compared
    return Prediction(
        prediction.anomaly_map[:count],
        prediction.anomaly_score[:count],
        None if reconstruction is None else reconstruction[:count],
        None if compared is None else compared[:count],
    )


def _pad(group: Tensor, chunk: int) -> Tensor:
    import torch

    missing = chunk - len(group)
    return torch.cat([group, *[group[-1:]] * missing]) if missing else group
