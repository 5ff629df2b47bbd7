"""What CPR's heads learn from: synthesis, points, loss.

The number of the specification's test vector (section 18) stands after a test's name.
"""

import itertools
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F

from admodels.methods.cpr.pairs import (
    Points,
    at_points,
    contrastive_loss,
    draw_points,
    far_distance_px,
    far_weights,
    hinge_loss,
    large_components,
    photometric,
    synthetic_sample,
)
from admodels.methods.cpr.params import Params
from admodels.synthesis.anomalies import anomaly_mask, mix_with_itself
from tests import tiny

FAR_PX = 5.656854


def tiny_params(**changes: object) -> Params:
    return Params.model_validate_json(json.dumps(tiny.PARAMS["cpr"] | changes), strict=True)


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def sample_of(number: int, part: Tensor | None = None, self_share: float = 0.0, **changes: object):
    generator = tiny.PARAMS["cpr"]["generator"] | changes
    return synthetic_sample(
        torch.from_numpy(tiny.stripes(5, seed=1)),
        torch.from_numpy(tiny.textures()),
        part,
        tiny_params(generator=generator),
        self_share=self_share,
        seed=7,
        number=number,
    )


def test_a_sample_depends_on_its_seed_and_number_alone():
    first, again, other = sample_of(3), sample_of(3), sample_of(8)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.mask, again.mask)
    assert not np.array_equal(first.mask, other.mask)
    assert [sample_of(n).source for n in (0, 3, 5, 11)] == [0, 3, 0, 1]


def test_outside_its_mask_a_sample_is_its_source_bit_for_bit():  # V19
    normal = tiny.stripes(5, seed=1)
    for number in range(20):
        sample = sample_of(number, self_share=0.5)
        outside = ~sample.mask
        assert sample.image.dtype == np.uint8
        assert np.array_equal(sample.image[:, outside], normal[sample.source][:, outside])
        assert sample.mask.any() or np.array_equal(sample.image, normal[sample.source])


@pytest.mark.slow
def test_nine_in_ten_samples_are_anomalous():  # V19
    normal, params = torch.zeros(1, 3, 64, 64, dtype=torch.uint8), tiny_params()
    found = [
        synthetic_sample(normal, normal, None, params, self_share=0.0, seed=1, number=n).mask.any()
        for n in range(2000)
    ]
    assert 0.88 <= np.mean(found) <= 0.92


def test_the_anomaly_is_half_image_half_truncated_appearance():
    black = torch.zeros(6, 3, 64, 64, dtype=torch.uint8)
    image = torch.full((1, 3, 64, 64), 201, dtype=torch.uint8)
    generator = tiny.PARAMS["cpr"]["generator"] | {"image_opacity_min": 0.5, "clean_share": 0.0}
    sample = synthetic_sample(
        image, black, None, tiny_params(generator=generator), self_share=0.0, seed=1, number=0
    )
    assert sample.mask.any()
    assert set(sample.image[:, sample.mask].ravel().tolist()) == {100}  # 100.5


def test_a_texture_is_never_painted_with_itself_and_an_object_is():  # V19
    opaque = {"image_opacity_max": 0.0, "clean_share": 0.0}
    textures = {tuple(c) for c in tiny.textures().transpose(0, 2, 3, 1).reshape(-1, 3).tolist()}
    for share, of_texture in ((0.0, True), (1.0, False)):
        for number in range(6):
            sample = sample_of(number, self_share=share, **opaque)
            colours = {tuple(c) for c in sample.image[:, sample.mask].T.tolist()}
            # truncation after a division by 255 may cost a level
            near = {
                tuple(v - d for v, d in zip(c, down, strict=True))
                for c in textures
                for down in itertools.product((0, 1), repeat=3)
            }
            assert (colours <= near) == of_texture


def test_without_augmenters_an_image_mixed_with_itself_keeps_its_tiles():  # V19
    generator = tiny_params(
        generator=tiny.PARAMS["cpr"]["generator"] | {"augmenters_per_self": 0}
    ).generator
    image = tiny.stripes(1, seed=3)[0].transpose(1, 2, 0)
    mixed = mix_with_itself(image, generator, rng(0))

    def tiles(pixels: np.ndarray) -> list[bytes]:
        cut = itertools.product(range(0, 64, 8), repeat=2)
        return sorted(pixels[y : y + 8, x : x + 8].tobytes() for y, x in cut)

    assert not np.array_equal(mixed, image)
    assert tiles(mixed) == tiles(image)


