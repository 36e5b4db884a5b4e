"""The size of a PNG, JPEG or WebP picture, read from a few bytes of its base64 text; nothing is decompressed.

Strict where decoders are lenient: whatever could make a decoder see another size than the one that is read here is
refused, such as a second header, or one of another format.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable
from struct import unpack
from typing import NamedTuple, Protocol

from qwenvl_runtime.lookalikes import SEEN, find_lookalike

MEDIA_TYPES = ("image/png", "image/jpeg", "image/webp")

_MAX_BLOCKS = 512
_PIECE = 64 << 10
_PNG_END = b"IEND\xaeB`\x82"
_JPEG_END = b"\xff\xd9"
_JPEG_SCAN = 0xDA
_JPEG_MAX_SCANS = 64
_JPEG_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_JPEG_SIZES = frozenset((*range(0xC0, 0xD0),)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE = frozenset((0x01, *range(0xD0, 0xDA)))
_WEBP_ANIMATION = 0x02


class PictureError(ValueError):
    """What is wrong with a picture, to be read by whoever sent it."""


class Header(NamedTuple):
    media_type: str
    width: int
    height: int


class Source(Protocol):
    """The bytes of a picture, wherever they are."""

    size: int

    def read(self, start: int, length: int) -> bytes:
        """Fewer bytes where the picture ends."""


class Base64Source:
    """Bytes out of the middle of base64 text, without decoding the rest. Raises PictureError for what is no base64."""

    def __init__(self, text: str, start: int = 0) -> None:
        length = len(text) - start
        if length % 4 or not length:
            raise PictureError("is no base64: its length must be a multiple of 4, line breaks are not allowed")
        self._text = text
        self._start = start
        self.size = length // 4 * 3 - text.count("=", len(text) - 2)

    def read(self, start: int, length: int) -> bytes:
        first, end = start // 3, -(-(start + length) // 3)
        piece = self._text[self._start + first * 4 : self._start + end * 4]
        try:
            data = binascii.a2b_base64(piece, strict_mode=True) if piece else b""
        except ValueError as error:
            raise PictureError("is no base64") from error
        return data[start - first * 3 :][:length]


def read_header(source: Source) -> Header:
    """Raises PictureError for anything but one whole, still picture of the three formats."""
    begin = source.read(0, 12)
    for media_type, (magic, read) in _READERS.items():
        if begin.startswith(magic):
            width, height = read(source)
            if not width or not height:
                raise PictureError("has no size")
            if other := find_lookalike(source.read(0, SEEN)):
                raise PictureError(f"could be taken for {other}")
            return Header(media_type, width, height)
    raise PictureError(f"is none of {', '.join(MEDIA_TYPES)}")


def _take(source: Source, start: int, length: int) -> bytes:
    data = source.read(start, length)
    if len(data) < length:
        raise PictureError("is truncated")
    return data


def _read_png(source: Source) -> tuple[int, int]:
    if _take(source, 8, 8) != b"\x00\x00\x00\rIHDR":
        raise PictureError("is a malformed PNG: it does not begin with IHDR")
    width, height = unpack(">II", _take(source, 16, 8))
    place = 33
    for _ in range(_MAX_BLOCKS):
        length, kind = unpack(">I4s", _take(source, place, 8))
        if kind == b"IDAT":
            break
        if kind == b"acTL":
            raise PictureError("is animated")
        if kind in (b"IHDR", b"IEND"):
            raise PictureError("is a malformed PNG")
        place += 12 + length
    else:
        raise PictureError("is a malformed PNG: its pixels do not begin")
    _check_end(source, place, _PNG_END)
    return width, height


def _read_jpeg(source: Source) -> tuple[int, int]:
    place, size, frame, colours = 2, None, 0, 0
    for _ in range(_MAX_BLOCKS):
        mark, kind = _take(source, place, 2)
        if mark != 0xFF or kind in _JPEG_BARE:
            raise PictureError("is a malformed JPEG")
        if kind == 0xFF:
            place += 1
            continue
        (length,) = unpack(">H", _take(source, place + 2, 2))
        if length < 2:
            raise PictureError("is a malformed JPEG")
        if kind in _JPEG_SIZES:
            if size is not None:
                raise PictureError("is a malformed JPEG: it has two sizes")
            height, width, colours = unpack(">HHB", _take(source, place + 5, 5))
            size, frame = (width, height), kind
        place += 2 + length
        if kind == _JPEG_SCAN:
            break
    if size is None or kind != _JPEG_SCAN:
        raise PictureError("is a malformed JPEG: its pixels do not begin")
    _check_end(source, place, _JPEG_END)
    if frame in _JPEG_PROGRESSIVE or source.read(place - length + 2, 1)[0] < colours:
        _check_scans(source, place)
    return size


def _check_scans(source: Source, begin: int) -> None:
    """Each scan makes the decoder go over the whole picture, and takes a few bytes. Pixels hold no such mark by chance;
    what follows the picture's end may, but a film after a progressive picture is what no camera writes."""
    scans = 1
    for start in range(begin, source.size, _PIECE):
        scans += source.read(start, _PIECE + 1).count(bytes((0xFF, _JPEG_SCAN)))
        if scans > _JPEG_MAX_SCANS:
            raise PictureError(f"has more than {_JPEG_MAX_SCANS} scans")


