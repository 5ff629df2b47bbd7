"""What decoding costs is known from the bytes, and what costs too much is never decoded."""

import io
import json
import resource
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from admodels.images import cost, decode, isolate
from admodels.images.decode import STORED, UnreadableImage
from tests import costly
from tests.costly import encoded, picture

HEADERS = {
    "png": (encoded(picture(30, "L"), "PNG"), ("PNG", 8, 1, 1)),
    "png16": (costly.large_png(30), ("PNG", 16, 3, 1)),
    "jpeg": (encoded(picture(30), "JPEG"), ("JPEG", 8, 3, 1)),
    "jpeg grey": (encoded(picture(30, "L"), "JPEG"), ("JPEG", 8, 1, 1)),
    "jpeg progressive": (encoded(picture(30), "JPEG", progressive=True), ("JPEG", 8, 3, 10)),
    "jpeg with a thumbnail": (
        encoded(picture(30), "JPEG", exif=b"Exif\0\0" + encoded(picture(8), "JPEG")),
        ("JPEG", 8, 3, 1),
    ),
    "bmp": (encoded(picture(30), "BMP"), ("BMP", 8, 3, 1)),
    "tiff": (encoded(picture(30), "TIFF"), ("TIFF", 8, 3, 1)),
    "tiff lzw": (encoded(picture(30), "TIFF", compression="tiff_lzw"), ("TIFF", 8, 3, 1)),
    "tiff big-endian": (
        costly.grey_tiff(np.ones((30, 30), np.uint16), order=">"),
        ("TIFF", 16, 1, 1),
    ),
    "big tiff": (encoded(picture(30), "TIFF", big_tiff=True), ("TIFF", 8, 3, 1)),
    "webp": (encoded(picture(30), "WEBP"), ("WEBP", 8, 3, 1)),
    "webp lossless": (encoded(picture(30), "WEBP", lossless=True), ("WEBP", 8, 3, 1)),
    "webp with alpha": (encoded(picture(30, "RGBA"), "WEBP"), ("WEBP", 8, 3, 1)),
    "jp2": (encoded(picture(30), "JPEG2000"), ("JPEG2000", 8, 3, 1)),
    "j2k": (encoded(picture(30, "L"), "JPEG2000", no_jp2=True), ("JPEG2000", 8, 1, 1)),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_says_what_the_decoder_then_finds(name: str) -> None:
    data, said = HEADERS[name]
    header = cost.read_header(data)
    assert header is not None
    assert (header.format, header.bit_depth, header.channels, header.scans) == said
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (header.width, header.height) == (30, 30)
        assert image.format == header.format
    assert header.is_bounded
    assert not cost.own_budget(header).excess(header)
    assert decode.decode_image(data, "x").width == 30


@pytest.mark.parametrize("name", HEADERS)
def test_no_part_of_a_file_breaks_the_reading_of_its_header(name: str) -> None:
    data = HEADERS[name][0]
    for end in (*range(60), len(data) // 2, len(data) - 1):
        for rest in (b"", bytes(60), b"\xff" * 60):
            headers = cost.read_pages(data[:end] + rest)
            assert all(isinstance(header, cost.Header) for header in headers)


EXPENSIVE = {
    "a scan 2,000 times": (costly.scan_bomb(1_000, 2_000), "in 200[0-9] scans, more than"),
    "scans of colour": (costly.scan_bomb(0, 500, picture(1_000)), "scans, more than"),
    "a large tile": (costly.tile_bomb(9_000), "MiB of memory, more than 64"),
    "a large tile in a large page": (costly.tile_bomb(30_000, 2_000), "MiB of memory"),
    "a long strip": (costly.strip_bomb(2_000_000), "MiB of memory"),
}


@pytest.mark.parametrize("name", EXPENSIVE)
def test_what_costs_more_than_an_image_of_its_size_is_refused_at_once(name: str) -> None:
    data, reason = EXPENSIVE[name]
    start = time.process_time()
    with pytest.raises(UnreadableImage, match=reason) as refusal:
        decode.decode_image(data, "x")
    assert refusal.value.reason == "too_costly"
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    "data", [costly.canvas_bomb(9_000), costly.large_png(9_000), costly.large_png(9_000, 8)]
)
def test_what_costs_more_than_the_images_learnt_from_is_refused_at_once(data: bytes) -> None:
    budget = cost.budget(1_000_000, 16)
    with pytest.raises(UnreadableImage, match="MiB of memory, more than") as refusal:
        decode.decode_image(data, "x", STORED, budget)
    assert refusal.value.reason == "too_costly"


def test_the_budget_is_three_times_the_largest_image_and_a_floor_for_small_ones() -> None:
    large = cost.Header("PNG", 5_000, 4_000)
    assert not cost.budget(large.pixels, 8).excess(large)
    assert not cost.budget(large.pixels // 1.7, 8).excess(large)
    assert cost.budget(large.pixels // 6, 8).excess(large)
    assert cost.budget(1, 8).memory_bytes == cost.LEAST_MEMORY


@pytest.mark.slow
def test_only_what_no_header_bounds_is_decoded_in_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []
    run = isolate.run_with_limits
    monkeypatch.setattr(isolate, "run_with_limits", lambda *w: calls.append(w[3]) or run(*w))
    for data, _ in HEADERS.values():
        decode.decode_image(data, "x")
    assert calls == []
    many = costly.scan_bomb(0, 30, picture(1_300))
    apart = decode.decode_image(many, "x", STORED.model_copy(update={"decoder": 1}))
    np.testing.assert_array_equal(apart.rgb, np.asarray(Image.open(io.BytesIO(many))))
    assert (apart.mode, apart.bit_depth) == ("RGB", 8)
    with pytest.raises(UnreadableImage, match="Inconsistent progression") as refusal:
        decode.decode_image(many, "x")
    assert refusal.value.reason == "damaged"
    assert len(calls) == 2
    hidden = encoded(picture(64), "TIFF", compression="jpeg")
    assert decode.decode_image(hidden, "x").rgb.shape == (64, 64, 3)
    with pytest.raises(UnreadableImage) as refusal:
        decode.decode_image(hidden[:400] + bytes(len(hidden) - 800) + hidden[-400:], "x")
    assert refusal.value.reason in ("undecodable", "truncated")
    assert len(calls) == 3  # no header is left of it


def test_a_broken_next_page_hides_nothing_of_the_pages_before_it() -> None:
    bomb = costly.tile_bomb(9_000)
    for data in (bomb[:-2], bomb[:-4] + b"\xff" * 4, bomb[:-4] + b"\x08\0\0\0"):
        (header, *_) = cost.read_pages(data)
        assert (header.width, header.extra_bytes) == (64, 9_000**2)
        with pytest.raises(UnreadableImage) as refusal:
            decode.decode_image(data, "x")
        assert refusal.value.reason == "too_costly"


@pytest.mark.slow
def test_a_box_that_looks_like_a_small_image_does_not_hide_a_large_one() -> None:
    large = encoded(Image.new("RGB", (3_000, 3_000), 100), "JPEG2000")
    small = encoded(picture(64), "JPEG2000", no_jp2=True)
    box = (8 + len(small)).to_bytes(4, "big") + b"xml " + small
    place = large.find(b"jp2c") - 4
    hidden = large[:place] + box + large[place:]
    with Image.open(io.BytesIO(hidden)) as image:
        assert image.size == (3_000, 3_000)
    header = cost.read_header(hidden)
    assert header is not None
    assert not header.is_bounded
    with pytest.raises(UnreadableImage) as refusal:
        decode.decode_image(hidden, "x", budget=cost.budget(96 * 96, 8))
    assert refusal.value.reason == "too_costly"


@pytest.mark.slow
def test_a_codec_that_lacks_memory_does_not_make_the_data_broken() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (1_500, 1_500, 3), np.uint8)
    data = encoded(Image.fromarray(noise), "JPEG2000")
    program = "from admodels.images.decode import answer; answer()"

    def answer(data: bytes, memory: int) -> dict[str, object]:
        words = [STORED.model_dump_json(), str(memory)]
        text = isolate.run_with_limits(program, words, data, memory)
        return json.loads(text.partition(b"\n")[0])

    assert answer(data, 40 << 20)["reason"] == "too_costly"  # as with any codec that ends itself
    assert answer(data, 128 << 20)["width"] == 1_500
    assert answer(data[:3_000], 128 << 20)["reason"] in ("undecodable", "truncated")


def crowded_tiff(pages: int) -> bytes:
    """Pages that overlap, of 65,535 tags each."""
    body, step = 2 + 12 * 65_535, 6
    data = bytearray(8 + pages * step + body + 4)
    data[:8] = b"II*\0" + (8).to_bytes(4, "little")
    for start in range(8, 8 + pages * step, step):
        data[start : start + 2] = b"\xff\xff"
        data[start + body : start + body + 4] = (start + step).to_bytes(4, "little")
    return bytes(data)


FLOODS = {
    "tags of a tiff": lambda: crowded_tiff(200),
    "segments of a jpeg": lambda: b"\xff\xd8" + b"\xff\xfe\0\2" * 2_000_000,
    "segments behind the frame": lambda: (
        HEADERS["jpeg"][0][:-2] + b"\xff\xfe\0\2" * 2_000_000 + b"\xff\xd9"
    ),
    "chunks of a png": lambda: HEADERS["png"][0][:33] + b"\0\0\0\0teSt\x97\x8f\xe3\xd1" * 2_000_000,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOODS)
def test_no_flood_in_a_header_takes_long_or_is_worked_off_in_this_process(name: str) -> None:
    data = FLOODS[name]()
    start = time.process_time()
    header = cost.read_header(data)
    assert header is None or not header.is_bounded
    with suppress(UnreadableImage):  # a decoder that keeps no segments gets through
        decode.decode_image(data, "x")
    assert time.process_time() - start < 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "import time; time.sleep(99)",
        "bytearray(1 << 31)",
        "import os; os.kill(os.getpid(), 9)",
    ],
)
def test_a_process_that_takes_too_much_is_stopped(
    program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolate, "SECONDS", 1)
    monkeypatch.setattr(isolate, "PATIENCE", 4)
    short = f"import resource; resource.setrlimit(resource.RLIMIT_CPU, (1, 1))\n{program}"
    with pytest.raises(isolate.OverBudget, match="decoding took more than"):
        isolate.run_with_limits("exec(__import__('sys').argv[1])", [short], b"", 64 << 20)


@pytest.mark.slow
def test_a_process_runs_no_module_that_stands_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(3)", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    hidden = encoded(picture(64), "TIFF", compression="jpeg")
    assert decode.decode_image(hidden, "x").width == 64


@pytest.mark.slow
def test_memory_that_lacks_is_not_the_fault_of_a_file() -> None:
    program = """
import resource, sys
from admodels.images import decode
data = sys.stdin.buffer.read()
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + (8 << 20), held + (8 << 20)))
try:
    decode.decode_image(data, "x")
except MemoryError:
    print("MemoryError")
"""
    command, data = [sys.executable, "-c", program], costly.large_png(4_000, 8)
    ended = subprocess.run(command, input=data, capture_output=True, timeout=60)
    assert ended.stdout == b"MemoryError\n", ended.stderr
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


def test_threads_share_the_memory_and_wait_for_it() -> None:
    memory = cost.Memory(100)
    with memory.reserve(60):
        assert memory.taken == 60
        with memory.reserve(40):
            assert memory.taken == 100
    with memory.reserve(1_000):  # larger than all: alone
        assert memory.taken == 100
    assert memory.taken == 0
