"""What an encoded image costs to decode: read from its bytes, before a decoder sees them.

Every size stands in a header: of the image, its canvas, its largest tile, its passes over all
pixels. A decoder reserves them and works them off whatever the file really holds, so that a file
of a megabyte can cost gigabytes or minutes. Where a header bounds nothing, `is_bounded` is False.
"""

import re
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

PLAIN_BYTES = 7  # a pixel: as Pillow holds it, and as RGB
USUAL_BYTES = 12  # the same, with what the hungriest codec (JPEG 2000) holds beside it, in part
DEEP_BYTES = 12  # a sample of more than 8 bits: as stored, twice, and as 32 bits
COEFFICIENT_BYTES = 2  # of a sample of a progressive JPEG, all of which are kept to the end
BUDGET = 3  # times what the largest image learnt from needs
LEAST_MEMORY = 64 << 20
LEAST_WORK = 64_000_000
SCANS_USUAL = 20  # libjpeg writes 10 for colour, mozjpeg 12
SCANS_MAX = 100
PAGES_MAX = 1000
TAGS_MAX = 1000  # of a page of a TIFF; a page has some thirty
SEGMENTS_MAX = 100_000  # of a JPEG, of which a profile or a preview takes some hundreds
OPENED_BYTES_MAX = 1 << 20  # more than the headers of a camera's image
FEW_CHUNKS = 10_000  # of a PNG: as many as there are, however small
LEAST_CHUNK_BYTES = 1024  # of the chunks of a larger one, on average: libpng writes 8 KiB
J2K_TILES_MAX = 4096
J2K_START = b"\xff\x4f\xff\x51"  # the markers SOC and SIZ
JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)  # within a scan (T.81, B.1.1.5)
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 6: 1, 7: 1, 8: 2, 9: 4, 13: 4, 16: 8, 17: 8, 18: 8}
PHOTOMETRIC = 262
BMP_RUNS = (1, 2)  # run lengths, which Pillow decodes in Python
TIFF_HIDING = frozenset((6, 7, 34925, 50000, 50001))  # JPEG, LZMA, Zstandard, WebP: own headers


@dataclass(frozen=True)
class Header:
    """What a file says of its image, in pixels as stored; `format` as Pillow names it.

    `scans`: passes over all pixels. `extra_bytes`: a tile, a canvas or the like, beside the pixels.
    `white_zero_at`: where a TIFF says that white is 0, else 0.
    """

    format: str
    width: int
    height: int
    bit_depth: int = 8
    channels: int = 3
    scans: int = 1
    extra_bytes: int = 0
    is_bounded: bool = True
    white_zero_at: int = 0
    is_reduced: bool = False
    sample_format: int = 1

    @property
    def pixels(self) -> int:
        """How many."""
        return self.width * self.height

    @property
    def work_pixels(self) -> int:
        """How many pixels are decoded, each scan anew."""
        return self.pixels * self.scans

    @property
    def memory_bytes(self) -> int:
        """What decoding reserves at most."""
        deep = DEEP_BYTES * self.channels if self.bit_depth > 8 else 0
        return self.pixels * (PLAIN_BYTES + deep) + self.extra_bytes


@dataclass(frozen=True)
class Budget:
    """What decoding one file may take."""

    memory_bytes: int
    work_pixels: int

    def excess(self, header: Header) -> str:
        """What a file would take too much of, in words; empty where it keeps to the budget."""
        if header.memory_bytes > self.memory_bytes:
            needed, allowed = header.memory_bytes >> 20, self.memory_bytes >> 20
            return f"decoding needs {needed} MiB of memory, more than {allowed}"
        if header.work_pixels > self.work_pixels:
            needed, allowed = header.work_pixels // 10**6, self.work_pixels // 10**6
            scans = f" in {header.scans} scans" if header.scans > 1 else ""
            return f"decoding passes over {needed} million pixels{scans}, more than {allowed}"
        return ""


class Memory:
    """So many bytes, shared by threads: one that wants more than are left waits."""

    def __init__(self, total: int) -> None:
        self.total, self.taken, self.changed = total, 0, threading.Condition()

    @contextmanager
    def reserve(self, wanted: int) -> Iterator[None]:
        """Wait until so many bytes are left, and hold them."""
        wanted = min(wanted, self.total)
        with self.changed:
            self.changed.wait_for(lambda: self.taken + wanted <= self.total)
            self.taken += wanted
        try:
            yield
        finally:
            with self.changed:
                self.taken -= wanted
                self.changed.notify_all()


