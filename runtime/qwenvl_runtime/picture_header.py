"""The size of a PNG, JPEG or WebP picture, read from a few bytes of its base64 text; nothing is decompressed.

Strict where decoders are lenient: whatever could make a decoder see another size than the one that is read here is
refused, such as a second header, or one of another format.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import unpack
from typing import NamedTuple

from qwenvl_runtime.lookalikes import SEEN, find_lookalike
from qwenvl_runtime.picture_source import PictureError, Source, take

MEDIA_TYPES = ("image/png", "image/jpeg", "image/webp")

_MAX_BLOCKS = 512
_PIECE = 64 << 10
_MAX_AFTER_END = 2 << 20
"""Bytes before the last that are searched for the picture's end. Reading all of a large one would hold up everybody."""
_PNG_END = b"IEND\xaeB`\x82"
_JPEG_END = b"\xff\xd9"
_JPEG_SCAN = 0xDA
_JPEG_MAX_SCANS = 64
_JPEG_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_JPEG_SIZES = frozenset((*range(0xC0, 0xD0),)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE = frozenset((0x01, *range(0xD0, 0xDA)))
_WEBP_ANIMATION = 0x02


class Header(NamedTuple):
    media_type: str
    width: int
    height: int


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


def _read_png(source: Source) -> tuple[int, int]:
    if take(source, 8, 8) != b"\x00\x00\x00\rIHDR":
        raise PictureError("is a malformed PNG: it does not begin with IHDR")
    width, height = unpack(">II", take(source, 16, 8))
    place = 33
    for _ in range(_MAX_BLOCKS):
        length, kind = unpack(">I4s", take(source, place, 8))
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
        mark, kind = take(source, place, 2)
        if mark != 0xFF or kind in _JPEG_BARE:
            raise PictureError("is a malformed JPEG")
        if kind == 0xFF:
            place += 1
            continue
        (length,) = unpack(">H", take(source, place + 2, 2))
        if length < 2:
            raise PictureError("is a malformed JPEG")
        if kind in _JPEG_SIZES:
            if size is not None:
                raise PictureError("is a malformed JPEG: it has two sizes")
            height, width, colours = unpack(">HHB", take(source, place + 5, 5))
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
    """Whether the pixels that begin at `begin` end. Cameras write more after the end, phones a whole film, in which the
    mark soon stands by chance: it is looked for at the very end, and from there backwards."""
    end = source.size - len(mark)
    if end >= begin and source.read(end, len(mark)) == mark:
        return
    least = max(begin, end - _MAX_AFTER_END)
    while end > least:
        start = max(least, end - _PIECE)
        if mark in source.read(start, end - start + len(mark)):
            return
        end = start
    raise PictureError(f"is truncated, or more than {_MAX_AFTER_END} bytes follow its end")


def _read_webp(source: Source) -> tuple[int, int]:
    (declared,) = unpack("<I", take(source, 4, 4))
    if declared + 8 > source.size:
        raise PictureError("is truncated")
    if take(source, 8, 4) != b"WEBP":
        raise PictureError(f"is none of {', '.join(MEDIA_TYPES)}")
    place, canvas = 12, None
    for _ in range(_MAX_BLOCKS):
        kind, length = unpack("<4sI", take(source, place, 8))
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
            if take(source, place + 8, 1)[0] & _WEBP_ANIMATION:
                raise PictureError("is animated")
            data = take(source, place + 12, 6)
            canvas = 1 + int.from_bytes(data[:3], "little"), 1 + int.from_bytes(data[3:], "little")
        elif canvas is None:
            raise PictureError(f"is a malformed WebP: it begins with {kind!r}")
        place += 8 + length + length % 2
    raise PictureError("is a malformed WebP: its pixels do not begin")


def _read_webp_frame(source: Source, place: int, lossless: bool) -> tuple[int, int]:
    if lossless:
        signature, bits = unpack("<BI", take(source, place, 5))
        if signature != 0x2F:
            raise PictureError("is a malformed WebP")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    mark, width, height = unpack("<3sHH", take(source, place + 3, 7))
    if mark != b"\x9d\x01\x2a":
        raise PictureError("is a malformed WebP")
    return width & 0x3FFF, height & 0x3FFF


_Reader = Callable[[Source], tuple[int, int]]
_READERS: dict[str, tuple[bytes, _Reader]] = {
    "image/png": (b"\x89PNG\r\n\x1a\n", _read_png),
    "image/jpeg": (b"\xff\xd8\xff", _read_jpeg),
    "image/webp": (b"RIFF", _read_webp),
}
