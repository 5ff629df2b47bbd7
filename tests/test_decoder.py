"""The rules of decoder 2: what is damaged, what white is, 32 bits, pages; older bundles keep 1."""

import io
import json
import struct
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from admodels.bundles.bundle import Bundle
from admodels.bundles.card import LATER, _digest, read_card
from admodels.foundation.manifest import DatasetImage, Split
from admodels.foundation.params import parse
from admodels.images import decode
from admodels.images.decode import STORED, Reading, UnreadableImage
from admodels.images.reading import NoWindow
from admodels.images.rules import ImageRules
from admodels.scoring.discover import Status
from admodels.scoring.engine import LineImages, Model
from admodels.scoring.inbox import Folder
from admodels.scoring.rows import rows
from admodels.scoring.single import score_folder
from admodels.scoring.tables import ScoreRow
from admodels.validation.checks import Validate
from admodels.validation.examine import examine
from tests import cards, costly, tiny
from tests.costly import encoded, half_written, picture
from tests.test_old import BUNDLES, OLD
from tests.test_validation_checks import BOUNDS

FIRST = Reading(window=None, orientation="stored")
JPEG = encoded(picture(96), "JPEG", quality=95)


def reason_of(data: bytes, reading: Reading = STORED) -> str:
    try:
        decode.decode_image(data, "x", reading)
    except UnreadableImage as refusal:
        return refusal.reason
    return ""


def damaged(data: bytes, start: float, count: int, value: int = 0) -> bytes:
    place = int(len(data) * start)
    return data[:place] + bytes([value]) * count + data[place + count :]


