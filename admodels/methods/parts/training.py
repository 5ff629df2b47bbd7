"""What moves while a network trains, for every method that trains one."""

import math
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from admodels.foundation.errors import BundleError, ConfigurationError
from admodels.methods import Log
from admodels.methods.parts.checkpoint import Checkpoint

T = TypeVar("T")

VALIDATIONS, LEAST_STEPS_APART = 20, 4


def refuse_divergence(method: str, loss: float, step: int) -> None:
    """Stop at the step where a loss is no number any more.

    Raises:
        ConfigurationError: the weights are worth nothing from here on.
    """
    if not math.isfinite(loss):
        raise ConfigurationError(
            f"training diverged: the loss is {loss} at step {step + 1}",
            where=f"methods.{method} in params.yaml",
            expected="a finite loss",
            next_step="lower the learning rate, or set `precision: fp32`",
        )


def ahead(draw: Callable[[int], T], device: torch.device) -> Callable[[int], T]:
    """`draw`, a pure function of the step; a thread draws the next one while a GPU trains on this.

    On a CPU it stays as it is: the thread would take the cores that train.
    """
    if device.type == "cpu":
        return draw
    pool = ThreadPoolExecutor(1)
    drawn: dict[int, Future[T]] = {}

    def draw_ahead(step: int) -> T:
        now = drawn.pop(step, None) or pool.submit(draw, step)
        drawn.clear()
        drawn[step + 1] = pool.submit(draw, step + 1)
        return now.result()

    return draw_ahead


def to_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A copy of `state` that shares no memory with it."""
    return {k: v.detach().to("cpu", copy=True).contiguous() for k, v in state.items()}


def load(net: nn.Module, state: dict[str, Tensor], expected: str) -> None:
    """Give `net` the weights that a bundle keeps; every key and shape must fit.

    Raises:
        BundleError: they are those of another network.
    """
    try:
        net.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise BundleError(
            "the weights do not fit the network: " + str(error).splitlines()[-1].strip(),
            where="model.safetensors",
            expected=expected,
            next_step="train again: `dvc repro train`",
        ) from None


class Training:
    """A network on its way: optimiser, averaged weights, history; resumes to the bit."""

    def __init__(
        self, net: nn.Module, optimiser: torch.optim.Optimizer, ema_decay: float = 0.0
    ) -> None:
        self.net, self.optimiser = net, optimiser
        self.average: AveragedModel | None = None
        if ema_decay:
            average = get_ema_multi_avg_fn(ema_decay)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(net, multi_avg_fn=average, use_buffers=True)
        self.history: list[tuple[int, dict[str, float]]] = []

    def kept(self) -> nn.Module:
        """The weights to keep: the average where there is one, else the last."""
        return self.net if self.average is None else self.average.module

    def update(self, losses: Iterable[Tensor], learning_rates: Iterable[float]) -> float:
        """Take one step down the gradient of the sum of `losses`; return that sum.

        Each loss goes backward before the next is computed, so a generator of losses holds the
        maps of only one in memory.
        """
        for group, rate in zip(self.optimiser.param_groups, learning_rates, strict=True):
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        total = 0.0
        for loss in losses:
            total += loss.item()
            loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        if self.average is not None:
            self.average.update_parameters(self.net)
        return total

    def go(
        self,
        steps: int,
        one_step: Callable[[int], dict[str, float]],
        checkpoint: Checkpoint,
        log: Log,
        validation_loss: Callable[[nn.Module], float] | None = None,
    ) -> dict[str, Tensor]:
        """From the last checkpoint of the same run to the end; the weights to keep, on the CPU."""
        start, apart = self.resume(checkpoint.restore(), steps, log), steps // VALIDATIONS
        for step in range(start, steps):
            values = one_step(step)
            if validation_loss and (step + 1) % max(LEAST_STEPS_APART, apart) == 0:
                values["validation_loss"] = validation_loss(self.kept())
            self.report(log, step + 1, steps, values)
            if checkpoint.due():
                checkpoint.write(self.state(step + 1))
        checkpoint.write(self.state(steps))
        return to_cpu(self.kept().state_dict())

    def report(self, log: Log, step: int, steps: int, values: dict[str, float]) -> None:
        """Report a step to `log`, and keep it for a run that resumes this one."""
        self.history.append((step, values))
        log(step, steps, values)

    def state(self, step: int) -> dict[str, Any]:
        """Everything `resume` needs to go on after `step`."""
        return {
            "step": step,
            "net": self.net.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average and self.average.state_dict(),
            "history": self.history,
        }

    def resume(self, state: dict[str, Any] | None, steps: int, log: Log) -> int:
        """Take a `state` back, report its steps to `log` again, and return the next step."""
        if state is None:
            return 0
        self.net.load_state_dict(state["net"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        for step, values in state["history"]:
            self.report(log, step, steps, values)
        return int(state["step"])
