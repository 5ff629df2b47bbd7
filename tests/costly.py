"""Files of few bytes that cost a decoder much, and files that are damaged: made from nothing."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

SHORT, LONG = 3, 4  # TIFF 6.0, section 2


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def picture(side: int = 96, mode: str = "RGB", seed: int = 1) -> Image.Image:
    """Noise that no encoder makes small, without a value of 0."""
    values = np.random.default_rng(seed).integers(40, 215, (side, side, 3), np.uint8)
    return Image.fromarray(values).convert(mode)


def scan_bomb(side: int, scans: int, whole: Image.Image | None = None) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    image = whole or Image.new("L", (side, side), 128)
    plain = encoded(image, "JPEG", progressive=True, quality=50)
    last = plain.rindex(b"\xff\xda")
    return plain[:last] + plain[last : plain.rindex(b"\xff\xd9")] * scans + b"\xff\xd9"


def zeros(count: int) -> bytes:
    packer, block = zlib.compressobj(9), bytes(1 << 24)
    packed = [packer.compress(block[: min(count - n, 1 << 24)]) for n in range(0, count, 1 << 24)]
    return b"".join([*packed, packer.flush()])


def large_png(side: int, depth: int = 16) -> bytes:
    """An RGB PNG that is black, of `side` x `side` pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", side, side, depth, 2, 0, 0, 0)
    body = zeros(side * (1 + side * 3 * depth // 8))
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def canvas_bomb(side: int) -> bytes:
    """An animated WebP with a canvas of `side` x `side` and one frame of 1 x 1."""
    frame = encoded(Image.new("RGB", (1, 1)), "WEBP", lossless=True)[12:]

    def block(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)

    last = (side - 1).to_bytes(3, "little")
    head = block(b"VP8X", struct.pack("<I", 18) + last + last) + block(b"ANIM", bytes(6))
    body = b"WEBP" + head + block(b"ANMF", bytes(12) + (100).to_bytes(3, "little") + b"\0" + frame)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff(tags: dict[int, tuple[int, int]], data: bytes, order: str = "<") -> bytes:
    """One page of the given tags; its strip or tile stands at 8."""
    data += b"\0" * (len(data) % 2)

    def entry(tag: int, kind: int, value: int) -> bytes:
        packed = struct.pack(order + "HH", value, 0) if kind == SHORT else b""
        return struct.pack(order + "HHI", tag, kind, 1) + (
            packed or struct.pack(order + "I", value)
        )

    entries = b"".join(entry(tag, *value) for tag, value in sorted(tags.items()))
    start = b"II*\0" if order == "<" else b"MM\0*"
    head = start + struct.pack(order + "I", 8 + len(data))
    return head + data + struct.pack(order + "H", len(tags)) + entries + bytes(4)


def tile_bomb(tile: int, side: int = 64, compression: int = 8) -> bytes:
    """A grey TIFF of `side` x `side` pixels with one deflated tile of `tile` x `tile`."""
    data = zeros(tile * tile)
    tags = {256: (LONG, side), 257: (LONG, side), 258: (SHORT, 8), 259: (SHORT, compression)}
    tags |= {262: (SHORT, 1), 277: (SHORT, 1), 322: (LONG, tile), 323: (LONG, tile)}
    return tiff(tags | {324: (LONG, 8), 325: (LONG, len(data))}, data)


def strip_bomb(rows: int, side: int = 64) -> bytes:
    """The same by one strip: a page that is one pixel wide, far higher than it says."""
    tags = {256: (LONG, rows), 257: (LONG, 1), 258: (SHORT, 8), 259: (SHORT, 8), 262: (SHORT, 1)}
    data = zeros(rows)
    tags |= {273: (LONG, 8), 277: (SHORT, 64), 278: (LONG, side), 279: (LONG, len(data))}
    return tiff(tags, data)


def grey_tiff(values: np.ndarray, photometric: int = 1, order: str = "<") -> bytes:
    """Grey, uncompressed, of any depth; where `photometric` is 0, white is 0."""
    kinds = {"u": 1, "i": 2, "f": 3}
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    height, width = values.shape
    tags = {256: (LONG, width), 257: (LONG, height), 258: (SHORT, 8 * values.dtype.itemsize)}
    tags |= {259: (SHORT, 1), 262: (SHORT, photometric), 273: (LONG, 8), 277: (SHORT, 1)}
    tags |= {278: (LONG, height), 279: (LONG, len(data)), 339: (SHORT, kinds[values.dtype.kind])}
    return tiff(tags, data, order)


def half_written(data: bytes, share: float = 0.5) -> bytes:
    """The length of the whole, of which the rest was never written."""
    whole = int(len(data) * share)
    return data[:whole] + bytes(len(data) - whole)