@pytest.mark.parametrize("start", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_that_is_damaged_inside_is_noticed(mode: str, options: dict, start: float) -> None:
    data = encoded(picture(200, mode), "JPEG", quality=95, **options)
    assert reason_of(data) == ""
    if "progressive" not in options:  # whose last scans are plain bits: any are valid
        assert reason_of(damaged(data, start, 200)) == "damaged"
    assert reason_of(data[: int(len(data) * start)]) in ("truncated", "undecodable")
    assert reason_of(half_written(data, start)) in ("damaged", "truncated", "undecodable")
    with Image.open(io.BytesIO(damaged(data, start, 200))) as image:
        image.load()  # Pillow says nothing


def test_the_same_damage_is_taken_as_ever_by_a_bundle_of_the_first_decoder() -> None:
    broken = damaged(JPEG, 0.5, 200)
    assert reason_of(broken) == "damaged"
    assert reason_of(broken, FIRST) == ""


def test_zeros_before_the_end_and_anything_after_it_are_no_damage() -> None:
    plain = decode.decode_image(JPEG, "x").rgb
    for data in (JPEG[:-2] + bytes(512) + JPEG[-2:], JPEG + b"the camera's own notes" * 9):
        np.testing.assert_array_equal(decode.decode_image(data, "x").rgb, plain)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("side", [1, 17, 300])
@pytest.mark.parametrize(
    "options",
    [*({"subsampling": s} for s in (0, 1, 2)), {"keep_rgb": True}, {"progressive": True}],
)
def test_both_decoders_give_the_same_pixels_of_a_whole_jpeg(
    mode: str, side: int, options: dict
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture(300, mode).resize((side, 300)), "JPEG", exif=exif, **options)
    for orientation in ("stored", "exif"):
        first = FIRST.model_copy(update={"orientation": orientation})
        a, b = (
            decode.decode_image(data, "x", r)
            for r in (first, first.model_copy(update={"decoder": 2}))
        )
        np.testing.assert_array_equal(a.rgb, b.rgb)
        assert (a.mode, a.bit_depth, a.width) == (b.mode, b.bit_depth, b.width)


VALUES = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 20


@pytest.mark.parametrize("order", ["<", ">"])
def test_where_white_is_zero_more_light_is_more(order: str) -> None:
    black = costly.grey_tiff(VALUES, 1, order)
    white = costly.grey_tiff(65535 - VALUES, 0, order)
    reading = STORED.model_copy(update={"window": (1000, 50_000)})
    expected = decode.decode_image(black, "x", reading).rgb
    assert expected[-1, -1, 0] > expected[0, 0, 0]
    np.testing.assert_array_equal(decode.decode_image(white, "x", reading).rgb, expected)
    first = reading.model_copy(update={"decoder": 1})
    np.testing.assert_array_equal(decode.decode_image(black, "x", first).rgb, expected)
    if order == ">":
        assert reason_of(white, first) == "undecodable"
    else:  # as bundles of then learnt it
        inverted = decode.decode_image(white, "x", first).rgb
        assert inverted[-1, -1, 0] < inverted[0, 0, 0]


@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize(
    ("values", "window"),
    [
        (VALUES.astype(np.float32) / 65535, (0.25, 0.75)),
        (VALUES.astype(np.float32) - 30_000, (-10_000.0, 10_000.0)),
        (VALUES.astype(np.uint32) * 70_000, (1e9, 4e9)),
        (VALUES.astype(np.int32) - 30_000, (-10_000.0, 10_000.0)),
    ],
)
def test_values_of_32_bits_go_through_the_window_in_256_equal_steps(
    values: np.ndarray, window: tuple[float, float], photometric: int
) -> None:
    if photometric == 0:
        window = (-window[1], -window[0])
    reading = STORED.model_copy(update={"window": window})
    image = decode.decode_image(costly.grey_tiff(values, photometric), "x", reading)
    light = -values.astype(float) if photometric == 0 else values.astype(float)
    expected = np.floor((light - window[0]) / (window[1] - window[0]) * 256).clip(0, 255)
    assert np.abs(image.rgb[:, :, 1] - expected).max() <= 1
    assert (image.rgb[:, :, 1] == expected).mean() > 0.99
    assert image.bit_depth == 8 * values.dtype.itemsize
    with pytest.raises(NoWindow, match="no window of values is learnt"):
        decode.decode_image(costly.grey_tiff(values), "x")


def test_what_no_window_can_take_is_refused_and_not_painted_black() -> None:
    with pytest.raises(UnreadableImage, match="64 bits a sample, and at most 32 are read"):
        decode.decode_image(costly.grey_tiff(VALUES.astype(np.float64)), "x")
    values = VALUES.astype(np.float32)
    values[3, 4] = np.nan
    reading = STORED.model_copy(update={"window": (0.0, 1.0)})
    assert reason_of(costly.grey_tiff(values), reading) == "undecodable"


def pages(*images: Image.Image, **options: object) -> bytes:
    return encoded(images[0], "TIFF", save_all=True, append_images=list(images[1:]), **options)


def test_of_several_pages_one_must_be_chosen() -> None:
    part, thumbnail = picture(96), picture(96).resize((20, 20))
    data = pages(thumbnail, part)
    with pytest.raises(UnreadableImage, match="2 pages of 20 x 20, 96 x 96 pixels; `page`"):
        decode.decode_image(data, "x")
    for number, side in ((0, 20), (1, 96)):
        reading = STORED.model_copy(update={"page": number})
        assert decode.decode_image(data, "x", reading).width == side
    np.testing.assert_array_equal(decode.decode_image(data, "x", reading).rgb, np.asarray(part))
    with pytest.raises(UnreadableImage, match="no page 2: 2 pages"):
        decode.decode_image(data, "x", STORED.model_copy(update={"page": 2}))
    assert decode.decode_image(data, "x", FIRST).width == 20  # as ever


def test_a_page_that_says_it_is_a_thumbnail_is_no_second_image() -> None:
    part, thumbnail = picture(96), picture(96).resize((20, 20))
    data = bytearray(pages(part, thumbnail))
    first = struct.unpack("<I", data[4:8])[0]
    count = struct.unpack("<H", data[first : first + 2])[0]
    second = struct.unpack("<I", data[first + 2 + 12 * count :][:4])[0]
    tags = dict.fromkeys(struct.unpack_from("<H", data, second + 2 + 12 * n)[0] for n in range(3))
    place = second + 2  # the tags of a page are sorted: 254 takes the place of 256's neighbour
    assert min(tags) in (254, 256)
    entries = struct.unpack("<H", data[second : second + 2])[0]
    reduced = struct.pack("<HHII", 254, 4, 1, 1)
    copied = struct.pack("<H", entries + 1) + reduced + data[place : place + 12 * entries + 4]
    data[first + 2 + 12 * count :][:4] = b""
    data[first + 2 + 12 * count : first + 6 + 12 * count] = struct.pack("<I", len(data))
    assert decode.decode_image(bytes(data + copied), "x").width == 96


def bundle_of(**changes: object) -> Bundle:
    """A bundle whose rules are those of `tiny.CONTRACT` with changes."""
    bundle = cards.make_bundle()
    learnt = tiny.CONTRACT.model_copy(update=changes)
    return replace(bundle, contract=bundle.contract.model_copy(update={"learnt": learnt}))


SMALL = {"width_px": (96, 96), "height_px": (96, 96), "side_ratio": (1.0, 1.0)}


LARGE = {"width_px": (4_000, 6_000), "height_px": (3_000, 6_000)}


def row_of(tmp_path: Path, name: str, data: bytes, bundle: Bundle) -> ScoreRow | None:
    (tmp_path / name).write_bytes(data)
    (read,) = rows(Folder(tmp_path), [name], bundle, "press", {}.get)
    return read.row


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("kind", ["BMP", "TIFF"])
def test_a_file_whose_rest_was_never_written_is_damaged(
    tmp_path: Path, kind: str, share: float
) -> None:
    whole = encoded(picture(96), kind)
    learnt = bundle_of(**SMALL, zero_tails={kind: 3})
    assert row_of(tmp_path, f"a.{kind}", whole, learnt).status == Status.SCORED
    half = row_of(tmp_path, f"a.{kind}", half_written(whole, share), learnt)
    assert half.status in (Status.DAMAGED, Status.UNDECODABLE)
    if kind == "BMP" or share == 0.5:
        assert half.image_sha256
    dark = bundle_of(**SMALL, zero_tails={kind: len(whole)})  # learnt from black images too
    if kind == "BMP":
        assert half.status == Status.DAMAGED
        assert row_of(tmp_path, "a.bmp", half_written(whole, share), dark).status == Status.SCORED
    older = bundle_of(**SMALL, reading=FIRST)
    if kind == "BMP":
        assert row_of(tmp_path, "a.bmp", half_written(whole, share), older).status == Status.SCORED


COSTLY = {
    "scan_bomb.jpg": costly.scan_bomb(6_000, 20_000),
    "tile_bomb.tif": costly.tile_bomb(20_000),
    "canvas_bomb.webp": costly.canvas_bomb(9_000),
    "large16.png": costly.large_png(6_000),
}


@pytest.mark.parametrize("name", COSTLY)
@pytest.mark.parametrize("learnt", [SMALL, LARGE])
def test_a_costly_file_gets_its_row_at_once(tmp_path: Path, name: str, learnt: dict) -> None:
    start = time.process_time()
    row = row_of(tmp_path, name, COSTLY[name], bundle_of(**learnt, bit_depths=(8,)))
    assert time.process_time() - start < 1
    fits_but_costs = name == "scan_bomb.jpg" and learnt is LARGE
    other_kind = (Status.WRONG_SIZE, Status.WRONG_BIT_DEPTH)
    assert row.status in ((Status.TOO_COSTLY,) if fits_but_costs else other_kind)
    assert row.reason
    assert row.image_sha256


def test_what_the_rules_refuse_by_its_header_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "decode_image", None)
    learnt = bundle_of(**SMALL, bit_depths=(8,))
    wide = row_of(tmp_path, "a.png", encoded(picture(200), "PNG"), learnt)
    assert (wide.status, wide.width, wide.height) == (Status.WRONG_SIZE, 200, 200)
    deep = row_of(tmp_path, "b.tif", costly.grey_tiff(np.ones((96, 96), np.uint16)), learnt)
    assert (deep.status, deep.bit_depth) == (Status.WRONG_BIT_DEPTH, 16)
    wider = row_of(tmp_path, "c.tif", costly.grey_tiff(np.ones((96, 96), np.float32)), learnt)
    assert (wider.status, wider.reason) == (Status.WRONG_BIT_DEPTH, "32 bits, learnt from 8")


