"""What one synthetic sample costs: ours against the steps of the official code, in one run.

`python benchmarks/synthesis.py` prints CPU milliseconds per sample, one thread, 256 px, batch 8.
Ours is all of `synthetic_batch` from cached uint8 images. The reference takes the official path
step by step: decode a 1024 px PNG and a texture JPEG for every sample, Perlin noise from tiled
lattice arrays in float64, Pillow's augmenters, float64 blending, and the coin for clean samples
after the work. It stands on our own augmenters where imgaug would add its overhead, so the ratio
is a lower bound. The minimum over rounds is taken, because the machine may be shared.
"""

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import torch
from PIL import Image, ImageEnhance

from admodels.foundation.arrays import Float32, Float64, UInt8
from admodels.synthesis.anomalies import synthetic_batch
from admodels.synthesis.augmenters import AUGMENTERS, rotate
from admodels.synthesis.params import Generator

SIDE, STORED_PX, BATCH, STEPS, ROUNDS = 256, 1024, 8, 25, 5
SPECIFIED_MS = 39  # the official code, shared/methods/draem.md section 9.3

GENERATOR = Generator(
    lattice_exponent_max=5,
    noise_rotation_degrees=90.0,
    mask_threshold=0.5,
    image_opacity_min=0.0,
    image_opacity_max=0.8,
    augmenters_per_texture=3,
    clean_share=0.5,
    image_rotation_share=0.3,
    image_rotation_degrees=90.0,
)


def scene(seed: int, height: int, width: int) -> UInt8:
    """A smooth picture with grain, so that files have the size of photographs."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(30, 220, (12, 12, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    return np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


def tiled_noise(rows: int, columns: int, rng: np.random.Generator) -> Float64:
    """Perlin noise as commonly written: four gradient arrays of full size, made by repeating."""
    cell = SIDE // rows, SIDE // columns
    grid = np.mgrid[0 : rows : rows / SIDE, 0 : columns : columns / SIDE].transpose(1, 2, 0) % 1
    angles = 2 * np.pi * rng.random((rows + 1, columns + 1))
    gradients = np.stack((np.cos(angles), np.sin(angles)), axis=-1)

    def ramp(a: int, b: int) -> Float64:
        corner = gradients[a : rows + a, b : columns + b]
        full = np.repeat(np.repeat(corner, cell[0], axis=0), cell[1], axis=1)
        return ((grid - np.array([a, b])) * full).sum(axis=2)

    fade = 6 * grid**5 - 15 * grid**4 + 10 * grid**3
    top = ramp(0, 0) + (ramp(1, 0) - ramp(0, 0)) * fade[..., 0]
    bottom = ramp(0, 1) + (ramp(1, 1) - ramp(0, 1)) * fade[..., 0]
    return np.sqrt(2) * (top + (bottom - top) * fade[..., 1])


def pillow_sharpness(image: UInt8, rng: np.random.Generator) -> UInt8:
    enhanced = ImageEnhance.Sharpness(Image.fromarray(image)).enhance(rng.uniform(0, 2))
    return np.asarray(enhanced)


def read_at_side(path: Path) -> UInt8:
    return cv2.resize(cv2.imread(str(path)), (SIDE, SIDE))


def reference_sample(
    normal: Path, texture: Path, rng: np.random.Generator
) -> tuple[Float32, Float32, Float32]:
    image = read_at_side(normal)
    if rng.random() < 0.3:
        image = rotate(image, rng.uniform(-90, 90))
    clean = image.astype(np.float32) / 255
    augmenters = [*AUGMENTERS[:2], pillow_sharpness, *AUGMENTERS[3:]]
    appearance = read_at_side(texture)
    for index in rng.choice(10, size=3, replace=False):
        appearance = augmenters[index](appearance, rng)
    rows, columns = 2 ** rng.integers(6, size=2)
    noise = rotate(tiled_noise(rows, columns, rng), rng.uniform(-90, 90))
    mask = np.where(noise > 0.5, np.ones_like(noise), np.zeros_like(noise))[:, :, None]
    opacity = rng.uniform(0, 0.8)
    pasted = appearance.astype(np.float32) * mask / 255.0
    blended = clean * (1 - mask) + (1 - opacity) * pasted + opacity * clean * mask
    if rng.random() > 0.5:
        blended, mask = clean.astype(np.float64), np.zeros_like(mask)
    blended = mask * blended + (1 - mask) * clean
    planes = [np.transpose(a, (2, 0, 1)).astype(np.float32) for a in (clean, blended, mask)]
    return planes[0], planes[1], planes[2]


def cpu_ms(work: Callable[[int], object], steps: int, samples_per_step: int) -> float:
    """CPU milliseconds per sample, the least of `ROUNDS`."""
    work(0)
    seconds = []
    for round_ in range(ROUNDS):
        start = time.process_time()
        for step in range(steps):
            work(round_ * steps + step)
        seconds.append(time.process_time() - start)
    return min(seconds) / steps / samples_per_step * 1000


def main() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with TemporaryDirectory() as folder:
        normal, texture = Path(folder, "normal.png"), Path(folder, "texture.jpg")
        cv2.imwrite(str(normal), scene(0, STORED_PX, STORED_PX))
        cv2.imwrite(str(texture), scene(1, 427, 640))
        rng = np.random.default_rng(0)
        reference = cpu_ms(lambda _: reference_sample(normal, texture, rng), 20, 1)
        decoding = cpu_ms(lambda _: (read_at_side(normal), read_at_side(texture)), 20, 1)
    normals, textures = (
        torch.from_numpy(np.stack([scene(s + i, SIDE, SIDE) for i in range(20)]))
        .permute(0, 3, 1, 2)
        .contiguous()
        for s in (100, 200)
    )

    def batch(step: int) -> object:
        return synthetic_batch(normals, textures, GENERATOR, batch=BATCH, seed=1, step=step)

    ours = cpu_ms(batch, STEPS, BATCH)
    print(f"reference path      {reference:7.2f} ms per sample (decoding {decoding:.2f})")
    print(f"synthetic_batch     {ours:7.2f} ms per sample")
    print(f"ratio               {reference / ours:7.1f}")
    print(f"ratio, cached       {(reference - decoding) / ours:7.1f} (reference without decoding)")
    print(
        f"against {SPECIFIED_MS} ms       {SPECIFIED_MS / ours:7.1f} (specification, other machine)"
    )


if __name__ == "__main__":
    main()
