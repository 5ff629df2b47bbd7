"""Decoding, resizing and loading of images and masks."""

import hashlib
import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from admodels.foundation.errors import DataError
from admodels.foundation.manifest import DatasetImage
from admodels.images import decode, load
from admodels.validation.inspect import describe_image

SHARED = Path(os.environ.get("ADMODELS_SHARED_DATA", Path(__file__).parents[2] / "shared/data"))


def pixels(height=20, width=30, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(array, fmt="PNG", mode=None, **options):
    image = Pillow.fromarray(array)
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, format=fmt, **options)
    return file.getvalue()


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(width, height, bit_depth, colour_type, rows):
    head = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = png_chunk(b"IHDR", head) + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def found_in(root, name="a.png", array=None, mask=None, label="normal"):
    decode.write_png(root / name, pixels() if array is None else array)
    mask_path = ""
    if mask is not None:
        mask_path = f"mask_{name}"
        decode.write_png(root / mask_path, mask)
    return DatasetImage(name, label, "", mask_path, "learn")


def row_of(found, root):
    return describe_image(found, root, decode.STORED)[0]


@pytest.mark.parametrize("fmt", ["PNG", "BMP", "TIFF"])
def test_lossless_rgb_comes_back_exactly(fmt):
    array = pixels()
    image = decode.decode_image(encoded(array, fmt), "x")
    np.testing.assert_array_equal(image.rgb, array)
    assert (image.width, image.height, image.mode, image.bit_depth) == (30, 20, "RGB", 8)


@pytest.mark.parametrize("fmt", ["JPEG", "WEBP"])
def test_lossy_formats_are_read(fmt):
    array = np.full((20, 30, 3), (200, 100, 50), dtype=np.uint8)
    image = decode.decode_image(encoded(array, fmt), "x")
    assert np.abs(image.rgb.astype(int) - array).max() <= 4  # a flat colour, quantised once
    assert (image.mode, image.bit_depth) == ("RGB", 8)


def test_grey_is_replicated():
    array = pixels(channels=1)
    image = decode.decode_image(encoded(array), "x")
    np.testing.assert_array_equal(image.rgb, np.stack([array] * 3, axis=-1))
    assert (image.mode, image.bit_depth) == ("L", 8)


@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
def test_16_bit_grey_is_cut_by_a_fixed_window_and_never_stretched(fmt):
    array = np.array([[0, 255, 256, 511], [512, 1000, 40000, 65535]], dtype=np.uint16)
    image = decode.decode_image(encoded(array, fmt), "x")
    np.testing.assert_array_equal(image.rgb[:, :, 1], [[0, 0, 1, 1], [2, 3, 156, 255]])
    dim = decode.decode_image(encoded(array[:, :2], fmt), "x")
    np.testing.assert_array_equal(dim.rgb, image.rgb[:, :2])
    assert (image.mode, image.bit_depth) == ("I;16", 16)


def test_16_bit_rgb_is_cut_likewise_and_its_depth_recorded():
    rows = [struct.pack(">6H", 0, 256, 65535, 511, 40000, 1000)]
    image = decode.decode_image(raw_png(2, 1, 16, 2, rows), "x")
    np.testing.assert_array_equal(image.rgb, [[[0, 1, 255], [1, 156, 3]]])
    assert (image.mode, image.bit_depth) == ("RGB", 16)


def test_16_bit_rgb_in_a_tiff_is_cut_likewise():
    array = np.array([[[0, 256, 65535], [511, 40000, 1000]]], dtype=np.uint16)
    plain = [cv2.IMWRITE_TIFF_COMPRESSION, 1]
    image = decode.decode_image(cv2.imencode(".tiff", array[:, :, ::-1], plain)[1].tobytes(), "x")
    np.testing.assert_array_equal(image.rgb, array >> 8)
    assert (image.mode, image.bit_depth) == ("RGB", 16)


def test_alpha_is_dropped_and_not_composited():
    array = pixels(channels=4)
    array[:, :, 3] = 0
    image = decode.decode_image(encoded(array), "x")
    np.testing.assert_array_equal(image.rgb, array[:, :, :3])
    assert image.mode == "RGBA"
    grey = decode.decode_image(encoded(array, mode="LA"), "x")
    assert grey.mode == "LA"
    expected = np.asarray(Pillow.fromarray(array).convert("LA"))[:, :, 0]
    np.testing.assert_array_equal(grey.rgb[:, :, 2], expected)


def test_a_palette_becomes_its_colours_even_with_transparency():
    image = Pillow.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    file = io.BytesIO()
    image.save(file, format="PNG", transparency=bytes([0, 128]))
    decoded = decode.decode_image(file.getvalue(), "x")
    np.testing.assert_array_equal(decoded.rgb, [[[10, 20, 30], [200, 100, 50]]])
    assert (decoded.mode, decoded.bit_depth) == ("P", file.getvalue()[24])


