"""Full-width official DiffusionAD at 256 px on this machine: the published form against ours.

python -m benchmarks.diffusionad [--repeats 1]
The peak memory of one training step with micro-batches of one image, without and with
checkpointing, each in a process of its own. Then seconds (of CPU time on a CPU) of one inference
image: two passes one after the other in fp32, NCHW and with autograd's graph (as the official
evaluation runs) against `Detector.score`, in turn in the same process, with their ratio.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from ruamel.yaml import YAML

from admodels.bundles import runtime
from admodels.methods.diffusionad.detector import Detector, DiffusionAd, training_noise
from admodels.methods.diffusionad.diffusion import alpha_bars, guided_x0, noisy_image, x0_from_eps
from admodels.methods.diffusionad.params import Params
from admodels.methods.parts.training import Training
from admodels.synthesis.anomalies import Batch
from benchmarks.timing import compared


def official(**changes: object) -> Params:
    block = YAML(typ="safe").load(Path("presets/official.yaml"))["methods"]["diffusionad"]
    return Params.model_validate_json(json.dumps(block | changes), strict=True)


def detector(params: Params) -> Detector:
    device = runtime.device()
    return Detector(params, device=device, precision=runtime.precision("auto", device))


def reference_score(net: DiffusionAd, x0: torch.Tensor) -> torch.Tensor:
    schedule, estimates = alpha_bars(1000).to(x0.device), []
    for noise, step in zip(net.noise[0], (200, 400), strict=True):
        t = torch.tensor([step], device=x0.device)
        x_t = noisy_image(x0, schedule[t], noise[None])
        estimates.append(x0_from_eps(x_t, schedule[t], net.denoiser(x_t, t)))
    guided = guided_x0(*estimates, schedule[[200]], 1.0)
    return net.segmentation(torch.cat([x0, guided], dim=1)).sigmoid().detach()


def compare_scoring(repeats: int) -> None:
    ours = detector(official())
    theirs = DiffusionAd(official()).to(ours.device, memory_format=torch.contiguous_format).eval()
    theirs.load_state_dict(ours.net.state_dict())
    pixels = torch.randint(0, 256, (1, 3, 256, 256), dtype=torch.uint8)
    slow, fast, ratio = compared(
        lambda: reference_score(theirs, pixels.to(ours.device) / 255),
        lambda: ours.score(pixels),
        ours.device,
        repeats,
    )
    print(
        f"score one image: sequential fp32 {slow:.3g} s, ours {fast:.3g} s, ratio {ratio:.1f}",
        end=" ",
    )
    print(f"({ours.device}, {torch.get_num_threads()} threads, precision {ours.precision})")


def training_step(*, checkpointing: bool) -> None:
    """One image in a batch of two, whose batch norm needs it: the denoiser holds one at a time."""
    params = official(batch_images=2, micro_batch_images=1, checkpointing=checkpointing)
    ours, cost = detector(params), runtime.Cost()
    run = Training(ours.net, torch.optim.Adam(ours.net.parameter_groups()), params.ema_decay)
    x0 = torch.rand(2, 3, 256, 256, device=ours.device)
    mask = torch.zeros(2, 1, 256, 256, device=ours.device)
    ours._step(run, Batch(x0, x0, mask), *training_noise(params, 0, 0), 0, 1)
    found = cost.so_far()
    print(f"training step of 2 images, micro-batch 1, checkpointing {checkpointing}:", end=" ")
    peak = found.get("peak_cuda_mib", found["peak_mib"])
    print(f"peak {peak:.0f} MiB of {ours.device}, {found['cpu_seconds']:.0f} CPU-s")


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
