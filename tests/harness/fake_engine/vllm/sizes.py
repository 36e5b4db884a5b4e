"""How many tokens a picture has: its size read from its first bytes, scaled as the model's preprocessor scales it."""

from __future__ import annotations

import base64
import struct
from math import ceil, floor, sqrt

_SIDE = 32
_MIN_PIXELS = 65536


def read_size(data_url: str) -> tuple[int, int]:
    """Width and height of a PNG or JPEG. Raises ValueError for anything else."""
    data = base64.b64decode(data_url.partition("base64,")[2], validate=True)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        width, height = struct.unpack(">II", data[16:24])
        return width, height
    place = 2
    while data.startswith(b"\xff\xd8") and place + 9 < len(data):
        marker, length = data[place + 1], struct.unpack(">H", data[place + 2 : place + 4])[0]
        if marker in (0xC0, 0xC1, 0xC2):
            height, width = struct.unpack(">HH", data[place + 5 : place + 9])
            return width, height
        place += 2 + length
    raise ValueError("neither PNG nor JPEG")


def count_tokens(width: int, height: int, max_pixels: int) -> int:
    columns, rows = max(1, round(width / _SIDE)), max(1, round(height / _SIDE))
    if columns * rows * _SIDE**2 > max_pixels:
        shrink = sqrt(width * height / max_pixels)
        columns, rows = max(1, floor(width / shrink / _SIDE)), max(1, floor(height / shrink / _SIDE))
    elif columns * rows * _SIDE**2 < _MIN_PIXELS:
        grow = sqrt(_MIN_PIXELS / (width * height))
        columns, rows = ceil(width * grow / _SIDE), ceil(height * grow / _SIDE)
    return columns * rows
