"""Regions: the places of a map that a verdict points at, from the map to the ledger's table."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy import ndimage

from admodels.images.area import Area
from admodels.inference.conformal import p_values
from admodels.inference.regions import REGIONS_MOST, find_regions, level
from admodels.nights.calibrations import ensure_calibration
from admodels.nights.pictures import pointing_of
from admodels.nights.plant import PlantLine
from admodels.scoring.engine import LineImages, Model, score_line
from admodels.scoring.integrity import check
from admodels.scoring.ledger import open_ledger
from admodels.scoring.lines import Tile
from admodels.scoring.pointing import Pointing, point
from admodels.scoring.region_files import regions_of
from admodels.scoring.single import score_folder
from admodels.scoring.stopping import Stop
from tests.cards import ALPHA, card, inbox, make_bundle

MAPS = arrays(np.float32, (9, 11), elements=st.floats(0, 8, width=16))


@given(MAPS, st.floats(0, 8), arrays(np.bool_, (9, 11)))
def test_regions_are_the_components_above_the_level_inside_the_area(values, limit, inside) -> None:
    """The twin labels by scipy, and measures region by region."""
    regions, labels = find_regions(values, limit, inside)
    if not inside.any():
        assert not regions
        return
    above = inside & (values > limit)
    twin, count = ndimage.label(above, np.ones((3, 3)))
    if not count:
        assert len(regions) == 1
        assert regions[0].largest == values[inside].max()
        return
    assert ((labels > 0) == above).all()
    assert len(regions) == count <= REGIONS_MOST
    assert [r.largest for r in regions] == sorted((r.largest for r in regions), reverse=True)
    for number, region in enumerate(regions, 1):
        own = labels == number
        assert len(np.unique(twin[own])) == 1
        rows, columns = np.nonzero(own)
        assert (region.left, region.top) == (columns.min(), rows.min())
        assert (region.width, region.height) == (np.ptp(columns) + 1, np.ptp(rows) + 1)
        assert (region.x, region.y) == pytest.approx((columns.mean(), rows.mean()))
        assert region.area == own.sum()
        assert region.share == pytest.approx(own.sum() / inside.sum())
        assert region.mean == pytest.approx(values[own].mean(), rel=1e-5)


@given(MAPS)
def test_without_a_level_the_one_region_is_around_the_maximum(values) -> None:
    regions, labels = find_regions(values, None)
    (region,) = regions
    assert region.largest == values.max()
    assert labels[np.unravel_index(values.argmax(), values.shape)] == 1
    assert values[labels == 1].min() >= values.max() / 2
    assert ndimage.label(labels, np.ones((3, 3)))[1] == 1


def test_a_map_without_a_number_has_no_region_and_a_constant_one_has_the_whole_image() -> None:
    assert find_regions(np.full((4, 5), np.nan, np.float32), 0.5)[0] == []
    (region,) = find_regions(np.zeros((4, 5), np.float32), 0.5)[0]
    assert (region.left, region.top, region.width, region.height, region.share) == (0, 0, 5, 4, 1)
    holed = np.zeros((4, 5), np.float32)
    holed[1, 2], holed[3, 4] = np.nan, 1
    assert [r.largest for r in find_regions(holed, 0.5)[0]] == [1]
    speckles = np.zeros((64, 64), np.float32)
    speckles[::4, ::4] = np.arange(256).reshape(16, 16) + 1
    kept, labels = find_regions(speckles, 0.5)
    assert len(kept) == REGIONS_MOST == labels.max()
    assert [region.largest for region in kept] == list(range(256, 256 - REGIONS_MOST, -1))


@given(
    arrays(np.float64, st.integers(1, 60), elements=st.floats(0, 1, width=16)),
    st.floats(0.001, 0.999),
)
def test_the_level_is_where_the_p_value_of_a_maximum_reaches_alpha(map_max, alpha) -> None:
    limit = level(map_max, alpha)
    maxima = np.unique(map_max)
    within = p_values(maxima, map_max) <= alpha
    assert (limit is None) == (alpha * (len(map_max) + 1) < 1)
    if limit is not None:
        np.testing.assert_array_equal(maxima > limit, within)


def test_a_maximum_that_is_not_known_counts_as_infinite() -> None:
    known = np.arange(19.0)
    assert level(known, 0.05) == 18
    assert level(np.append(known[1:], np.nan), 0.05) is None
    assert level(np.append(np.arange(38.0), np.nan), 0.05) == 37  # the second largest of 39
    assert level(np.full(19, np.nan), 0.5) is None


def run(place: Path, bundle=None, **changes: object) -> pd.DataFrame:
    """One run of a line; all its regions so far, by path."""
    bundle = bundle or replace(make_bundle(), calibration_map_max=np.arange(50.0, 140, 10))
    model = Model.of(bundle).with_tiles(changes.get("tile"))
    line = PlantLine(folder="in", alpha=ALPHA, mm_per_px=0.5)
    with open_ledger(place / "ledger") as ledger:
        kept = ensure_calibration(ledger, "press", model)
        pointing = pointing_of(ledger, "press", line, model, kept, 9)
        score_line(
            ledger, LineImages("press", place / "in", pointing=pointing, **changes), model, Stop()
        )
        runs = {path.parent.name for path in ledger.parts("press")}
        table = regions_of(ledger, "press", sorted(runs)).to_pandas()
        ledger.finish({"lines": {"press": {"exit_code": 0}}})
    return table.set_index("path", drop=False)


def odd(path: Path, *boxes: tuple[int, int, int, int], ground: int = 80) -> None:
    """A grey image (90, 120) with bright boxes (left, top, width, height); it is flagged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rgb = np.full((90, 120, 3), ground, np.uint8)
    for left, top, width, height in boxes:
        rgb[top : top + height, left : left + width] = 250
    Image.fromarray(rgb).save(path)


