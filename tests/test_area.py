"""The file of an inspected area: what it says, what is refused, how it follows an image."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from admodels.foundation.errors import DataError
from admodels.images import area as areas
from admodels.images.area import Area
from admodels.sources.source import AreaSource

LEVELS = np.repeat(np.array([[0, 128, 255]], np.uint8), 4, axis=0)


def png(pixels: NDArray[np.generic], mode: str | None = None, **options: object) -> bytes:
    target = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(target, **{"format": "PNG", **options})
    return target.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return png(LEVELS, exif=exif)


REFUSED = {
    "16 bits": (png(LEVELS.astype(np.uint16) * 200), "mode I;16"),
    "colour": (png(np.stack([LEVELS, LEVELS.T.reshape(4, 3), LEVELS], axis=2)), "mode RGB"),
    "palette": (png(LEVELS, "P"), "mode P"),
    "half transparent": (png(np.stack([LEVELS, LEVELS // 2 + 9], axis=2)), "mode LA"),
    "turned": (turned(), "turned"),
    "jpeg": (png(LEVELS, format="JPEG"), "JPEG"),
    "black": (png(LEVELS * 0), "every pixel is 0"),
    "text": (b"no image", "no readable image"),
    "cut off": (png(LEVELS)[:50], "no readable image"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_an_area_that_does_not_say_which_pixels_it_means_is_refused(kind: str) -> None:
    data, words = REFUSED[kind]
    with pytest.raises(DataError, match=words):
        areas.parse_area(data, "area.png", {})


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA"])
def test_grey_is_read_from_every_plain_mode(mode: str) -> None:
    np.testing.assert_array_equal(areas.parse_area(png(LEVELS, mode), "", {}).levels, LEVELS)


def test_black_and_white_is_an_area() -> None:
    levels = areas.parse_area(png(LEVELS > 0), "", {}).levels
    np.testing.assert_array_equal(levels, np.where(LEVELS > 0, 255, 0))


def test_a_zone_without_a_pixel_and_two_zones_of_one_name_are_refused() -> None:
    with pytest.raises(DataError, match="no pixel has the level 7"):
        areas.parse_area(png(LEVELS), "area.png", {7: "rim"})
    content = {"file": "a.png", "sha256": "0" * 64}
    for zones in ({1: "rim", 2: "rim"}, {0: "rim"}, {256: "rim"}, {1: ""}, {1: "a,b"}):
        with pytest.raises(ValidationError):
            AreaSource.model_validate(content | {"zones": zones})


def test_another_file_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    data, path = png(LEVELS), tmp_path / "a.png"
    path.write_bytes(data)
    pin = hashlib.sha256(data).hexdigest()
    assert areas.read_area(path, pin, {128: "rim"}).zones == {128: "rim"}
    with pytest.raises(DataError, match=pin):
        areas.read_area(path, "0" * 64, {})
    with pytest.raises(DataError, match="cannot be read"):
        areas.read_area(tmp_path / "b.png", pin, {})


def test_what_is_written_is_read_again_and_white_is_no_area(tmp_path: Path) -> None:
    path = tmp_path / "area.png"
    areas.write_area(path, Area(LEVELS, {255: "face", 128: "rim"}))
    area = areas.read_written(path)
    assert area is not None
    np.testing.assert_array_equal(area.levels, LEVELS)
    assert area.zones == {128: "rim", 255: "face"}
    areas.write_area(path, areas.everywhere(5, 3))
    assert areas.read_written(path) is None
    path.write_bytes(b"")
    with pytest.raises(DataError, match="area"):
        areas.read_written(path)


def test_the_stamp_depends_on_what_is_inspected_alone() -> None:
    first = Area(LEVELS, {128: "rim"}).stamp
    assert Area(np.where(LEVELS > 0, 9, 0).astype(np.uint8)).stamp == first
    assert Area(np.where(LEVELS > 128, 9, 0).astype(np.uint8)).stamp.sha256 != first.sha256
    assert Area(LEVELS.T).stamp.sha256 != first.sha256
    assert first.fault(3, 4) is None
    assert "4 x 3 px" in str(first.fault(4, 3))


def test_a_region_lies_in_the_zone_of_most_of_its_named_pixels() -> None:
    area = Area(LEVELS, {128: "rim", 255: "face"})
    region = np.zeros((4, 3), bool)
    assert area.zone_of(region) == ""
    region[0] = True
    region[1, 2] = True
    assert area.zone_of(region) == "face"
    assert Area(LEVELS, {255: "face"}).zone_of(LEVELS == 128) == ""


@given(
    arrays.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))),
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
)
def test_a_smaller_pixel_is_inspected_where_anything_of_it_is(
    mask: NDArray[np.bool_], shape: tuple[int, int]
) -> None:
    expected = np.zeros(shape, bool)
    (height, width), (tall, wide) = mask.shape, shape
    for y, x in np.argwhere(mask):
        for i in range(tall):
            for j in range(wide):
                rows = i * height < (y + 1) * tall and (i + 1) * height > y * tall
                columns = j * width < (x + 1) * wide and (j + 1) * width > x * wide
                expected[i, j] |= rows and columns
    np.testing.assert_array_equal(areas.shrink(mask, shape), expected)


def test_the_area_follows_a_band_and_nothing_beyond_the_image_is_inspected() -> None:
    area = Area(np.repeat(np.array([[0, 9]], np.uint8), 8, axis=0).repeat(8, axis=1))  # (8, 16)
    upright = np.array([[1.0, 0, 0], [0, 1, 0]])  # the whole image
    np.testing.assert_array_equal(area.seen((8, 16), upright), area.inside)
    turned = np.array([[-1.0, 0, 1], [0, -1, 1]])
    np.testing.assert_array_equal(area.seen((8, 16), turned), area.inside[::-1, ::-1])
    right = np.array([[1.0, 0, 0.5], [0, 1, 0]])  # its right half lies beyond the image
    seen = area.seen((8, 16), right)
    assert seen[:, :8].all()
    assert not seen[:, 8:].any()
