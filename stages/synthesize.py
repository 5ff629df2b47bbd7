"""Draw the held-out synthetic anomalies of one task: validation images + textures -> PNG, CSV."""

from pathlib import Path

from admodels.foundation import manifest, params
from admodels.foundation.params import Kind
from admodels.images import area as areas
from admodels.images import load, rules
from admodels.images.load import load_textures, texture_paths
from admodels.images.shape import ratios
from admodels.synthesis import held_out
from admodels.synthesis.foreground import foreground
from admodels.synthesis.params import Synthesize
from stages import run


def main(task: str) -> None:
    """Only validation images are opened: calibration and test images are never painted on."""
    block = params.read("synthesize", Synthesize)
    rows = manifest.read(Path("data/manifests", task, "validation.csv"))
    raw = Path("data/raw", task)
    reading = rules.read(Path("data/manifests", task, "image_rules.json")).reading
    shape = block.shape(ratios(rows)[1])
    normal = load.load_images(rows, raw, shape, block.resize, reading)
    folder = Path("data/textures")
    names = [path.relative_to(folder).as_posix() for path in texture_paths(folder)]
    textures = dict(zip(names, load_textures(folder, shape), strict=True))
    mattes = load.load_foreground(rows, raw, shape, block.resize)
    kind: Kind = params.read(f"tasks.{task}.kind", Kind)  # type: ignore[arg-type]
    parts = foreground(normal, mattes, kind)
    area = areas.read_written(Path("data/manifests", task, areas.AREA_FILE))
    inspected = None if area is None else area.seen(shape)
    seed = params.read("seed", int)
    samples = held_out.draw(rows, normal, textures, parts, block, seed, inspected)
    held_out.write(Path("data/synthetic", task), samples)


if __name__ == "__main__":
    run(main)