def test_an_image_that_exif_turns_has_the_size_of_the_turned_one(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture(96).resize((96, 48)), "JPEG", exif=exif)
    upright = {"width_px": (48, 48), "height_px": (96, 96), "side_ratio": (0.5, 0.5)}
    reading = Reading(window=None, orientation="exif", decoder=2)
    row = row_of(tmp_path, "a.jpg", data, bundle_of(**upright, reading=reading))
    assert (row.status, row.width, row.height) == (Status.SCORED, 48, 96)
    assert row_of(tmp_path, "a.jpg", data, bundle_of(**upright)).status == Status.WRONG_SIZE


def test_a_sparse_file_is_refused_by_its_size_and_never_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse.png").open("wb") as stream:
        stream.truncate(1_600_000_000)
    (read,) = rows(Folder(tmp_path), ["sparse.png"], bundle_of(**SMALL), "press", {}.get)
    assert (read.row.status, read.row.image_sha256) == (Status.TOO_LARGE, "")


def test_memory_that_lacks_gives_no_row_and_the_next_run_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "in" / name).write_bytes(encoded(picture(96, seed=ord(name[0])), "PNG"))
    source, whole = LineImages("press", tmp_path / "in"), Image.open

    def lacking(stream: io.BytesIO, **words: object) -> Image.Image:
        if stream.getvalue() == (tmp_path / "in/a.png").read_bytes():
            raise MemoryError
        return whole(stream, **words)

    with monkeypatch.context() as patched:
        patched.setattr(Image, "open", lacking)
        summary = score_folder(source, Model.of(bundle_of()), tmp_path / "out", alpha=0.2)
    assert (summary.found, summary.unsettled, summary.statuses["scored"]) == (1, 1, 1)
    again = score_folder(source, Model.of(bundle_of()), tmp_path / "out", alpha=0.2)
    assert (again.found, again.unsettled, again.statuses["scored"]) == (2, 0, 2)


