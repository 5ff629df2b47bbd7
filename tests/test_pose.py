"""A single part turned upright: where it lies, which way up, and its map back in the image."""

import dataclasses
import json

import cv2
import numpy as np
import pytest
import torch

from admodels.bundles import bundle as bundles
from admodels.bundles.card import Preparation
from admodels.foundation.arrays import UInt8
from admodels.images import pose
from admodels.images.shape import Band
from admodels.inference import model
from admodels.scoring.engine import LineImages, Model
from admodels.scoring.inbox import Folder
from admodels.scoring.rows import UNTURNED, rows
from admodels.scoring.single import score_folder
from tests.cards import Brightness, make_bundle

SIZE = (240, 320)
ANGLES = (-170, -95, -40, 0, 15, 90, 133)
BAND = Band(length=0.72, width=0.3, heavy_end=True)


def picture(
    degrees: float, *, heavy: bool = True, centre: tuple[int, int] = (150, 120), spot: bool = False
) -> UInt8:
    """A pin of 170 px whose head, its heavy end, points to `degrees` (0: right, 90: down)."""
    rgb = np.full((*SIZE, 3), (40, 60, 90), np.uint8)
    direction = np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
    ends = [
        tuple(np.round(np.array(centre) + s * direction).astype(int).tolist()) for s in (-75, 75)
    ]
    cv2.line(rgb, *ends, (200, 190, 60), 30, cv2.LINE_AA)
    if heavy:
        cv2.circle(rgb, ends[1], 26, (200, 190, 60), -1, cv2.LINE_AA)
    if spot:
        place = np.round(np.array(centre) + 40 * direction).astype(int).tolist()
        cv2.circle(rgb, place, 6, (250, 250, 250), -1, cv2.LINE_AA)
    return rgb


def preparation(band: Band | None) -> Preparation:
    contract = make_bundle().contract
    return contract.model_copy(update={"band": band, "shape_px": (96, 32), "resize": "area"})


def bundle_of(band: Band | None) -> bundles.Bundle:
    plain = make_bundle()
    changes = {"aspect": "keep", "shape_px": (96, 32), "pose": "upright", "band": band}
    params = plain.params.model_copy(update=changes)
    detector = Brightness(params, device=torch.device("cpu"), precision=torch.float32)
    return dataclasses.replace(plain, params=params, detector=detector, contract=preparation(band))


@pytest.mark.parametrize("degrees", ANGLES)
def test_the_axis_points_to_the_heavy_end(degrees: float) -> None:
    piece = pose.find_part(picture(degrees))
    assert piece is not None
    angle = np.degrees(np.arctan2(piece.axis[1], piece.axis[0]))
    assert abs((angle - degrees + 180) % 360 - 180) < 2
    assert piece.skewness > pose.LEAST_SKEWNESS
    unit = np.sqrt(SIZE[0] * SIZE[1])
    assert piece.length * unit == pytest.approx(75 + 15 + 75 + 26, abs=8)
    assert piece.width * unit == pytest.approx(52, abs=8)


@pytest.mark.parametrize("degrees", ANGLES)
def test_a_turned_part_gives_the_picture_of_the_upright_one_without_a_mirror(
    degrees: float,
) -> None:
    expected = pose.views(picture(90), (96, 32), "area", BAND).planes.astype(int)
    planes = pose.views(picture(degrees, centre=(160, 115)), (96, 32), "area", BAND).planes
    assert planes.shape == (3, 96, 32)
    apart = [np.abs(way - expected).mean() for way in (planes, planes[:, ::-1])]
    assert apart[0] < 4
    assert apart[0] < apart[1] / 2


def test_a_mark_beside_the_axis_stays_on_its_side() -> None:
    for degrees in ANGLES:
        rgb, radians = picture(degrees), np.radians(degrees)
        right = np.array([np.sin(radians), -np.cos(radians)])  # of the head, with the head below
        place = np.round(np.array([150, 120]) + 10 * right).astype(int).tolist()
        cv2.circle(rgb, place, 4, (255, 0, 0), -1)
        red = pose.views(rgb, (96, 32), "area", BAND).planes.astype(int)
        _, column = np.unravel_index((red[0] - red[1]).argmax(), (96, 32))
        assert column > 16, degrees


