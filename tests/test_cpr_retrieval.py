"""What CPR does without gradients: words, histograms, foreground, nearest neighbours, blur, bank.

The number of the specification's test vector (section 18) stands after a test's name.
"""

import itertools
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.nn import functional as F

from admodels.foundation.errors import DataError
from admodels.methods import TrainingData
from admodels.methods.cpr import closed_form, foreground, heads, retrieval
from admodels.methods.cpr.detector import Detector
from admodels.methods.cpr.heads import nearest_distance, unit_vectors
from admodels.methods.cpr.params import Params
from admodels.methods.parts import frozen as frozen_taps
from admodels.methods.parts.frozen import FrozenTaps
from admodels.methods.parts.maps import gaussian_blur
from tests import tiny


class KnownTaps(nn.Module):
    """A frozen network whose taps a test lists: image n, which is all n, has the n-th."""

    def __init__(self, *taps: Tensor) -> None:
        super().__init__()
        self.taps = taps
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, images: Tensor) -> list[Tensor]:
        return [tap[images[:, 0, 0, 0].long()] for tap in self.taps]


def known(*taps: Tensor, chunk: int = 4, cache_mib: int = 0) -> tuple[FrozenTaps, Tensor]:
    images = torch.arange(len(taps[0]), dtype=torch.uint8)[:, None, None, None]
    frozen = FrozenTaps(KnownTaps(*taps), torch.float32, chunk, cache_mib)
    return frozen, images.expand(-1, 3, 2, 2)


def no_log(*_: object) -> None:
    """A log that forgets."""


def fit(detector: Detector, folder: Path, data: TrainingData, kind: str = "texture") -> Detector:
    detector.fit(data, kind=kind, seed=5, checkpoints=folder, log=no_log)
    return detector


def constant_codes(word: int) -> Tensor:
    return torch.full((80, 80), word)


def histogram(codes: Tensor) -> Tensor:
    return retrieval.histograms(codes, 5, 12, is_padded=True)


def distance(query: Tensor, reference: Tensor, dropped: int = 5) -> float:
    return retrieval.distances(histogram(query), histogram(reference)[None], dropped).item()


def test_constant_maps_of_different_words_are_368_apart_and_equal_ones_0():  # V5
    assert distance(constant_codes(3), constant_codes(7)) == pytest.approx(368.4137, abs=1e-4)
    one_block = distance(constant_codes(3), constant_codes(7), dropped=24)
    assert one_block == pytest.approx(18.42068, abs=1e-5)
    assert distance(constant_codes(3), constant_codes(3)) == 0


def test_the_divergence_goes_from_the_query_to_the_reference():  # V6
    half, whole = constant_codes(0), constant_codes(0)
    half[8:16, :16] = 1
    assert distance(half, whole, dropped=0) == pytest.approx(8.51719, abs=1e-5)
    assert distance(whole, half, dropped=0) == pytest.approx(0.693147, abs=1e-6)


def random_codes(seed: int, side: int = 80, words: int = 12) -> Tensor:
    return torch.randint(words, (side, side), generator=torch.Generator().manual_seed(seed))


