"""Full-width official DRAEM at 256 px on this machine: fp32/NCHW against what `admodels` runs.

python -m benchmarks.draem [--batch 8] [--repeats 3]
CPU-seconds of one training step and of scoring one image, both forms in turn in the same process,
with their ratio. "Reference" is the published form: fp32, NCHW, batch norms not folded.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from ruamel.yaml import YAML

from admodels import runtime
from admodels.methods.draem.detector import Detector
from admodels.methods.draem.losses import focal_loss, ssim_loss
from admodels.methods.draem.networks import Draem, initialise
from admodels.methods.draem.params import Params
from admodels.training import Training


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def reference_step(net: Draem, optimiser: torch.optim.Optimizer, x: torch.Tensor) -> None:
    net.train()
    reconstruction, logits = net(x)
    loss = (reconstruction - x).square().mean() + ssim_loss(reconstruction, x)
    loss = loss + focal_loss(logits, torch.zeros(len(x), 1, *x.shape[2:]))
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def reference_score(net: Draem, x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return net.eval()(x)[1].softmax(1)[:, 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    block = YAML(typ="safe").load(Path("presets/official.yaml"))["methods"]["draem"]
    params = Params.model_validate_json(json.dumps(block), strict=True)
    device = torch.device("cpu")
    precision = runtime.precision("auto", device)
    batch, px = arguments.batch, params.image_px
    print(f"{torch.get_num_threads()} threads, precision {precision}, {px} px, batch {batch}")

    ours = Detector(params, device=device, precision=precision)
    initialise(ours.net, torch.Generator().manual_seed(0))
    theirs = Draem(params.reconstructive_width, params.discriminative_width)
    theirs.load_state_dict(ours.net.state_dict())
    run = Training(ours.net, torch.optim.Adam(ours.net.parameters()), params.ema_decay)
    adam = torch.optim.Adam(theirs.parameters(), lr=1e-4)
    x = torch.rand(batch, 3, px, px)
    mask = torch.zeros(batch, 1, px, px)
    pixels = (x[:1] * 255).to(torch.uint8)
    pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "score one image": (lambda: reference_score(theirs, x[:1]), lambda: ours.score(pixels)),
        "training step": (
            lambda: reference_step(theirs, adam, x),
            lambda: ours._step(run, x, x, mask, 0, 1),
        ),
    }
    for name, (slow, fast) in pairs.items():
        slow(), fast()
        times = [(cpu_seconds(slow), cpu_seconds(fast)) for _ in range(arguments.repeats)]
        slow_median, fast_median = (sorted(t)[len(t) // 2] for t in zip(*times, strict=True))
        ratio = sorted(a / b for a, b in times)[len(times) // 2]
        print(f"{name}: fp32/NCHW {slow_median:.2f} CPU-s, ours {fast_median:.2f} CPU-s,", end=" ")
        print(f"ratio {ratio:.1f}")


if __name__ == "__main__":
    main()
