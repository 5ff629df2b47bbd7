"""CPR at the paper's size here: time per image, retrieval against its unfold form, memory.

python -m benchmarks.cpr [--images 200] [--repeats 5]
DenseNet201 with random weights (times do not depend on them), 320 px, K = 10. CPU-seconds per image
of backbone, heads and retrieval, the retrieval's two forms in turn in the same process; then peak
memory and seconds of fitting and scoring, with as many training steps as it takes to fill what
training keeps at hand, and the size of the bundle's weights.
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from ruamel.yaml import YAML
from safetensors.torch import save_file
from torch.nn import functional as F

from admodels.methods import Synthetic, TrainingData
from admodels.methods.cpr.detector import Detector
from admodels.methods.cpr.heads import nearest_distance
from admodels.methods.cpr.params import Params

CPU = torch.device("cpu")
STEPS = 16  # of 32 pairs: SAMPLES_AT_HAND


def official(**changes: object) -> Params:
    block = YAML(typ="safe").load(Path("presets/official.yaml"))["methods"]["cpr"]
    random = {"backbone_weights": "random", "backbone_sha256": "", "precision": "fp32"}
    return Params.model_validate_json(json.dumps(block | random | changes), strict=True)


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    work()
    return statistics.median(cpu_seconds(work) for _ in range(repeats))


def unfolded_distance(query: torch.Tensor, references: torch.Tensor, region: int) -> torch.Tensor:
    """The published form: all neighbourhoods of all references side by side."""
    height, width, channels = query.shape
    maps = references.float().permute(0, 3, 1, 2)
    columns = F.unfold(maps, region, padding=region // 2)
    around = columns.view(len(maps), channels, region**2, height * width)
    cosine = (query.permute(2, 0, 1).reshape(1, channels, 1, -1) * around).sum(1)
    inside = F.unfold(torch.ones(1, 1, height, width), region, padding=region // 2)
    nearest = cosine.masked_fill(inside.view(1, region**2, -1) == 0, -9).amax((0, 1))
    return (1 - nearest).view(height, width)


def retrieval(side: int, region: int, repeats: int) -> tuple[float, float, float]:
    """CPU-seconds of our form and of the unfold form, and their largest difference."""
    torch.manual_seed(side)
    query = F.normalize(torch.randn(side, side, 384), dim=-1)
    references = F.normalize(torch.randn(10, side, side, 384), dim=-1).half()
    ours, theirs = (
        form(query, references, region) for form in (nearest_distance, unfolded_distance)
    )
    times = [
        (
            cpu_seconds(lambda: nearest_distance(query, references, region)),
            cpu_seconds(lambda: unfolded_distance(query, references, region)),
        )
        for _ in range(repeats)
    ]
    fast, slow = (statistics.median(t) for t in zip(*times, strict=True))
    return fast, slow, float((ours - theirs).abs().max())


def show_speed(repeats: int) -> None:
    detector = Detector(official(), device=CPU, precision=torch.float32)
    frozen, heads = detector._backbone_for_scoring(), detector._heads_for_scoring()
    image = torch.randint(0, 256, (1, 3, 320, 320), dtype=torch.uint8)
    taps = frozen.compute(image)
    backbone = median_seconds(lambda: frozen.compute(image), repeats)
    local = median_seconds(lambda: detector._descriptors(heads, taps), repeats)
    forms = [retrieval(80, 3, repeats), retrieval(40, 1, repeats)]
    fast, slow = (sum(form[i] for form in forms) for i in (0, 1))
    print(
        f"CPU-seconds per image: backbone {backbone:.3f}, heads {local:.3f}, retrieval {fast:.3f},"
    )
    print(f"  together {backbone + local + fast:.3f}")
    print(f"retrieval by unfold {slow:.3f}: ours is {slow / fast:.0f}x faster,", end=" ")
    print(f"largest difference {max(form[2] for form in forms):.1e}")


def show_memory(images: int) -> None:
    params = official(steps={"object": STEPS, "texture": STEPS})
    normal = torch.randint(0, 256, (images, 3, 320, 320), dtype=torch.uint8)
    held_out = Synthetic(normal[:1], torch.zeros(1, 320, 320, dtype=torch.bool))
    data = TrainingData(normal, normal[:2], held_out, None, {})
    detector = Detector(params, device=CPU, precision=torch.float32)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        detector.fit(data, kind="object", seed=0, checkpoints=Path(folder), log=lambda *_: None)
        fitted = time.monotonic() - start
        detector.score(normal[: params.score_chunk_images])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        state = detector.state()
        parts = sum(tensor.nbytes for tensor in state.values()) / 2**20
        save_file(state, Path(folder) / "model.safetensors")
        size = (Path(folder) / "model.safetensors").stat().st_size / 2**20
    bank = sum(t.nbytes for key, t in state.items() if key.startswith("bank.")) / 2**20
    print(f"{images} images, {STEPS} steps: fitted in {fitted:.0f} s,", end=" ")
    print(f"peak {peak:.0f} MiB of fit and score,", end=" ")
    print(f"bank {bank:.0f} MiB, bundle {size:.0f} MiB of {parts:.0f} MiB in its tensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, fp32")
    show_memory(arguments.images)  # first: the unfold form would be the peak
    show_speed(arguments.repeats)


if __name__ == "__main__":
    main()