def test_masks_cover_as_much_as_those_of_the_official_code():  # V19
    generator = tiny_params(
        generator=tiny.PARAMS["cpr"]["generator"] | {"noise_rotation_degrees": 0.0}
    ).generator
    areas = [anomaly_mask(160, 160, generator, rng(0, n)).mean() for n in range(400)]
    assert 0.04 < np.mean(areas) < 0.07


def test_small_components_vanish_and_those_off_the_part_too():  # V19
    mask = np.zeros((640, 640), dtype=np.float32)
    mask[10:30, 10:30] = 1  # 400 pixels: below 409.6
    mask[100:121, 100:120] = 1  # 420
    mask[300:310, 300:320] = 1  # 200, and
    mask[310:321, 320:341] = 1  # 231 that touch them at a corner
    kept = large_components(mask, None, 0.001)
    assert kept.dtype == np.float32
    expected = mask.copy()
    expected[10:30, 10:30] = 0
    assert np.array_equal(kept, expected)
    part = np.zeros((640, 640), dtype=np.float32)
    part[320, 340] = 0.51  # one pixel of the second is enough
    part[100:121, 100:120] = 0.5  # not above
    on_part = large_components(mask, part, 0.001)
    expected[100:121, 100:120] = 0
    assert np.array_equal(on_part, expected)


def test_every_component_of_a_sample_is_large_and_touches_the_part():  # V19
    part = torch.zeros(5, 16, 16)
    part[:, 4:9, 4:9] = 1
    enlarged = cv2.resize(part[0].numpy(), (64, 64)) > 0.5
    anomalous = 0
    for number in range(30):
        sample = sample_of(number, part)
        count, labels = cv2.connectedComponents(sample.mask.astype(np.uint8))
        anomalous += count > 1
        for label in range(1, count):
            assert (labels == label).sum() >= 0.001 * 64 * 64
            assert (enlarged & (labels == label)).any()
    assert anomalous > 15


def test_an_image_without_a_part_stays_normal():
    with_part = sample_of(2, torch.ones(5, 16, 16), clean_share=0.0)
    without = sample_of(2, torch.full((5, 16, 16), 0.5), clean_share=0.0)
    assert with_part.mask.any()
    assert not without.mask.any()
    assert np.array_equal(without.image, tiny.stripes(5, seed=1)[2])


def test_photometric_changes_happen_in_their_share_and_never_in_place():
    image = tiny.stripes(1, seed=2)[0]
    before, drawn = image.copy(), rng(0)
    assert photometric(image, 0.0, drawn) is image
    changed = [photometric(image, 0.3, drawn) is not image for _ in range(1000)]
    assert np.mean(changed) == pytest.approx(1 - 0.7**2, abs=0.05)  # 3 standard deviations
    assert np.array_equal(image, before)


def test_salt_and_pepper_hit_all_channels_of_at_most_three_in_a_hundred_pixels():
    image = np.full((3, 200, 200), 128, dtype=np.uint8)
    shares = []
    for seed in range(30):
        found = photometric(image, 1.0, rng(seed))
        grey = int(np.median(found))  # the lightness comes last: salt may be darker than 255
        salt, pepper = (found > grey).all(0), (found == 0).all(0)
        hit = salt | pepper
        assert found.dtype == np.uint8
        assert found.shape == image.shape
        assert len(np.unique(found[:, ~hit])) == 1  # one lightness for all others
        assert 128 * 0.88 < grey < 128 * 1.12
        assert abs(salt.sum() - pepper.sum()) < 5 * np.sqrt(hit.sum() + 1)
        shares.append(hit.mean())
    assert 0.01 < np.mean(shares) < 0.02
    assert max(shares) < 0.035


def test_points_keep_their_promises():  # V18
    mask = np.zeros((320, 320), dtype=np.bool_)
    mask[100:140, 60:200] = True
    found = draw_points(mask, np.ones((320, 320), dtype=np.float32), 300, 30.0, rng(0))
    for place, weight in (
        (found.positive, found.positive_weight),
        (found.anomaly, found.anomaly_weight),
        (found.far_query, found.far_weight),
        (found.far_reference, found.far_weight),
    ):
        assert place.shape == (1, 300, 2)
        assert place.dtype == weight.dtype == torch.float32
        assert torch.equal(weight, torch.ones(1, 300))
    x, y = found.positive[0].long().T
    assert not mask[y, x].any()
    assert len({*zip(x.tolist(), y.tolist(), strict=True)}) == 300
    x, y = found.anomaly[0].long().T
    assert mask[y, x].all()
    assert len({*zip(x.tolist(), y.tolist(), strict=True)}) == 300
    assert (found.far_query - found.far_reference).norm(dim=2).min() > 30
    x, y = found.far_reference[0].long().T
    assert not mask[y, x].any()
    x, y = found.far_query[0].long().T
    assert mask[y, x].any()  # anywhere, on an anomaly too


