import numpy as np
import pytest
import torch
from pydantic import ValidationError

from admodels.synthesis.anomalies import (
    Paint,
    anomaly_mask,
    apply,
    draw_paint,
    interleave,
    synthetic_batch,
)
from admodels.synthesis.augmenters import rotate
from admodels.synthesis.params import Generator, Synthesize

# Numbers: specification of DRAEM, sections 4 and 11 (draem.md).

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


def changed(**values):
    return Generator(**(GENERATOR.model_dump() | values))


def noise_images(count, side, seed=0, low=1):
    """(count, 3, side, side) uint8, black nowhere."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(low, 256, (count, 3, side, side), dtype=np.uint8))


NORMAL, TEXTURES = noise_images(5, 64), noise_images(7, 64, seed=1)


def batch_of(generator=GENERATOR, batch=8, seed=3, step=0):
    return synthetic_batch(NORMAL, TEXTURES, generator, batch=batch, seed=seed, step=step)


def parts(batch):
    return batch.normal, batch.augmented, batch.mask


def test_a_batch_has_the_promised_shapes_types_and_ranges():
    found = batch_of(changed(clean_share=0.0))
    assert [tuple(p.shape) for p in parts(found)] == [
        (8, 3, 64, 64),
        (8, 3, 64, 64),
        (8, 1, 64, 64),
    ]
    assert all(p.dtype == torch.float32 for p in parts(found))
    assert found.augmented.is_contiguous(memory_format=torch.channels_last)
    assert found.augmented.min() >= 0
    assert found.augmented.max() <= 1
    assert set(found.mask.unique().tolist()) == {0, 1}


def test_a_sample_is_the_same_in_a_batch_of_any_length():
    whole, some = batch_of(batch=11, step=4), batch_of(batch=3, step=4)
    assert all(torch.equal(a[:3], b) for a, b in zip(parts(whole), parts(some), strict=True))


def test_the_same_seed_and_step_repeat_whatever_came_before():
    first = batch_of(step=2)
    batch_of(step=3)
    torch.manual_seed(0)
    assert all(
        torch.equal(a, b) for a, b in zip(parts(first), parts(batch_of(step=2)), strict=True)
    )


@pytest.mark.parametrize("other", [{"step": 1}, {"seed": 4}])
def test_other_steps_and_seeds_give_other_samples(other):
    always = changed(clean_share=0.0)
    first, second = batch_of(always), batch_of(always, **other)
    pairs = zip(first.augmented, second.augmented, strict=True)
    assert all(not torch.equal(a, b) for a, b in pairs)


def test_no_two_samples_of_eight_steps_have_the_same_mask():
    masks = [batch_of(changed(clean_share=0.0), step=step).mask for step in range(8)]
    drawn = [mask.numpy().tobytes() for mask in torch.cat(masks) if mask.any()]
    assert len(set(drawn)) == len(drawn) > 50


def test_inputs_are_not_changed():
    normal, textures = NORMAL.clone(), TEXTURES.clone()
    batch_of(changed(clean_share=0.0))
    assert torch.equal(NORMAL, normal)
    assert torch.equal(TEXTURES, textures)


def test_outside_the_mask_no_bit_differs_from_the_normal_image():
    for step in range(10):
        found = batch_of(step=step)
        outside = (found.mask == 0).expand_as(found.normal)
        assert torch.equal(found.augmented[outside], found.normal[outside])


def test_unrotated_normal_images_are_the_given_ones():
    found = batch_of(changed(image_rotation_share=0.0)).normal
    given = [image.numpy().tobytes() for image in NORMAL / 255]
    assert {image.contiguous().numpy().tobytes() for image in found} <= set(given)


def test_a_rotated_normal_image_has_black_corners_in_both_images():
    found = batch_of(
        changed(image_rotation_share=1.0, image_rotation_degrees=90.0, clean_share=0.0), batch=40
    )
    black = (found.normal == 0).all(dim=1, keepdim=True)
    share = black.float().mean().item()
    assert share == pytest.approx(0.117, abs=0.03)  # of the pixels, section 5
    outside = (black & (found.mask == 0)).expand_as(found.normal)
    assert (found.augmented[outside] == 0).all()


@pytest.mark.parametrize("limit", [90.0, 40.0])
def test_normal_images_are_rotated_evenly_in_both_directions(limit):
    """A dot to the right of the centre tells the angle; 300 angles, 6 standard errors."""
    dot = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    dot[:, :, 30:34, 50:54] = 255
    generator = changed(clean_share=1.0, image_rotation_share=1.0, image_rotation_degrees=limit)
    light = synthetic_batch(dot, dot, generator, batch=300, seed=1, step=0).normal[:, 0]
    offset = torch.arange(64) - 31.5
    down, right = light.sum(dim=2) @ offset, light.sum(dim=1) @ offset
    degrees = torch.rad2deg(torch.atan2(down, right))
    assert degrees.min().item() == pytest.approx(-limit, abs=limit / 20)
    assert degrees.max().item() == pytest.approx(limit, abs=limit / 20)
    assert degrees.mean().item() == pytest.approx(0, abs=limit / 5)


def test_with_a_clean_share_of_one_nothing_is_painted():
    found = batch_of(changed(clean_share=1.0))
    assert torch.equal(found.augmented, found.normal)
    assert not found.mask.any()


def test_an_empty_mask_leaves_a_clean_sample():
    blind = changed(clean_share=0.0, lattice_exponent_max=0, mask_threshold=0.99)
    assert draw_paint(interleave(TEXTURES[0].numpy()), blind, np.random.default_rng(0)) is None
    found = batch_of(blind)
    assert torch.equal(found.augmented, found.normal)
    assert not found.mask.any()


def random_paint(opacity, mask=None, side=32):
    rng = np.random.default_rng(5)
    mask = rng.random((side, side)) < 0.3 if mask is None else mask
    appearance = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    image = rng.random((side, side, 3), dtype=np.float32)
    return Paint(mask.astype(np.float32), appearance, opacity), image


def painted(paint, image):
    result = image.copy()
    apply(paint, result)
    return result


def test_without_image_opacity_the_appearance_replaces_the_image_inside_the_mask():
    paint, image = random_paint(0.0)
    inside = paint.mask > 0
    result = painted(paint, image)
    assert np.array_equal(result[inside], (paint.appearance / np.float32(255))[inside])
    assert np.array_equal(result[~inside], image[~inside])


@pytest.mark.parametrize("opacity", [0.2, 0.5, 0.8])
def test_the_change_is_the_texture_opacity_times_the_difference(opacity):
    paint, image = random_paint(opacity)
    change = np.abs(painted(paint, image) - image)
    difference = np.abs(paint.appearance / 255 - image)
    assert change == pytest.approx((1 - opacity) * paint.mask[:, :, None] * difference, abs=2e-7)


def test_a_soft_mask_blends_in_proportion():
    soft = np.linspace(0, 1, 32 * 32).reshape(32, 32)
    paint, image = random_paint(0.2, soft)
    inside = 0.8 * paint.appearance / 255 + 0.2 * image
    expected = image * (1 - soft[:, :, None]) + soft[:, :, None] * inside
    assert painted(paint, image) == pytest.approx(expected, abs=1e-6)


def test_white_on_white_stays_within_range():
    for opacity in np.random.default_rng(0).random(200):
        paint = Paint(np.ones((2, 2), np.float32), np.full((2, 2, 3), 255, np.uint8), opacity)
        assert painted(paint, np.ones((2, 2, 3), np.float32)).max() <= 1


def test_image_opacity_is_drawn_evenly_from_its_range():
    texture = interleave(TEXTURES[0].numpy())
    rng = np.random.default_rng(2)
    generator = changed(image_opacity_min=0.2, augmenters_per_texture=0)
    drawn = [draw_paint(texture, generator, rng) for _ in range(600)]
    opacities = np.array([paint.image_opacity for paint in drawn if paint is not None])
    assert opacities.min() == pytest.approx(0.2, abs=0.01)
    assert opacities.max() == pytest.approx(0.8, abs=0.01)
    assert opacities.mean() == pytest.approx(0.5, abs=0.03)  # standard error 0.007


def test_augmenters_act_on_the_texture_unless_their_number_is_zero():
    texture = interleave(TEXTURES[0].numpy())
    plain = draw_paint(texture, changed(augmenters_per_texture=0), np.random.default_rng(1))
    changed_texture = draw_paint(texture, GENERATOR, np.random.default_rng(1))
    assert np.array_equal(plain.appearance, texture)
    assert not np.array_equal(changed_texture.appearance, texture)
    assert np.array_equal(plain.mask, changed_texture.mask)


@pytest.mark.slow
def test_masks_cover_and_miss_as_often_as_those_of_the_official_code():
    """10 000 masks at 256 px; standard errors 0.04 % of the area and 0.22 % of the draws."""
    rng = np.random.default_rng(12)
    areas = np.array([anomaly_mask(256, 256, GENERATOR, rng).mean() for _ in range(10_000)])
    assert areas.mean() == pytest.approx(0.049, abs=0.002)
    assert np.mean(areas == 0) == pytest.approx(0.051, abs=0.007)
    percentiles = np.percentile(areas[areas > 0], [5, 50, 95])
    assert percentiles == pytest.approx([0.018, 0.047, 0.095], rel=0.1)


@pytest.mark.parametrize(("exponent", "empty"), [(0, 0.61), (5, 0.051)])
def test_coarse_lattices_leave_masks_empty_most_often(exponent, empty):
    rng = np.random.default_rng(1)
    generator = changed(lattice_exponent_max=exponent)
    missed = [not anomaly_mask(128, 128, generator, rng).any() for _ in range(1500)]
    assert np.mean(missed) == pytest.approx(empty, abs=0.05)  # four standard errors


@pytest.mark.slow
def test_almost_half_of_the_samples_are_anomalous():
    """10 000 samples at 64 px, where masks are empty as often as at 256; standard error 0.5 %."""
    generator = changed(augmenters_per_texture=0)
    found = [batch_of(generator, batch=100, step=step) for step in range(100)]
    flags = torch.cat([batch.mask.amax(dim=(1, 2, 3)) for batch in found])
    assert flags.mean().item() == pytest.approx(0.475, abs=0.015)


def test_corners_rotated_into_the_noise_are_never_anomalous():
    """At threshold 0 and half of all pixels above it, the fill of 0 still is not."""
    outside = rotate(np.ones((64, 64), np.float32), 45) == 0
    generator = changed(mask_threshold=0.0, noise_rotation_degrees=45.0)
    rng = np.random.default_rng(0)
    masks = [anomaly_mask(64, 64, generator, rng) for _ in range(300)]
    corners = np.zeros((64, 64), dtype=bool)
    corners[0, 0] = corners[0, -1] = corners[-1, 0] = corners[-1, -1] = True
    assert outside[corners].all()
    assert np.mean(masks) > 0.35
    assert np.mean([mask[corners].mean() for mask in masks]) < 0.05  # angles near 0 cut no corner


def test_masks_of_sides_not_divisible_by_32_and_not_square_have_their_size():
    assert anomaly_mask(50, 70, GENERATOR, np.random.default_rng(0)).shape == (50, 70)


def test_anomalies_are_found_everywhere_in_the_image():
    rng = np.random.default_rng(9)
    mean = np.mean([anomaly_mask(64, 64, GENERATOR, rng) for _ in range(3000)], axis=0)
    assert mean[8:-8, 8:-8].min() > 0.01
    quarters = [mean[:32, :32], mean[:32, 32:], mean[32:, :32], mean[32:, 32:]]
    assert [q.mean() for q in quarters] == pytest.approx([mean.mean()] * 4, rel=0.1)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_opacity_min", 0.9),
        ("mask_threshold", 1.0),
        ("lattice_exponent_max", 6),
        ("augmenters_per_texture", 11),
        ("clean_share", -0.1),
        ("clean_shares", 0.5),
    ],
)
def test_a_generator_refuses_values_outside_its_bounds(key, value):
    with pytest.raises(ValidationError):
        changed(**{key: value})


def test_the_held_out_set_is_drawn_at_a_side_divisible_by_32():
    anomaly = GENERATOR.model_dump(
        exclude={"clean_share", "image_rotation_share", "image_rotation_degrees"}
    )
    values = {"image_px": 96, "resize": "area", "per_image": 2, "generator": anomaly}
    assert Synthesize(**values).image_px == 96
    with pytest.raises(ValidationError, match="multiple of 32"):
        Synthesize(**(values | {"image_px": 100}))
