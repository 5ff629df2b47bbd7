"""What images have in common: on real images, and against brute force."""

import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from admodels.images import decode
from admodels.images.describe import thumbnail
from admodels.validation import similarity
from admodels.validation.similarity import Pair, near_pairs, nearest, oddity, perceptual_hashes

SHARED = Path(os.environ.get("ADMODELS_SHARED_DATA") or Path(__file__).parents[2] / "shared/data")
needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real data in {SHARED}")
LIMIT = 10


def bits(one, other):
    return int(np.bitwise_count(one ^ other).sum())


def read(path):
    return decode.decode_image((SHARED / path).read_bytes(), path).rgb


def thumbnails(pictures):
    return np.stack([thumbnail(picture).ravel() for picture in pictures])


@pytest.fixture(scope="module")
def bottles():
    found = sorted((SHARED / "mvtec_ad/bottle/train/good").iterdir())[::4]
    return [decode.resize_image(read(path), (450, 450), "area") for path in found]


def edits(rgb):
    encoded = cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, 60])[1]
    noise = np.random.default_rng(1).normal(0, 2, rgb.shape)
    return {
        "as a JPEG of quality 60": cv2.imdecode(encoded, cv2.IMREAD_COLOR),
        "scaled": cv2.resize(rgb, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA),
        "darker by 8 %": (rgb * 0.92).astype(np.uint8),
        "with noise": np.clip(rgb + noise, 0, 255).astype(np.uint8),
    }


@needs_data
def test_bottles_are_told_apart_and_edited_copies_are_not(bottles):
    hashes = perceptual_hashes(thumbnails(bottles))
    apart = [bits(a, b) for at, a in enumerate(hashes) for b in hashes[:at]]
    assert min(apart) > LIMIT
    for name in edits(bottles[0]):
        copied = perceptual_hashes(thumbnails([*bottles, edits(bottles[3])[name]]))
        assert bits(copied[3], copied[-1]) <= LIMIT, name


@needs_data
def test_two_exposures_of_one_tile_are_near_copies():
    folder = SHARED / "magnetic_tile/train/good"
    names = [p.name for p in sorted(folder.iterdir())][::6]
    names += ["exp2_num_37273.jpg", "exp5_num_37636.jpg"]
    hashes = perceptual_hashes(thumbnails([read(folder / name) for name in names]))
    assert bits(hashes[-1], hashes[-2]) <= LIMIT
    usual = [bits(a, b) for at, a in enumerate(hashes[:-2]) for b in hashes[:at]]
    assert np.median(usual) > 5 * LIMIT


@needs_data
def test_defects_among_normal_images_come_first(bottles):
    bad = sorted((SHARED / "mvtec_ad/bottle/test/broken_large").iterdir())[:4]
    spoilt = [decode.resize_image(read(path), (450, 450), "area") for path in bad]
    found = oddity(thumbnails([*bottles, *spoilt]))
    assert sum(at >= len(bottles) for at in np.argsort(found)[-4:]) >= 3  # a hint, no verdict
    assert all(at in np.argsort(found)[-8:] for at in range(len(bottles), len(bottles) + 4))
    assert np.median(found) == 1
    assert found[: len(bottles)].max() < 3


def noise(count, seed=0):
    return np.random.default_rng(seed).integers(0, 65_000, (count, 256), dtype=np.uint16)


def test_brightness_and_contrast_of_an_exposure_do_not_count():
    some = noise(30) // 4 + 9000
    other = (some[:1] * 1.7 + 3000).astype(np.uint16)
    hashes = perceptual_hashes(np.concatenate([some, other]))
    assert bits(hashes[0], hashes[-1]) <= 256 // 30 + 1  # medians between the two
    assert oddity(np.concatenate([some, other]))[-1] == pytest.approx(oddity(some)[0], rel=0.1)