def test_a_short_list_is_padded_with_points_that_weigh_nothing():  # V18
    mask = np.zeros((64, 64), dtype=np.bool_)
    mask[3, 4] = mask[50, 7] = True
    found = draw_points(mask, np.ones((64, 64), dtype=np.float32), 300, FAR_PX, rng(0))
    assert found.anomaly_weight.sum() == 2
    assert {tuple(p) for p in found.anomaly[0, :2].tolist()} == {(4, 3), (7, 50)}
    assert torch.equal(found.anomaly[0, 2:], torch.zeros(298, 2))
    assert torch.equal(found.anomaly_weight[0, 2:], torch.zeros(298))


@pytest.mark.parametrize("attention", [None, np.ones((64, 64), dtype=np.float32)])
@pytest.mark.parametrize("anomalous", [False, True])
def test_masks_of_one_value_give_points_of_one_kind(attention, anomalous):  # V18
    mask = np.full((64, 64), anomalous)
    found = draw_points(mask, attention, 300, FAR_PX, rng(0))
    assert found.positive_weight.sum() == (0 if anomalous else 300)
    assert found.anomaly_weight.sum() == (300 if anomalous else 0)
    assert found.far_weight.sum() == (0 if anomalous or attention is None else 300)


def test_positives_are_drawn_in_proportion_to_attention():  # V18
    i, j = np.mgrid[:320, :320]
    attention = (0.05 + np.exp(-((i - 100) ** 2 + (j - 200) ** 2) / 2e4)).astype(np.float32)
    mask = np.zeros((320, 320), dtype=np.bool_)
    mask[:, :40] = True
    places = torch.cat(
        [draw_points(mask, attention, 300, FAR_PX, rng(1, n)).positive[0] for n in range(40)]
    ).numpy()
    seen = np.histogram2d(places[:, 1], places[:, 0], bins=8, range=[[0, 320]] * 2)[0]
    expected = (attention.astype(np.float64) * ~mask).reshape(8, 40, 8, 40).sum((1, 3))
    assert seen[:, 0].sum() == 0
    expected *= seen.sum() / expected.sum()
    assert chisquare(seen[:, 1:].ravel(), expected[:, 1:].ravel()).pvalue > 1e-3


def test_far_pairs_are_beyond_the_region_of_the_first_tap():
    assert far_distance_px(tiny_params()) == pytest.approx(5.657, abs=1e-3)
    assert far_distance_px(tiny_params(regions=[1, 1])) == 0
    assert far_distance_px(tiny_params(tap_strides=[8, 16], regions=[5, 1])) == pytest.approx(
        16 * 2**0.5
    )


@pytest.mark.parametrize(("pixel", "cell"), [(0, -0.5), (159, 39.374608), (319, 79.5)])
def test_parity_reads_where_the_official_code_does(pixel, cell):  # V14
    ramp = torch.arange(80.0).double().expand(1, 1, 80, 80)
    place = torch.tensor([[[float(pixel), 160.0]]]).double()
    found = at_points(ramp + 1, place, (320, 320), parity=True).item()
    # half of what is read lies outside, where there are zeros
    expected = {0: 0.5, 319: 40.0}.get(pixel, cell + 1)
    assert found == pytest.approx(expected, abs=1e-6)


def test_parity_reads_a_quarter_at_a_corner_and_a_half_at_an_edge():  # V14
    ones = torch.ones(1, 2, 80, 80)
    corners = torch.tensor([[[0.0, 0], [0, 319], [319, 0], [319, 319]]])
    edges = torch.tensor([[[0.0, 160], [160, 0], [319, 160], [160, 319]]])
    torch.testing.assert_close(
        at_points(ones, corners, (320, 320), parity=True), torch.full((1, 4, 2), 0.25)
    )
    torch.testing.assert_close(
        at_points(ones, edges, (320, 320), parity=True), torch.full((1, 4, 2), 0.5)
    )
    torch.testing.assert_close(
        at_points(ones, corners, (320, 320), parity=False), torch.ones(1, 4, 2)
    )


