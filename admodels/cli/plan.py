"""`admodels plan`: what every cell would cost here, by short fits, before anything is run."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from admodels.cli.trial import MIB, Cell, Trial, run_trial
from admodels.evaluation.measure import Evaluate
from admodels.evaluation.power import Power
from admodels.foundation import params
from admodels.foundation.errors import ConfigurationError
from admodels.methods.parts.backbone_params import keeps_evidence

FEW_IMAGES = 48  # more than the images that CPR compares with
FEW_STEPS, MOST_STEPS = 3, 120
TRIAL_SECONDS = 10.0  # of CPU, for the steps of one trial
WHOLE_SECONDS = 45.0  # a fit without steps that takes no longer is run whole
VALIDATIONS, LEAST_STEPS_APART = 20, 4  # as admodels.methods.parts.training
PRESETS = Path("presets")


@dataclass(frozen=True)
class Cost:
    """What one cell would cost: CPU seconds, peak MiB of the training, MiB of its files."""

    preset: str
    method: str
    task: str
    fit: float
    image: float
    images: int  # that `train` and `evaluate` score
    peak_mib: float
    disk_mib: float

    @property
    def seconds(self) -> float:
        """CPU seconds of `train` and `evaluate`."""
        return self.fit + self.image * self.images


def presets() -> list[str]:
    """The names of the presets that stand here."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def plan(names: Sequence[str]) -> Iterator[Cost]:
    """The cost of every cell of `run` with the values of each preset, as soon as it is known.

    Raises:
        ConfigurationError: there is no such preset, or the images are not prepared.
    """
    for name in names:
        if name not in presets():
            raise ConfigurationError(
                f"no preset named `{name}`",
                where=PRESETS,
                expected=f"one of {', '.join(presets()) or 'none here'}",
                next_step="run in the repository root with one of these names",
            )
    run = params.read("run", params.Run)
    for name in names:
        for method in run.methods:
            values = params.load(PRESETS / f"{name}.yaml")["methods"][method]
            for task in run.tasks:
                cost = cost_of(name, Cell(method, task, values))
                known = f"{cost.fit:.1f} CPU seconds to fit, {cost.image:.3f} an image"
                sys.stderr.write(f"{name}, {method} on {task}: {known}\n")
                yield cost


def cost_of(preset: str, cell: Cell) -> Cost:
    """The cost of one cell, by short fits."""
    block, count = cell.block(), len(cell.rows())
    steps = block.training_steps(cell.kind, count)
    trial = trial_of(cell, count, has_steps=bool(steps))
    validations = steps // max(LEAST_STEPS_APART, steps // VALIDATIONS)
    fit = trial.setup + steps * trial.step + validations * trial.validation
    evaluate = params.read("evaluate", Evaluate)
    tested = cell.rows("test")
    scored = len(tested) + len(cell.rows("calibration"))
    pixels = 3 * block.image_px**2 / MIB
    maps = len(tested) * evaluate.mask_px**2 / MIB
    unread = (count - trial.images) * pixels
    return Cost(
        preset=preset,
        method=cell.method,
        task=cell.task,
        fit=fit,
        image=trial.image,
        images=scored + painted_images(evaluate.power, len(cell.rows("validation"))),
        peak_mib=trial.peak_mib + unread,
        disk_mib=trial.model_mib + maps + (count * pixels if keeps_evidence(block) else 0),
    )


def painted_images(power: Power, validation: int) -> int:
    """How many images with painted defects `evaluate` scores."""
    kinds = len(power.diameter_shares) * len(power.contrasts)
    return min(power.images, validation) * kinds


def trial_of(cell: Cell, count: int, *, has_steps: bool) -> Trial:
    """A trial that stands for a fit on all `count` images; `setup` grows with their number."""
    few = min(FEW_IMAGES, count)
    trial = run_trial(cell, few, FEW_STEPS)
    if has_steps:
        steps = min(MOST_STEPS, int(TRIAL_SECONDS / max(trial.step, 1e-3)))
        if steps > FEW_STEPS:
            trial = run_trial(cell, few, steps)
        return trial
    if few == count:
        return trial
    if trial.setup * count / few <= WHOLE_SECONDS:
        return run_trial(cell, count, 0)
    more = min(2 * few, count)
    return extrapolate(trial, run_trial(cell, more, 0), count)


def extrapolate(first: Trial, second: Trial, images: int) -> Trial:
    """The trial on `images`, on the line through two of them."""
    along = (images - first.images) / (second.images - first.images)

    def reach(name: str) -> float:
        low, high = getattr(first, name), getattr(second, name)
        return float(low + along * (high - low))

    grown = {name: reach(name) for name in ("setup", "peak_mib", "model_mib")}
    known = {"step": 0.0, "validation": 0.0, "image": second.image, "digest": ""}
    return Trial(images=images, **grown, **known)  # type: ignore[arg-type]


HEADS = ("preset", "method", "task", "fit CPU-s", "image CPU-s", "all CPU-min", "MiB", "disk MiB")


def table(costs: Sequence[Cost]) -> str:
    """A row for each cell."""
    rows = [HEADS, *map(_row, costs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(f"{text:{'<' if n < 3 else '>'}{widths[n]}}" for n, text in enumerate(row))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _row(cost: Cost) -> tuple[str, ...]:
    figures = (f"{cost.fit:.1f}", f"{cost.image:.3f}", f"{cost.seconds / 60:.1f}")
    sizes = (f"{cost.peak_mib:.0f}", f"{cost.disk_mib:.1f}")
    return (cost.preset, cost.method, cost.task, *figures, *sizes)


def verdict(costs: Sequence[Cost], minutes: float | None) -> Iterator[str]:
    """CPU minutes of each preset, whether it fits into so many `minutes`, and what fits best."""
    fitting = []
    for name in dict.fromkeys(cost.preset for cost in costs):
        taken = sum(cost.seconds for cost in costs if cost.preset == name) / 60
        fits = minutes is not None and taken <= minutes
        fitting += [(taken, name)] if fits else []
        words = "" if minutes is None else f": {'fits' if fits else 'does not fit'}"
        yield f"{name}: {taken:.1f} CPU minutes for all cells{words}"
    if minutes is not None:
        best = f"`admodels preset {max(fitting)[1]}`" if fitting else "fewer tasks or methods"
        yield f"for {minutes:g} CPU minutes: {best}"
