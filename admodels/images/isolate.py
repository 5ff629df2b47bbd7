"""Run a piece of our code in a process of its own, which can be stopped at any time.

For bytes whose cost no header bounds: a thread cannot be interrupted inside a decoder, and has no
memory of its own to be limited.
"""

import os
import resource
import subprocess
import sys
from collections.abc import Sequence

SECONDS = 20  # of a processor
PATIENCE = 4  # times as long by the clock, on a machine that is busy


class OverBudget(Exception):  # noqa: N818  the file's cost, and nobody's mistake
    """The process took more time or memory than it was given."""


def run_with_limits(program: str, words: Sequence[str], data: bytes, memory_bytes: int) -> bytes:
    """What the Python `program` writes when it gets `data`, `words` being its arguments.

    Raises:
        OverBudget: it was stopped, or ended without an answer.
    """
    limits = f"from admodels.images.isolate import limit; limit({memory_bytes}); {program}"
    command = [sys.executable, "-P", "-c", limits, *words]  # no module of the working folder
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        ended = subprocess.run(
            command, input=data, capture_output=True, timeout=PATIENCE * SECONDS, env=environment
        )
    except subprocess.TimeoutExpired:
        raise OverBudget(f"decoding took more than {PATIENCE * SECONDS} s") from None
    if ended.returncode:
        raise OverBudget(f"decoding took more than {SECONDS} s or {memory_bytes >> 20} MiB")
    return ended.stdout


def limit(memory_bytes: int) -> None:
    """Give this process so much memory beside what it has, and SECONDS of a processor."""
    import admodels.images.decode  # noqa: F401  what it loads is not of the image

    held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()  # noqa: SIM115, PTH123
    resource.setrlimit(resource.RLIMIT_AS, (held + memory_bytes, held + memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
