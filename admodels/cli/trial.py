"""Fits that are cut short, each in a process of its own: what a step costs, and what it gives.

Of a method that trains, a few steps on a few images; of one that does not, a fit on some of its
images or on all of them. Weights that are not at hand are random: they cost the same.
"""

import hashlib
import resource
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from admodels import methods
from admodels.foundation import manifest, params
from admodels.foundation.errors import ConfigurationError
from admodels.foundation.params import Kind
from admodels.methods import MethodParams

if TYPE_CHECKING:
    from torch import Tensor

MIB = 1 << 20
MANIFESTS = Path("data/manifests")
STAGES = "`dvc repro validate synthesize textures weights`"
AT_HAND = (None, "packaged", "none", "random", "whitened")  # weights without a download


@dataclass(frozen=True)
class Cell:
    """A method on a task of this checkout, with the values of a block of params."""

    method: str
    task: str
    values: dict[str, Any] = field(hash=False)

    @property
    def kind(self) -> Kind:
        """Object or texture."""
        return params.read(f"tasks.{self.task}.kind", Kind)  # type: ignore[arg-type]

    def block(self) -> MethodParams:
        """The values, checked; weights that would have to be downloaded are random."""
        values = dict(self.values)
        for name in ("backbone", "head"):
            if values.get(f"{name}_weights") not in AT_HAND:
                values |= {f"{name}_weights": "random", f"{name}_sha256": ""}
        if values.get("length"):
            values |= {"initial_weights": [], "initial_sha256": []}
        model = import_module(f"admodels.methods.{self.method}.params").Params
        checked: MethodParams = params.parse(values, model, f"methods.{self.method}")
        return checked

    def rows(self, split: str = "train") -> list[manifest.ManifestRow]:
        """The rows of a split.

        Raises:
            ConfigurationError: the stages before `train` have not run.
        """
        path = MANIFESTS / self.task / f"{split}.csv"
        folders = (Path("data/synthetic", self.task), Path("data/textures"))
        if not path.is_file() or not all(folder.is_dir() for folder in folders):
            raise ConfigurationError(
                f"the images of `{self.task}` are not prepared",
                where=path,
                expected="what the stages before `train` make",
                next_step=f"{STAGES}, which takes minutes at most, then this again",
            )
        return manifest.read(path)


@dataclass(frozen=True)
class Trial:
    """What a short fit took: CPU seconds, of which `setup` is all but steps and validations.

    `peak_mib` of its process, `model_mib` of its state, `digest` the sha256 of that state.
    """

    images: int
    setup: float
    step: float
    validation: float
    image: float
    peak_mib: float
    model_mib: float
    digest: str


def run_trial(cell: Cell, images: int, steps: int, *, scored: bool = True) -> Trial:
    """Fit on the first `images` with `steps`, in a new process; score some images if `scored`.

    Raises:
        ConfigurationError: the process was killed, mostly because memory ran out.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(["torch", __name__])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(_try, cell, images, steps, scored).result()
        except BrokenProcessPool:
            raise ConfigurationError(
                f"the trial of {cell.method} on {cell.task} was killed",
                where=f"methods.{cell.method}",
                expected="memory for one step of training (`dmesg` says if it ran out)",
                next_step="a smaller batch_images or image_px, or leave this preset out",
            ) from None


class _Clock:
    """The CPU seconds at which each step was logged."""

    def __init__(self) -> None:
        self.start = time.process_time()
        self.plain: list[float] = []
        self.validating: list[float] = []
        self._last = self.first = 0.0

    def __call__(self, step: int, steps: int, values: dict[str, float]) -> None:
        """Note a step; the first one also pays for what libraries set up, so it is not counted."""
        now = time.process_time()
        if self._last:
            times = self.validating if "validation_loss" in values else self.plain
            times.append(now - self._last)
        self._last = now


def _mean(times: list[float]) -> float:
    return sum(times) / len(times) if times else 0.0


def _try(cell: Cell, images: int, steps: int, scored: bool) -> Trial:
    import torch

    from admodels.bundles import bundle, runtime
    from admodels.images import area, rules
    from admodels.methods.parts.training_data import resolve_shape, training_data

    torch.set_num_threads(params.read("train", methods.Train).threads)
    rows, reading = cell.rows(), rules.read(MANIFESTS / cell.task / "image_rules.json").reading
    block = resolve_shape(cell.block().with_steps(steps), cell.task, rows, reading)
    device = runtime.device()
    precision = runtime.precision(block.precision, device)
    detector = methods.detector_class(cell.method)(block, device=device, precision=precision)
    with tempfile.TemporaryDirectory() as place:
        weights = dict(_weights(cell.method, block, Path(place)))
        inspected = area.read_written(MANIFESTS / cell.task / area.AREA_FILE)
        data = training_data(block, cell.task, rows[:images], reading, weights, inspected)
        clock, seed = _Clock(), params.read("seed", int)
        how: dict[str, Any] = {"kind": cell.kind, "seed": seed, "log": clock}
        detector.fit(data, checkpoints=Path(place, "checkpoints"), **how)
    taken, step = time.process_time() - clock.start, _mean(clock.plain)
    steps = block.training_steps(cell.kind, len(data.normal))
    validation = max(0.0, _mean(clock.validating) - step) if steps else 0.0
    pictures = data.normal[: 2 * methods.images_at_once(detector)].numpy()
    start = time.process_time()
    if scored:
        bundle.score(detector, pictures)
    state = detector.state()
    return Trial(
        images=len(data.normal),
        setup=taken - steps * step - len(clock.validating) * validation,
        step=step if steps else 0.0,
        validation=validation,
        image=(time.process_time() - start) / len(pictures),
        peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        model_mib=sum(tensor.nbytes for tensor in state.values()) / MIB,
        digest=_digest(state),
    )


def _weights(method: str, block: MethodParams, folder: Path) -> Iterator[tuple[str, Path]]:
    """What the method starts from, without network."""
    module = f"admodels.methods.{method}.weights"
    if find_spec(module):
        import_module(module).fetch_weights(block, folder)
    return ((path.stem, path) for path in sorted(folder.iterdir()))


def _digest(state: "dict[str, Tensor]") -> str:
    digest = hashlib.sha256()
    for key, tensor in sorted(state.items()):
        digest.update(key.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
