"""One way of an image through a bundle: a folder, tiles, pictures and `evaluate` all take it."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from admodels.bundles import bundle as bundles
from admodels.bundles.bundle import Bundle
from admodels.foundation.manifest import DatasetImage
from admodels.images import decode
from admodels.inference import model
from admodels.scoring import tiling
from admodels.scoring.engine import Model
from admodels.scoring.inbox import Folder
from admodels.scoring.lines import Tile
from admodels.scoring.rows import rows
from admodels.validation.inspect import describe_image
from stages import evaluate as stage
from tests import cards, tiny
from tests.costly import picture


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A tiny DRAEM for square images from 40 to 90 px, not too bright."""
    folder = tmp_path_factory.mktemp("bundle") / "stripes"
    cards.save_draem(folder)
    learnt = tiny.CONTRACT.model_copy(
        update={
            "width_px": (40, 90),
            "height_px": (40, 90),
            "side_ratio": (1.0, 1.0),
            "size_tolerance": 1.0,
            "brightness": (0.0, 240.0),
        }
    )
    loaded = bundles.load(folder, torch.device("cpu"))
    return replace(loaded, contract=loaded.contract.model_copy(update={"learnt": learnt}))


def write_image(folder: Path, name: str, side: int = 80) -> bytes:
    """Stripes of (side, side) pixels, as a PNG below data/raw of the task."""
    rgb = tiny.stripes(1, seed=4)[0].transpose(1, 2, 0)
    decode.write_png(folder / name, cv2.resize(rgb, (side, side)))
    return (folder / name).read_bytes()


def test_a_folder_a_tile_and_evaluate_give_an_image_the_score_of_the_steps(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    raw = Path("data/raw/stripes")
    data = write_image(raw, "a.png")
    image = model.decode_image(data, "a.png", bundle.contract)
    planes = model.prepare_image(image.rgb, bundle.contract)
    scored = model.score_planes(bundle, [planes])
    expected = float(scored.anomaly_score[0])
    (read,) = rows(Folder(raw), ["a.png"], bundle, "press", {}.get)
    tile = tiling.score_tiles(bundle, image.rgb, Tile(tile_px=80, overlap_px=0))
    row = describe_image(DatasetImage("a.png", "normal", "", "", "test"), raw, decode.STORED)[0]
    scored_set = stage._score_images(bundle, [row], (64, 64), "nearest", 1)[0]
    assert [read.row.anomaly_score, tile[0], *scored_set.anomaly_scores] == [expected] * 3
    in_the_image = model.map_to_image(scored.anomaly_map[0], 80, 80)
    np.testing.assert_allclose(tile[1], in_the_image, rtol=1e-6)
    in_the_mask = model.map_to_image(scored.anomaly_map[0], 64, 64)
    np.testing.assert_array_equal(scored_set.anomaly_maps[0], in_the_mask)


def test_a_folder_refuses_what_evaluate_marks_as_refused(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    raw = Path("data/raw/stripes")
    write_image(raw, "fits.png")
    write_image(raw, "large.png", side=200)
    cards.card(raw / "white.png", 250, side=60)
    names = ["fits.png", "large.png", "white.png"]
    statuses = [read.row.status for read in rows(Folder(raw), names, bundle, "press", {}.get)]
    listed = [
        describe_image(DatasetImage(name, "normal", "", "", "test"), raw, decode.STORED)[0]
        for name in names
    ]
    scored_set = stage._score_images(bundle, listed, (64, 64), "nearest", 1)[0]
    assert scored_set.refused == ["", "wrong_size", "overexposed"]
    assert statuses == ["scored", "wrong_size", "overexposed"]
    assert np.isfinite(scored_set.anomaly_scores).all()


@pytest.mark.parametrize(
    ("rgb", "any_size", "word"),
    [
        (np.full((60, 60, 3), 100, np.uint8), False, None),
        (np.full((60, 60, 3), 250, np.uint8), False, "overexposed"),
        (np.full((60, 80, 3), 100, np.uint8), False, "wrong_size"),
        (np.full((60, 200, 3), 100, np.uint8), True, None),
        (np.full((60, 200, 3), 250, np.uint8), True, "overexposed"),
    ],
)
def test_an_image_is_compared_with_those_that_were_learnt_from(
    bundle: Bundle, rgb: np.ndarray, any_size: bool, word: str | None
) -> None:
    image = decode.Image(rgb, rgb.shape[1], rgb.shape[0], "RGB", 8)
    description = model.describe_image(image, bundle.contract, any_size=any_size)
    assert (description.fault and description.fault[0]) == word
    assert description.statistics.brightness == rgb[0, 0, 0]


def test_the_order_of_the_values_in_memory_does_not_change_a_score(bundle: Bundle) -> None:
    planes = tiny.stripes(3, seed=4)
    turned = [np.ascontiguousarray(p.transpose(1, 2, 0)).transpose(2, 0, 1) for p in planes]
    assert turned[0].strides != planes[0].strides
    one, other = model.score_planes(bundle, list(planes)), model.score_planes(bundle, turned)
    np.testing.assert_array_equal(one.anomaly_score, other.anomaly_score)
    np.testing.assert_array_equal(one.anomaly_map, other.anomaly_map)


def test_a_map_is_brought_to_the_height_and_width_of_an_image_bilinearly() -> None:
    anomaly_map = np.array([[0, 1], [0, 1]], np.float32)
    resized = model.map_to_image(anomaly_map, 3, 4)
    assert resized.dtype == np.float32
    assert resized.tolist() == [[0, 0.25, 0.75, 1]] * 3


def test_a_row_of_a_file_with_several_images_asks_which_and_judges_none(
    bundle: Bundle, tmp_path: Path
) -> None:
    thumbnail, part = picture(20), picture(80)
    thumbnail.save(tmp_path / "a.tif", save_all=True, append_images=[part])
    (read,) = rows(Folder(tmp_path), ["a.tif"], bundle, "press", {}.get)
    assert read.row is not None
    assert (read.row.status, read.row.reason[:32]) == (
        "undecodable",
        "2 pages of 20 x 20, 80 x 80 pixe",
    )
    named = Model.of(bundle).with_page(1).load()
    (read,) = rows(Folder(tmp_path), ["a.tif"], named, "press", {}.get)
    assert read.row is not None
    assert (read.row.status, read.row.width) == ("scored", 80)
