"""Which pixels of an image are inspected: a grey PNG of the size of the image, after its turn.

Level 0 is left out, every other level is inspected. Levels may have names: the zones that a region
can lie in. An area that inspects every pixel and names none is no area: it fits any image.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from PIL import PngImagePlugin

from admodels.foundation.arrays import Bool, Float64, Indices, UInt8
from admodels.foundation.errors import DataError
from admodels.foundation.params import Strict
from admodels.images.pose import cut_mask, native_shape
from admodels.images.shape import Shape

AREA_FILE = "area.png"
ZONES = "zones"  # the text in an area.png that has the names of its levels
ORIENTATION = 0x0112  # of EXIF


class AreaStamp(Strict):
    """What the preparation of images says of an area: its size and the hash of what it inspects."""

    width: int
    height: int
    sha256: str

    def fault(self, width: int, height: int) -> str | None:
        """Why the area does not say where an image of that size is inspected."""
        if (width, height) == (self.width, self.height):
            return None
        return f"{width} x {height} px, and the inspected area has {self.width} x {self.height}"


@dataclass(frozen=True)
class Area:
    """`levels` (H, W) uint8, and the names of some of them."""

    levels: UInt8
    zones: Mapping[int, str] = field(default_factory=dict)

    @property
    def inside(self) -> Bool:
        """(H, W) bool."""
        return self.levels > 0

    @property
    def is_everywhere(self) -> bool:
        """Whether it is no area: every pixel is inspected, and none has a name."""
        return bool(self.inside.all()) and not self.zones

    @property
    def stamp(self) -> AreaStamp:
        """Of what it inspects; zones may get other names without a new calibration."""
        height, width = self.levels.shape
        content = f"{height} x {width} ".encode() + np.packbits(self.inside).tobytes()
        return AreaStamp(width=width, height=height, sha256=hashlib.sha256(content).hexdigest())

    def seen(self, shape: Shape, place: Float64 | None = None) -> Bool:
        """What is inspected of what a detector sees, (*shape) bool; `place` as in `pose.Views`.

        A pixel that shows anything inspected is inspected. Beyond the image nothing is.
        """
        if place is None:
            return shrink(self.inside, shape)
        native = native_shape(place, self.levels.shape)
        return shrink(cut_mask(self.inside, place, native), shape)

    def zone_of(self, region: Bool) -> str:
        """The zone that most named pixels of a region (H, W) lie in; empty where there is none."""
        pixels = np.bincount(self.levels[region], minlength=256)
        count, _, name = max(
            ((int(pixels[level]), -level, name) for level, name in self.zones.items()),
            default=(0, 0, ""),
        )
        return name if count else ""


def shrink(mask: Bool, shape: Shape) -> Bool:
    """(H, W) bool as `shape`: whether anything of what each new pixel shows is True."""
    for axis, length in enumerate(shape):
        mask = _any_along(mask, length, axis)
    return mask


def _any_along(mask: Bool, length: int, axis: int) -> Bool:
    edges = np.arange(length + 1) * mask.shape[axis]
    first: Indices = edges[:-1] // length
    behind: Indices = -(-edges[1:] // length)
    ahead = [(0, 0), (0, 0)]
    ahead[axis] = (1, 0)
    total = np.pad(mask.cumsum(axis), ahead)
    return np.asarray(total.take(behind, axis) > total.take(first, axis))


def read_area(path: Path, sha256: str, zones: Mapping[int, str]) -> Area:
    """The area that a task or a line names, pinned by its hash.

    Raises:
        DataError: it is missing, is not the pinned file, or does not say which pixels it leaves
            out; images would be judged by what nobody meant.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise refusal(f"cannot be read: {error.strerror}", path, "a grey PNG file") from None
    actual = hashlib.sha256(data).hexdigest()
    if actual != sha256:
        raise refusal(f"the file has sha256 {actual}", path, f"its pin, {sha256}")
    return parse_area(data, path, zones)


def parse_area(data: bytes, where: object, zones: Mapping[int, str]) -> Area:
    """The area in a PNG file, its levels named by `zones`.

    Raises:
        DataError: it is no grey PNG of 8 bits, is turned, is black, or has no pixel of a zone.
    """
    expected = "a grey PNG of 8 bits: 0 where nothing is inspected, other levels elsewhere"
    try:
        image = Pillow.open(io.BytesIO(data))
        image.load()
    except (OSError, ValueError, SyntaxError, Pillow.DecompressionBombError) as error:
        raise refusal(f"no readable image: {type(error).__name__}", where, expected) from None
    if image.format != "PNG":
        raise refusal(f"a {image.format} file, whose levels may be noisy", where, expected)
    if image.getexif().get(ORIENTATION, 1) != 1:
        raise refusal("EXIF says that the image is turned", where, "stored as it is looked at")
    levels = _levels(image)
    if levels is None:
        raise refusal(f"an image of mode {image.mode}, not grey", where, expected)
    if not levels.any():
        raise refusal("every pixel is 0, so nothing would be inspected", where, expected)
    absent = sorted(set(zones) - set(np.unique(levels).tolist()))
    if absent:
        names = ", ".join(f"{level} ({zones[level]})" for level in absent)
        known = ", ".join(map(str, np.unique(levels)[:12].tolist()))
        raise refusal(f"no pixel has the level {names}", where, f"zones of its levels: {known}")
    return Area(levels, dict(zones))


def _levels(image: Pillow.Image) -> UInt8 | None:
    """(H, W) uint8; None where the levels are not plain. RGB of three equal channels is grey."""
    if image.mode in ("L", "1"):
        return np.array(image.convert("L"))
    if image.mode not in ("RGB", "RGBA", "LA"):
        return None
    pixels = np.array(image.convert("RGBA"))
    grey = pixels[:, :, :1]
    is_plain = (pixels[:, :, :3] == grey).all() and (pixels[:, :, 3] == 255).all()
    return np.ascontiguousarray(grey[:, :, 0]) if is_plain else None


def write_area(path: Path, area: Area) -> None:
    """Write an area as PNG; it has the names of its levels in it."""
    about = PngImagePlugin.PngInfo()
    if area.zones:
        about.add_text(ZONES, json.dumps(dict(sorted(area.zones.items()))))
    Pillow.fromarray(area.levels).save(path, format="PNG", pnginfo=about)


def read_written(path: Path) -> Area | None:
    """What `write_area` wrote; None where everything is inspected.

    Raises:
        DataError: missing, or not as it was written.
    """
    try:
        data = path.read_bytes()
        zones = json.loads(Pillow.open(io.BytesIO(data)).info.get(ZONES, "{}"))
        area = parse_area(data, path, {int(level): str(name) for level, name in zones.items()})
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(
            f"the inspected area cannot be read: {type(error).__name__}",
            where=str(path),
            expected="what the validate stage writes beside the manifests",
            next_step="dvc repro validate",
        ) from None
    return None if area.is_everywhere else area


def everywhere(width: int, height: int) -> Area:
    """The area of a task that names none: all white."""
    return Area(np.full((height, width), 255, np.uint8))


def refusal(fault: str, where: object, expected: str) -> DataError:
    """An area that must not be used."""
    return DataError(
        f"area: {fault}",
        where=str(where),
        expected=expected,
        next_step="correct the file, then `admodels area set`, which pins it anew",
    )
