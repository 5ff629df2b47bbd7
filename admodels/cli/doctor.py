"""What this machine is, and what is missing for a run: each missing thing with its command."""

import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from admodels.cli.check import check
from admodels.foundation.errors import AdmodelsError
from admodels.foundation.params import Run, read
from admodels.sources.source import Source, Task

PACKAGES = (
    *("admodels", "torch", "torchvision", "numpy", "pandas", "pyarrow", "opencv-python-headless"),
    *("pillow", "scikit-image", "dvc", "mlflow", "great-expectations"),
)


def machine() -> Iterator[tuple[str, str]]:
    """(what, how it is) of the machine and the packages; imports torch."""
    import torch

    from admodels.bundles import runtime

    device = runtime.device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield "python", f"{platform.python_version()} on {platform.system()} {platform.release()}"
    yield "cores", f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} usable"
    yield "memory", f"{memory:.1f} GiB"
    yield "device", f"{device} ({name})"
    fast = runtime.has_fast_bf16(device)
    yield "precision", f"auto means {'bf16' if fast else 'fp32: no fast bf16 here'}"
    yield "torch threads", str(torch.get_num_threads())
    for package in PACKAGES:
        yield package, _version(package)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing: run `make install`"


def differences(plant: Path) -> Iterator[str]:
    """Lines whose bundle is no longer what the registry names by the address it was deployed by."""
    from admodels.nights import deploy

    for line, deployed in deploy.deployments(plant).items():
        try:
            text = deploy.moved_alias(deployed[-1]) if deployed else ""
        except AdmodelsError as error:
            text = f"{deployed[-1].origin}: {error.fault}"
        if text:
            yield f"{line}: {text}: `admodels deploy {line} ADDRESS`, or leave it as it is"


def lines_without_rhythm(plant: Path) -> Iterator[str]:
    """Lines without a rhythm by which their silence could be noticed."""
    from admodels.nights.close import unwatched_lines
    from admodels.nights.plant import read_plant

    try:
        reasons = unwatched_lines(plant / "ledger", read_plant(plant))
    except AdmodelsError as error:
        yield str(error)
        return
    for line, reason in reasons.items():
        yield f"{line}: silence cannot be told from its rhythm ({reason}): write `expect:` for it"


def missing(root: Path = Path()) -> Iterator[str]:
    """What `dvc repro` still has to make or cannot find, one line each with what to run."""
    path = root / "params.yaml"
    try:
        check(path)
    except AdmodelsError as error:
        yield str(error)
        return
    run = read("run", Run, path)
    sources = {f"tasks.{name}": read(f"tasks.{name}", Task, path).source for name in run.tasks}
    sources["textures"] = read("textures", Source, path)
    for key, source in sources.items():
        place = root / Path(source.location).expanduser()
        if source.kind != "sample" and "://" not in source.location and not place.exists():
            yield f"{key}: {source.location} is missing: restore or mount it"
    for name in run.tasks:
        yield from _unless(root, f"data/raw/{name}", f"fetch@{name}")
    yield from _unless(root, "data/textures", "textures")
    for method in run.methods:
        yield from _unless(root, f"data/weights/{method}", f"weights@{method}")
        for name in run.tasks:
            yield from _unless(root, f"data/models/{method}/{name}", f"train@{method}-{name}")


def _unless(root: Path, path: str, stage: str) -> Iterator[str]:
    if not (root / path).exists():
        yield f"{path} is missing: `dvc repro {stage}`"