def test_cmyk_becomes_rgb():
    array = np.zeros((8, 8, 4), dtype=np.uint8)
    file = io.BytesIO()
    Pillow.fromarray(array, mode=None).convert("RGB").convert("CMYK").save(file, format="TIFF")
    image = decode.decode_image(file.getvalue(), "x")
    assert image.mode == "CMYK"
    assert image.rgb.shape == (8, 8, 3)
    assert (image.rgb == 0).all()


def test_a_cmyk_jpeg_which_is_stored_inverted_has_its_colours():
    array = np.full((16, 16, 3), (200, 90, 40), dtype=np.uint8)
    image = decode.decode_image(encoded(array, "JPEG", mode="CMYK", quality=95), "x")
    assert image.mode == "CMYK"
    assert np.abs(image.rgb.astype(int) - array).max() <= 8  # a flat colour, quantised


def interlaced(array):
    """A grey PNG of 8 bits in the seven passes of Adam7 (PNG, third edition, section 8.2)."""
    starts_and_steps = (
        *((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)),
        *((2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)),
    )
    passes = [array[top::down, left::right] for top, left, down, right in starts_and_steps]
    rows = b"".join(b"\0" + row.tobytes() for part in passes if part.size for row in part)
    head = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 8, 0, 0, 0, 1)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def test_an_interlaced_png_is_read_and_half_of_one_is_truncated():
    array = pixels(21, 30, channels=1)
    data = interlaced(array)
    np.testing.assert_array_equal(decode.decode_image(data, "x").rgb[:, :, 0], array)
    with pytest.raises(decode.UnreadableImage) as refusal:
        decode.decode_image(data[: len(data) // 2], "x")
    assert refusal.value.reason == "truncated"


def test_a_progressive_jpeg_is_read_and_one_without_its_last_scans_is_truncated():
    array = np.kron(pixels(4, 5), np.ones((16, 16, 1), np.uint8))
    plain, data = (encoded(array, "JPEG", quality=95, progressive=p) for p in (False, True))
    np.testing.assert_array_equal(
        decode.decode_image(data, "x").rgb, decode.decode_image(plain, "x").rgb
    )
    with pytest.raises(decode.UnreadableImage) as refusal:
        decode.decode_image(data[: len(data) * 3 // 4], "x")
    assert refusal.value.reason == "truncated"


def test_one_bit_images_are_black_and_white():
    image = decode.decode_image(encoded(np.array([[True, False]])), "x")
    np.testing.assert_array_equal(image.rgb[0, :, 0], [255, 0])
    assert (image.mode, image.bit_depth) == ("1", 1)


@pytest.mark.parametrize("fmt", ["PNG", "WEBP"])
def test_the_first_frame_of_an_animation_is_taken(fmt):
    first, second = (Pillow.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    file, options = io.BytesIO(), {"lossless": True} if fmt == "WEBP" else {}
    first.save(file, format=fmt, save_all=True, append_images=[second], **options)
    assert (decode.decode_image(file.getvalue(), "x").rgb == (255, 0, 0)).all()


def test_exif_orientation_is_not_applied():
    exif = Pillow.Exif()
    exif[0x0112] = 6
    image = decode.decode_image(encoded(pixels(20, 30), "JPEG", exif=exif), "x")
    assert (image.width, image.height) == (30, 20)


def test_broken_exif_neither_warns_nor_refuses():
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01"
    assert decode.decode_image(encoded(pixels(), "JPEG", exif=exif), "x").width == 30


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"not an image at all", "undecodable"),
        (encoded(pixels())[:-300], "truncated"),
        (encoded(pixels())[:300], "truncated"),
        (encoded(pixels(), "JPEG")[:-200], "truncated"),
        (encoded(pixels(), "BMP")[:-200], "truncated"),
        (encoded(pixels(), "TIFF")[:200], "truncated"),
        (encoded(pixels(), "WEBP")[:-200], "undecodable"),
        (encoded(pixels(), "GIF"), "undecodable"),
        (encoded(pixels(channels=1).astype(np.int32), "TIFF"), "undecodable"),
        (raw_png(20_001, 10_000, 8, 0, []), "too_large"),
    ],
)
def test_what_gives_no_whole_image_is_refused_with_its_reason(data, reason):
    with pytest.raises(decode.UnreadableImage, match=r"some/file\.png") as refusal:
        decode.decode_image(data, "some/file.png")
    assert refusal.value.reason == reason
    assert refusal.value.where == "some/file.png"
    assert refusal.value.exit_code == 3


def test_no_flipped_bit_in_a_png_gives_other_pixels():
    array = np.add.outer(np.arange(60), np.arange(70)).astype(np.uint8)
    whole = encoded(array)
    refused = 0
    for position in range(len(whole)):
        data = bytearray(whole)
        data[position] ^= 1
        try:
            np.testing.assert_array_equal(decode.decode_image(bytes(data), "x").rgb[:, :, 0], array)
        except decode.UnreadableImage:
            refused += 1
    assert refused > len(whole) * 0.8  # the rest is a chunk's end that nobody needs


@pytest.mark.slow
def test_a_large_image_below_the_limit_is_read_without_a_warning():
    data = raw_png(20_000, 5_000, 1, 0, [bytes(2_500)] * 5_000)  # Pillow itself warns at 89 Mpx
    assert decode.decode_mask(data, "x").shape == (5_000, 20_000)


@pytest.mark.parametrize(
    "array",
    [
        np.array([[0, 255]], dtype=np.uint8),
        np.array([[0, 1]], dtype=np.uint8),
        np.array([[0, 7]], dtype=np.uint16),
        np.array([[False, True]]),
        np.array([[[0, 0, 0], [0, 255, 0]]], dtype=np.uint8),
    ],
)
def test_a_binary_mask_is_true_where_it_is_not_black(array):
    mask = decode.decode_mask(encoded(array), "x")
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, [[False, True]])


def test_a_mask_of_class_ids_is_true_at_every_one():
    mask = decode.decode_mask(encoded(np.array([[0, 1, 9]], dtype=np.uint8)), "x")
    np.testing.assert_array_equal(mask, [[False, True, True]])


def test_masks_of_one_value_are_all_false_or_all_true():
    assert not decode.decode_mask(encoded(np.zeros((3, 4), np.uint8)), "x").any()
    assert decode.decode_mask(encoded(np.full((3, 4), 9, np.uint8)), "x").all()


@pytest.mark.parametrize(
    "array",
    [
        np.array([[0, 128, 255]], dtype=np.uint8),
        np.array([[1, 2]], dtype=np.uint8),
        np.array([[0, 1, 10]], dtype=np.uint8),
        np.array([[0, 1, 2]], dtype=np.uint16),
        np.array([[0, 300, 1000]], dtype=np.uint16),
        np.array([[[255, 0, 0], [0, 255, 0]]], dtype=np.uint8),
    ],
)
def test_a_mask_with_more_values_is_refused(array):
    with pytest.raises(DataError, match=r"more values[\s\S]*m\.png"):
        decode.decode_mask(encoded(array), "m.png")


def test_bilinear_samples_without_antialiasing_and_area_averages():
    columns = np.zeros((8, 8, 3), dtype=np.uint8)
    columns[:, ::4] = 200  # every fourth column, which bilinear at a quarter never meets
    assert decode.resize_image(columns, (2, 2), "bilinear").max() == 0
    np.testing.assert_array_equal(
        decode.resize_image(columns, (2, 2), "area"), np.full((2, 2, 3), 50)
    )


def test_resizing_to_the_same_size_changes_nothing():
    array = pixels(16, 16)
    for resize in ("bilinear", "area"):
        np.testing.assert_array_equal(decode.resize_image(array, (16, 16), resize), array)


def test_masks_are_resized_to_the_value_at_the_nearest_pixel_centre():
    mask = np.zeros((6, 6), dtype=np.bool_)
    mask[1, 4] = True  # the centre pixel of a 3 x 3 block
    np.testing.assert_array_equal(decode.resize_mask(mask, (2, 2)), [[False, True], [False, False]])
    assert decode.resize_mask(mask, (2, 2)).dtype == np.bool_


def test_an_eroded_mask_keeps_the_pixels_that_are_marked_as_a_whole():
    mask = np.zeros((8, 8), dtype=np.bool_)
    mask[2:6, 1:4] = True  # halving reads the 2 x 2 blocks: one column of blocks is half marked
    expected = np.zeros((4, 4), dtype=np.bool_)
    expected[1:3, 1] = True
    np.testing.assert_array_equal(decode.erode_mask(mask, (4, 4)), expected)
    assert not decode.erode_mask(mask, (2, 2))[0, 0]


def test_an_eroded_disc_shrinks_as_the_official_reading_measured():
    y, x = np.mgrid[:1024, :1024]
    disc = (y - 511.5) ** 2 + (x - 511.5) ** 2 <= 37**2
    sizes = [
        np.count_nonzero(rule(disc, (256, 256))) for rule in (decode.erode_mask, decode.resize_mask)
    ]
    assert 250 <= sizes[0] < 265 <= sizes[1] <= 272


def test_loading_keeps_the_order_of_many_rows(tmp_path):
    found = [found_in(tmp_path, f"{i:02}.png", np.full((9, 9, 3), i, np.uint8)) for i in range(40)]
    rows = [row_of(one, tmp_path) for one in found][::-1]
    stack = load.load_images(rows, tmp_path, (5, 5), "bilinear", decode.STORED)
    assert (stack.shape, stack.dtype) == ((40, 3, 5, 5), np.uint8)
    assert stack.flags.c_contiguous
    np.testing.assert_array_equal(stack[:, 0, 0, 0], np.arange(40)[::-1])


def test_channels_are_rgb_and_come_first(tmp_path):
    array = pixels(4, 4)
    row = row_of(found_in(tmp_path, array=array), tmp_path)
    stack = load.load_images([row], tmp_path, (4, 4), "area", decode.STORED)
    for channel in range(3):
        np.testing.assert_array_equal(stack[0, channel], array[:, :, channel])


def test_no_rows_give_empty_arrays(tmp_path):
    assert load.load_images([], tmp_path, (8, 8), "area", decode.STORED).shape == (0, 3, 8, 8)
    assert load.load_masks([], tmp_path, (8, 8)).shape == (0, 8, 8)


def test_a_changed_image_is_refused_with_both_hashes_and_the_command(tmp_path):
    row = row_of(found_in(tmp_path), tmp_path)
    decode.write_png(tmp_path / "a.png", pixels(seed=1))
    now = hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    with pytest.raises(DataError, match=r"a\.png[\s\S]*dvc repro fetch validate") as refusal:
        load.load_images([row], tmp_path, (8, 8), "area", decode.STORED)
    assert row.image_sha256 in str(refusal.value)
    assert now in str(refusal.value)


def test_a_missing_image_is_refused_by_name(tmp_path):
    row = row_of(found_in(tmp_path), tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"a\.png"):
        load.load_images([row], tmp_path, (8, 8), "area", decode.STORED)


def test_masks_load_in_order_and_no_mask_is_all_false(tmp_path):
    mask = np.zeros((20, 30), dtype=np.bool_)
    mask[:, :15] = True
    found = [found_in(tmp_path, "a.png"), found_in(tmp_path, "b.png", mask=mask, label="anomalous")]
    masks = load.load_masks([row_of(f, tmp_path) for f in found], tmp_path, (10, 10))
    assert (masks.shape, masks.dtype) == ((2, 10, 10), np.bool_)
    assert not masks[0].any()
    np.testing.assert_array_equal(masks[1], np.arange(10)[None, :].repeat(10, 0) < 5)


def test_a_changed_mask_and_a_mask_of_another_size_are_refused(tmp_path):
    found = found_in(tmp_path, mask=np.ones((20, 31), np.bool_), label="anomalous")
    row = row_of(found, tmp_path)
    with pytest.raises(DataError, match=r"31 x 20[\s\S]*mask_a\.png[\s\S]*30 x 20"):
        load.load_masks([row], tmp_path, (8, 8))
    decode.write_png(tmp_path / "mask_a.png", np.ones((20, 30), np.bool_))
    with pytest.raises(DataError, match=row.mask_sha256):
        load.load_masks([row], tmp_path, (8, 8))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_written_png_comes_back_and_has_the_same_bytes_twice(tmp_path, channels):
    array = pixels(channels=channels)
    for name in ("a.png", "b.png"):
        decode.write_png(tmp_path / "new" / name, array)
    assert (tmp_path / "new/a.png").read_bytes() == (tmp_path / "new/b.png").read_bytes()
    rgb = decode.decode_image((tmp_path / "new/a.png").read_bytes(), "x").rgb
    np.testing.assert_array_equal(rgb if channels == 3 else rgb[:, :, 0], array)
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["a.png", "b.png"]


def test_a_mask_is_written_as_0_and_255(tmp_path):
    decode.write_png(tmp_path / "m.png", np.array([[True, False]]))
    with Pillow.open(tmp_path / "m.png") as image:
        assert image.mode == "L"
        np.testing.assert_array_equal(np.asarray(image), [[255, 0]])


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real data in {SHARED}")
def test_real_images_and_masks_load():
    root = SHARED / "magnetic_tile"
    masks = sorted((root / "ground_truth/crack").glob("*.png"))[:8]
    found = [
        DatasetImage(
            next((root / "test/crack").glob(f"{m.stem.removesuffix('_mask')}.*"))
            .relative_to(root)
            .as_posix(),
            "anomalous",
            "crack",
            m.relative_to(root).as_posix(),
            "test",
        )
        for m in masks
    ]
    rows = [row_of(one, root) for one in found]
    assert load.load_images(rows, root, (64, 64), "bilinear", decode.STORED).shape == (8, 3, 64, 64)
    assert load.load_masks(rows, root, (256, 256)).any(axis=(1, 2)).all()
