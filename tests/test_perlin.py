import math

import numpy as np
import pytest

from admodels.synthesis.perlin import perlin_noise

# Vectors: specification of DRAEM, section 11 (draem.md), and of DiffusionAD, section 14.1.


def angles(seed, rows, columns):
    return 2 * np.pi * np.random.RandomState(seed).rand(rows + 1, columns + 1)


def plain_noise(theta, height, width):
    """The definition, pixel by pixel."""
    rows, columns = theta.shape[0] - 1, theta.shape[1] - 1
    period_y, period_x = math.ceil(height / 32) * 32, math.ceil(width / 32) * 32

    def fade(t):
        return 6 * t**5 - 15 * t**4 + 10 * t**3

    noise = np.empty((height, width))
    for i in range(height):
        for j in range(width):
            p, q = i * rows / period_y, j * columns / period_x
            k, m = int(p), int(q)
            u, v = p - k, q - m

            def corner(a, b, k=k, m=m, u=u, v=v):
                angle = theta[k + a, m + b]
                return math.cos(angle) * (u - a) + math.sin(angle) * (v - b)

            left = corner(0, 0) + (corner(1, 0) - corner(0, 0)) * fade(u)
            right = corner(0, 1) + (corner(1, 1) - corner(0, 1)) * fade(u)
            noise[i, j] = math.sqrt(2) * (left + (right - left) * fade(v))
    return noise


@pytest.mark.parametrize("lattice", [(1, 1), (1, 32), (4, 2), (16, 8)])
@pytest.mark.parametrize("size", [(32, 32), (32, 64), (20, 50)])
def test_noise_is_the_definition_pixel_by_pixel(lattice, size):
    theta = angles(3, *lattice)
    assert np.abs(perlin_noise(theta, *size) - plain_noise(theta, *size)).max() < 1e-12


@pytest.mark.parametrize(
    ("seed", "lattice", "side", "at_10_20", "at_33_57", "mean", "std", "count"),
    [
        (0, (1, 1), 256, -0.079710811806, -0.151051343038, 0.094959760919, 0.170368638154, 0),
        (0, (4, 8), 256, 0.219318626233, 0.093997535080, -0.010487458107, 0.318818613479, 3606),
        (1, (32, 2), 256, 0.040643758782, 0.655017559767, 0.006662000150, 0.314809753345, 4399),
        (7, (4, 4), 64, 0.192714632494, -0.231821484234, -0.032370123601, 0.321927792638, 280),
    ],
)
def test_noise_of_the_official_code_is_reproduced(
    seed, lattice, side, at_10_20, at_33_57, mean, std, count
):
    noise = perlin_noise(angles(seed, *lattice), side, side)
    found = [noise[10, 20], noise[33, 57], noise.mean(), noise.std()]
    assert found == pytest.approx([at_10_20, at_33_57, mean, std], abs=1e-9)
    assert np.count_nonzero(noise > 0.5) == count


@pytest.mark.parametrize(
    ("lattice", "at_3_5", "at_100_200", "share"),
    [
        ((16, 2), 0.255246663, 0.309655040, 0.030319),
        ((32, 32), 0.615056757, 0.082742415, 0.055008),
    ],
)
def test_noise_of_diffusionad_is_reproduced(lattice, at_3_5, at_100_200, share):
    noise = perlin_noise(angles(7, *lattice), 256, 256)
    assert [noise[3, 5], noise[100, 200]] == pytest.approx([at_3_5, at_100_200], abs=1e-9)
    assert np.mean(noise > 0.5) == pytest.approx(share, abs=1e-6)


def test_equal_gradients_along_rows_give_a_profile_over_rows_only():
    noise = perlin_noise(np.zeros((5, 9)), 256, 256)
    assert np.ptp(noise, axis=1).max() < 1e-15
    assert noise[16, 0] == pytest.approx(0.2071601898, abs=1e-9)
    assert noise.max() == pytest.approx(0.2073915, abs=1e-7)
    turned = perlin_noise(np.full((9, 5), np.pi / 2), 256, 256)
    assert turned == pytest.approx(noise.T, abs=1e-12)


def test_gradients_towards_the_centre_reach_one_there():
    theta = np.pi * np.array([[1 / 4, -1 / 4], [3 / 4, 5 / 4]])
    noise = perlin_noise(theta, 256, 256)
    assert [noise[128, 128], noise[0, 0], noise[64, 64]] == pytest.approx([1, 0, 0.603515625])
    assert np.count_nonzero(noise > 0.5) == 41305


@pytest.mark.parametrize("rows", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("columns", [1, 2, 4, 8, 16, 32])
def test_noise_is_zero_at_lattice_pixels_bounded_and_the_same_in_float32(rows, columns):
    theta = angles(11, rows, columns)
    noise = perlin_noise(theta, 96, 64)
    assert np.abs(noise[:: 96 // rows, :: 64 // columns]).max() < 1e-15
    assert np.abs(noise).max() <= 1
    assert perlin_noise(theta + np.pi, 96, 64) == pytest.approx(-noise, abs=1e-12)
    mirrored = perlin_noise((np.pi / 2 - theta).T, 64, 96)
    assert mirrored == pytest.approx(noise.T, abs=1e-12)
    single = perlin_noise(theta.astype(np.float32), 96, 64)
    assert single.dtype == np.float32
    assert np.abs(single - noise).max() < 1e-6


def test_a_side_not_divisible_by_32_is_a_crop_of_the_next_multiple():
    theta = angles(5, 8, 32)
    whole = perlin_noise(theta, 64, 320)
    assert np.array_equal(perlin_noise(theta, 50, 300), whole[:50, :300])


def test_noise_does_not_depend_on_what_was_drawn_before():
    theta = angles(2, 4, 4)
    first = perlin_noise(theta, 64, 64)
    first_copy = first.copy()
    first += 1
    assert np.array_equal(perlin_noise(theta, 64, 64), first_copy)
