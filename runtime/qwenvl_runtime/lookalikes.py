"""Pictures that Pillow could open as another format than they begin as: vLLM lets it try some forty, in turn.

Most formats are told by their first bytes, which leave no choice. These are told by what stands further on, and are
tried before the right one, or after it has failed; IMT, IPTC and TGA begin otherwise than any picture that gets here.
"""

from __future__ import annotations

import re
from struct import unpack_from

SEEN = 4096
"""Bytes from the beginning that `find_lookalike` has to see."""

_LINE = rb"[A-Za-z][^:\n]{0,98}:[^\n]{0,98}\n\r*"
_TAGS = rb"Comment|Date|Digitalization equipment|File size|Image size|Image type|Lut|Name|Scale"
_MARKS = {
    "FLI": re.compile(rb".{4}[\x11\x12]\xaf.{8}[\0\x03]\0", re.DOTALL),
    "GBR": re.compile(rb".{4}\0\0\0[\x01\x02]", re.DOTALL),
    # Lines such as "Image size (x*y): 640*480". Pictures have two of any kind by chance, five they do not.
    "IM": re.compile(rb"(?:%b)+(?:%b)|(?:%b){5}" % (_LINE, _TAGS, _LINE)),
    "PCD": re.compile(rb".{2048}PCD_", re.DOTALL),
}


def find_lookalike(begin: bytes) -> str | None:
    """The format that a PNG, JPEG or WebP picture could be opened as as well, by its first bytes.

    >>> find_lookalike(b"RIFF: x\\nImage type: Greyscale image\\n"), find_lookalike(b"RIFF: x\\nTime: 12\\n")
    ('IM', None)
    """
    found = next((name for name, mark in _MARKS.items() if mark.match(begin)), None)
    return found or ("SPIDER" if _is_spider(begin) else None)


def _is_spider(begin: bytes) -> bool:
    """27 floats, of which some have to be whole, and one to be the product of two others."""
    if len(begin) < 27 * 4:
        return False
    for order in "><":
        numbers = (0.0, *unpack_from(f"{order}27f", begin))  # counted from 1, as its authors do
        if (
            numbers[5] == 1
            and all(numbers[place].is_integer() for place in (1, 2, 12, 13, 22, 23))
            and numbers[22] == numbers[13] * numbers[23]
        ):
            return True
    return False
