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

SECONDS_BETWEEN = 60.0


def run_fingerprint(params: BaseModel, seed: int, kind: str, tensors: Sequence[Tensor]) -> str:
    """What makes two training runs the same run; a checkpoint of another run is never resumed."""
    digest = hashlib.sha256(f"{params.model_dump_json()} {seed} {kind}".encode())
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


class Checkpoint:
    """One file in `folder`; `interval` is in seconds and changes no result."""

    def __init__(self, folder: Path, fingerprint: str, interval: float = SECONDS_BETWEEN) -> None:
        self._path = folder / "last.pt"
        self._fingerprint = fingerprint
        self._interval = interval
        self._written = time.monotonic()

    def restore(self) -> dict[str, Any] | None:
        """The state of this very run, or None: nothing there, another run's, or damaged."""
        try:
            found: dict[str, Any] = torch.load(
                self._path, map_location="cpu", weights_only=True, mmap=False
            )
        except (OSError, RuntimeError, EOFError, ValueError, UnpicklingError):
            return None
        return found["state"] if found.get("fingerprint") == self._fingerprint else None

    def due(self) -> bool:
        """Whether the interval has passed."""
        return time.monotonic() - self._written >= self._interval

    def write(self, state: dict[str, Any]) -> None:
        """Replace the file by `state`, whole or not at all."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".tmp")
        torch.save({"fingerprint": self._fingerprint, "state": state}, temporary)
        temporary.replace(self._path)
        self._written = time.monotonic()

    def forget(self) -> None:
        """Remove the file: the run has ended."""
        self._path.unlink(missing_ok=True)