def budget(pixels: int, bit_depth: int) -> Budget:
    """The budget of images with at most so many pixels of such depth."""
    memory = BUDGET * pixels * (USUAL_BYTES + (DEEP_BYTES * 3 if bit_depth > 8 else 0))
    return Budget(max(LEAST_MEMORY, memory), max(LEAST_WORK, BUDGET * pixels * SCANS_USUAL))


def own_budget(header: Header) -> Budget:
    """The budget of a file without other images: what an image of its size may need."""
    usual = budget(header.pixels, header.bit_depth)
    return replace(usual, work_pixels=max(LEAST_WORK, header.pixels * SCANS_MAX))


def read_header(data: bytes, page: int | None = None) -> Header | None:
    """The header of the image that is decoded; None where it cannot be read.

    `page`: of a TIFF, the first is 0; None is the first, or the only one that is not a thumbnail.
    """
    return page_of(read_pages(data), page)


def page_of(pages: list[Header], page: int | None) -> Header | None:
    """One of several pages, as in `read_header`."""
    if page is not None:
        return pages[page] if page < len(pages) else None
    return next((header for header in pages if not header.is_reduced), pages[0] if pages else None)


def needs_page(pages: list[Header], page: int | None) -> bool:
    """Whether a file has several images, and nobody says which is the right one."""
    return page is None and sum(not header.is_reduced for header in pages) > 1


def read_pages(data: bytes) -> list[Header]:
    """The header of each page of a TIFF, up to a broken one; of another file, its one, or none."""
    pages: list[Header] = []
    for signature, read in READERS:
        if signature.match(data):
            with suppress(struct.error, IndexError, ValueError, OverflowError):
                for header in read(data):
                    pages.append(header)  # those before a fault count
            break
    return pages


def may_flood(data: bytes) -> bool:
    """Whether a file without a header that we can read is so large that opening it may take long.

    What does not even begin as an image is refused at once, however large.
    """
    return len(data) > OPENED_BYTES_MAX and any(start.match(data) for start, _ in READERS)


def as_black_zero(data: bytes, header: Header | None) -> bytes:
    """The file, but where it says that white is 0 of more than 8 bits: few decoders read those."""
    if header is None or not header.white_zero_at or header.bit_depth <= 8:
        return data
    place = header.white_zero_at
    return b"".join((data[:place], b"\1", data[place + 1 :]))


def zero_tail(data: bytes) -> int:
    """How many zero bytes a file ends with."""
    return len(data) - len(data.rstrip(b"\0"))


def _png(data: bytes) -> Iterator[Header]:
    """PNG, third edition, sections 5.3 and 11.2.1; Pillow keeps every chunk it does not know."""
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    position, chunks, most = 8, 0, FEW_CHUNKS + len(data) // LEAST_CHUNK_BYTES
    while position < len(data) and chunks <= most:
        position += 12 + int.from_bytes(data[position : position + 4], "big")
        chunks += 1
    channels = PNG_CHANNELS.get(colour, 4)
    yield Header("PNG", width, height, depth, channels, is_bounded=chunks <= most)


def _jpeg(data: bytes) -> Iterator[Header]:
    """ITU-T T.81, annex B: all markers up to the end of the image; sizes are of the first frame."""
    position, segments, scans, frame = 2, 0, 0, None
    while (match := JPEG_MARKER.search(data, position)) and segments <= SEGMENTS_MAX:
        marker, position, segments = data[match.end() - 1], match.end(), segments + 1
        if marker == 0xD9:
            break
        if marker == 0x01 or marker == 0xD8:
            continue
        if marker in JPEG_FRAMES and frame is None:
            frame = struct.unpack(">BHHB", data[position + 2 : position + 8])
        scans += marker == 0xDA
        position += int.from_bytes(data[position : position + 2], "big")
    if frame is None:
        return
    depth, height, width, channels = frame
    kept = COEFFICIENT_BYTES * channels * width * height if scans > 1 else 0
    light = scans <= SCANS_USUAL or width * height * scans <= LEAST_WORK
    bounded = light and segments <= SEGMENTS_MAX
    yield Header("JPEG", width, height, depth, channels, max(1, scans), kept, bounded)


def _bmp(data: bytes) -> Iterator[Header]:
    if int.from_bytes(data[14:18], "little") == 12:
        width, height, _, depth = struct.unpack("<HHHH", data[18:26])
        yield Header("BMP", width, height)
        return
    width, height, _, depth, compression = struct.unpack("<iiHHI", data[18:34])
    plain = compression not in BMP_RUNS
    yield Header("BMP", abs(width), abs(height), 8, 4 if depth == 32 else 3, is_bounded=plain)


