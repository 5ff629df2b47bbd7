"""What an image looks like in a few numbers: one definition for validation, scoring and drift."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from admodels.foundation.arrays import Records, UInt8, UInt16

THUMBNAIL_PX = 16
COARSE_PX = 128  # before: in whole grey levels, whose rounding averages out


@dataclass(frozen=True)
class Statistics:
    """Of the grey image: `brightness` (mean) and `contrast` (standard deviation) in 0..255.

    `sharpness` is the variance of its Laplacian, 0 or more.
    """

    brightness: float
    contrast: float
    sharpness: float


def _grey(rgb: UInt8) -> UInt8:
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)


def _mean_and_variance(values: NDArray[Any]) -> tuple[float, float]:
    # In whole numbers, so that no order of summing shows in a last digit.
    count, total = values.size, round(cv2.sumElems(values)[0])
    squares = round(cv2.norm(values, cv2.NORM_L2SQR))
    return total / count, (count * squares - total**2) / count**2


def statistics(rgb: UInt8) -> Statistics:
    """Of (H, W, 3) uint8, at the resolution it was stored in."""
    grey = _grey(rgb)
    brightness, variance = _mean_and_variance(grey)
    edges = cv2.Laplacian(grey, cv2.CV_16S)  # within +-1020
    return Statistics(brightness, math.sqrt(variance), _mean_and_variance(edges)[1])


def thumbnail(rgb: UInt8) -> UInt16:
    """Of (H, W, 3) uint8: (16, 16) mean grey levels times 256."""
    coarse = cv2.resize(_grey(rgb), (COARSE_PX, COARSE_PX), interpolation=cv2.INTER_AREA)
    side = COARSE_PX // THUMBNAIL_PX
    cells = coarse.reshape(THUMBNAIL_PX, side, THUMBNAIL_PX, side).mean(axis=(1, 3))
    return np.asarray(np.rint(cells * 256), dtype=np.uint16)


PROFILE_BINS = 64
CELLS = 16  # on each side
LEVEL = 1.0  # grey levels, added where a ratio or a logarithm would meet 0
ROUNDING = 20 / 12  # what rounding to grey levels adds to the variance of a Laplacian
FAINT = 0.01  # of the brightness, the same for the contrast in a cell
APPEARANCE = np.dtype(
    [
        ("brightness", np.float32),
        ("contrast", np.float32),
        ("sharpness", np.float32),
        ("noise", np.float32),
        ("red", np.float32),
        ("blue", np.float32),
        ("width", np.int32),
        ("height", np.int32),
        ("columns", np.float16, PROFILE_BINS),
        ("rows", np.float16, PROFILE_BINS),
        ("detail", np.float16, CELLS * CELLS),
    ]
)


def appearance(rgb: UInt8, plain: Statistics) -> Records:
    """Of (H, W, 3) uint8 at the resolution it was stored in, and its plain statistics: one record.

    `brightness` (mean), `columns` and `rows` (64 means along x and y) are in grey levels, `noise`
    is their standard deviation from pixel to pixel. Of ratios: `contrast` to brightness (RMS
    contrast, Peli 1990), `sharpness` to contrast squared, so that neither changes when the light
    does; `red` and `blue` to green. `detail`: the logarithm of the contrast in 16 x 16 cells.
    """
    grey = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)
    coarse = cv2.resize(grey, (COARSE_PX, COARSE_PX), interpolation=cv2.INTER_AREA)
    side, step = COARSE_PX // CELLS, COARSE_PX // PROFILE_BINS
    cells = coarse.reshape(CELLS, side, CELLS, side).std(axis=(1, 3))
    red, green, blue = (mean + LEVEL for mean in cv2.mean(rgb)[:3])
    record = np.zeros((), APPEARANCE)
    record["brightness"] = plain.brightness
    record["contrast"] = plain.contrast / (plain.brightness + LEVEL)
    record["sharpness"] = max(0.0, plain.sharpness - ROUNDING) / (plain.contrast**2 + LEVEL)
    record["noise"] = noise(grey)
    record["red"], record["blue"] = red / green, blue / green
    record["height"], record["width"] = grey.shape
    record["columns"] = coarse.mean(axis=0).reshape(PROFILE_BINS, step).mean(axis=1)
    record["rows"] = coarse.mean(axis=1).reshape(PROFILE_BINS, step).mean(axis=1)
    record["detail"] = np.log(cells / (plain.brightness + LEVEL) + FAINT).ravel()
    return record


def noise(grey: UInt8) -> float:
    """The standard deviation of the noise of (H, W), in grey levels.

    Immerkaer 1996, "Fast noise variance estimation", equation 4: a mask that sees neither flat
    nor sloping parts of an image.
    """
    mask = np.array([1, -2, 1], np.float32)
    response = cv2.sepFilter2D(grey, cv2.CV_16S, mask, mask)[1:-1, 1:-1]
    return math.sqrt(math.pi / 2) / 6 * cv2.norm(response, cv2.NORM_L1) / max(1, response.size)


def write_records(path: Path, records: Records) -> None:
    """(N,) records as safetensors: the same records give the same bytes."""
    names = APPEARANCE.names or ()
    save_file({name: np.ascontiguousarray(records[name]) for name in names}, path)


def unknown_records(count: int) -> Records:
    """(count,) records that say nothing: NaN, because 0 would be a measurement."""
    records = np.zeros(count, APPEARANCE)
    for name in APPEARANCE.names or ():
        if records[name].dtype.kind == "f":
            records[name] = np.nan
    return records


def read_records(path: Path) -> Records:
    """(N,) records, as `write_records` left them; NaN for what an older version did not measure."""
    columns = load_file(path)
    records = unknown_records(len(columns["brightness"]))
    for name, values in columns.items():
        records[name] = values
    return records


DIGITS = 4  # of brightness and contrast, here as in statistics.csv
PLAIN_BITS = 8  # fewer are written by programs, not by cameras


@dataclass(frozen=True)
class Look:
    """What is asked of an image; brightness and contrast in grey levels."""

    width: int
    height: int
    bit_depth: int
    is_grey: bool
    brightness: float
    contrast: float
