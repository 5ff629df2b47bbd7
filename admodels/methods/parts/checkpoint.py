"""Training that survives an interruption: a run's state, written every few minutes, outside DVC.

DVC deletes an out before it runs the stage, so this stands in `.work/checkpoints/`.
"""

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor

from admodels.foundation.files import durable_file

SECONDS_BETWEEN = 60.0


def run_fingerprint(params: BaseModel, facts: Sequence[object], tensors: Sequence[Tensor]) -> str:
    """What makes two training runs the same run; a checkpoint of another run is never resumed.

    `facts` are the seed, the compute type and whatever else has a say. The code of this package
    and the number of threads are among them.
    """
    words = [str(fact) for fact in (*facts, torch.get_num_threads())]
    digest = hashlib.sha256(f"{params.model_dump_json()} {words}".encode())
    for module in sorted(Path(__file__).parents[2].rglob("*.py")):
        digest.update(module.read_bytes())
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


class Checkpoint:
    """One file in `folder`; who started the run removes it when the result is safe."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._path = folder / "last.pt"
        self._fingerprint = fingerprint
        self._written = time.monotonic()

    def restore(self) -> dict[str, Any] | None:
        """The state of this very run, or None: nothing there, another run's, or damaged."""
        try:
            content: dict[str, Any] = torch.load(self._path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, UnpicklingError):
            return None
        return content["state"] if content.get("fingerprint") == self._fingerprint else None

    def due(self) -> bool:
        """Whether it is time; the interval changes no result."""
        return time.monotonic() - self._written >= SECONDS_BETWEEN

    def write(self, state: dict[str, Any]) -> None:
        """Replace the file by `state`, whole or not at all."""
        with durable_file(self._path) as partial:
            torch.save({"fingerprint": self._fingerprint, "state": state}, partial)
        self._written = time.monotonic()
