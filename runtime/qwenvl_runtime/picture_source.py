"""The bytes of a picture, wherever they are, of which only few are read."""

from __future__ import annotations

import binascii
from typing import Protocol


class PictureError(ValueError):
    """What is wrong with a picture, to be read by whoever sent it."""


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


def take(source: Source, start: int, length: int) -> bytes:
    """Raises PictureError where there are fewer."""
    data = source.read(start, length)
    if len(data) < length:
        raise PictureError("is truncated")
    return data
