"""The rules of images: learnt from normal images, applied to every image that is scored."""

import io
import struct
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageOps

from admodels.foundation.errors import DataError
from admodels.foundation.files import write_json
from admodels.foundation.manifest import DatasetImage
from admodels.images import decode, rules
from admodels.images.decode import STORED, Reading
from admodels.images.describe import Look
from admodels.images.rules import ImageRules
from admodels.scoring.inbox import Folder
from admodels.scoring.rows import rows
from admodels.validation.inspect import inspect_images, learnt_rules, learnt_window
from tests import cards

LOOK = Look(640, 480, 8, is_grey=False, brightness=120.0, contrast=30.0)
BOUNDS = {
    "size_tolerance": 1.25,
    "ratio_tolerance": 1.05,
    "brightness": (2.0, 253.0),
    "min_contrast": 1.0,
}


def learnt(*looks: Look) -> ImageRules:
    return learnt_rules(looks or [LOOK], STORED, **BOUNDS)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        ({"width": 800, "height": 600}, None),  # 1.25 times as large
        ({"width": 512, "height": 384}, None),
        ({"width": 801, "height": 600}, "wrong_size"),
        ({"width": 511, "height": 384}, "wrong_size"),
        ({"width": 671, "height": 480}, None),  # 1.05 times as wide for its height
        ({"width": 673, "height": 480}, "wrong_size"),  # its sides fit, their ratio does not
        ({"width": 609, "height": 480}, "wrong_size"),
        ({"bit_depth": 4}, None),
        ({"bit_depth": 12}, "wrong_bit_depth"),
        ({"bit_depth": 16}, "wrong_bit_depth"),
        ({"is_grey": True}, "wrong_channels"),
        ({"brightness": 253.5}, "overexposed"),
        ({"brightness": 255.0, "contrast": 0.0, "is_grey": True}, "overexposed"),
        ({"brightness": 1.0}, "blank"),
        ({"contrast": 0.5}, "blank"),
        ({"brightness": 0.0, "contrast": 0.0, "is_grey": True}, "blank"),
    ],
)
def test_an_image_of_another_kind_has_one_fault_and_says_which(change, fault) -> None:
    found = learnt().fault(replace(LOOK, **change))
    assert (found and found[0]) == fault
    assert found is None or found[1]


def test_images_that_are_cut_may_have_any_size() -> None:
    large = replace(LOOK, width=9000, height=300)
    assert learnt().fault(large, any_size=True) is None
    assert learnt().fault(replace(large, bit_depth=16), any_size=True)[0] == "wrong_bit_depth"


@pytest.mark.parametrize(
    ("greys", "channels", "grey_fault", "colour_fault"),
    [
        ((True, True), "grey", None, "wrong_channels"),
        ((False, False), "colour", "wrong_channels", None),
        ((True, False), "both", None, None),
    ],
)
def test_what_was_learnt_from_in_both_ways_may_come_in_both(
    greys, channels, grey_fault, colour_fault
) -> None:
    found = learnt(*(replace(LOOK, is_grey=grey) for grey in greys))
    assert found.channels == channels
    for is_grey, fault in ((True, grey_fault), (False, colour_fault)):
        told = found.fault(replace(LOOK, is_grey=is_grey))
        assert (told and told[0]) == fault


def test_no_image_learnt_from_has_a_fault_however_odd() -> None:
    odd = (
        replace(LOOK, width=64, height=3000, bit_depth=16),
        replace(LOOK, brightness=255.0, contrast=0.0),
        replace(LOOK, brightness=0.0, bit_depth=1),
    )
    found = learnt(LOOK, *odd)
    assert [found.fault(look) for look in (LOOK, *odd)] == [None] * 4
    assert found.bit_depths == (8, 16)


@pytest.mark.parametrize("change", ["brightness", "contrast"])
def test_an_image_somewhat_beyond_the_oddest_one_learnt_from_is_still_of_its_kind(change) -> None:
    for seen, near, far in ((1.1, 0.9, 0.5), (0.5, 0.3, 0.2)):
        found = learnt(LOOK, replace(LOOK, **{change: seen}))
        assert found.fault(replace(LOOK, **{change: near})) is None
        assert found.fault(replace(LOOK, **{change: far}))[0] == "blank"
    found = learnt(LOOK, replace(LOOK, brightness=253.5))
    assert found.fault(replace(LOOK, brightness=254.0)) is None
    assert found.fault(replace(LOOK, brightness=254.5))[0] == "overexposed"


def test_a_contract_comes_back_as_it_was_and_a_missing_one_names_the_stage(tmp_path: Path) -> None:
    found = learnt()
    write_json(tmp_path / "image_rules.json", found.model_dump(mode="json"))
    assert rules.read(tmp_path / "image_rules.json") == found
    with pytest.raises(DataError, match="dvc repro validate"):
        rules.read(tmp_path / "gone.json")