def test_without_parity_a_pixel_reads_its_own_place():
    features = torch.randn(2, 3, 80, 80, generator=torch.Generator().manual_seed(0))
    large = F.interpolate(features, (320, 320), mode="bilinear", align_corners=False)
    points = torch.tensor([[[0, 0], [319, 0], [17, 200]], [[5, 319], [1, 2], [318, 317]]])
    found = at_points(features, points.float(), (320, 320), parity=False)
    for b, p in itertools.product(range(2), range(3)):
        x, y = points[b, p].tolist()
        torch.testing.assert_close(found[b, p], large[b, :, y, x], rtol=0, atol=1e-5)


@pytest.mark.parametrize("parity", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (20, 10)])
def test_points_and_their_gradient_are_those_of_grid_sample(size, parity):
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(2, 4, *size, generator=generator, requires_grad=True)
    points = torch.randint(0, 64, (2, 30, 2), generator=generator).float()
    points[:, :4] = torch.tensor([[0.0, 0], [63, 63], [0, 63], [63, 0]])
    grid = 2 * points / 63 - 1 if parity else (2 * points + 1) / 64 - 1
    outside = "zeros" if parity else "border"
    theirs = F.grid_sample(features, grid[:, :, None], padding_mode=outside, align_corners=False)
    theirs, found = theirs[..., 0].mT, at_points(features, points, (64, 64), parity=parity)
    torch.testing.assert_close(found, theirs, rtol=0, atol=1e-5)
    expected = torch.autograd.grad(theirs.square().sum(), features)[0]
    gradient = torch.autograd.grad(found.square().sum(), features)[0]
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)


def test_reading_points_keeps_no_map_for_the_backward_pass():
    maps = torch.randn(2, 4, 16, 16, requires_grad=True) + 1
    found = at_points(maps, torch.full((2, 3, 2), 7.0), (64, 64), parity=True)
    kept = StorageWeakRef(maps.untyped_storage())
    del maps
    assert kept.expired()
    found.sum().backward()


def test_the_hinges_have_the_stated_values():  # V15
    cosines, one = torch.tensor([1, 0, -1.0]).double(), torch.ones(1).double()
    for parity in (False, True):
        positive = [hinge_loss(0.8 - c[None], one, 3, parity=parity).item() for c in cosines]
        negative = [hinge_loss(c[None] + 0.2, one, 3, parity=parity).item() for c in cosines]
        assert positive == pytest.approx([0, 0.512, 5.832])
        assert negative == pytest.approx([1.728, 0.008, 0])


def weighted_pairs(padding: int = 0) -> tuple[Tensor, Tensor]:
    """Two valid pairs of squared distance 1 and 3, cosines 1: their gap and their weights."""
    query = torch.zeros(1, 2 + padding, 2).double()
    reference = torch.tensor([[[1.0, 0], [1, 2**0.5], *[[7, 7]] * padding]]).double()
    valid = (torch.arange(2 + padding) < 2).double()[None]
    return torch.full((1, 2 + padding), 1.2).double(), far_weights(query, reference, valid)


@pytest.mark.parametrize("padding", [0, 5])
def test_weights_have_mean_one_and_parity_puts_them_inside_the_cube(padding):  # V16
    gap, weight = weighted_pairs(padding)
    assert weight[0, :2].tolist() == pytest.approx([0.5, 1.5], abs=1e-6)
    assert weight[0, 2:].tolist() == [0] * padding
    assert hinge_loss(gap, weight, 3, parity=True).item() == pytest.approx(3.024, abs=1e-6)
    assert hinge_loss(gap, weight, 3, parity=False).item() == pytest.approx(1.728, abs=1e-6)


def toy(parity: bool = True) -> tuple[Params, Points, Tensor, Tensor]:
    """A 4-channel descriptor map and a raw tap of 2 pairs at 64 px, with points."""
    torch.manual_seed(0)
    mask = np.zeros((64, 64), dtype=np.bool_)
    mask[20:40, 8:30] = True
    attention = np.ones((64, 64), dtype=np.float32)
    points = Points.batch([draw_points(mask, attention, 30, FAR_PX, rng(n)) for n in range(2)])
    doubled = Points(*(t.double() for t in vars(points).values()))
    descriptors, taps = torch.randn(2, 2, 4, 16, 16), torch.randn(2, 2, 6, 16, 16)
    return tiny_params(parity=parity), doubled, descriptors.double(), taps.double()