LARGE, SMALL = (12, 15, 60, 45), (90, 69, 24, 15)


def test_a_flagged_image_has_its_regions_in_its_own_pixels_and_in_millimetres(
    tmp_path: Path,
) -> None:
    odd(tmp_path / "in/two.png", LARGE, SMALL)
    card(tmp_path / "in/plain.png", 60)
    table = run(tmp_path)
    assert list(table["path"]) == ["two.png"] * 2
    by_area = table.sort_values("area_px", ascending=False)
    for (_, row), box in zip(by_area.iterrows(), (LARGE, SMALL), strict=True):
        assert (
            np.abs(row[["left", "top", "width", "height"]] - np.array(box)).max() <= 6
        )  # of a map of 32 px
        assert row.area_px == pytest.approx(box[2] * box[3], rel=0.35)
        assert (row.width_mm, row.area_mm2) == (row.width / 2, row.area_px / 4)
        assert abs(row.x - (box[0] + box[2] / 2 - 0.5)) < 2
        assert row.largest >= row["mean"] > 120  # the level: the second largest of nine
    assert sorted(table["number"]) == [1, 2]
    assert table["share"].sum() == pytest.approx(table["area_px"].sum() / (90 * 120), rel=0.01)


def test_the_largest_value_of_every_map_is_kept_beside_its_score(tmp_path: Path) -> None:
    odd(tmp_path / "in/a.png", SMALL)
    shutil.copyfile(tmp_path / "in/a.png", tmp_path / "in/b.png")
    card(tmp_path / "in/plain.png", 60)
    run(tmp_path)
    odd(tmp_path / "in/c.png", SMALL)
    run(tmp_path)
    rows = pd.concat(pd.read_parquet(p) for p in tmp_path.rglob("scores/press/*/*.parquet"))
    largest = rows.set_index("path")["map_max"]
    assert largest["plain.png"] == 60
    assert largest["a.png"] == largest["b.png"] == largest["c.png"] > 200


def test_an_image_that_is_not_flagged_has_no_region(tmp_path: Path) -> None:
    odd(tmp_path / "in/a.png", (0, 0, 4, 4))
    assert run(tmp_path).empty


def test_a_flagged_image_below_the_level_has_the_one_around_its_maximum(tmp_path: Path) -> None:
    odd(tmp_path / "in/a.png", LARGE, SMALL, ground=90)
    for unknown in (np.empty(0), np.full(9, 251.0)):
        shutil.rmtree(tmp_path / "ledger", ignore_errors=True)
        table = run(tmp_path, replace(make_bundle(), calibration_map_max=unknown))
        assert len(table) == 1
        assert table["largest"].item() > 240


def test_the_same_bytes_have_the_same_regions_wherever_and_whenever_they_come(
    tmp_path: Path,
) -> None:
    odd(tmp_path / "in/a.png", LARGE, SMALL)
    shutil.copyfile(tmp_path / "in/a.png", tmp_path / "in/b.png")
    run(tmp_path)
    shutil.copyfile(tmp_path / "in/a.png", tmp_path / "in/z.png")
    table = run(tmp_path).drop(columns="path")
    first = table.loc[["a.png"]].reset_index(drop=True)
    for name in ("b.png", "z.png"):
        pd.testing.assert_frame_equal(table.loc[[name]].reset_index(drop=True), first)


