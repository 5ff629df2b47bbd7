"""Where the part is: the estimate, the user's mattes, and anomalies that lie on it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from admodels.datasets import read_layout
from admodels.foundation import files, manifest
from admodels.foundation.arrays import Bool, UInt8
from admodels.foundation.errors import DataError
from admodels.foundation.manifest import DatasetImage
from admodels.foundation.params import Kind, PerKind
from admodels.images import decode, load
from admodels.images.part import estimate_matte
from admodels.synthesis import anomalies
from admodels.synthesis.anomalies import Batch, batch_on_parts
from admodels.synthesis.augmenters import shuffle_strips
from admodels.synthesis.foreground import foreground
from admodels.synthesis.params import SelfMix
from admodels.validation.inspect import describe_image

# Numbers: specification of DiffusionAD, sections 8 and 14.1 (diffusionad.md).

PX = 64
GENERATOR = SelfMix(
    lattice_exponent_max=5,
    noise_rotation_degrees=90.0,
    mask_threshold=0.5,
    image_opacity_min=0.2,
    image_opacity_max=0.8,
    augmenters_per_texture=3,
    clean_share=0.0,
    self_share=PerKind[float](object=0.5, texture=0.0),
    augmenters_per_self=3,
    tiles_per_side=8,
)
GREY, RED = (200, 200, 200), (150, 40, 30)


def changed(**values: object) -> SelfMix:
    return GENERATOR.model_copy(update=values)


def disc(radius: float, hole: float = 0.0) -> Bool:
    i, j = np.mgrid[:PX, :PX]
    distance = np.hypot(i - 30, j - 34)
    return (distance < radius) & (distance >= hole)


def picture(part: Bool, inside: tuple[int, ...] = RED) -> UInt8:
    """(3, PX, PX): `inside` on noisy grey."""
    rng = np.random.default_rng(3)
    rgb = np.where(part[..., None], inside, GREY) + rng.integers(-6, 7, (PX, PX, 3))
    return rgb.astype(np.uint8).transpose(2, 0, 1)


def overlap(a: Bool, b: Bool) -> float:
    return float((a & b).sum() / (a | b).sum())


def part_of(image: UInt8) -> Bool:
    matte = estimate_matte(image)
    assert matte is not None
    assert set(np.unique(matte)) == {0, 255}
    return matte > 0


@pytest.mark.parametrize("inside", [RED, (20, 20, 20), (250, 240, 90)])
def test_the_estimate_is_what_differs_from_the_border(inside: tuple[int, ...]) -> None:
    assert overlap(part_of(picture(disc(20), inside)), disc(20)) > 0.85


def test_holes_of_the_part_belong_to_it() -> None:
    assert overlap(part_of(picture(disc(22, hole=10))), disc(22)) > 0.85


@pytest.mark.parametrize("noise", [8, 20])
def test_a_faint_part_is_found_even_where_it_reaches_two_borders(noise: int) -> None:
    strip = np.zeros((PX, PX), dtype=np.bool_)
    strip[:, 20:44] = True
    ground = np.random.default_rng(4).integers(100, 100 + noise, (3, PX, PX))
    assert overlap(part_of((ground + 30 * strip).astype(np.uint8)), strip) > 0.85


def speckled(low: int, high: int, side: int, seed: int) -> UInt8:
    return np.random.default_rng(seed).integers(low, high, (3, side, side), dtype=np.uint8)


@pytest.mark.parametrize("image", [picture(disc(2.5)), np.full((3, PX, PX), 90, np.uint8)])
def test_an_implausible_estimate_is_none(image: UInt8) -> None:
    assert estimate_matte(image) is None


@pytest.mark.parametrize("side", [32, 64, 128])
@pytest.mark.parametrize(("low", "high"), [(100, 111), (100, 103), (0, 256)])
def test_noise_has_no_part(low: int, high: int, side: int) -> None:
    assert all(estimate_matte(speckled(low, high, side, seed)) is None for seed in range(10))


def test_every_image_says_where_its_matte_comes_from() -> None:
    normal = np.stack([picture(disc(20)), speckled(100, 111, PX, 0), picture(disc(14))])
    parts = foreground(normal, None, "object")
    assert parts.sources == ("estimated", "whole", "estimated")
    assert parts.mattes.shape == (3, 1, PX, PX)
    assert overlap(parts.mattes[0, 0] > 0, disc(20)) > 0.8
    assert (parts.mattes[1] == 255).all()
    assert overlap(parts.mattes[2, 0] > 0, disc(14)) > 0.8
    whole = foreground(normal, None, "texture")
    assert whole.sources == ("whole",) * 3
    assert whole.mattes.shape == (3, 1, PX, PX)
    assert (whole.mattes == 255).all()
    mine = np.full((3, 1, PX, PX), 77, dtype=np.uint8)
    kinds: tuple[Kind, ...] = ("object", "texture")
    for kind in kinds:
        given = foreground(normal, mine, kind)
        assert given.sources == ("manifest",) * 3
        assert given.mattes is mine


def placed(
    generator: SelfMix,
    matte: UInt8,
    batch: int = 12,
    step: int = 0,
    kind: Kind = "object",
) -> Batch:
    rng = np.random.default_rng(0)
    normal = torch.from_numpy(rng.integers(1, 256, (3, 3, PX, PX), dtype=np.uint8))
    textures = torch.from_numpy(rng.integers(0, 256, (4, 3, PX, PX), dtype=np.uint8))
    mattes = torch.from_numpy(matte)[None, None].expand(3, 1, PX, PX)
    return batch_on_parts(
        normal, textures, mattes, generator, kind=kind, batch=batch, seed=2, step=step
    )


HALF = np.where(np.arange(PX) < PX // 2, 255, 0).astype(np.uint8)[None].repeat(PX, axis=0)
WHOLE = np.full((PX, PX), 255, dtype=np.uint8)


def test_anomalies_lie_on_the_foreground_and_nothing_changes_beside_them() -> None:
    batch = placed(GENERATOR, HALF, batch=40)
    assert not batch.mask[..., PX // 2 :].any()
    assert batch.mask.amax(dim=(1, 2, 3)).all()
    outside = (batch.mask == 0).expand_as(batch.normal)
    assert torch.equal(batch.augmented[outside], batch.normal[outside])
    assert batch.augmented.min() >= 0
    assert batch.augmented.max() <= 1


def test_where_the_foreground_is_grey_the_mask_is_soft() -> None:
    batch = placed(GENERATOR, np.full((PX, PX), 51, dtype=np.uint8))
    assert batch.mask.unique().tolist() == pytest.approx([0, 0.2])
    opaque = changed(image_opacity_min=0.2, image_opacity_max=0.2, augmenters_per_texture=0)
    soft, hard = (placed(opaque, np.full((PX, PX), v, dtype=np.uint8)) for v in (51, 255))
    full = hard.augmented - hard.normal
    torch.testing.assert_close(soft.augmented - soft.normal, 0.2 * full, rtol=0, atol=1e-6)


def test_an_empty_foreground_is_tried_50_times_and_leaves_the_image_normal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[tuple[int, int]] = []
    noise_mask = anomalies._noise_mask

    def counting(*arguments: object) -> object:
        drawn.append(arguments[2])
        return noise_mask(*arguments)

    monkeypatch.setattr(anomalies, "_noise_mask", counting)
    batch = placed(GENERATOR, 0 * WHOLE, batch=2)
    assert len(drawn) == 100
    assert len(set(drawn[:50])) == len(set(drawn[50:])) == 1  # the same lattice every time
    assert not batch.mask.any()
    assert torch.equal(batch.augmented, batch.normal)


def test_half_of_the_samples_stay_normal() -> None:
    clean = [
        (placed(changed(clean_share=0.5), WHOLE, batch=100, step=s).mask.amax((1, 2, 3)) == 0).sum()
        for s in range(5)
    ]
    assert 200 < sum(int(c) for c in clean) < 300  # 4.5 standard deviations around 250


def is_painted_with_itself(batch: Batch) -> list[bool]:
    """Per sample: its painted pixels are colours of its own image (no augmenter, no opacity)."""
    answers = []
    for normal, augmented, mask in zip(batch.normal, batch.augmented, batch.mask, strict=True):
        own = {tuple(c) for c in (normal * 255).round().flatten(1).T.int().tolist()}
        painted = (augmented * 255).round()[:, mask[0] > 0].T.int().tolist()
        answers.append(all(tuple(c) in own for c in painted))
    return answers


BARE = changed(
    augmenters_per_texture=3,
    augmenters_per_self=0,
    image_opacity_min=0.0,
    image_opacity_max=0.0,
    self_share=PerKind[float](object=1.0, texture=0.0),
)


@pytest.mark.slow
def test_a_share_of_the_anomalies_is_painted_with_the_image_itself() -> None:
    assert all(is_painted_with_itself(placed(BARE, WHOLE)))
    half = BARE.model_copy(update={"self_share": PerKind[float](object=0.5, texture=0.0)})
    mixed = [own for s in range(4) for own in is_painted_with_itself(placed(half, WHOLE, 25, s))]
    assert 30 < sum(mixed) < 70
    assert not any(is_painted_with_itself(placed(BARE, WHOLE, kind="texture")))


def test_an_image_is_painted_with_its_own_strips_elsewhere() -> None:
    places = np.stack(np.broadcast_arrays(*np.ogrid[1 : PX + 1, 1 : PX + 1], 0)).astype(np.uint8)
    image, whole = torch.from_numpy(places)[None], torch.from_numpy(WHOLE)[None, None]
    drawn = {"batch": 12, "seed": 2, "step": 0}
    batch = batch_on_parts(image, 0 * image, whole, BARE, kind="object", **drawn)
    origins = (batch.augmented * 255).round().int().numpy() - 1
    for (row, column, _), mask in zip(origins, batch.mask[:, 0].numpy() > 0, strict=True):
        i, j = np.nonzero(mask)
        row_of, column_of = row[mask], column[mask]
        assert ((row_of - i) % 8 == 0).all()
        assert len(set(zip(i, row_of, strict=True))) == len(set(i))  # one order of rows
        assert len(set(zip(j, column_of, strict=True))) == len(set(j))  # and one of columns
    moved = (origins[:, :2] != places[None, :2].astype(int) - 1) & (batch.mask > 0).numpy()
    assert moved.any(axis=1).mean() > 0.9 * batch.mask.mean()


def test_a_sample_depends_on_seed_step_and_index_alone() -> None:
    many, few = placed(GENERATOR, HALF, batch=9, step=4), placed(GENERATOR, HALF, batch=3, step=4)
    for a, b in ((many.augmented, few.augmented), (many.mask, few.mask)):
        assert torch.equal(a[:3], b)


def test_shuffled_strips_move_tiles_by_one_order_of_columns_and_one_of_rows() -> None:
    tiles = np.arange(64, dtype=np.uint8).reshape(8, 8)
    image = tiles.repeat(8, axis=0).repeat(8, axis=1)[..., None].repeat(3, axis=2)
    orders = set()
    for seed in range(200):
        moved = shuffle_strips(image, 8, np.random.default_rng(seed))
        tiles = moved[::8, ::8, 0]
        assert np.array_equal(tiles.repeat(8, axis=0).repeat(8, axis=1), moved[..., 0])
        assert sorted(tiles.flatten()) == list(range(64))
        columns, rows = tiles[0] % 8, tiles[:, 0] // 8
        assert np.array_equal(tiles, 8 * rows[:, None] + columns)
        assert set(columns[:4]) == {0, 2, 4, 6}
        orders.add((tuple(columns), tuple(rows)))
    assert len(orders) > 190


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for name in ("0", "1"):
        decode.write_png(tmp_path / f"train/good/{name}.png", np.full((40, 50, 3), 9, np.uint8))
        matte = np.zeros((40, 50), dtype=np.uint8)
        matte[:, :25] = 255
        decode.write_png(tmp_path / f"foreground/train/good/{name}.png", matte)
    return tmp_path


def rows_of(raw: Path) -> list[manifest.ManifestRow]:
    listed = [DatasetImage(f"train/good/{n}.png", "normal", "", "", "learn") for n in "01"]
    return [describe_image(image, raw, decode.STORED)[0] for image in listed]


def test_mattes_are_found_by_name_and_loaded_in_order(raw: Path) -> None:
    rows = rows_of(raw)
    assert rows[1].foreground_path == "foreground/train/good/1.png"
    assert rows[1].foreground_sha256 == files.sha256_of(raw / rows[1].foreground_path)
    loaded = load.load_foreground(rows, raw, (32, 32), "area")
    assert loaded is not None
    assert loaded.shape == (2, 1, 32, 32)
    assert (loaded[..., :16] == 255).all()
    assert not loaded[..., 16:].any()


def test_without_any_matte_there_is_no_foreground(raw: Path) -> None:
    for name in ("0", "1"):
        (raw / f"foreground/train/good/{name}.png").unlink()
    rows = rows_of(raw)
    assert rows[0].foreground_path == rows[0].foreground_sha256 == ""
    assert load.load_foreground(rows, raw, (32, 32), "area") is None


def test_a_matte_missing_for_some_images_is_refused_by_their_names(raw: Path) -> None:
    (raw / "foreground/train/good/1.png").unlink()
    with pytest.raises(DataError, match=r"1 of 2 images have no foreground[\s\S]*good/1\.png"):
        load.load_foreground(rows_of(raw), raw, (32, 32), "area")


def test_a_matte_of_another_size_is_refused(raw: Path) -> None:
    decode.write_png(raw / "foreground/train/good/1.png", np.full((50, 40), 255, np.uint8))
    with pytest.raises(DataError, match=r"matte is 40 x 50 pixels[\s\S]*50 x 40"):
        load.load_foreground(rows_of(raw), raw, (32, 32), "area")


@pytest.mark.parametrize("brightest", [0, 1, 127])
def test_a_matte_that_is_black_or_of_0_and_1_is_refused_by_its_file(
    raw: Path, brightest: int
) -> None:
    matte = np.zeros((40, 50), dtype=np.uint8)
    matte[:, :25] = brightest
    decode.write_png(raw / "foreground/train/good/1.png", matte)
    with pytest.raises(DataError, match=rf"brightest {brightest} of 255[\s\S]*good/1\.png"):
        load.load_foreground(rows_of(raw), raw, (32, 32), "area")


def test_validation_hears_of_a_matte_that_cannot_be_used(raw: Path) -> None:
    def problems() -> list[str]:
        listed = [DatasetImage(f"train/good/{n}.png", "normal", "", "", "learn") for n in "01"]
        return [describe_image(image, raw, decode.STORED)[1].matte_problem for image in listed]

    assert problems() == ["", ""]
    decode.write_png(raw / "foreground/train/good/0.png", np.ones((40, 50), np.uint8))
    (raw / "foreground/train/good/1.png").write_bytes(b"no picture")
    dark, broken = problems()
    assert dark == "foreground matte is 50 x 40 pixels, its brightest 1 of 255"
    assert broken.startswith("image is undecodable")


def test_a_grey_matte_is_one(raw: Path) -> None:
    decode.write_png(raw / "foreground/train/good/1.png", np.full((40, 50), 128, np.uint8))
    loaded = load.load_foreground(rows_of(raw), raw, (32, 32), "area")
    assert loaded is not None
    assert (loaded[1] == 128).all()


def test_a_matte_changed_since_validation_is_refused(raw: Path) -> None:
    rows = rows_of(raw)
    decode.write_png(raw / "foreground/train/good/0.png", np.ones((40, 50), np.uint8))
    with pytest.raises(DataError, match="sha256"):
        load.load_foreground(rows, raw, (32, 32), "area")


def test_in_a_plain_folder_mattes_are_no_anomalies(tmp_path: Path) -> None:
    for name in ("0.png", "foreground/0.png"):
        decode.write_png(tmp_path / name, np.zeros((40, 50), np.uint8))
    assert [f.image_path for f in read_layout("folder", "", tmp_path).images] == ["0.png"]
