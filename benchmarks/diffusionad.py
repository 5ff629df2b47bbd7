"""Full-width official DiffusionAD at 256 px on this machine: the published form against ours.

python -m benchmarks.diffusionad [--repeats 1]
The peak memory of one training step with micro-batches of one image, without and with
checkpointing, each in a process of its own. Then CPU-seconds of one inference image: two passes one
after the other in fp32, NCHW and with autograd's graph (as the official evaluation runs) against
`Detector.score`, in turn in the same process, with their ratio.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from ruamel.yaml import YAML

from admodels import runtime
from admodels.methods.diffusionad.detector import Detector, DiffusionAd, training_noise
from admodels.methods.diffusionad.diffusion import alpha_bars, guided_x0, noised, x0_from_eps
from admodels.methods.diffusionad.params import Params
from admodels.synthesis.anomalies import Batch
from admodels.training import Training


def official(**changes: object) -> Params:
    block = YAML(typ="safe").load(Path("presets/official.yaml"))["methods"]["diffusionad"]
    return Params.model_validate_json(json.dumps(block | changes), strict=True)


def detector(params: Params) -> Detector:
    device = torch.device("cpu")
    return Detector(params, device=device, precision=runtime.precision("auto", device))


def reference_score(net: DiffusionAd, x0: torch.Tensor) -> torch.Tensor:
    schedule, estimates = alpha_bars(1000), []
    for noise, step in zip(net.noise[0], (200, 400), strict=True):
        t = torch.tensor([step])
        x_t = noised(x0, schedule[t], noise[None])
        estimates.append(x0_from_eps(x_t, schedule[t], net.denoiser(x_t, t)))
    guided = guided_x0(*estimates, schedule[[200]], 1.0)
    return net.segmentation(torch.cat([x0, guided], dim=1)).sigmoid().detach()


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def compare_scoring(repeats: int) -> None:
    ours = detector(official())
    theirs = DiffusionAd(official()).to(memory_format=torch.contiguous_format).eval()
    theirs.load_state_dict(ours.net.state_dict())
    pixels = torch.randint(0, 256, (1, 3, 256, 256), dtype=torch.uint8)
    pairs = (lambda: reference_score(theirs, pixels / 255), lambda: ours.score(pixels))
    for work in pairs:
        work()
    times = [[cpu_seconds(work) for work in pairs] for _ in range(repeats)]
    slow, fast = (sorted(column)[repeats // 2] for column in zip(*times, strict=True))
    ratio = sorted(a / b for a, b in times)[repeats // 2]
    print(f"score one image: sequential fp32 {slow:.1f} CPU-s, ours {fast:.1f} CPU-s,", end=" ")
    print(f"ratio {ratio:.1f} ({torch.get_num_threads()} threads, precision {ours.precision})")


def training_step(*, checkpointing: bool) -> None:
    """One image in a batch of two, whose batch norm needs it: the denoiser holds one at a time."""
    params = official(batch_images=2, micro_batch_images=1, checkpointing=checkpointing)
    ours, cost = detector(params), runtime.Cost()
    run = Training(ours.net, torch.optim.Adam(ours.net.parts()), params.ema_decay)
    x0, mask = torch.rand(2, 3, 256, 256), torch.zeros(2, 1, 256, 256)
    ours._step(run, Batch(x0, x0, mask), *training_noise(params, 0, 0), 0, 1)
    found = cost.so_far()
    print(f"training step of 2 images, micro-batch 1, checkpointing {checkpointing}:", end=" ")
    print(f"peak {found['peak_mib']:.0f} MiB, {found['cpu_seconds']:.0f} CPU-s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--step", choices=["plain", "checkpointing"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        training_step(checkpointing=arguments.step == "checkpointing")
        return
    for step in ("plain", "checkpointing"):  # first: a child's peak begins at that of its parent
        subprocess.run([sys.executable, "-m", "benchmarks.diffusionad", "--step", step], check=True)
    compare_scoring(arguments.repeats)


if __name__ == "__main__":
    main()