def test_a_detector_that_breaks_down_has_neither_a_region_nor_a_maximum(tmp_path: Path) -> None:
    card(tmp_path / "in/white.png", 255)
    assert run(tmp_path).empty


def test_regions_of_a_tiled_image_lie_where_they_are_in_the_whole_one(tmp_path: Path) -> None:
    odd(tmp_path / "in/a.png", LARGE)
    tile = Tile(tile_px=32, overlap_px=8)
    model = Model.of(make_bundle()).with_tiles(tile)
    line = PlantLine(folder="in", alpha=ALPHA)
    with open_ledger(tmp_path / "ledger") as ledger:
        kept = ensure_calibration(ledger, "press", model)
        pointing = pointing_of(ledger, "press", line, model, kept, 9)
        pointing.threshold, pointing.level = 100.0, 200.0
        images = LineImages("press", tmp_path / "in", pointing=pointing, tile=tile)
        score_line(ledger, images, model, Stop())
        (region,) = regions_of(ledger, "press", [ledger.run]).to_pylist()
    box = [region[name] for name in ("left", "top", "width", "height")]
    assert np.abs(np.subtract(box, LARGE)).max() <= 4


def test_parts_are_merged_and_checked_with_their_regions(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("admodels.scoring.engine.ROWS_PER_PART", 3)
    for number in range(9):
        odd(tmp_path / f"in/{number}.png", (10 + number, 15, 60, 45))
    before = run(tmp_path).reset_index(drop=True)
    assert len(list(tmp_path.rglob("regions/press/*/*.parquet"))) > 1
    with open_ledger(tmp_path / "ledger", "000001") as ledger:
        ledger.compact("press")
        after = regions_of(ledger, "press", ["000001"]).to_pandas()
        assert not check(ledger).faults
    pd.testing.assert_frame_equal(after, before)
    (path,) = tmp_path.rglob("regions/press/*/*.parquet")
    path.write_bytes(path.read_bytes()[:-9] + b"x" * 9)
    with open_ledger(tmp_path / "ledger") as ledger:
        assert list(check(ledger).faults) == ["regions/press/000001/0001.parquet"]


def test_a_scored_folder_has_a_table_of_regions(tmp_path: Path) -> None:
    folder = inbox(tmp_path)
    odd(folder / "two.png", LARGE, SMALL)
    bundle = replace(make_bundle(), calibration_map_max=np.arange(50.0, 140, 10))
    model, images = Model.of(bundle), LineImages("press", folder)
    score_folder(images, model, tmp_path / "out", alpha=ALPHA, csv=True, mm_per_px=2.0)
    regions = pa.Table.from_pandas(pd.read_parquet(tmp_path / "out/regions.parquet")).to_pandas()
    verdicts = pd.read_parquet(tmp_path / "out/verdicts.parquet")
    flagged = verdicts.loc[verdicts["is_anomalous"] == True, "path"]  # noqa: E712
    assert set(regions["path"]) == set(flagged) >= {"two.png"}
    assert (regions["width_mm"] == 2 * regions["width"]).all()
    assert len(pd.read_csv(tmp_path / "out/regions.csv")) == len(regions)


def test_regions_lie_in_the_inspected_area_and_name_its_zones(tmp_path: Path) -> None:
    levels = np.zeros((90, 120), np.uint8)
    levels[:, :60], levels[:, 80:] = 128, 255
    values = np.full((45, 60), 0.1, np.float32)
    values[5:10, 5:15] = values[20:25, 45:50] = 1.0  # in both zones
    values[30:40, 31:39] = 9.0  # outside
    pointing = Pointing(0.5, 0.5, (0, 1))
    area, image = Area(levels, {128: "rim", 255: "face"}), np.zeros((90, 120, 3), np.uint8)
    inputs = (lambda: values, lambda: image, lambda share: None)
    regions = point(pointing, 1.0, "a", *inputs, area).regions
    assert sorted((region.zone, region.left, region.top) for region in regions) == [
        *(("face", 90, 40), ("rim", 10, 10))
    ]
    assert sum(region.share for region in regions) == pytest.approx(75 / (45 * 50))
    assert not point(pointing, 0.5, "b", *inputs, area).regions  # not flagged: at the threshold