def test_a_line_chooses_the_page_of_its_files_and_its_scores_stand_apart(tmp_path: Path) -> None:
    part = Image.new("RGB", (96, 96), (90, 90, 90))
    (tmp_path / "in").mkdir()
    data = pages(part.resize((20, 20)).point(lambda value: value // 2), part)
    (tmp_path / "in/a.tif").write_bytes(data)
    model = Model.of(bundle_of())
    scores = {}
    for page in (None, 0, 1):
        source = LineImages("press", tmp_path / "in", page=page)
        score_folder(source, model.with_page(page), tmp_path / "out", alpha=0.2)
        (row,) = cards.table(tmp_path / "out").to_dict("records")
        scores[page] = (row["status"], row["anomaly_score"], row["contract_fingerprint"])
    assert scores[None][0] == "undecodable"
    assert (scores[0][:2], scores[1][:2]) == (("scored", 45.0), ("scored", 90.0))
    assert len({fingerprint for *_, fingerprint in scores.values()}) == 3


@pytest.mark.parametrize("name", BUNDLES)
def test_a_bundle_of_the_first_decoder_keeps_its_bytes_and_its_fingerprint(name: str) -> None:
    card = read_card(OLD / name)
    content = json.loads((OLD / name / "bundle.json").read_bytes())
    assert card.contract.learnt.reading.decoder == 1
    known = card.model_dump(mode="json", exclude=set(LATER))
    assert known | {"sha256": content["sha256"]} == content
    second = card.contract.learnt.reading.model_copy(update={"decoder": 2})
    learnt = card.contract.learnt.model_copy(update={"reading": second})
    changed = card.contract.model_copy(update={"learnt": learnt}).model_dump(mode="json")
    assert _digest(changed) != _digest(card.contract.model_dump(mode="json"))
    assert ImageRules.model_validate_json(json.dumps(changed["learnt"]), strict=True) == learnt


def test_float_images_are_learnt_with_a_window_of_their_own_and_tails_are_remembered(
    tmp_path: Path,
) -> None:
    found = []
    for number in range(30):
        values = np.asarray(picture(40, "L", seed=number), np.float32) / 1000 - 0.1
        (tmp_path / f"{number:02}.tif").write_bytes(costly.grey_tiff(values))
        found.append(DatasetImage(f"{number:02}.tif", "normal", "", "", "learn"))
    split = Split(validation_share=0.1, calibration_share=0.2, min_normal_images=11)
    seen = examine(
        found, tmp_path, "task", STORED, parse(BOUNDS, Validate, "validate"), split, 0.3, 1
    )
    assert seen.rules is not None
    low, high = seen.rules.reading.window
    assert -0.2 < low < -0.06
    assert 0.11 < high < 0.25
    assert seen.rules.bit_depths == (32,)
    assert seen.rules.reading.decoder == 2
    assert list(seen.rules.zero_tails) == ["TIFF"]
    assert 0 < seen.table["contrast"].median() < 100
