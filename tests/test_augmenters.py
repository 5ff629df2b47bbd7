import colorsys

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from scipy.stats import chisquare

from admodels.synthesis import augmenters
from admodels.synthesis.augmenters import AUGMENTERS

# Vectors: specification of DRAEM, section 11 (draem.md), and of DiffusionAD, section 14.1.

V = [0, 1, 31, 32, 50, 64, 100, 127, 128, 200, 254, 255]


def grey(values):
    """Values as one row of grey pixels."""
    return np.repeat(np.array(values, dtype=np.uint8)[None, :, None], 3, axis=2)


def picture(seed=0, side=48):
    """Smooth colours with some noise, and a flat patch."""
    rng = np.random.default_rng(seed)
    i, j = np.mgrid[:side, :side] / side
    colours = np.stack([i, j, (i + j) / 2], axis=2) * 200 + rng.normal(20, 12, (side, side, 3))
    image = colours.clip(0, 255).astype(np.uint8)
    image[5:15, 5:20] = 97
    return image


@pytest.mark.parametrize(
    ("augment", "expected"),
    [
        (
            lambda x: augmenters.gamma_contrast(x, [0.5] * 3),
            [0, 15, 88, 90, 112, 127, 159, 179, 180, 225, 254, 255],
        ),
        (
            lambda x: augmenters.gamma_contrast(x, [2] * 3),
            [0, 0, 3, 4, 9, 16, 39, 63, 64, 156, 253, 255],
        ),
        (
            lambda x: augmenters.solarize(x, 64.7),
            [0, 1, 31, 32, 50, 191, 155, 128, 127, 55, 1, 0],
        ),
        (
            lambda x: augmenters.posterize(x, 3),
            [0, 0, 0, 32, 32, 64, 96, 96, 128, 192, 224, 224],
        ),
        (
            lambda x: augmenters.brightness(x, "HSV", 0.8, 0, factor_first=True),
            [0, 0, 24, 25, 40, 51, 80, 101, 102, 160, 203, 204],
        ),
        (lambda x: augmenters.invert(x), [255 - v for v in V]),
        (lambda x: augmenters.solarize(x, augmenters.NEVER), V),
        (lambda x: augmenters.posterize(x, 8), V),
        (lambda x: augmenters.posterize(x, 1), [0] * 8 + [128] * 4),
    ],
)
def test_greys_follow_the_tables_of_the_specification(augment, expected):
    assert augment(grey(V))[0].T.tolist() == [expected] * 3


def test_gamma_acts_on_each_channel_alone():
    found = augmenters.gamma_contrast(grey([100]), [2, 0.5, 1.5])
    assert found[0, 0].tolist() == [39, 159, 62]


def test_brightness_multiplies_and_adds_in_the_order_asked_for():
    image = grey([100, 250])
    first = augmenters.brightness(image, "HSV", 1.2, -30, factor_first=True)
    last = augmenters.brightness(image, "HSV", 1.2, -30, factor_first=False)
    assert first[0, :, 0].tolist() == [90, 225]
    assert last[0, :, 0].tolist() == [84, 255]


@pytest.mark.parametrize("space", augmenters.SPACES)
def test_brightness_of_any_space_darkens_grey_and_keeps_it_grey(space):
    image = grey([60, 120, 180, 240])
    darker = augmenters.brightness(image, space, 0.8, 0, factor_first=True).astype(int)
    assert np.ptp(darker, axis=2).max() <= 2  # rounding of 8-bit colour spaces
    assert darker[0, :, 1] == pytest.approx(0.8 * image[0, :, 1], abs=7)  # Lab: lightness bends


def test_sharpness_of_a_single_bright_pixel():
    image = np.zeros((5, 5, 3), dtype=np.uint8)
    image[2, 2] = 130
    smooth, sharp = augmenters.sharpness(image, 0), augmenters.sharpness(image, 2)
    ring = np.ones((3, 3), dtype=bool)
    ring[1, 1] = False
    assert smooth[2, 2].tolist() == [50] * 3
    assert (smooth[1:4, 1:4][ring] == 10).all()
    assert sharp[2, 2].tolist() == [210] * 3
    assert (sharp[1:4, 1:4][ring] == 0).all()
    assert np.array_equal(augmenters.sharpness(image, 1), image)


@pytest.mark.parametrize("factor", [0.0, 0.31, 1.0, 1.46, 2.0])
def test_sharpness_is_pillows(factor):
    image = picture()
    theirs = ImageEnhance.Sharpness(Image.fromarray(image)).enhance(factor)
    assert np.array_equal(augmenters.sharpness(image, factor), np.asarray(theirs))
    assert np.array_equal(augmenters.SMOOTH.ravel() * 13, ImageFilter.SMOOTH.filterargs[3])


def test_hue_turns_by_whole_steps_of_180_and_saturation_is_shifted_and_clipped():
    red = np.array([[[255, 0, 0]]], dtype=np.uint8)
    hue = int(50 / 255 * 180) * 2 / 360
    expected = [round(255 * c) for c in colorsys.hsv_to_rgb(hue, 1, 1)]
    assert augmenters.hue_and_saturation(red, 50, 50)[0, 0] == pytest.approx(expected, abs=1)
    backwards = [round(255 * c) for c in colorsys.hsv_to_rgb(1 - hue, 1, 1)]
    assert augmenters.hue_and_saturation(red, -50, 0)[0, 0] == pytest.approx(backwards, abs=1)
    paler = augmenters.hue_and_saturation(red, 0, -50)
    assert paler[0, 0].tolist() == [255, 50, 50]


