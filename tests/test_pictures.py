"""Overlays of what is worth a look, and large images in tiles without seams."""

import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from admodels.methods import Prediction
from admodels.nights.calibrations import ensure_calibration
from admodels.nights.pictures import pointing_of
from admodels.nights.plant import PlantLine
from admodels.scoring import rows as rows_module
from admodels.scoring import tiling
from admodels.scoring.candidates import SIDE_PX_MAX
from admodels.scoring.engine import LineImages, Model, score_line
from admodels.scoring.ledger import open_ledger
from admodels.scoring.lines import Tile
from admodels.scoring.pictures import _map_layer, pictures_folder
from admodels.scoring.stopping import Stop
from tests.cards import ALPHA, Brightness, card, judge, judged, make_bundle


def night(place: Path, most: int = 500, **changes: object) -> int:
    """How many images a night draws."""
    model = Model.of(make_bundle()).with_tiles(changes.get("tile"))
    line = PlantLine(folder="in", alpha=ALPHA)
    with open_ledger(place / "ledger") as ledger:
        kept = ensure_calibration(ledger, "press", model)
        pointing = pointing_of(ledger, "press", line, model, kept, most)
        source = LineImages("press", place / "in", pointing=pointing, **changes)
        counts = score_line(ledger, source, model, Stop())
        judge(ledger, "press", model)
        return counts.pictures