def deep(path: Path, low: int, high: int, seed: int = 0, hot: int = 0) -> DatasetImage:
    """A 16-bit grey PNG whose values lie in low..high, but for some `hot` pixels."""
    values = np.random.default_rng(seed).integers(low, high + 1, (60, 80), dtype=np.uint16)
    values.ravel()[:hot] = 65535
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(values).save(path)
    return DatasetImage(path.name, "normal", "", "", "learn")


def window_of(root: Path, found: list[DatasetImage]) -> tuple[int, int] | None:
    return learnt_window([row for _, row, _ in inspect_images(found, root, STORED)[0]], root)


@pytest.mark.parametrize(
    ("low", "high", "window"),
    [
        (0, 4095, (0, 5119)),  # a camera of 12 bits
        (0, 65535, (0, 65535)),
        (30_000, 34_000, (29_000, 35_000)),  # X-rays that use a part of the range
        (1000, 1000, (872, 1128)),
    ],
)
def test_the_window_is_what_was_seen_and_a_quarter_more_at_both_ends(
    tmp_path: Path, low: int, high: int, window: tuple[int, int]
) -> None:
    found = [deep(tmp_path / f"{i}.png", low, high, seed=i, hot=3) for i in range(3)]
    seen = window_of(tmp_path, found)
    assert seen is not None
    assert np.abs(np.subtract(seen, window)).max() <= 0.02 * (high - low)
    image = decode.decode_image(
        (tmp_path / "0.png").read_bytes(), "0.png", Reading(window=seen, orientation="stored")
    )
    if high > low:
        assert image.rgb.std() > 40  # 256 levels over one and a half times the span: 49


def test_images_of_8_bits_have_no_window(tmp_path: Path) -> None:
    decode.write_png(tmp_path / "plain.png", np.full((20, 20), 9, np.uint8))
    plain = DatasetImage("plain.png", "normal", "", "", "learn")
    assert window_of(tmp_path, [plain]) is None
    assert window_of(tmp_path, [plain, deep(tmp_path / "d.png", 0, 60_000)]) is not None


def test_stored_values_go_through_the_window_whatever_the_format() -> None:
    reading = Reading(window=(1000, 1255), orientation="stored")
    grey = np.array([[0, 1000, 1001, 1128, 1255, 1256, 65535]], np.uint16)
    expected = [0, 0, 1, 128, 255, 255, 255]
    for suffix in (".png", ".tiff"):
        plain = [cv2.IMWRITE_TIFF_COMPRESSION, 1] if suffix == ".tiff" else []
        colours = np.stack([grey, grey[:, ::-1], grey * 0], axis=2)[:, :, ::-1]  # OpenCV's order
        for values in (grey, colours, np.dstack([colours, grey * 0])):
            data = cv2.imencode(suffix, values, plain)[1].tobytes()
            image = decode.decode_image(data, "x", reading)
            assert image.bit_depth == 16
            assert image.rgb[0, :, 0].tolist() == expected
            others = [expected] * 2 if values.ndim == 2 else [expected[::-1], [0] * len(expected)]
            assert image.rgb[0, :, 1:].T.tolist() == others


def test_8_bits_know_no_window() -> None:
    array = np.arange(256, dtype=np.uint8).reshape(16, 16)
    file = io.BytesIO()
    Pillow.fromarray(array).save(file, format="PNG")
    reading = Reading(window=(1000, 2000), orientation="stored")
    assert (decode.decode_image(file.getvalue(), "x", reading).rgb[:, :, 0] == array).all()


@pytest.mark.parametrize("tag", range(10))
@pytest.mark.parametrize("fmt", ["JPEG", "TIFF"])
def test_exif_turns_an_image_by_policy_alone(tag: int, fmt: str) -> None:
    array = np.kron(np.random.default_rng(1).integers(0, 256, (2, 3, 3)), np.ones((16, 16, 1)))
    exif = Pillow.Exif()
    exif[0x0112] = tag
    file = io.BytesIO()
    Pillow.fromarray(array.astype(np.uint8)).save(file, format=fmt, exif=exif)
    with Pillow.open(file) as stored:  # Pillow turns TIFFs whatever it is asked
        plain = array if fmt == "TIFF" else np.asarray(stored)
        turned = np.asarray(ImageOps.exif_transpose(stored))
    as_stored = decode.decode_image(file.getvalue(), "x", STORED)
    as_told = decode.decode_image(file.getvalue(), "x", Reading(window=None, orientation="exif"))
    np.testing.assert_array_equal(as_stored.rgb, plain)
    np.testing.assert_array_equal(as_told.rgb, turned)
    assert (as_told.width, as_told.height) == (turned.shape[1], turned.shape[0])