@pytest.mark.parametrize("degrees", ANGLES)
def test_a_map_comes_back_to_where_the_image_has_it(degrees: float) -> None:
    rgb = picture(degrees, spot=True)
    seen = model.prepare_views(rgb, preparation(BAND))
    bright = seen.planes[2].astype(np.float32)  # blue: the spot alone has much of it
    back = model.map_to_image(bright, *SIZE, seen.place)
    direction = np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
    y, x = np.unravel_index(int(back.argmax()), SIZE)
    assert np.hypot(*(np.array([x, y]) - (np.array([150, 120]) + 40 * direction))) < 5
    half = model.map_to_image(bright, SIZE[0] // 2, SIZE[1] // 2, seen.place)
    y, x = np.unravel_index(int(half.argmax()), half.shape)
    assert np.hypot(*(2 * np.array([x, y]) - (np.array([150, 120]) + 40 * direction))) < 6
    assert back.shape == SIZE
    assert back[[0, 0, -1, -1], [0, -1, 0, -1]].max() == 0  # beside the band


def test_several_parts_or_none_leave_an_image_as_it_is() -> None:
    both = picture(90, centre=(80, 120))
    both[:, 160:] = picture(90, centre=(80, 120))[:, :160]
    empty = np.full((*SIZE, 3), 90, np.uint8)
    for rgb in (both, empty):
        assert pose.find_part(rgb) is None
        seen = model.prepare_views(rgb, preparation(BAND))
        assert seen.place is None
        np.testing.assert_array_equal(seen.planes, model.prepare_image(rgb, preparation(None)))
    speck = picture(30)
    speck[5:12, 5:12] = 250
    assert pose.find_part(speck) is not None


def test_the_band_is_learnt_from_parts_and_says_why_there_is_none() -> None:
    heavy = [pose.find_part(picture(degrees)) for degrees in range(0, 360, 30)]
    band = pose.learn_band(heavy)
    assert isinstance(band, Band)
    assert band.heavy_end
    assert band.length > max(piece.length for piece in heavy if piece)
    light = [pose.find_part(picture(degrees, heavy=False)) for degrees in range(0, 360, 30)]
    both_ways = pose.learn_band(light)
    assert isinstance(both_ways, Band)
    assert not both_ways.heavy_end
    disc = np.full((*SIZE, 3), 40, np.uint8)
    cv2.circle(disc, (150, 120), 60, (200, 190, 60), -1)
    assert pose.learn_band([pose.find_part(disc)] * 5) == "the parts have no main axis"
    assert pose.learn_band([*heavy, None, None]) == "2 of 14 images show several parts, or none"
    assert isinstance(pose.learn_band([*heavy, None]), Band)
    assert isinstance(pose.learn_band([]), str)


def test_without_a_heavy_end_both_ways_are_scored_and_the_smaller_counts() -> None:
    either = BAND.model_copy(update={"heavy_end": False})
    bundle = bundle_of(either)
    images = [picture(degrees, heavy=False, spot=True) for degrees in (20, 200, 90)]
    planes = [model.prepare_image(rgb, bundle.contract) for rgb in images]
    assert [len(image) for image in planes] == [6, 6, 6]
    np.testing.assert_array_equal(planes[0][3:], planes[0][:3, ::-1, ::-1])

    class Lopsided(Brightness):
        """Dislikes a bright lower half."""

        def score(
            self, images: torch.Tensor, inspected: torch.Tensor | None = None
        ) -> bundles.methods.Prediction:
            plain = super().score(images, inspected)
            lower = images[:, :, 48:].double().mean(dim=(1, 2, 3)).float()
            return bundles.methods.Prediction(plain.anomaly_map, lower)

    lopsided = Lopsided(bundle.params, device=torch.device("cpu"), precision=torch.float32)
    scored = bundles.score_views(lopsided, planes)
    for index, image in enumerate(planes):
        ways = bundles.score(lopsided, image.reshape(2, 3, 96, 32))
        assert scored.anomaly_score[index] == ways.anomaly_score.min()
        first = ways.anomaly_map[0]  # of a mean of channels, the same turned
        np.testing.assert_allclose(scored.anomaly_map[index], first, atol=1e-4)
    mixed = [planes[0], planes[1][:3], planes[2]]
    again = bundles.score_views(lopsided, mixed).anomaly_score
    assert again[0] == scored.anomaly_score[0]
    assert again[2] == scored.anomaly_score[2]


def test_a_scored_folder_says_which_images_were_not_turned(tmp_path) -> None:
    bundle = bundle_of(BAND)
    both = picture(90, centre=(80, 120))
    both[:, 160:] = picture(90, centre=(80, 120))[:, :160]
    for name, rgb in (("single.png", picture(40)), ("two.png", both)):
        cv2.imwrite(str(tmp_path / name), rgb)
    names = ["single.png", "two.png"]
    table = {read.row.path: read.row for read in rows(Folder(tmp_path), names, bundle, "x", {}.get)}
    assert [table[name].status for name in names] == ["scored", "scored"]
    assert [table[name].reason for name in names] == ["", UNTURNED]
    summary = score_folder(
        LineImages("x", tmp_path), Model.of(bundle), tmp_path.parent / "out", alpha=0.2
    )
    assert summary.unturned == 1
    assert "(2 scored; 1 not turned upright)" in str(summary)


def test_a_preparation_with_a_band_comes_back_from_json() -> None:
    text = json.dumps(preparation(BAND).model_dump(mode="json"))
    assert Preparation.model_validate_json(text, strict=True) == preparation(BAND)
    assert "band" not in preparation(None).model_dump(mode="json")
