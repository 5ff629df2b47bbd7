"""Devices, precision and checkpoints."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from admodels import methods
from admodels.bundles import runtime
from admodels.foundation import cores
from admodels.foundation.errors import ConfigurationError
from admodels.foundation.params import Run
from admodels.methods.parts.checkpoint import Checkpoint, run_fingerprint

CPU = torch.device("cpu")
CPU_INFO = Path("/proc/cpuinfo")


def test_a_named_device_is_taken_and_an_absent_one_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ADMODELS_DEVICE", "cpu")
    assert runtime.device() == CPU
    monkeypatch.setenv("ADMODELS_DEVICE", "cuda:99")
    with pytest.raises(ConfigurationError, match="cuda:99"):
        runtime.device()


def test_a_compute_type_is_that_of_the_request() -> None:
    assert runtime.precision("fp32", CPU) == torch.float32
    assert runtime.precision("bf16", CPU) == torch.bfloat16


@pytest.mark.skipif(not CPU_INFO.is_file(), reason=f"no {CPU_INFO} to compare with")
def test_auto_is_bf16_where_the_kernel_lists_instructions_for_it() -> None:
    flags = set(CPU_INFO.read_text(encoding="ascii").split())
    fast = bool(flags & {"amx_bf16", "avx512_bf16"})
    assert runtime.precision("auto", CPU) == (torch.bfloat16 if fast else torch.float32)


def test_a_checkpoint_comes_back_only_to_the_run_that_wrote_it(tmp_path: Path) -> None:
    Checkpoint(tmp_path, "this run").write({"step": 3, "weights": torch.ones(2)})
    found = Checkpoint(tmp_path, "this run").restore()
    assert found is not None
    assert found["step"] == 3
    assert torch.equal(found["weights"], torch.ones(2))
    assert Checkpoint(tmp_path, "another run").restore() is None


@pytest.mark.parametrize("keep", [0, 10, -10])
def test_a_damaged_checkpoint_is_a_fresh_start(tmp_path: Path, keep: int) -> None:
    checkpoint = Checkpoint(tmp_path, "this run")
    assert checkpoint.restore() is None
    checkpoint.write({"step": 3})
    file = tmp_path / "last.pt"
    file.write_bytes(file.read_bytes()[:keep])
    assert checkpoint.restore() is None


def test_a_checkpoint_is_never_unpickled_as_code(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "boom",))  # type: ignore[return-value]

    torch.save({"fingerprint": "this run", "state": Bomb()}, tmp_path / "last.pt")
    assert Checkpoint(tmp_path, "this run").restore() is None
    assert not (tmp_path / "boom").exists()


def test_a_run_is_known_by_its_params_facts_and_pixels() -> None:
    params = Run(methods=("a",), tasks=("b",))
    pixels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    changed = pixels.clone()
    changed[1, 2, 3, 3] = 1
    prints = {
        run_fingerprint(params, [7, "object"], [pixels]),
        run_fingerprint(Run(methods=("a",), tasks=("c",)), [7, "object"], [pixels]),
        run_fingerprint(params, [8, "object"], [pixels]),
        run_fingerprint(params, [7, "texture"], [pixels]),
        run_fingerprint(params, [7, "object"], [changed]),
    }
    assert len(prints) == 5
    assert run_fingerprint(params, [7, "object"], [pixels.clone()]) in prints


def test_a_run_with_another_number_of_threads_is_another_run() -> None:
    def prints(threads: int) -> str:
        torch.set_num_threads(threads)
        return run_fingerprint(Run(methods=("a",), tasks=("b",)), [7], [])

    threads = torch.get_num_threads()
    try:
        assert prints(1) == prints(1) != prints(2)
    finally:
        torch.set_num_threads(threads)


FIT = """
import hashlib, os, sys, tempfile
from pathlib import Path
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])
import torch
from admodels import methods
from tests import tiny
torch.set_num_threads(1)
for method in methods.available():
    detector = tiny.fitted(method, Path(tempfile.mkdtemp()))
    scored = methods.predict(detector, torch.from_numpy(tiny.stripes(5, seed=3)), 2)
    digest = hashlib.sha256(scored.anomaly_map.numpy().tobytes())
    for name, tensor in sorted(detector.state().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    print(method, digest.hexdigest())
"""


@pytest.mark.slow
@pytest.mark.skipif(cores.available() < 2, reason="only one core here")
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_a_training_gives_the_same_bytes_with_one_and_with_two_cores() -> None:
    """Libraries start as many threads as there are cores, unless somebody says how many."""
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    root = str(Path(__file__).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", FIT, str(count)], env=environment, stdout=subprocess.PIPE
        )
        for count in (1, 2)
    ]
    one, two = (run.communicate()[0].decode().splitlines() for run in runs)
    assert [line.split()[0] for line in one] == methods.available()
    assert one == two


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_the_cores_are_those_that_affinity_leaves() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert (cores.available(), cores.free()) == (1, 1)
    finally:
        os.sched_setaffinity(0, before)
    assert 1 <= cores.free() <= cores.available() <= len(before)
