"""How long a piece of work takes on a device: what is comparable on a machine others use too."""

import time
from collections.abc import Callable

import torch


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """CPU-seconds of all threads on a CPU; wall seconds until a GPU has nothing left to do."""
    if device.type == "cpu":
        start = time.process_time()
        work()
        return time.process_time() - start
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


def compared(
    slow: Callable[[], object], fast: Callable[[], object], device: torch.device, repeats: int
) -> tuple[float, float, float]:
    """Medians of both, in turn after a warm-up of each, and the median of their ratios."""
    for work in (slow, fast):
        work()
    times = [(seconds(slow, device), seconds(fast, device)) for _ in range(repeats)]
    slow_median, fast_median = (sorted(t)[repeats // 2] for t in zip(*times, strict=True))
    return slow_median, fast_median, sorted(a / b for a, b in times)[repeats // 2]
