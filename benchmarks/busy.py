"""What a training step of quick DRAEM costs beside busy processes, by its number of threads.

    python -m benchmarks.busy [--threads 1 2] [--busy 0 1 17] [--steps 20]

prints the mean wall and CPU seconds of a step, and the wall seconds over those of the fair share:
those of a step of one thread that gets as much of a core as each busy process got meanwhile (a
whole core where there is none). So that figure also holds on a machine that does other work.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import torch

from admodels.bundles import runtime
from admodels.foundation import cores, params
from admodels.methods.draem.detector import Detector
from admodels.methods.draem.params import Params
from admodels.methods.parts.training import Training
from admodels.synthesis.anomalies import synthetic_batch

IMAGES = 64


def spin() -> None:
    while os.getppid() != 1:  # ends with its parent
        sum(range(10_000))


@contextmanager
def busy_processes(count: int) -> Iterator[Callable[[], float]]:
    """Gives the CPU-seconds that each has had, in the mean."""
    processes = [multiprocessing.Process(target=spin, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    known = [psutil.Process(process.pid) for process in processes]
    try:
        yield lambda: sum(p.cpu_times().user for p in known) / count
    finally:
        for process in processes:
            process.kill()
            process.join()


def training() -> Callable[[int], None]:
    """One step of it, drawing its images included."""
    block = params.read("methods.draem", Params)
    precision = runtime.precision(block.precision, torch.device("cpu"))
    detector = Detector(block, device=torch.device("cpu"), precision=precision)
    run = Training(detector.net, torch.optim.Adam(detector.net.parameters()), block.ema_decay)
    generator = torch.Generator().manual_seed(0)
    shape = (IMAGES, 3, block.image_px, block.image_px)
    images = torch.randint(256, shape, generator=generator, dtype=torch.uint8)

    def step(number: int) -> None:
        batch = synthetic_batch(
            images, images, block.generator, batch=block.batch_images, seed=0, step=number
        )
        detector._step(run, batch, number, 1000)

    step(0)  # builds what the others find
    return step


def measure(threads: int, others: int, steps: int) -> tuple[float, float, float]:
    """Wall and CPU seconds of a step, and the share of a core that a busy process had."""
    torch.set_num_threads(threads)
    step = training()
    with busy_processes(others) as had:
        start, cpu, share = time.perf_counter(), time.process_time(), had() if others else 0.0
        for number in range(1, steps + 1):
            step(number)
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        share = (had() - share) / wall if others else 1.0
    return wall / steps, cpu / steps, share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 17])
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    print(f"{cores.available()} cores, load {os.getloadavg()[0]:.1f} before")
    alone = measure(1, 0, arguments.steps)[1]
    for threads in arguments.threads:
        for others in arguments.busy:
            wall, cpu, share = measure(threads, others, arguments.steps)
            row = {"threads": threads, "busy": others, "wall": round(wall, 3), "cpu": round(cpu, 3)}
            row["times_the_fair_share"] = round(wall * share / alone, 2)
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
