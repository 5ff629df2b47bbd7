"""What may differ from machine to machine without changing a result: device and clocks.

The compute type does change the last digits of a result, so it is resolved once, when a detector
is trained, and stands in its bundle.
"""

import os
import resource
import time
from pathlib import Path
from typing import Literal

import torch

from admodels.foundation.errors import ConfigurationError
from admodels.foundation.files import write_json


def device(name: str = "auto") -> torch.device:
    """The device to compute on: `name`, else the environment's ADMODELS_DEVICE, else the best.

    Raises:
        ConfigurationError: the named device does not exist here.
    """
    wanted = os.environ.get("ADMODELS_DEVICE", "auto") if name == "auto" else name
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError) as error:
        raise ConfigurationError(
            f"device `{wanted}` cannot be used: {str(error).splitlines()[0]}",
            where="ADMODELS_DEVICE",
            expected="cpu, cuda, cuda:N or auto",
            next_step="unset ADMODELS_DEVICE, or see `admodels doctor`",
        ) from None
    chosen = torch.device(wanted)
    if chosen.type == "cuda":
        # fp32 means fp32 (bf16 is the fast path), and the same run gives the same bytes
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = True
        torch.use_deterministic_algorithms(True, warn_only=True)
    return chosen


def has_fast_bf16(where: torch.device) -> bool:
    """Whether bfloat16 arithmetic is in the hardware and not emulated."""
    if where.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def precision(request: Literal["auto", "fp32", "bf16"], where: torch.device) -> torch.dtype:
    """The compute type that params ask for; `auto` is bfloat16 where the hardware is fast in it."""
    if request == "auto":
        return torch.bfloat16 if has_fast_bf16(where) else torch.float32
    return torch.bfloat16 if request == "bf16" else torch.float32


class Cost:
    """Wall and CPU seconds since it was made, and the peak memory of this process.

    Written apart from results, because it differs from run to run.
    """

    def __init__(self) -> None:
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def so_far(self) -> dict[str, float]:
        """`seconds`, `cpu_seconds`, `peak_mib` (resident set) and CUDA's peak where it was used."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        costs = {
            "seconds": round(time.monotonic() - self._wall, 2),
            "cpu_seconds": round(time.process_time() - self._cpu, 2),
            "peak_mib": round(peak, 1),
        }
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            costs["peak_cuda_mib"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
        return costs

    def write(self, path: Path, **more: float | str) -> None:
        """Write what `so_far` says, and `more`, as JSON."""
        write_json(path, self.so_far() | more)
