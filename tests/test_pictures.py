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
from admodels.nights import pictures
from admodels.nights.judgements import picture_path
from admodels.scoring import tiling
from admodels.scoring.candidates import SIDE_PX_MAX
from admodels.scoring.engine import LineImages, Model, score_line
from admodels.scoring.ledger import open_ledger
from admodels.scoring.lines import Tile
from admodels.scoring.stopping import Stop
from tests.cards import Brightness, card, judge, judged, make_bundle


def night(place: Path, most: int = 500, **changes: object) -> int:
    """How many pictures a night draws."""
    model = Model.of(make_bundle()).with_tiles(changes.get("tile"))
    source = LineImages("press", place / "in", **changes)
    with open_ledger(place / "ledger") as ledger:
        score_line(ledger, source, model, Stop())
        return pictures.draw(ledger, source, model, judge(ledger, "press", model), most, Stop())


def table(place: Path) -> pd.DataFrame:
    """The judgements, with the paths of the pictures that there are."""
    found = judged(place / "ledger")
    names = ["image_sha256", "model_fingerprint", "contract_fingerprint"]
    paths = [picture_path("press", *key) for key in found[names].itertuples(index=False)]
    drawn = [path if (place / "ledger" / path).is_file() else "" for path in paths]
    return found.assign(overlay_path=drawn)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Twelve cards that no one need look at and, on two cameras, one of the same name to flag."""
    for level in range(40, 52):
        card(tmp_path / "in" / "cam1" / f"{level}.png", level)
    card(tmp_path / "in" / "cam1" / "part.png", 200)
    card(tmp_path / "in" / "cam2" / "part.png", 210, side=50)
    return tmp_path


def test_what_is_flagged_or_worst_gets_a_picture_and_nothing_else(place: Path) -> None:
    assert night(place) == pictures.ALWAYS == 5
    found = table(place)
    drawn = found[found["overlay_path"] != ""]
    names = ["cam1/49.png", "cam1/50.png", "cam1/51.png", "cam1/part.png", "cam2/part.png"]
    assert list(drawn.index) == names
    assert drawn["overlay_path"].is_unique
    files = {p.relative_to(place / "ledger").as_posix() for p in (place / "ledger").rglob("*.jpg")}
    assert files == set(drawn["overlay_path"])


def test_the_worst_come_first_where_pictures_are_rationed(place: Path) -> None:
    assert night(place, most=1) == 1
    found = table(place)["overlay_path"]
    assert list(found.index[found != ""]) == ["cam2/part.png"]


def test_more_than_the_usual_few_are_drawn_where_they_are_flagged(place: Path) -> None:
    for level in range(220, 228):
        card(place / "in" / f"{level}.png", level)
    assert night(place) == 10


def test_a_picture_is_drawn_once(place: Path) -> None:
    shutil.copyfile(place / "in/cam2/part.png", place / "in/twin.png")
    assert night(place) == 4  # of the worst five two are alike
    shutil.copyfile(place / "in/cam2/part.png", place / "in/copy.png")
    assert night(place) == 0
    found = table(place)["overlay_path"]
    assert found["copy.png"] == found["cam2/part.png"] != ""


def test_a_file_that_changed_since_it_was_scored_gets_no_picture(place: Path, monkeypatch) -> None:
    inner = pictures.draw

    def meanwhile(*words):
        card(place / "in/cam2/part.png", 20)
        (place / "in/cam1/part.png").unlink()
        return inner(*words)

    monkeypatch.setattr(pictures, "draw", meanwhile)
    assert night(place) == 3


def test_a_picture_shows_the_image_and_the_map_side_by_side_at_its_own_size(place: Path) -> None:
    night(place)
    with Image.open(place / "ledger" / table(place)["overlay_path"]["cam2/part.png"]) as picture:
        assert (picture.format, picture.size) == ("JPEG", (2 * 52, 50))
        pixels = np.asarray(picture).astype(int)
    assert abs(pixels[10:40, 10:40] - 210).max() < 4
    assert abs(pixels[10:40, 62:92].mean(axis=(0, 1)) - 210).max() > 20


def test_one_map_value_has_one_colour_in_every_picture() -> None:
    grey = np.full((30, 40, 3), 128, np.uint8)
    low, high = 0.2, 0.9
    faint, strong = (np.full((15, 20), level, np.float32) for level in (0.3, 0.5))
    strong[:, :10] = 0.3
    one, two = (pictures.panels(grey, m, low, high)[:, 40:] for m in (faint, strong))
    np.testing.assert_array_equal(one[:, :15], two[:, :15])
    assert (one[:, 30:] != two[:, 30:]).any()


def test_the_contour_goes_around_what_no_normal_image_reaches() -> None:
    spot = np.zeros((40, 40), np.float32)
    spot[10:20, 10:20] = 0.7
    ring = (pictures.panels(np.zeros((40, 40, 3), np.uint8), spot, 0.0, 1.0) == (255, 0, 0)).all(2)
    where = np.argwhere(ring[:, 40:])
    assert (where.min(0).tolist(), where.max(0).tolist()) == ([10, 10], [19, 19])
    assert not ring[:, :40].any()


def test_a_huge_image_gets_a_picture_of_bounded_size(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    Image.new("RGB", (2 * SIDE_PX_MAX, 200)).save(folder / "huge.png")
    night(tmp_path)
    (path,) = (tmp_path / "ledger").rglob("*.jpg")
    with Image.open(path) as picture:
        assert picture.size == (2 * SIDE_PX_MAX, 100)


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
    found = tiling.score_tiles(make_bundle(), rgb, Tile(tile_px=32, overlap_px=8), with_map=True)[1]
    np.testing.assert_allclose(found, rgb.mean(axis=2), atol=1e-3)  # the map of Brightness


def test_windows_that_differ_leave_no_seam() -> None:
    bundle, level = make_bundle(), 0

    def score(images):
        nonlocal level
        maps = images.float().mean(dim=1) * 0
        for one in maps:
            one += level % 2  # neighbours differ by 1
            level += 1
        return Prediction(maps, maps.mean(dim=(1, 2)))

    bundle.detector.score = score
    rgb = np.zeros((32, 320, 3), np.uint8)
    for overlap, step in ((16, 1 / 8), (0, 1.0)):
        found = tiling.score_tiles(
            bundle, rgb, Tile(tile_px=32, overlap_px=overlap), with_map=True
        )[1]
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
    found = tiling.score_tiles(make_bundle(), rgb, Tile(tile_px=32, overlap_px=16), with_map=True)[
        1
    ]
    assert found.shape == (20, 64)
    assert np.isfinite(found).all()


def test_a_window_that_breaks_the_detector_breaks_the_image() -> None:
    rgb = np.full((64, 64, 3), 255, np.uint8)
    rgb[:32] = 10
    assert np.isnan(tiling.score_tiles(make_bundle(), rgb, Tile(tile_px=32, overlap_px=0))[0])


def test_a_tiled_line_has_scores_and_a_calibration_of_its_own(place: Path) -> None:
    night(place)
    night(place, tile=Tile(tile_px=32, overlap_px=8))
    found = table(place)
    assert len(found) == 28
    tiled = found[found["contract_fingerprint"] != "c" * 16]
    assert tiled["is_anomalous"].isna().all()  # the bundle's scores are of whole images
    assert tiled["contract_fingerprint"].nunique() == 1
    assert (tiled["overlay_path"] != "").sum() == 5


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
    score, anomaly_map = tiling.score_tiles(bundle, rgb, tile, with_map=True)
    bright = np.argwhere(anomaly_map > 150)
    assert np.abs(bright.min(0) - (90, 400)).max() <= 3
    assert np.abs(bright.max(0) - (109, 449)).max() <= 3
    assert 200 * 20 * 50 / (55 * 166) * 0.9 < score < 200 * 20 * 50 / (55 * 166) * 1.1