@pytest.mark.parametrize("chunk", [7, 1024])
def test_hashes_and_oddity_are_those_of_their_definition_in_chunks_of_any_size(monkeypatch, chunk):
    monkeypatch.setattr(similarity, "CHUNK_IMAGES", chunk)
    grey = noise(50) / 256
    values = (grey - grey.mean(axis=1, keepdims=True)) / grey.std(axis=1, keepdims=True)
    middle = np.median(values, axis=0)
    bits_set = np.unpackbits(perceptual_hashes(noise(50)), axis=1)
    sure = np.abs(values - middle) > 1e-5  # the code computes in single precision
    np.testing.assert_array_equal(bits_set[sure], (values > middle)[sure])
    spread = np.median(np.abs(values - middle), axis=0) * 1.4826 + similarity.LEAST_SPREAD
    oddest = np.sort(np.abs(values - middle) / spread, axis=1)[:, -5:].mean(axis=1)
    np.testing.assert_allclose(oddity(noise(50)), oddest / np.median(oddest), rtol=1e-4)


@pytest.mark.parametrize("chunk", [7, 1024])
def test_chunks_change_nothing_and_the_nearest_is_that_of_brute_force(monkeypatch, chunk):
    monkeypatch.setattr(similarity, "CHUNK_IMAGES", chunk)
    hashes = perceptual_hashes(noise(50))
    distances = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(axis=2).astype(int)
    np.fill_diagonal(distances, 999)
    found = nearest(hashes, hashes, np.arange(50))
    np.testing.assert_array_equal(found[:, 1], distances.min(axis=1))
    assert all(distances[i, row] == least for i, (row, least) in enumerate(found))
    found = nearest(hashes[:20], hashes[20:], np.full(20, -1))
    np.testing.assert_array_equal(found[:, 1], distances[:20, 20:].min(axis=1))


def test_alone_there_is_no_nearest():
    hashes = perceptual_hashes(noise(3))
    assert nearest(hashes[:1], hashes[:1], np.array([0])).tolist() == [[-1, -1]]
    assert nearest(hashes, hashes[:0], np.full(3, -1)).tolist() == [[-1, -1]] * 3


def table(rows):
    columns = ["image_path", "image_sha256", "split", "perceptual_hash"]
    return pd.DataFrame(rows, columns=columns)


def test_pairs_are_named_once_across_first_and_copies_to_the_byte_are_no_pair():
    a, b, far = "00" * 32, "01" + "00" * 31, "ff" * 32
    others = [(f"x{i}.png", f"x{i}", "train", f"{i:02x}{'0f' * 31}") for i in range(0, 256, 1)]
    others += [(f"y{i}.png", f"y{i}", "test", f"{i:02x}{'f0' * 31}") for i in range(0, 256, 1)]
    rows = [
        ("1.png", "s1", "train", a),
        ("2.png", "s2", "train", b),
        ("3.png", "s3", "test", a),
        ("4.png", "s1", "test", a),  # the same bytes as 1.png: another check's business
        ("5.png", "s5", "test", far),
        ("6.png", None, "test", ""),  # unreadable
    ]
    found = near_pairs(table([*others, *rows]), limit=1)
    mine = [p for p in found if p.first[0] not in "xy"]
    assert mine == [
        Pair("1.png", "3.png", 0, across=True),
        Pair("2.png", "3.png", 1, across=True),
        Pair("3.png", "4.png", 0, across=False),
        Pair("1.png", "2.png", 1, across=False),
    ]
    assert [p.across for p in found] == sorted((p.across for p in found), reverse=True)


def test_among_few_images_a_copy_may_be_some_bits_further_off():
    some = noise(16)
    copy = (some[0] * 0.999 + np.random.default_rng(3).normal(0, 60, 256)).clip(0).astype(np.uint16)
    hashes = perceptual_hashes(np.concatenate([some, copy[None]]))
    rows = [(f"{i}.png", str(i), "train", h.tobytes().hex()) for i, h in enumerate(hashes)]
    assert [(p.first, p.second) for p in near_pairs(table(rows), limit=4)] == [("0.png", "16.png")]


def test_no_images_are_no_pairs():
    assert near_pairs(table([]), limit=64) == []
    assert near_pairs(table([("6.png", None, "test", "")]), limit=64) == []
