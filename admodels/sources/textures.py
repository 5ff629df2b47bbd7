"""Fetches the textures that anomalies are painted with: a folder, archive or URL, or the packaged.

The packaged ones are photographs inside the wheels of scikit-image and scikit-learn (never
brick, gravel or grass, which are the sample tasks) and procedural textures drawn here.
"""

import hashlib
import json
from collections.abc import Callable
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import numpy as np

from admodels.foundation.arrays import Float64, UInt8
from admodels.foundation.errors import DataError
from admodels.foundation.files import names_text, sha256_of, whole_folder
from admodels.images import decode, load
from admodels.images.load import texture_paths
from admodels.images.shape import square
from admodels.sources import fetch
from admodels.sources.source import Source

PACKAGED = "packaged"
REFRESH = "admodels textures LOCATION"
PACKAGED_VERSION = 1  # raise it with any change of what is drawn or cut: it is part of the pin
TEXTURE_PX = 256
SEED = 41
VARIANTS = 2
SCIKIT_IMAGE = (
    *("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "coins.png"),
    *("hubble_deep_field.jpg", "ihc.png", "retina.jpg", "rocket.jpg", "text.png"),
)
SCIKIT_LEARN = ("china.jpg", "flower.jpg")
LICENCE = (
    "photographs of scikit-image: CC0, public domain or no known copyright, as its documentation "
    "says of each; china.jpg (danielbuechele) and flower.jpg (vultilion) of scikit-learn: "
    "CC BY 2.0; procedural textures: CC0"
)
LICENCE_OF_OTHERS = "not stated here: see the source"


def pin_textures(location: str) -> Source:
    """The texture source at `location`, or `packaged`, as it is now.

    Raises:
        SourceError: nothing can be reached there.
    """
    if location != PACKAGED:
        return fetch.pin_source(location)
    digest = hashlib.sha256(f"version {PACKAGED_VERSION}\n".encode())
    for photo in _photographs():
        digest.update(hashlib.sha256(photo.read_bytes()).digest())
    return Source(kind="sample", location=PACKAGED, sha256=digest.hexdigest())


def fetch_textures(source: Source, target: Path) -> None:
    """Write the textures and textures.json into the folder `target`, whole or not at all.

    Raises:
        SourceError: the source cannot be reached.
        DataError: it differs from its pin, holds no image, or an image does not decode.
    """
    with whole_folder(target) as content:
        if source.kind == "sample":
            fetch.refuse_other(source, pin_textures(PACKAGED).sha256, REFRESH)
            _draw(content)
        else:
            fetch.fetch_source(source, "", content, REFRESH)
        paths = texture_paths(content)
        skipped = [p for p in content.rglob("*") if p.is_file() and p not in set(paths)]
        for path in skipped:
            path.unlink()
        _refuse_unreadable(paths)
        text = json.dumps(_listing(source, content, paths, len(skipped)), indent=1, sort_keys=True)
        (content / "textures.json").write_text(text + "\n", encoding="utf-8", newline="\n")


def _listing(source: Source, content: Path, paths: list[Path], skipped: int) -> dict[str, object]:
    return {
        "count": len(paths),
        "skipped": skipped,
        "source": {"kind": source.kind, "name": Path(source.location).name},
        "source_sha256": source.sha256,
        "licence": LICENCE if source.kind == "sample" else LICENCE_OF_OTHERS,
        "images": {p.relative_to(content).as_posix(): sha256_of(p) for p in paths},
    }


def _refuse_unreadable(paths: list[Path]) -> None:
    def fault(path: Path) -> str:
        try:
            decode.decode_image(path.read_bytes(), path.name)
        except decode.UnreadableImage as error:
            return f"{path.name} ({error.reason})"
        return ""

    faults = [fault for fault in load.in_threads(fault, paths, "check textures") if fault]
    if faults:
        raise DataError(
            f"{len(faults)} unreadable texture images",
            where=names_text(faults),
            expected="whole images only",
            next_step=f"replace or remove them, then `{REFRESH}`",
        )


def _photographs() -> list[Traversable]:
    scikit_image, scikit_learn = files("skimage") / "data", files("sklearn") / "datasets/images"
    return [scikit_image / n for n in SCIKIT_IMAGE] + [scikit_learn / n for n in SCIKIT_LEARN]


def _draw(target: Path) -> None:
    for photo in _photographs():
        rgb = decode.decode_image(photo.read_bytes(), photo.name).rgb
        for name, half in _halves(rgb).items():
            path = target / "photographs" / f"{photo.name.split('.')[0]}_{name}.png"
            decode.write_png(path, decode.resize_image(half, square(TEXTURE_PX), "area"))
    for kind, (name, plane) in enumerate(PROCEDURAL.items()):
        for variant in range(VARIANTS):
            rng = np.random.default_rng([SEED, kind, variant])
            path = target / "procedural" / f"{name}_{variant}.png"
            decode.write_png(path, _in_colours(plane(rng), rng))


def _halves(rgb: UInt8) -> dict[str, UInt8]:
    """Two squares side by side, as large as fit, in the middle of the height."""
    height, width = rgb.shape[:2]
    side = min(height, width // 2)
    top = (height - side) // 2
    middle = rgb[top : top + side]
    return {"left": middle[:, :side], "right": middle[:, width - side :]}


def _in_colours(plane: Float64, rng: np.random.Generator) -> UInt8:
    """A plane as RGB: its range, stretched to 0..1, runs through three random colours."""
    colours = rng.uniform(0, 255, size=(3, 3))
    unit = (plane - plane.min()) / (plane.max() - plane.min())
    channels = [np.interp(unit, (0, 0.5, 1), colours[:, channel]) for channel in range(3)]
    return np.asarray(np.rint(np.stack(channels, axis=-1)), dtype=np.uint8)


def _turn(rng: np.random.Generator) -> Float64:
    """The two coordinates (2, P, P), px, turned by a random angle."""
    y, x = np.indices((TEXTURE_PX, TEXTURE_PX)).astype(np.float64)
    angle = rng.uniform(0, np.pi)
    return np.stack([y * np.cos(angle) - x * np.sin(angle), y * np.sin(angle) + x * np.cos(angle)])


def _noise(rng: np.random.Generator, roughness: float = 1.5) -> Float64:
    """Gaussian noise whose spectrum falls as 1 / frequency ** roughness, deviation 1."""
    frequencies = np.fft.fftfreq(TEXTURE_PX)
    radius = np.hypot(frequencies[:, None], frequencies[None, :])
    radius[0, 0] = np.inf
    spectrum = np.fft.fft2(rng.standard_normal((TEXTURE_PX, TEXTURE_PX))) / radius**roughness
    plane = np.real(np.fft.ifft2(spectrum))
    return np.asarray(plane / plane.std())


def _checks(rng: np.random.Generator) -> Float64:
    y, x = _turn(rng) // rng.uniform(12, 40)
    return np.asarray((y + x) % 2 + 0.1 * _noise(rng))


def _stripes(rng: np.random.Generator) -> Float64:
    y, _ = _turn(rng)
    return np.asarray(np.sin(2 * np.pi * y / rng.uniform(8, 40)) + 0.1 * _noise(rng))


def _dots(rng: np.random.Generator) -> Float64:
    period = rng.uniform(14, 36)
    y, x = _turn(rng) % period - period / 2
    return np.asarray((np.hypot(y, x) < period * rng.uniform(0.2, 0.4)) + 0.1 * _noise(rng))


def _rings(rng: np.random.Generator) -> Float64:
    """Wood: rings around a far heart, bent by noise."""
    y, x = _turn(rng) + rng.uniform(50, 300, size=(2, 1, 1))
    return np.asarray(np.sin(np.hypot(y, 0.3 * x) / rng.uniform(2, 5) + 0.7 * _noise(rng, 1.8)))


def _marble(rng: np.random.Generator) -> Float64:
    y, _ = _turn(rng)
    return np.asarray(np.abs(np.sin(y / rng.uniform(15, 40) + 2 * _noise(rng, 1.6))))


def _cells(rng: np.random.Generator) -> Float64:
    """The distance to the nearest of 60 seeds: pebbles and cracks."""
    y, x = np.indices((TEXTURE_PX, TEXTURE_PX)).astype(np.float64)
    seeds = rng.uniform(0, TEXTURE_PX, size=(60, 2))
    return np.asarray(np.min([np.hypot(y - sy, x - sx) for sy, sx in seeds], axis=0))


PROCEDURAL: dict[str, Callable[[np.random.Generator], Float64]] = {
    "checks": _checks,
    "stripes": _stripes,
    "dots": _dots,
    "rings": _rings,
    "marble": _marble,
    "cells": _cells,
    "clouds": _noise,
}