def _webp(data: bytes) -> Iterator[Header]:
    """RFC 9649: the canvas, two of which its decoder holds, or the one frame."""
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[a : a + 3], "little") for a in (24, 27))
    elif kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack("<HH", data[26:30]))
    else:
        return
    yield Header("WEBP", width, height, extra_bytes=2 * 4 * width * height)


def _jpeg2000(data: bytes) -> Iterator[Header]:
    """ISO/IEC 15444-1, annex A.5.1: the marker segment SIZ of the codestream, where there is one.

    What looks like a second one may be the image, and the first a box that no decoder reads.
    """
    start = data.find(J2K_START)
    if start < 0:
        return
    sizes = struct.unpack(">8IH", data[start + 8 : start + 42])
    right, bottom, left, top, tile_width, tile_height, _, _, channels = sizes
    width, height, depth = right - left, bottom - top, (data[start + 42] & 0x7F) + 1
    if min(width, height, tile_width, tile_height, channels) < 1:
        return
    tiles = -(-width // tile_width) * -(-height // tile_height)
    is_alone = data.find(J2K_START, start + 1) < 0
    bounded = is_alone and tiles <= J2K_TILES_MAX and channels <= 4
    depth = depth if depth <= 8 else 16  # Pillow stretches to 16
    held = 2 * 4 * channels * width * height  # as 32 bits: a tile, and the image
    yield Header("JPEG2000", width, height, depth, channels, 1, held, bounded)


def _tiff(data: bytes) -> Iterator[Header]:
    """TIFF 6.0, section 2, and BigTIFF: each page in turn, until one was there before."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack(order + "H", data[2:4])[0] == 43
    pointer = order + ("Q" if big else "I")
    seen: set[int] = set()
    (offset,) = struct.unpack_from(pointer, data, 8 if big else 4)
    while offset and offset not in seen and len(seen) < PAGES_MAX:
        seen.add(offset)
        tags, end = _tags(data, order, offset, big)
        yield _tiff_page(tags)
        (offset,) = struct.unpack_from(pointer, data, end)


def _tags(data: bytes, order: str, offset: int, big: bool) -> tuple[dict[int, int], int]:
    """The first value of each tag of a page, and where its end is: the place of the next page."""
    count, entry, head = ("Q", "HHQ", 12) if big else ("H", "HHI", 8)
    (entries,) = struct.unpack_from(order + count, data, offset)
    if entries > TAGS_MAX:
        raise ValueError(f"{entries} tags on a page")
    place, width = offset + struct.calcsize(order + count), head + (8 if big else 4)
    tags: dict[int, int] = {}
    for _ in range(entries):
        tag, kind, number = struct.unpack_from(order + entry, data, place)
        length, value = TIFF_SIZES.get(kind, 0), place + head
        if length * number > width - head:
            (value,) = struct.unpack_from(order + ("Q" if big else "I"), data, value)
        if length and number:
            raw = data[value : value + length]
            tags.setdefault(tag, int.from_bytes(raw, "little" if order == "<" else "big"))
            if tag == PHOTOMETRIC:
                tags[-tag] = value if order == "<" else value + length - 1  # its least byte
        place += width
    return tags, place


def _tiff_page(tags: dict[int, int]) -> Header:
    width, height, depth, channels = (tags.get(tag, 1) for tag in (256, 257, 258, 277))
    rows = min(height, tags.get(278, height))
    block = tags[322] * tags.get(323, 1) if 322 in tags else width * rows
    return Header(
        "TIFF",
        width,
        height,
        depth,
        channels,
        extra_bytes=block * channels * -(-depth // 8),
        is_bounded=tags.get(259, 1) not in TIFF_HIDING,
        white_zero_at=tags[-PHOTOMETRIC] if tags.get(PHOTOMETRIC) == 0 else 0,
        is_reduced=bool(tags.get(254, 0) & 5),  # a thumbnail, or a mask
        sample_format=tags.get(339, 1),
    )


READERS: tuple[tuple[re.Pattern[bytes], Callable[[bytes], Iterator[Header]]], ...] = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), _png),
    (re.compile(rb"\xff\xd8\xff"), _jpeg),
    (re.compile(rb"BM"), _bmp),
    (re.compile(rb"II[\x2a\x2b]\0|MM\0[\x2a\x2b]"), _tiff),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), _webp),
    (re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"), _jpeg2000),
)
