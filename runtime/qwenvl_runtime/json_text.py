"""JSON that a client wrote: read strictly, and only so deep and so large that walking it costs little."""

from __future__ import annotations

import json
from typing import Any, AnyStr

import orjson

from qwenvl_runtime.errors import bad_field

MAX_DEPTH = 64
# A value takes up to a few hundred bytes once it is read.
MAX_VALUES = 250_000
# A text below this size cannot hold more values than MAX_VALUES.
_SMALL = 2 * MAX_VALUES
_LONGEST_NUMBER = 4300
"""Digits of an integer that Python reads."""


def parse(text: bytes, param: str = "") -> Any:
    """Raises orjson.JSONDecodeError, and RequestError for what is too complex; `param` is the path of the field."""
    if len(text) > _SMALL:
        _check_values(text, (b",", b"[", b"{"), param)
    value = orjson.loads(text)
    if _may_be_deep(text, (b"[", b"{")):
        _check_depth(value, param)
    return value


def can_be_read(text: str, param: str) -> bool:
    """Whether Python's json reads it, which takes more than `parse`: numbers of any size, NaN, halves of pairs. It is
    only tried where it could fail in another way than for a text that is no JSON. Raises RequestError for what is too
    complex.
    """
    if len(text) <= _LONGEST_NUMBER and not _may_be_deep(text, ("[", "{")):
        return True
    if len(text) > _SMALL:
        _check_values(text, (",", "[", "{"), param)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    _check_depth(value, param)
    return True


def _may_be_deep(text: AnyStr, opening: tuple[AnyStr, ...]) -> bool:
    return _count(text, opening, MAX_DEPTH) == MAX_DEPTH


def _check_values(text: AnyStr, marks: tuple[AnyStr, ...], param: str) -> None:
    if _count(text, marks, MAX_VALUES) >= MAX_VALUES:
        raise bad_field("too_complex", param, f"The JSON has more than {MAX_VALUES} values.")


def _check_depth(value: Any, param: str) -> None:
    if _is_deeper(value, MAX_DEPTH):
        raise bad_field("too_complex", param, f"The JSON is nested more than {MAX_DEPTH} deep.")


def _count(text: AnyStr, marks: tuple[AnyStr, ...], most: int) -> int:
    """How many of these there are, up to `most`: quick where they are few, as in a picture's text."""
    number = 0
    for mark in marks:
        place = text.find(mark)
        while place >= 0 and number < most:
            number += 1
            place = text.find(mark, place + 1)
    return number


def _is_deeper(value: Any, levels: int) -> bool:
    level = [value] if type(value) in (dict, list) else []
    for _ in range(levels):
        inner = (each.values() if type(each) is dict else each for each in level)
        level = [item for items in inner for item in items if type(item) in (dict, list)]
    return bool(level)
