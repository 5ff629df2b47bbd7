"""An inspected area from a bundle, or of a line's own, to the rows of a scored folder."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from admodels.bundles import bundle as bundles
from admodels.bundles.bundle import Bundle
from admodels.bundles.card import read_card
from admodels.foundation.arrays import UInt8
from admodels.foundation.errors import BundleError
from admodels.images.area import AREA_FILE, Area, everywhere
from admodels.inference import model
from admodels.inference.conformal import p_values
from admodels.scoring import tiling
from admodels.scoring.discover import Status
from admodels.scoring.engine import Model
from admodels.scoring.inbox import Folder
from admodels.scoring.lines import Tile
from admodels.scoring.rows import rows
from tests import tiny
from tests.cards import make_bundle

HALF = Area(np.repeat(np.array([[0, 255]], np.uint8), 40, axis=0).repeat(30, axis=1), {255: "face"})


def with_area(area: Area | None) -> Bundle:
    bundle = make_bundle()
    if area is None:
        return bundle
    contract = bundle.contract.model_copy(update={"area": area.stamp})
    return replace(bundle, contract=contract, area=area)


def noise(height: int = 40, width: int = 60, seed: int = 0) -> UInt8:
    return np.random.default_rng(seed).integers(1, 200, (height, width, 3), np.uint8)


def score(bundle: Bundle, rgb: UInt8) -> float:
    views = model.prepare_views(rgb, bundle.contract)
    return float(model.score_planes(bundle, [views.planes], [views.place]).anomaly_score[0])


def test_what_lies_outside_the_area_of_a_bundle_does_not_reach_a_score_of_pixels() -> None:
    bundle, rgb = with_area(HALF), noise()
    changed = rgb.copy()
    changed[:, :28] = 255  # two pixels from the edge: the image is resized
    assert score(bundle, changed) == score(bundle, rgb) < score(with_area(None), rgb)
    changed[:, 40] = 255
    assert score(bundle, changed) > score(bundle, rgb)


def test_an_image_of_another_size_than_the_area_is_refused(tmp_path: Path) -> None:
    for name, (height, width) in {"fits": (40, 60), "other": (60, 40)}.items():
        Image.fromarray(noise(height, width)).save(tmp_path / f"{name}.png")
    inbox, bundle = Folder(tmp_path), with_area(HALF)
    for tile in (None, Tile(tile_px=32, overlap_px=8)):
        fits, other = rows(inbox, ["fits.png", "other.png"], bundle, "a", lambda _: None, tile=tile)
        assert fits.row is not None
        assert other.row is not None
        assert fits.row.status == Status.SCORED
        assert (other.row.status, other.row.anomaly_score) == (Status.WRONG_SIZE, None)
        assert other.row.reason == "40 x 60 px, and the inspected area has 60 x 40"


def test_windows_of_a_large_image_see_their_own_piece_of_the_area() -> None:
    levels = np.zeros((96, 160), np.uint8)
    levels[40:60, 100:150] = 200
    area, tile, rgb = Area(levels), Tile(tile_px=32, overlap_px=8), noise(96, 160)
    bundle = with_area(area)
    score, anomaly_map = tiling.score_tiles(bundle, rgb, tile)
    assert not anomaly_map[levels == 0].any()
    assert anomaly_map[45:55, 105:145].min() > 0
    windows = len(tiling.starts(96, tile)) * len(tiling.starts(160, tile))
    assert sum(map(len, bundle.detector.chunks)) < windows  # type: ignore[attr-defined]
    changed = np.where(levels[:, :, None] > 0, rgb, 255).astype(np.uint8)
    again, other = tiling.score_tiles(bundle, changed, tile)
    assert again == pytest.approx(score)
    np.testing.assert_allclose(other, anomaly_map, rtol=1e-6)
    whole = with_area(everywhere(160, 96))
    np.testing.assert_allclose(
        tiling.score_tiles(whole, rgb, tile)[1],
        tiling.score_tiles(with_area(None), rgb, tile)[1],
        rtol=1e-6,
    )


def test_a_part_that_lies_outside_the_area_gets_no_score(tmp_path: Path) -> None:
    from tests.test_pose import BAND, picture

    rgb = picture(20, heavy=True)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    levels = np.full(rgb.shape[:2], 255, np.uint8)
    bundle = with_area(Area(levels))
    band = bundle.contract.model_copy(update={"band": BAND})
    place = model.prepare_views(rgb, band).place
    assert place is not None
    levels[:] = 0
    levels[0, 0] = 255
    bundle = replace(bundle, contract=band, area=Area(levels))
    (read,) = rows(Folder(tmp_path), ["a.png"], bundle, "a", lambda _: None)
    assert read.row is not None
    assert read.row.status == Status.UNSCORABLE
    assert read.row.reason == "the part lies outside the inspected area"


def test_a_lines_own_area_has_another_fingerprint_and_no_calibration() -> None:
    plain = Model.of(make_bundle([0.1, 0.2]))
    own = plain.with_area(HALF)
    assert plain.with_area(None) is plain
    assert own.model_fingerprint == plain.model_fingerprint
    assert own.contract_fingerprint != plain.contract_fingerprint
    assert (len(plain.calibration_scores), len(own.calibration_scores)) == (2, 0)
    loaded = own.load()
    assert loaded.area is HALF
    assert loaded.contract_fingerprint == own.contract_fingerprint
    assert score(loaded, noise()) == score(with_area(HALF), noise())


def test_other_names_of_zones_need_no_new_calibration_and_white_is_no_area() -> None:
    plain = Model.of(make_bundle([0.1, 0.2]))
    assert plain.with_area(everywhere(3, 3)).contract_fingerprint == plain.contract_fingerprint
    task = Model.of(with_area(HALF))
    renamed = task.with_area(Area(HALF.levels, {255: "front"}))
    assert renamed.contract_fingerprint == task.contract_fingerprint
    assert renamed.load().area.zones == {255: "front"}  # type: ignore[union-attr]
    assert len(renamed.calibration_scores) == len(task.calibration_scores)
    white = task.with_area(everywhere(60, 40))
    assert white.contract_fingerprint != task.contract_fingerprint
    assert white.load().area is None


@pytest.mark.slow
def test_a_bundle_keeps_its_area_and_refuses_another(tmp_path: Path) -> None:
    detector, pixels = tiny.detector("draem"), tiny.stripes(2, seed=1)
    prints = []
    for name, area in (("none", None), ("half", HALF)):
        origin = bundles.Origin("draem", "stripes", "texture", "CC0", {}, tiny.CONTRACT, area)
        bundles.save(
            detector, tmp_path / name, origin=origin, calibration_scores=[1.0], golden=pixels
        )
        prints.append(bundles.fingerprints(read_card(tmp_path / name)))
    assert prints[0][0] == prints[1][0]
    assert prints[0][1] != prints[1][1]
    assert not (tmp_path / "none" / AREA_FILE).exists()
    assert "area" not in (tmp_path / "none/bundle.json").read_text()
    loaded = bundles.load(tmp_path / "half", detector.device)
    assert loaded.area is not None
    np.testing.assert_array_equal(loaded.area.levels, HALF.levels)
    assert loaded.area.zones == {255: "face"}
    (tmp_path / "half" / AREA_FILE).write_bytes(b"")
    with pytest.raises(BundleError, match=r"area\.png is missing or was changed"):
        read_card(tmp_path / "half")


def test_the_promise_holds_with_an_area_and_ignores_what_happens_outside() -> None:
    """Of unseen images at most alpha are flagged, whatever half of each image shows."""
    bundle, rng, alpha = with_area(HALF), np.random.default_rng(5), 0.2

    def scores(count: int) -> np.ndarray:
        images = [noise(seed=int(seed)) for seed in rng.integers(1 << 30, size=count)]
        for image in images:  # a wild left half: people walk by
            image[:, :28] = rng.integers(0, 255)
        planes = [model.prepare_image(image, bundle.contract) for image in images]
        return model.score_planes(bundle, planes).anomaly_score

    flagged = [(p_values(scores(20), scores(19)) <= alpha).mean() for _ in range(30)]  # 600 images
    assert np.mean(flagged) <= alpha + 3 * np.std(flagged) / np.sqrt(len(flagged))
    assert np.mean(flagged) > alpha / 2