def test_autocontrast_and_equalize_are_pillows_on_every_channel():
    image = picture()
    pillow = Image.fromarray(image)
    stretched = augmenters.autocontrast(image, 7)
    assert np.array_equal(stretched, np.asarray(ImageOps.autocontrast(pillow, 7)))
    assert stretched.min(axis=(0, 1)).tolist() == [0] * 3
    assert np.array_equal(augmenters.equalize(image), np.asarray(ImageOps.equalize(pillow)))


def test_a_quarter_turn_is_clockwise_and_what_comes_in_is_black():
    index = np.arange(16, dtype=np.uint8).reshape(4, 4)
    assert augmenters.rotate(index, 90)[0].tolist() == [12, 8, 4, 0]
    corner = augmenters.rotate(np.full((64, 64, 3), 200, dtype=np.uint8), 45)
    assert corner[0, 0].tolist() == [0, 0, 0]
    assert corner[32, 32].tolist() == [200, 200, 200]


@pytest.mark.parametrize("index", range(len(AUGMENTERS)))
def test_an_augmenter_keeps_its_input_and_repeats_itself_from_the_same_generator(index):
    image = picture()
    original = image.copy()
    first, second = (AUGMENTERS[index](image, np.random.default_rng(4)) for _ in range(2))
    assert np.array_equal(first, second)
    assert np.array_equal(image, original)
    assert first.shape == image.shape
    assert first.dtype == np.uint8


def test_ten_augmenters_are_drawn_without_replacement():
    image = picture()
    assert len(AUGMENTERS) == 10
    assert np.array_equal(augmenters.augment(image, 0, np.random.default_rng(0)), image)
    assert augmenters.augment(image, 10, np.random.default_rng(0)).shape == image.shape
    with pytest.raises(ValueError, match="larger sample"):
        augmenters.augment(image, 11, np.random.default_rng(0))


def test_one_drawn_augmenter_is_each_of_the_ten_about_equally_often():
    """Invert alone maps 0 to 255 and 200 to 55; it must come in a tenth of 2000 draws (3 sigma)."""
    image = grey([0, 200, 100])
    rng = np.random.default_rng(8)
    inverted = [255, 55, 155]
    count = sum(
        augmenters.augment(image, 1, rng)[0, :, 0].tolist() == inverted for _ in range(2000)
    )
    assert count == pytest.approx(200, abs=40)


def drawn(index, image, draws=400):
    """What augmenter `index` makes of the first pixel over many draws, (draws, 3)."""
    rng = np.random.default_rng(6)
    return np.array([AUGMENTERS[index](image, rng)[0, 0] for _ in range(draws)], dtype=int)


def test_gammas_span_a_half_to_two_independently_per_channel():
    found = drawn(0, grey([100]))
    assert found.min(axis=0) == pytest.approx([39] * 3, abs=2)
    assert found.max(axis=0) == pytest.approx([159] * 3, abs=2)
    assert np.abs(np.corrcoef(found.T) - np.eye(3)).max() < 0.2


def test_solarize_acts_in_half_of_the_draws_from_a_threshold_of_32_to_128():
    assert np.mean(drawn(4, grey([200]))[:, 0] == 55) == pytest.approx(0.5, abs=0.08)
    assert (drawn(4, grey([31]))[:, 0] == 31).all()
    assert np.mean(drawn(4, grey([80]))[:, 0] == 175) == pytest.approx(0.25, abs=0.08)


def test_posterize_keeps_one_to_eight_bits():
    assert set(drawn(5, grey([255]))[:, 0]) == {256 - 2**bits for bits in range(8)}


def test_brightness_multiplies_by_up_to_a_fifth_and_adds_up_to_30():
    found = drawn(1, grey([100]), 2000)[:, 1]
    assert 50 <= found.min() <= 60  # factor first: 80 - 30; offset first: 70 * 0.8 = 56
    assert 145 <= found.max() <= 158


def test_hue_and_saturation_reach_plus_and_minus_50():
    red = np.array([[[255, 0, 0]]], dtype=np.uint8)
    found = drawn(3, red, 2000)
    assert found[:, 1].max() > 240  # to yellow, 70 of 360 degrees
    assert found[:, 2].max() > 240  # to magenta


def test_shuffled_tiles_are_the_same_tiles_in_other_places():
    image = np.random.default_rng(5).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    shuffled = augmenters.shuffle_tiles(image, 4, np.random.default_rng(6))

    def tiles(of):
        rows = (of[y : y + 8] for y in range(0, 32, 8))
        return [row[:, x : x + 12].tobytes() for row in rows for x in range(0, 48, 12)]

    assert sorted(tiles(shuffled)) == sorted(tiles(image))
    assert tiles(shuffled) != tiles(image)
    same = augmenters.shuffle_tiles(image, 1, np.random.default_rng(6))
    np.testing.assert_array_equal(same, image)


def test_every_tile_order_is_equally_likely():
    image = np.arange(4, dtype=np.uint8).repeat(3).reshape(2, 2, 3)
    rng = np.random.default_rng(0)
    orders = [augmenters.shuffle_tiles(image, 2, rng)[:, :, 0].tobytes() for _ in range(4800)]
    counts = np.unique(orders, return_counts=True)[1]
    assert len(counts) == 24
    assert chisquare(counts).pvalue > 1e-3
