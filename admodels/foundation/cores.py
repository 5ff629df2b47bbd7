"""How many processor cores this process may use, and how many of them nobody uses."""

from __future__ import annotations

import psutil

SAMPLE_SECONDS = 0.5


def available() -> int:
    """The cores that affinity and the quota of a container (cgroup) leave to this process."""
    import joblib

    return int(joblib.cpu_count())


def free() -> int:
    """How many of them are idle now, at least 1; takes half a second."""
    process = psutil.Process()
    own = process.cpu_affinity() if hasattr(process, "cpu_affinity") else None
    busy = psutil.cpu_percent(SAMPLE_SECONDS, percpu=True)
    idle: float = sum(1 - busy[core] / 100 for core in own or range(len(busy)))
    return max(1, min(available(), round(idle)))
