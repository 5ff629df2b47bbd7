"""Batch scoring a factory trusts for visual anomaly detection.

import admodels

model = admodels.load("data/models/cpr/mvtec_bottle")
verdict = model.score("part.png", alpha=0.01)
"""

import os
from importlib import import_module

# Arrow reads it once, when it is first imported: its own allocator keeps several times what it uses
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

# Where each public name stands; it is imported when it is first asked for, and torch with it.
_PUBLIC = {
    "load": "admodels.library",
    "Model": "admodels.library",
    "Verdict": "admodels.library",
    "AdmodelsError": "admodels.foundation.errors",
}
__all__ = ["AdmodelsError", "Model", "Verdict", "__version__", "load"]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("admodels")
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