def turned_tiff(values: np.ndarray, tag: int) -> bytes:
    """A TIFF of OpenCV with an orientation, in a new directory at the end of the file."""
    data = cv2.imencode(".tiff", values, [cv2.IMWRITE_TIFF_COMPRESSION, 1])[1].tobytes()
    start = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, start)[0]
    fields = [data[start + 2 + 12 * i :][:12] for i in range(count)]
    fields = [f for f in fields if f[:2] != b"\x12\x01"] + [
        struct.pack("<HHIHH", 274, 3, 1, tag, 0)
    ]
    fields.sort(key=lambda field: struct.unpack_from("<H", field))
    end = struct.pack("<H", len(fields)) + b"".join(fields) + bytes(4)
    return data[:4] + struct.pack("<I", len(data)) + data[8:] + end


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("tag", [1, 3, 6, 8])
def test_a_tiff_of_16_bits_and_its_mask_are_turned_by_policy_alone(channels: int, tag: int) -> None:
    levels = np.arange(24, dtype=np.uint16).reshape(4, 6) * 10
    values = np.squeeze(np.repeat(levels[:, :, None] << 8, channels, axis=2))
    data = turned_tiff(values, tag)
    turned = {1: levels, 3: np.rot90(levels, 2), 6: np.rot90(levels, -1), 8: np.rot90(levels)}[tag]
    for orientation, expected in (("stored", levels), ("exif", turned)):
        reading = Reading(window=None, orientation=orientation)
        np.testing.assert_array_equal(
            decode.decode_image(data, "x", reading).rgb[:, :, 1], expected
        )
    mask = turned_tiff((levels > 90).astype(np.uint8), tag)
    np.testing.assert_array_equal(decode.decode_mask(mask, "x"), levels > 90)


@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01", b"Exif\0\0MM", b"?"])
def test_broken_exif_turns_nothing(exif: bytes) -> None:
    file = io.BytesIO()
    Pillow.new("RGB", (30, 20)).save(file, format="JPEG", exif=exif)
    reading = Reading(window=None, orientation="exif")
    assert decode.decode_image(file.getvalue(), "x", reading).rgb.shape == (20, 30, 3)


@pytest.mark.parametrize("at", [(0, 0), (17, 3), (39, 59)])
def test_one_coloured_pixel_makes_an_image_no_grey_one(at: tuple[int, int]) -> None:
    rgb = np.full((40, 60, 3), 90, np.uint8)
    assert decode.is_grey(rgb)
    rgb[at] = (90, 90, 91)
    assert not decode.is_grey(rgb)


def test_new_images_of_another_kind_get_a_row_with_their_looks_and_no_score(tmp_path: Path) -> None:
    """A line of colour images of 60 x 50 px to which other cameras send."""
    rng = np.random.default_rng(3)
    good = rng.integers(40, 200, (50, 60, 3), dtype=np.uint8)
    pictures = {
        "good": good,
        "wrong_bit_depth": rng.integers(0, 65536, (50, 60), dtype=np.uint16),
        "wrong_channels": good[:, :, 0],
        "wrong_size": rng.integers(40, 200, (100, 60, 3), dtype=np.uint8),
        "blank": np.full((50, 60, 3), 128, np.uint8),
        "overexposed": np.full((50, 60, 3), 255, np.uint8),
    }
    for name, pixels in pictures.items():
        Pillow.fromarray(pixels).save(tmp_path / f"{name}.png")
    found = learnt(replace(LOOK, width=60, height=50))
    bundle = cards.make_bundle()
    bundle = replace(bundle, contract=bundle.contract.model_copy(update={"learnt": found}))
    names = [f"{name}.png" for name in pictures]
    read = {r.row.path: r.row for r in rows(Folder(tmp_path), names, bundle, "press", {}.get)}
    assert {p.removesuffix(".png"): r.status for p, r in read.items()} == {
        **{name: name for name in pictures},
        "good": "scored",
    }
    for name, row in read.items():
        assert (row.anomaly_score is None) == (name != "good.png")
        assert (row.width, row.bit_depth is None, row.reason == "") == (
            60,
            False,
            name == "good.png",
        )
        assert row.image_sha256
    assert sum(len(chunk) for chunk in bundle.detector.chunks) == cards.CHUNK  # one chunk, padded


@pytest.mark.parametrize(("window", "level"), [((0, 4095), 70), ((1024, 2047), 24)])
def test_new_images_of_12_bits_are_seen_through_the_window_of_their_bundle(
    tmp_path: Path, window: tuple[int, int], level: int
) -> None:
    cards.deep_card(tmp_path / "a.png", 70 << 4)
    (read,) = rows(Folder(tmp_path), ["a.png"], cards.windowed(window), "press", {}.get)
    assert (read.row.anomaly_score, read.row.brightness) == (level, level)
