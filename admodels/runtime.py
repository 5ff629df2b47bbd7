"""What may differ from machine to machine without changing a result: device, bars, clocks.

The compute type does change the last digits of a result, so it is resolved once, when a detector
is trained, and stands in its bundle.
"""

import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Literal, TypeVar

import torch
from tqdm import tqdm

from admodels.errors import ConfigurationError

T = TypeVar("T")
LINES_PER_RUN = 10


def device(name: str = "auto") -> torch.device:
    """The device to compute on: `name`, else the environment's ADMODELS_DEVICE, else the best.

    Raises:
        ConfigurationError: the named device does not exist here.
    """
    wanted = os.environ.get("ADMODELS_DEVICE", "auto") if name == "auto" else name
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError) as error:
        raise ConfigurationError(
            f"device `{wanted}` cannot be used: {str(error).splitlines()[0]}",
            where="ADMODELS_DEVICE",
            expected="cpu, cuda, cuda:N or auto",
            next_step="unset ADMODELS_DEVICE, or see `admodels doctor`",
        ) from None
    return torch.device(wanted)


def has_fast_bf16(where: torch.device) -> bool:
    """Whether bfloat16 arithmetic is in the hardware and not emulated."""
    if where.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities()
    return bool(found.get("amx_bf16") or found.get("avx512_bf16"))


def precision(request: Literal["auto", "fp32", "bf16"], where: torch.device) -> torch.dtype:
    """The compute type that params ask for; `auto` is bfloat16 where the hardware is fast in it."""
    if request == "auto":
        return torch.bfloat16 if has_fast_bf16(where) else torch.float32
    return torch.bfloat16 if request == "bf16" else torch.float32


class Progress:
    """How far a long work is: a bar on a terminal, about ten plain lines elsewhere (stderr)."""

    def __init__(self, total: int, label: str) -> None:
        self._total, self._label, self._start = total, label, time.monotonic()
        self._bar = tqdm(total=total, desc=label) if sys.stderr.isatty() else None

    def at(self, done: int) -> None:
        """Say that `done` of the total are done."""
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
            if done == self._total:
                self._bar.close()
        elif done % max(1, self._total // LINES_PER_RUN) == 0 or done == self._total:
            seconds = time.monotonic() - self._start
            sys.stderr.write(f"{self._label}: {done}/{self._total} after {seconds:.0f} s\n")


def progress(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """`items`, each shown as done once the next one is asked for."""
    shown = Progress(total, label)
    for done, item in enumerate(items, 1):
        yield item
        shown.at(done)


class Cost:
    """Wall and CPU seconds since it was made, and the peak memory of this process."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def so_far(self) -> dict[str, float]:
        """`seconds`, `cpu_seconds` and `peak_mib` (resident set, or CUDA's where there is one)."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        found = {
            "seconds": round(time.monotonic() - self._wall, 2),
            "cpu_seconds": round(time.process_time() - self._cpu, 2),
            "peak_mib": round(peak, 1),
        }
        if torch.cuda.is_available():
            found["peak_cuda_mib"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
        return found