def _check_end(source: Source, begin: int, mark: bytes) -> None:
    """Whether the pixels that begin at `begin` end. Cameras write more after the end, phones a whole film: it is
    looked for at the very end, near it, and at last everywhere."""
    for place in (source.size - len(mark), source.size - _PIECE, begin):
        start = max(begin, place)
        if mark in source.read(start, source.size - start):
            return
    raise PictureError("is truncated")


def _read_webp(source: Source) -> tuple[int, int]:
    (declared,) = unpack("<I", _take(source, 4, 4))
    if declared + 8 > source.size:
        raise PictureError("is truncated")
    if _take(source, 8, 4) != b"WEBP":
        raise PictureError(f"is none of {', '.join(MEDIA_TYPES)}")
    place, canvas = 12, None
    for _ in range(_MAX_BLOCKS):
        kind, length = unpack("<4sI", _take(source, place, 8))
        if place + 8 + length > source.size:
            raise PictureError("is truncated")
        if kind in (b"ANIM", b"ANMF"):
            raise PictureError("is animated")
        if kind in (b"VP8 ", b"VP8L"):
            size = _read_webp_frame(source, place + 8, lossless=kind == b"VP8L")
            if canvas not in (None, size):
                raise PictureError("is a malformed WebP: it has two sizes")
            return size
        if kind == b"VP8X":
            if place != 12 or length != 10:
                raise PictureError("is a malformed WebP")
            if _take(source, place + 8, 1)[0] & _WEBP_ANIMATION:
                raise PictureError("is animated")
            data = _take(source, place + 12, 6)
            canvas = 1 + int.from_bytes(data[:3], "little"), 1 + int.from_bytes(data[3:], "little")
        elif canvas is None:
            raise PictureError(f"is a malformed WebP: it begins with {kind!r}")
        place += 8 + length + length % 2
    raise PictureError("is a malformed WebP: its pixels do not begin")


def _read_webp_frame(source: Source, place: int, lossless: bool) -> tuple[int, int]:
    if lossless:
        signature, bits = unpack("<BI", _take(source, place, 5))
        if signature != 0x2F:
            raise PictureError("is a malformed WebP")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    mark, width, height = unpack("<3sHH", _take(source, place + 3, 7))
    if mark != b"\x9d\x01\x2a":
        raise PictureError("is a malformed WebP")
    return width & 0x3FFF, height & 0x3FFF


_Reader = Callable[[Source], tuple[int, int]]
_READERS: dict[str, tuple[bytes, _Reader]] = {
    "image/png": (b"\x89PNG\r\n\x1a\n", _read_png),
    "image/jpeg": (b"\xff\xd8\xff", _read_jpeg),
    "image/webp": (b"RIFF", _read_webp),
}
