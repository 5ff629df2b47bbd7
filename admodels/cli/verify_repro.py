"""`admodels verify-repro`: is a training the same twice? A few steps of every cell, two times."""

from collections.abc import Iterator

from admodels.cli.trial import Cell, run_trial
from admodels.foundation import params

STEPS, IMAGES = 4, 48
MACHINES = (
    "Another machine may give other weights: processors add numbers in another order, a GPU and "
    "another torch use other kernels, `train.threads` changes the order, and `precision: auto` "
    "takes bf16 where it is fast. Splits, manifests and synthetic images are the same everywhere; "
    "a bundle that is copied scores its golden images within its tolerance, or is refused."
)


def verify() -> Iterator[tuple[bool, str]]:
    """Whether both short trainings of each cell of `run` gave the same weights, and words."""
    run = params.read("run", params.Run)
    for method in run.methods:
        values = params.read(f"methods.{method}", dict)
        for task in run.tasks:
            cell = Cell(method, task, values)
            first, second = (run_trial(cell, IMAGES, STEPS, scored=False).digest for _ in range(2))
            same = first == second
            words = f"the same twice, {first[:16]}" if same else f"{first[:16]} and {second[:16]}"
            yield same, f"{method} on {task}: {words}"