def drawn(place: Path) -> pd.Series:
    """By path, the folder of the pictures of an image, empty where there are none."""
    rows = judged(place / "ledger")
    names = ["image_sha256", "model_fingerprint", "contract_fingerprint"]
    folders = [pictures_folder("press", *key) for key in rows[names].itertuples(index=False)]
    exist = [f if (place / "ledger" / f).is_dir() else "" for f in folders]
    return pd.Series(exist, rows.index)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Twelve cards that no one need look at and, on two cameras, one of the same name to flag."""
    card(tmp_path / "in" / "cam1" / "part.png", 200)
    card(tmp_path / "in" / "cam2" / "part.png", 210, side=50)
    for level in range(40, 52):
        card(tmp_path / "in" / "later" / f"{91 - level}.png", level)  # the brightest comes first
    return tmp_path


def test_what_is_flagged_gets_pictures_and_the_worst_so_far_do_too(place: Path) -> None:
    assert night(place) == 5
    folders = drawn(place)
    # of the cards that nobody need look at, those that were among the worst five when they came
    first = [f"later/{level}.png" for level in (40, 41, 42)]
    rest = [f"later/{level}.png" for level in range(43, 52)]
    assert (folders[["cam1/part.png", "cam2/part.png", *first]] != "").all()
    assert (folders[rest] != "").sum() == 0
    kept = {p.parent.relative_to(place / "ledger").as_posix() for p in place.rglob("image.webp")}
    assert kept == set(folders) - {""}


def test_the_worst_are_drawn_where_pictures_are_rationed(place: Path) -> None:
    card(place / "in" / "cam0" / "first.png", 190)
    assert night(place, most=1) == 1  # each was the worst when it came
    assert [path for path, folder in drawn(place).items() if folder] == ["cam2/part.png"]
    card(place / "in" / "milder.png", 205)
    assert night(place, most=1) == 0  # of the same night
    card(place / "in" / "worse.png", 220)
    assert night(place, most=1) == 1
    card(place / "in" / "worst.png", 230)
    assert night(place, most=0) == 0


def test_a_picture_is_drawn_once_and_copies_share_it(place: Path) -> None:
    shutil.copyfile(place / "in/cam2/part.png", place / "in/cam2/twin.png")
    night(place)
    shutil.copyfile(place / "in/cam2/part.png", place / "in/copy.png")
    assert night(place) == 0
    folders = drawn(place)
    assert folders["copy.png"] == folders["cam2/part.png"] == folders["cam2/twin.png"] != ""


def pixels_of(place: Path, path: str, name: str) -> np.ndarray:
    with Image.open(place / "ledger" / drawn(place)[path] / f"{name}.webp") as picture:
        return np.asarray(picture).astype(int)


def test_the_image_stays_as_it_is_and_the_map_lies_over_it(place: Path) -> None:
    rgb = np.full((60, 80, 3), 80, np.uint8)
    rgb[20:40, 30:60] = 255
    Image.fromarray(rgb).save(place / "in/odd.png")
    night(place)
    assert np.abs(pixels_of(place, "odd.png", "image") - rgb).mean() < 2
    layer = pixels_of(place, "odd.png", "map")
    assert layer.shape[2] == 4
    opacity = layer[..., 3]
    assert opacity[30, 45] == opacity.max() <= 0.81 * 255  # what lies below can still be seen
    assert opacity[5, 5] < opacity[30, 45] / 4
    line = pixels_of(place, "odd.png", "regions")
    ring = np.argwhere(line[..., 3] > 0)
    assert np.abs(ring.min(0) - (20, 30)).max() <= 3
    assert np.abs(ring.max(0) - (39, 59)).max() <= 3
    assert line[30, 45, 3] == 0  # a contour covers nothing
    assert (pixels_of(place, "odd.png", "crop") > 240).any()


def test_one_map_value_has_one_colour_in_every_picture() -> None:
    faint, strong = (np.full((15, 20), level, np.float32) for level in (0.3, 0.5))
    strong[:, :10] = 0.3
    one, two = (_map_layer(values, (0.2, 0.9)) for values in (faint, strong))
    np.testing.assert_array_equal(one[:, :10], two[:, :10])
    assert (one[:, 10:] != two[:, 10:]).any()
    assert (_map_layer(faint, (0.3, 0.3))[..., 3] == 0).all()


def test_a_huge_image_gets_pictures_of_bounded_size(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    Image.new("RGB", (2 * SIDE_PX_MAX, 200)).save(folder / "huge.png")
    night(tmp_path)
    assert pixels_of(tmp_path, "huge.png", "image").shape == (100, SIDE_PX_MAX, 3)
    assert max(pixels_of(tmp_path, "huge.png", "map").shape) <= 400
    assert max(pixels_of(tmp_path, "huge.png", "crop").shape) <= 900


def test_an_image_too_large_to_wait_in_memory_gets_the_same_pictures(place: Path) -> None:
    night(place)
    expected = pixels_of(place, "cam2/part.png", "crop")
    shutil.rmtree(place / "ledger")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rows_module, "HELD_BYTES", 100)
        night(place)
    np.testing.assert_array_equal(pixels_of(place, "cam2/part.png", "crop"), expected)


@pytest.mark.parametrize("length", [10, 32, 33, 64, 100, 1001])
@pytest.mark.parametrize("overlap", [0, 1, 8, 16])
def test_windows_cover_an_axis_and_overlap_as_promised(length: int, overlap: int) -> None:
    tile = Tile(tile_px=32, overlap_px=overlap)
    found = tiling.starts(length, tile)
    assert (found[0], found[-1]) == (0, max(0, length - 32))
    assert all(0 < later - earlier <= 32 - overlap for earlier, later in pairwise(found))
    assert len(found) <= 2 + length / (32 - overlap)


def image(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(4)
    return rng.integers(0, 250, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(32, 32), (70, 100), (33, 190), (20, 50), (5, 9)])
def test_windows_that_agree_give_the_map_of_the_whole(shape: tuple[int, int]) -> None:
    rgb = image(*shape)
    found = tiling.score_tiles(make_bundle(), rgb, Tile(tile_px=32, overlap_px=8))[1]
    np.testing.assert_allclose(found, rgb.mean(axis=2), atol=1e-3)  # the map of Brightness


def test_windows_that_differ_leave_no_seam() -> None:
    bundle, level = make_bundle(), 0

    def score(images, inspected=None):
        nonlocal level
        maps = images.float().mean(dim=1) * 0
        for one in maps:
            one += level % 2  # neighbours differ by 1
            level += 1
        return Prediction(maps, maps.mean(dim=(1, 2)))

    bundle.detector.score = score
    rgb = np.zeros((32, 320, 3), np.uint8)
    for overlap, step in ((16, 1 / 8), (0, 1.0)):
        found = tiling.score_tiles(bundle, rgb, Tile(tile_px=32, overlap_px=overlap))[1]
        assert found.max() > 0.9
        assert found.min() < 0.1
        steepest = np.abs(np.diff(found, axis=1)).max()
        assert steepest <= step
    assert steepest == 1  # without an overlap there are seams


def test_the_score_of_a_whole_image_is_that_of_its_worst_window() -> None:
    rgb = np.full((100, 100, 3), 50, np.uint8)
    rgb[30:60, 30:60] = 250
    bundle, tile = make_bundle(), Tile(tile_px=32, overlap_px=0)
    assert tiling.score_tiles(bundle, rgb, tile)[0] > 100
    whole = rgb.mean()
    assert whole < 70  # what is seen of it at once


def test_the_map_of_a_huge_image_is_bounded(monkeypatch) -> None:
    monkeypatch.setattr(tiling, "MAP_PX_MAX", 64)
    rgb = np.repeat(np.repeat(image(8, 25), 16, axis=0), 16, axis=1)
    found = tiling.score_tiles(make_bundle(), rgb, Tile(tile_px=32, overlap_px=16))[1]
    assert found.shape == (20, 64)
    assert np.isfinite(found).all()


def test_a_window_that_breaks_the_detector_breaks_the_image() -> None:
    rgb = np.full((64, 64, 3), 255, np.uint8)
    rgb[:32] = 10
    assert np.isnan(tiling.score_tiles(make_bundle(), rgb, Tile(tile_px=32, overlap_px=0))[0])


def test_a_tiled_line_has_scores_and_a_calibration_of_its_own(place: Path) -> None:
    night(place)
    night(place, tile=Tile(tile_px=32, overlap_px=8))
    found = judged(place / "ledger")
    assert len(found) == 28
    tiled = found[found["contract_fingerprint"] != "c" * 16]
    assert tiled["is_anomalous"].isna().all()  # the bundle's scores are of whole images
    assert tiled["contract_fingerprint"].nunique() == 1


@pytest.mark.parametrize(("tile_px", "overlap_px"), [(31, 0), (64, 33), (64, -1)])
def test_a_tile_that_is_none_is_refused(tile_px: int, overlap_px: int) -> None:
    with pytest.raises(ValueError, match="_px"):
        Tile(tile_px=tile_px, overlap_px=overlap_px)


def test_windows_have_the_ratio_of_what_the_detector_sees_and_the_pixels_of_the_tile() -> None:
    tile, square = Tile(tile_px=96, overlap_px=24), make_bundle()
    assert tiling.axes(tile, square.contract) == (tile, tile)
    wide = square.contract.model_copy(update={"shape_px": (32, 96)})
    tall, long = tiling.axes(tile, wide)
    assert (tall.tile_px, long.tile_px) == (55, 166)
    assert (tall.overlap_px, long.overlap_px) == (13, 41)
    params = square.params.model_copy(update={"aspect": "keep", "shape_px": (32, 96)})
    detector = Brightness(params, device=torch.device("cpu"), precision=torch.float32)
    bundle = replace(square, params=params, contract=wide, detector=detector)
    rgb = np.zeros((120, 500, 3), np.uint8)
    rgb[90:110, 400:450] = 200
    score, anomaly_map = tiling.score_tiles(bundle, rgb, tile)
    bright = np.argwhere(anomaly_map > 150)
    assert np.abs(bright.min(0) - (90, 400)).max() <= 3
    assert np.abs(bright.max(0) - (109, 449)).max() <= 3
    assert 200 * 20 * 50 / (55 * 166) * 0.9 < score < 200 * 20 * 50 / (55 * 166) * 1.1
