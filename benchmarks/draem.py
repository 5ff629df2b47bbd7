"""Full-width official DRAEM at 256 px on this machine: fp32/NCHW against what `admodels` runs.

python -m benchmarks.draem [--batch 8] [--repeats 3]
Seconds (of CPU time on a CPU) of one training step and of scoring one image, both forms in turn in
the same process, with their ratio. "Reference" is the published form: fp32, NCHW, batch norms not
folded.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from ruamel.yaml import YAML

from admodels.bundles import runtime
from admodels.methods.draem.detector import Detector
from admodels.methods.draem.losses import focal_loss, ssim_loss
from admodels.methods.draem.networks import Draem, initialise
from admodels.methods.draem.params import Params
from admodels.methods.parts.training import Training
from admodels.synthesis.anomalies import Batch
from benchmarks.timing import compared


def reference_step(net: Draem, optimiser: torch.optim.Optimizer, x: torch.Tensor) -> None:
    net.train()
    reconstruction, logits = net(x)
    loss = (reconstruction - x).square().mean() + ssim_loss(reconstruction, x)
    loss = loss + focal_loss(logits, torch.zeros(len(x), 1, *x.shape[2:], device=x.device))
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
    device = runtime.device()
    precision = runtime.precision("auto", device)
    batch, px = arguments.batch, params.image_px
    print(f"{device}, {torch.get_num_threads()} threads, {precision}, {px} px, batch {batch}")

    ours = Detector(params, device=device, precision=precision)
    theirs = Draem(params.reconstructive_width, params.discriminative_width)
    initialise(theirs, torch.Generator().manual_seed(0))
    ours.net.load_state_dict(theirs.state_dict())
    theirs.to(device)
    run = Training(ours.net, torch.optim.Adam(ours.net.parameters()), params.ema_decay)
    adam = torch.optim.Adam(theirs.parameters(), lr=1e-4)
    x = torch.rand(batch, 3, px, px, device=device)
    mask = torch.zeros(batch, 1, px, px, device=device)
    pixels = (x[:1] * 255).to(torch.uint8).cpu()
    pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "score one image": (lambda: reference_score(theirs, x[:1]), lambda: ours.score(pixels)),
        "training step": (
            lambda: reference_step(theirs, adam, x),
            lambda: ours._step(run, Batch(x, x, mask), 0, 1),
        ),
    }
    for name, (slow, fast) in pairs.items():
        slow_median, fast_median, ratio = compared(slow, fast, device, arguments.repeats)
        print(f"{name}: fp32/NCHW {slow_median:.3g} s, ours {fast_median:.3g} s,", end=" ")
        print(f"ratio {ratio:.1f}")


if __name__ == "__main__":
    main()