def test_five_overwritten_blocks_cost_nothing_and_six_do():  # V7
    image = random_codes(0)
    for seed in range(5):
        blocks = np.random.default_rng(seed).permutation(25)[:6]
        changed = image.clone()
        for count, block in enumerate(blocks.tolist(), start=1):
            y, x = 16 * (block // 5), 16 * (block % 5)
            changed[y : y + 16, x : x + 16] = 11 - image[y : y + 16, x : x + 16]
            assert (distance(changed, image) == 0) == (count <= 5)


def test_blocks_are_in_row_major_order():  # V7
    for block in (0, 1, 5, 24):
        codes = constant_codes(2)
        codes[16 * (block // 5) :, 16 * (block % 5) :][:16, :16] = 9
        found = histogram(codes)
        assert found[:, 10].nonzero().flatten().tolist() == [block]


@pytest.mark.parametrize("side", [79, 80, 82, 40, 41])
def test_padded_histograms_are_those_of_explicit_loops_whatever_the_side(side):  # V8
    codes = random_codes(1, side)
    block = math.ceil(side / 5)
    pad = 5 * block - side
    expected = np.zeros((25, 13))
    for y, x in itertools.product(range(5 * block), repeat=2):
        inside = 0 <= y - pad < side and 0 <= x - pad < side
        word = 1 + int(codes[y - pad, x - pad]) if inside else 0
        expected[5 * (y // block) + x // block, word] += 1 / block**2
    found = histogram(codes)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.sum(1), 1, rtol=0, atol=1e-12)
    assert (found[:, 0].sum() == 0) == (side % 5 == 0)


@pytest.mark.parametrize("size", [(16, 16), (13, 22), (5, 6), (3, 40)])
def test_even_histograms_are_those_of_explicit_loops_and_hold_no_padding(size):
    height, width = size
    codes = torch.randint(12, size, generator=torch.Generator().manual_seed(2))
    found = retrieval.histograms(codes, 5, 12, is_padded=False)
    for y, x in itertools.product(range(5), repeat=2):
        rows = [i for i in range(height) if y * height <= 5 * i < (y + 1) * height]
        columns = [j for j in range(width) if x * width <= 5 * j < (x + 1) * width]
        words = [int(codes[i, j]) for i in rows for j in columns]
        expected = [0.0] + [words.count(word) / max(1, len(words)) for word in range(12)]
        assert found[5 * y + x].tolist() == pytest.approx(expected, abs=1e-12)
    assert not retrieval.has_padding(found[None])


@pytest.mark.parametrize(("side", "is_alike"), [(80, True), (20, True), (16, False)])
def test_the_two_grids_differ_only_where_a_side_is_no_multiple_of_the_blocks(side, is_alike):
    codes = random_codes(3, side)
    even = retrieval.histograms(codes, 5, 12, is_padded=False)
    assert torch.equal(even, histogram(codes)) == is_alike
    assert retrieval.has_padding(histogram(codes)[None]) != is_alike
    if side == 16:  # what the even grid is for: most blocks of the padded one saw too little
        assert (histogram(codes)[:, 0] == 1).sum() == 9


def test_the_distance_is_that_of_explicit_loops():
    query, bank = histogram(random_codes(0)), [histogram(random_codes(n)) for n in range(1, 4)]
    found = retrieval.distances(query, torch.stack(bank), 5)
    for at, reference in enumerate(bank):
        blocks = [
            sum((q + 1e-8) * math.log((q + 1e-8) / (r + 1e-8)) for q, r in zip(a, b, strict=True))
            for a, b in zip(query.tolist(), reference.tolist(), strict=True)
        ]
        assert found[at].item() == pytest.approx(sum(sorted(blocks)[:20]), rel=1e-12)


def test_the_ranking_follows_the_bank_and_not_the_order_of_its_words():  # V8
    bank = torch.stack([histogram(random_codes(n)) for n in range(8)])
    query = histogram(random_codes(9))
    order = retrieval.nearest(query, bank, 5, 8)
    rows = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rows[retrieval.nearest(query, bank[rows], 5, 8)], order)
    names = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    renamed = torch.stack([histogram(names[random_codes(n)]) for n in range(8)])
    assert torch.equal(retrieval.nearest(histogram(names[random_codes(9)]), renamed, 5, 8), order)


def test_equally_similar_images_are_ranked_by_index_and_no_more_than_there_are():
    bank = torch.stack([histogram(random_codes(0))] * 40)
    assert retrieval.nearest(histogram(random_codes(1)), bank, 5, 10).tolist() == list(range(10))
    assert len(retrieval.nearest(histogram(random_codes(1)), bank[:3], 5, 10)) == 3


def test_a_cell_takes_its_nearest_word_and_the_lowest_of_equals():
    torch.manual_seed(0)
    features, book = torch.randn(6, 7, 9).double(), torch.randn(5, 6).double()
    away = torch.cdist(features.flatten(1).T, book)
    assert torch.equal(retrieval.nearest_words(features, book), away.argmin(1).view(7, 9))
    assert torch.equal(
        retrieval.nearest_words(features, book[[3, 1, 3, 1]]).unique(), torch.tensor([0, 1])
    )


def test_planted_clusters_are_found():  # V9
    torch.manual_seed(0)
    centres = 10 * torch.randn(12, 8)
    codes = torch.stack([random_codes(n, 20) for n in range(6)])
    tap = (centres[codes] + 0.1 * torch.randn(6, 20, 20, 8)).permute(0, 3, 1, 2)
    frozen, images = known(tap)
    book = closed_form.codebook(closed_form.sample_cells(frozen, images, 66), 12, seed=66)
    assert book.dtype == torch.float32
    match = torch.cdist(centres, book).argmin(1)
    assert sorted(match.tolist()) == list(range(12))
    torch.testing.assert_close(book[match], centres, rtol=0, atol=0.05)
    for image, code in zip(tap, codes, strict=True):
        assert torch.equal(retrieval.nearest_words(image, book), match[code])
    found = tiny.detector("cpr", histogram_blocks=5).params
    assert isinstance(found, Params)
    bank = closed_form.image_histograms(frozen, images, book, found)
    assert bank.dtype == torch.float64
    assert torch.equal(bank[4], histogram(match[codes[4]]))


def test_an_image_is_not_its_own_reference_even_beside_its_copy():
    found = tiny.detector("cpr", references=3).params
    assert isinstance(found, Params)
    bank = torch.stack([histogram(random_codes(n)) for n in (0, 1, 1, 2, 3)])
    ranks = closed_form.ranking(bank, found)
    assert ranks.shape == (5, 3)
    assert all(own not in row for own, row in enumerate(ranks.tolist()))
    assert ranks[1, 0] == 2
    assert ranks[2, 0] == 1
    # the official code takes the most similar image for the image itself
    official = closed_form.ranking(bank, found.model_copy(update={"parity": True}))
    assert official[2, 0] == 2
    few = found.model_copy(update={"references": 10})
    assert closed_form.ranking(bank, few).shape == (5, 4)


def test_the_discriminant_of_two_squares_is_the_axis_between_them():  # V10
    square = np.array([[0, 0], [0, 2], [2, 0], [2, 2]], dtype=np.float32)
    moved = square + np.array([10, 0], dtype=np.float32)
    found = foreground.direction(square, moved)
    assert found.dtype == torch.float32
    assert F.normalize(found, dim=0).tolist() == pytest.approx([1, 0], abs=1e-6)
    flat = np.ones((4, 1), dtype=np.float32)
    wider = foreground.direction(np.hstack([square, flat]), np.hstack([moved, flat]))
    assert F.normalize(wider, dim=0).tolist() == pytest.approx([1, 0, 0], abs=1e-6)


def disc_taps(count: int = 6, side: int = 80) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    i, j = torch.meshgrid(*(torch.arange(side) - (side - 1) / 2,) * 2, indexing="ij")
    disc = (i**2 + j**2).sqrt() <= side * 25 / 80
    shift = torch.tensor([2, 0, 0, 0, 1, 0, 0, 0.0])
    return 0.3 * torch.randn(count, 8, side, side) + shift[:, None, None] * disc, disc


def test_the_toy_disc_is_found_with_the_stated_numbers():  # V12
    taps, disc = disc_taps()
    frozen, images = known(taps)
    part = closed_form.estimate_part(
        frozen, images, closed_form.sample_cells(frozen, images, 66), seed=66
    )
    assert part is not None
    axis = F.normalize(part.weight, dim=0)
    assert axis.tolist() == pytest.approx([0.9, 0, 0, 0, 0.43, 0, 0, 0], abs=0.03)
    assert part.maps[:, disc].mean().item() == pytest.approx(0.84, abs=0.03)
    assert part.maps[:, ~disc].mean().item() == pytest.approx(0.19, abs=0.03)
    assert part.maps.dtype == torch.float32


def test_the_ring_is_background_and_the_centre_is_the_part_whatever_their_labels():  # V12
    _, disc = disc_taps()
    labels = np.broadcast_to(disc.numpy(), (6, 80, 80)).astype(np.uint8)
    for each in (labels, 1 - labels):
        background, inside = foreground.sure_cells(each)
        assert len(background) == 5544
        assert len(inside) == 6144
        rows, columns = np.divmod(inside % 6400, 80)
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (24, 55, 24, 55)
        assert not np.intersect1d(background, inside).size
        assert disc.numpy().ravel()[background % 6400].sum() == 0


@pytest.mark.parametrize(("side", "ring", "start", "stop"), [(80, 3, 24, 56), (40, 1, 12, 28)])
def test_ring_and_window_follow_the_side(side, ring, start, stop):  # V13
    assert foreground.ring_width(side) == ring
    assert foreground.central_window(side) == slice(start, stop)


def test_sharpening_has_the_stated_values():  # V13
    found = foreground.attention(torch.tensor([0, 0.25, 0.5, 0.75, 1]).double())
    expected = [0.006693, 0.075858, 0.5, 0.924142, 0.993307]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_one_in_a_hundred_cells_is_clamped_at_either_end():  # V11
    frozen, images = known(disc_taps()[0])
    part = closed_form.estimate_part(
        frozen, images, closed_form.sample_cells(frozen, images, 66), seed=66
    )
    assert part is not None
    for clamped in (part.maps == 0, part.maps == 1):
        assert abs(clamped.sum().item() - 0.01 * 6 * 6400) <= 1


def test_the_foreground_does_not_depend_on_scale_and_offset():  # V11
    values = torch.randn(3, 40, 40, generator=torch.Generator().manual_seed(0)).double()

    def clamped(t: Tensor) -> Tensor:
        low, high = foreground.trimmed_range(t)
        return ((t - low) / (high - low)).clamp(0, 1)

    torch.testing.assert_close(clamped(7 * values - 3), clamped(values), rtol=0, atol=1e-6)
    ordered = values.flatten().sort().values
    assert foreground.trimmed_range(values) == (ordered[47].item(), ordered[-48].item())
    assert foreground.trimmed_range(torch.arange(9.0)) == (0, 8)


def test_the_convolution_gives_the_maps_of_the_training_images():  # V11
    taps, _ = disc_taps()
    frozen, images = known(taps)
    part = closed_form.estimate_part(
        frozen, images, closed_form.sample_cells(frozen, images, 66), seed=66
    )
    assert part is not None
    for image, expected in zip(taps, part.maps, strict=True):
        found = foreground.foreground_map(image, part.weight, part.bias)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_without_a_part_in_the_middle_the_whole_image_counts_and_a_log_says_so(caplog):
    torch.manual_seed(0)
    left = torch.arange(80) < 78  # two clusters, but the centre looks like most of the ring
    taps = torch.randn(4, 8, 80, 80) * 0.1 + 5 * left
    frozen, images = known(taps)
    with caplog.at_level(logging.WARNING):
        assert (
            closed_form.estimate_part(
                frozen, images, closed_form.sample_cells(frozen, images, 66), seed=66
            )
            is None
        )
    assert "no foreground found" in caplog.text


def test_constant_images_are_refused_with_what_they_show(tmp_path):
    data = tiny.training_data()
    flat = TrainingData(torch.full_like(data.normal, 90), data.textures, data.validation, None, {})
    with pytest.raises(DataError, match="the normal images show only"):
        fit(tiny.detector("cpr", codebook_words=200), tmp_path, flat)
    frozen, images = known(torch.ones(4, 8, 20, 20))
    with pytest.raises(DataError, match="only 1 different places"):
        closed_form.codebook(closed_form.sample_cells(frozen, images, 66), 2, seed=66)


def test_cells_are_those_of_the_taps_in_the_order_asked_for():
    taps = torch.randn(7, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    wanted = np.array([174, 0, 3, 3, 26, 150, 25])
    expected = taps.permute(0, 2, 3, 1).reshape(-1, 3)[torch.from_numpy(wanted)]
    for chunk in (1, 3, 8):
        frozen, images = known(taps, chunk=chunk)
        np.testing.assert_array_equal(frozen.cells(images, wanted), expected)


@pytest.mark.parametrize("block", [1, 3, 16])
def test_remembered_taps_are_those_computed_and_stay_within_the_budget(block, monkeypatch):
    monkeypatch.setattr(frozen_taps, "BLOCK", block)
    taps = torch.randn(6, 256, 16, 16)  # 256 KiB each
    frozen, images = known(taps, cache_mib=1)
    for _ in range(2):
        for keys in (range(6), [3, 3, 3, 3, 3, 3], [None] * 6):
            found = frozen.of(images[[k or 0 for k in keys]], list(keys))[0]
            assert torch.equal(found, taps[[k or 0 for k in keys]])
            assert found.is_contiguous(memory_format=torch.channels_last)
    assert all(tap.is_contiguous(memory_format=torch.channels_last) for (tap,) in frozen._blocks)
    assert sorted(frozen._slots) == [0, 1, 2, 3]
    # the same key twice in a batch is kept, and paid for, once
    frozen, images = known(taps, cache_mib=1)
    frozen.of(images[[2, 2, 2, 2]], [2, 2, 2, 2])
    frozen.of(images[3:], [3, 4, 5])
    assert sorted(frozen._slots) == [2, 3, 4, 5]
    assert torch.equal(frozen.of(images[2:] * 0, [2, 3, 4, 5])[0], taps[2:])


def units(*shape: int, seed: int = 0) -> Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return F.normalize(drawn, dim=-1)


def unfolded_distance(query: Tensor, references: Tensor, region: int) -> Tensor:
    """The official form: every neighbourhood unfolded; an unfolded map of ones marks padding."""
    height, width, _ = query.shape
    planes = references.permute(0, 3, 1, 2)
    every = F.unfold(planes, region, padding=region // 2)
    every = every.view(*planes.shape[:2], region**2, height * width)
    inside = F.unfold(torch.ones(1, 1, height, width), region, padding=region // 2)[0] > 0
    cosine = torch.einsum("pd,kdrp->krp", query.reshape(height * width, -1), every)
    return 1 - cosine.masked_fill(~inside, -9).amax(dim=(0, 1)).view(height, width)


@pytest.mark.parametrize("region", [1, 3, 5])
@pytest.mark.parametrize("size", [(8, 8), (13, 11), (3, 20), (4, 130)])
def test_the_nearest_distance_is_that_of_unfolding_and_of_explicit_loops(region, size):  # V20
    query, references = units(*size, 6), units(4, *size, 6, seed=1)
    found = nearest_distance(query, references, region)
    expected = torch.empty(size)
    reach = region // 2
    for y, x in itertools.product(*map(range, size)):
        rows, columns = (slice(max(0, at - reach), at + reach + 1) for at in (y, x))
        expected[y, x] = 1 - (references[:, rows, columns] @ query[y, x]).max()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        found, unfolded_distance(query, references, region), rtol=0, atol=1e-6
    )


def test_a_query_shifted_by_one_row_is_found_by_a_region_of_three_only():  # V20
    reference = units(1, 12, 9, 16)
    query = reference[0].roll(1, dims=0)  # its first row has no neighbour
    query[0] = units(9, 16, seed=5)
    wide, narrow = (nearest_distance(query, reference, region) for region in (3, 1))
    assert wide[1:].max() < 1e-6
    assert wide[0].min() > 0.05
    assert narrow[1:].min() > 0.05


def test_a_part_that_lies_elsewhere_is_found_in_the_whole_image_only(monkeypatch):
    monkeypatch.setattr(heads, "REFERENCE_CELLS", 50)  # several blocks, the last one short
    references = units(3, 12, 9, 16)
    query = references[2].roll((5, 4), dims=(0, 1))
    assert nearest_distance(query, references, "whole").max() < 1e-6
    assert nearest_distance(query, references, 3).min() > 0.05
    other = units(7, 4, 16, seed=7)
    expected = torch.stack([1 - (references @ cell).max() for cell in other.flatten(0, 1)])
    found = nearest_distance(other, references.half(), "whole")
    torch.testing.assert_close(found, expected.view(7, 4), rtol=0, atol=1e-3)


def test_a_query_of_the_bank_has_distance_0_and_more_references_never_raise_it():  # V21
    references = units(6, 10, 10, 12)
    assert nearest_distance(references[3], references, 3).max() < 1e-6
    query = units(10, 10, 12, seed=9)
    fewer = [nearest_distance(query, references[:n], 3) for n in range(1, 7)]
    assert all((b <= a + 1e-6).all() for a, b in itertools.pairwise(fewer))
    backwards = nearest_distance(query, references.flip(0), 3)
    torch.testing.assert_close(backwards, fewer[-1], rtol=0, atol=1e-6)
    assert fewer[-1].min() >= 0
    assert nearest_distance(query, -query[None], 1).max().item() == pytest.approx(2, abs=1e-6)


def test_descriptors_are_unit_vectors_whatever_their_scale_and_0_stays_finite():  # V21
    raw = torch.randn(2, 6, 4, 5)
    found = unit_vectors(raw)
    assert found.shape == (2, 4, 5, 6)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(2, 4, 5))
    torch.testing.assert_close(unit_vectors(37 * raw), found)
    assert torch.equal(unit_vectors(torch.zeros(1, 6, 1, 1)), torch.zeros(1, 1, 1, 6))


def test_the_blur_keeps_constants_and_has_the_stated_peak():  # V22
    flat = gaussian_blur(torch.full((2, 64, 64), 0.7), 4)
    torch.testing.assert_close(flat, torch.full((2, 64, 64), 0.7), rtol=0, atol=1e-6)
    assert flat[0].flatten().topk(512).values.sum().item() == pytest.approx(512 * 0.7, rel=1e-5)
    impulse = torch.zeros(1, 80, 80).double()
    impulse[0, 40, 40] = 1
    found = gaussian_blur(impulse, 4)[0]
    assert found[40, 40].item() == pytest.approx(0.00994789, abs=1e-8)
    assert found.sum().item() == pytest.approx(1, abs=1e-12)
    assert (found > 0).sum().item() == 33 * 33


def test_the_blur_reflects_without_repeating_the_edge():  # V22
    maps = torch.rand(2, 40, 40).double()
    found = gaussian_blur(maps, 2.0)
    expected = [gaussian_filter(m.numpy(), 2.0, mode="mirror", truncate=4) for m in maps]
    np.testing.assert_allclose(found, np.stack(expected), rtol=0, atol=1e-12)
