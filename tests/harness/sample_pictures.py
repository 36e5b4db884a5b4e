"""Small pictures of every kind, good and bad, for tests of what is let in."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from functools import cache
from typing import Any

from PIL import Image


@cache
def encode(form: str, width: int = 64, height: int = 48, **options: Any) -> bytes:
    """A gradient, so that formats differ and nothing is trivially small."""
    picture = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    data = io.BytesIO()
    picture.save(data, form, **options)
    return data.getvalue()


def animate(form: str) -> bytes:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "green", "blue")]
    data = io.BytesIO()
    frames[0].save(data, form, save_all=True, append_images=frames[1:], duration=100)
    return data.getvalue()


def build_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def build_png_bomb(width: int, height: int) -> bytes:
    """Says that it has this size; its pixels are a few bytes."""
    header = build_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = build_chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + build_chunk(b"IEND", b"")


def build_png_damaged_inside() -> bytes:
    """Whole by all that can be seen from outside; the decoder fails in a way that vLLM takes for its own failure."""
    png = encode("PNG", 300, 300)
    start = png.index(b"IDAT") + 4
    length = int.from_bytes(png[start - 8 : start - 4], "big")
    first, second = png[start : start + length // 2], png[start + length // 2 : start + length]
    pixels = build_chunk(b"IDAT", first) + build_chunk(b"\x00\x01\x02\x03", second)
    return png[: start - 8] + pixels + build_chunk(b"IEND", b"")


def build_riff(*chunks: bytes) -> bytes:
    data = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(data)) + data


def build_riff_chunk(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def build_lookalikes() -> dict[str, bytes]:
    """Pictures that are whole as what they begin as, and that Pillow may open as what they are named here."""
    png, jpeg, webp = encode("PNG"), encode("JPEG"), encode("WEBP")
    text = b": x\nImage type: Greyscale image\nImage size (x*y): 3000*3000\n\x1a" + b"U" * 9000
    floats = struct.pack("<27f", 0, 3000, 0, 0, 1, *[0] * 6, 2000, 1, *[0] * 8, 1, 1, *[0] * 4)
    twelve_bits = bytearray(jpeg)
    twelve_bits[jpeg.index(b"\xff\xc0") + 4] = 12
    return {
        "IM": build_riff(build_riff_chunk(b"JUNK", text), webp[12:]),
        "IM after pixels": build_riff(webp[12:30] + text, webp[30:]),
        "PCD in PNG": png[:33] + build_chunk(b"juNk", b"\0" * 2007 + b"PCD_" + b"\0" * 2000) + png[33:],
        "PCD in WebP": build_riff(
            webp[12:], build_riff_chunk(b"JUNK", b"\0" * (2040 - len(webp)) + b"PCD_" + b"\0" * 2000)
        ),
        "FLI": b"\xff\xd8\xff\xe0\x11\xaf" + struct.pack("<HHH", 1, 3000, 3000) + b"\0" * 4519 + jpeg[2:],
        "GBR": b"\xff\xd8\xff\xe0" + struct.pack(">IIII", 1, 3000, 3000, 1) + jpeg[2:],
        "SPIDER": b"\xff\xd8\xff\xec" + floats[4:] + b"\0" * 24 + bytes(twelve_bits[2:]),
    }


def data_url(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
