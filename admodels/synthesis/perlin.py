"""Perlin noise in separable form: small matrix products per lattice row, no loop over pixels.

Fade weights and offsets both factor by axis. Along x, the gradients at the lattice points become
two lines of pixels per lattice row, C = sum cos(theta) F_x and S = sum sin(theta) S_x; along y,
each row of cells is then a product of weights (cell_px, 4) with the lines above and below it:
noise = sqrt(2) (S_y C + F_y S). At offset u with fade w(u), table F holds 1 - w, w and table S
holds (1 - w) u, w (u - 1) for the two lattice points around a pixel.

The products stay below the size from which BLAS starts threads: threads make so small a product
slower (30 times on a busy machine). Images are not stacked, so no image's bits depend on another's.
"""

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

LATTICE_PX = 32  # the finest lattice; noise is made for the next multiple of it, then cropped
BLOCK_PX = 32  # rows per product; 32 x 4 x 2048 multiplications are OpenBLAS's limit of one thread


def perlin_noise(theta: NDArray[Any], height_px: int, width_px: int) -> NDArray[Any]:
    """One octave of noise (height_px, width_px) in -1..1, of the dtype of `theta`.

    `theta` (r + 1, c + 1) float, radians: the gradient (cos along rows, sin along columns) at the
    corners of r x c cells, each a power of two up to 32. Zero at every lattice pixel.
    """
    rows, columns = theta.shape[0] - 1, theta.shape[1] - 1
    cell_px = _cell_px(height_px, rows)
    fade_x, slope_x = _weights(_cell_px(width_px, columns), theta.dtype)
    scale = theta.dtype.type(math.sqrt(2))
    cosines = _lines(scale * np.cos(theta), fade_x)
    sines = _lines(scale * np.sin(theta), slope_x)
    lines = np.stack((cosines[:-1], cosines[1:], sines[:-1], sines[1:]), axis=1)
    fade_y, slope_y = _weights(cell_px, theta.dtype)
    blocks = np.hstack((slope_y, fade_y)).reshape(-1, math.gcd(cell_px, BLOCK_PX), 4)
    noise: NDArray[Any] = (blocks @ lines[:, None]).reshape(rows * cell_px, -1)
    return noise[:height_px, :width_px]


def _cell_px(side_px: int, cells: int) -> int:
    return math.ceil(side_px / LATTICE_PX) * LATTICE_PX // cells


def _lines(values: NDArray[Any], weights: NDArray[Any]) -> NDArray[Any]:
    """Lattice values (r + 1, c + 1) spread along each lattice row: (r + 1, c * cell_px)."""
    pairs = np.stack((values[:, :-1], values[:, 1:]), axis=2)
    lines: NDArray[Any] = (pairs @ weights.T).reshape(len(values), -1)
    return lines


@lru_cache(maxsize=64)
def _weights(cell_px: int, dtype: DTypeLike) -> tuple[NDArray[Any], NDArray[Any]]:
    """The tables F and S over one cell, each (cell_px, 2), read-only."""
    u = np.arange(cell_px) / cell_px
    w = u**3 * (u * (6 * u - 15) + 10)
    fade = np.stack((1 - w, w), axis=1).astype(dtype)
    slope = np.stack(((1 - w) * u, w * (u - 1)), axis=1).astype(dtype)
    fade.flags.writeable = slope.flags.writeable = False  # shared by every call
    return fade, slope