def loss_of(params: Params, points: Points, descriptors: Tensor, taps: Tensor) -> Tensor:
    return contrastive_loss(descriptors.flatten(0, 1), taps.flatten(0, 1), points, params)


@pytest.mark.parametrize("parity", [False, True])
def test_the_loss_is_that_of_explicit_loops(parity):
    params, points, descriptors, taps = toy(parity)

    def read(maps: Tensor, which: int, at: Tensor, pair: int) -> Tensor:
        return at_points(maps[which], at, (64, 64), parity=parity)[pair]

    positive, negative, counted = 0.0, 0.0, [0, 0]
    for pair in range(2):
        pos = [read(descriptors, which, points.positive, pair) for which in (0, 1)]
        for a, q, r in zip(points.positive_weight[pair], *pos, strict=True):
            positive += float(a) * max(0.8 - F.cosine_similarity(q, r, dim=0).item(), 0) ** 3
            counted[0] += int(a > 0)
        far = ((0, points.far_query), (1, points.far_reference))
        raw = [read(taps, which, at, pair) for which, at in far]
        away = (raw[0] - raw[1]).square().sum(1) * points.far_weight[pair]
        weight = away / away.sum() * points.far_weight[pair].sum()
        unlike = [read(descriptors, which, at, pair) for which, at in far]
        odd = [read(descriptors, which, points.anomaly, pair) for which in (0, 1)]
        for w, q, r in [
            *zip(weight, *unlike, strict=True),
            *zip(points.anomaly_weight[pair], *odd, strict=True),
        ]:
            gap = max(F.cosine_similarity(q, r, dim=0).item() + 0.2, 0)
            negative += (float(w) * gap) ** 3 if parity else float(w) * gap**3
            counted[1] += int(w > 0)
    expected = positive / counted[0] + negative / counted[1]
    assert loss_of(params, points, descriptors, taps).item() == pytest.approx(expected, abs=1e-6)


def test_equal_heads_without_negatives_cost_nothing():  # V15
    params, points, descriptors, taps = toy()
    none = torch.zeros_like(points.far_weight)
    alone = replace(points, far_weight=none, anomaly_weight=none)
    same = descriptors[:1].expand(2, -1, -1, -1, -1)
    assert loss_of(params, alone, same, taps).item() == pytest.approx(0, abs=1e-12)


def test_of_a_texture_only_anomalies_are_unlike():  # V16
    mask = np.zeros((64, 64), dtype=np.bool_)
    mask[20:40, 8:30] = True
    points = draw_points(mask, None, 30, FAR_PX, rng(0))
    params, _, descriptors, taps = toy()
    q, r = descriptors.float()[:, :1]
    found = contrastive_loss(torch.cat([q, r]), taps.float()[:, 0], points, params)

    def cosine(at: Tensor) -> Tensor:
        return F.cosine_similarity(
            *(at_points(m, at, (64, 64), parity=True) for m in (q, r)), dim=-1
        )

    positive = (0.8 - cosine(points.positive)).clamp_min(0).pow(3).mean()
    negative = (cosine(points.anomaly) + 0.2).clamp_min(0).pow(3).mean()
    torch.testing.assert_close(found, positive + negative)


def test_gradients_reach_the_descriptors_and_not_the_taps():  # V17
    params, points, descriptors, taps = toy()
    descriptors.requires_grad_()
    taps.requires_grad_()
    loss_of(params, points, descriptors, taps).backward()
    assert taps.grad is None
    assert descriptors.grad.abs().max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("parity", [False, True])
def test_gradients_are_those_of_finite_differences(parity):  # V17
    params, points, descriptors, taps = toy(parity)
    few = Points(*(t[:, :6] for t in vars(points).values()))
    small = descriptors[..., ::4, ::4].contiguous().requires_grad_()
    assert torch.autograd.gradcheck(lambda d: loss_of(params, few, d, taps), small, atol=1e-6)


def test_the_scale_of_descriptors_does_not_matter():  # V17
    params, points, descriptors, taps = toy()
    one = loss_of(params, points, descriptors, taps).item()
    assert loss_of(params, points, 41 * descriptors, taps).item() == pytest.approx(one, rel=1e-6)
