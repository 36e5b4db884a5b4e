"""What can be said of safetensors files without reading them: whether all are there, and whole."""

from __future__ import annotations

import json
import os
import re
import stat
import struct
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qwenvl_runtime.manifest import SnapshotError, unreadable

_INDEX = "model.safetensors.index.json"
_SUFFIXES = (".safetensors", ".bin", ".pt")
"""Of the first of these that any file has, the engine loads all files."""
_SHARD = re.compile(r"(?P<set>.+)-[0-9]+-of-(?P<of>[0-9]+)\.\w+")
_MAX_HEADER = 100 << 20
"""safetensors' own limit."""


def check_weights(folder: Path, required: bool = True) -> None:
    """An interrupted copy is told from names and headers, at no cost. `required`: that there are weights, as the engine
    looks for them unless it is told otherwise. Raises SnapshotError."""
    try:
        names = {name for name in os.listdir(folder) if not name.startswith(".")}
        index = folder / _INDEX
        named = _read_index(index) if index.exists() else set()
        if required and not named:
            _require_all(folder, names)
        for name in sorted(named | {name for name in names if name.endswith(_SUFFIXES[0])}):
            if not (folder / name).exists():
                raise SnapshotError(f"{folder / name} is missing; {_INDEX} names it")
            _check_file(folder / name)
    except OSError as error:
        raise unreadable(error.filename or folder, error) from error


def _require_all(folder: Path, names: Iterable[str]) -> None:
    """At least one file of weights, and of a set of numbered ones as many as their names say."""
    found = next(filter(None, ([name for name in names if name.endswith(suffix)] for suffix in _SUFFIXES)), [])
    if not found:
        raise SnapshotError(f"{folder} has no weights: no file *{', *'.join(_SUFFIXES)}")
    sets = Counter(match.group("set", "of") for name in found if (match := _SHARD.fullmatch(name)))
    for (name, number), there in sorted(sets.items()):
        if there < int(number):
            raise SnapshotError(
                f"{folder} has only {there} of the {number} files {name}-*-of-{number}, and no {_INDEX}"
            )


def _read_index(path: Path) -> set[str]:
    found = read_object(path).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise SnapshotError(f"{path} has no weight_map")
    if not found:
        raise SnapshotError(f"{path} names no weights")
    return set(found.values())


def read_object(path: Path) -> dict[str, Any]:
    """Raises SnapshotError, OSError."""
    try:
        with open(path, "rb", opener=_open_regular) as file:
            found = json.loads(file.read())
    except (ValueError, RecursionError) as error:
        raise SnapshotError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise SnapshotError(f"{path} is not a JSON object")
    return found


def _check_file(path: Path) -> None:
    with open(path, "rb", opener=_open_regular) as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(_MAX_HEADER, size - 8):
            raise SnapshotError(f"{path} is cut short, or no safetensors file: its header is not whole")
        try:
            end = _find_end(json.loads(file.read(length)))
        except (ValueError, RecursionError, AttributeError, KeyError, IndexError, TypeError) as error:
            raise SnapshotError(f"{path} is no safetensors file: its header cannot be read") from error
    if size != 8 + length + end:
        raise SnapshotError(f"{path} has {size} bytes, by its header it should have {8 + length + end}")


def _find_end(header: dict[str, Any]) -> int:
    """Bytes of all tensors. Raises KeyError, IndexError, TypeError, AttributeError for what is no header."""
    ends = [part["data_offsets"][1] for name, part in header.items() if name != "__metadata__"]
    if not all(type(end) is int for end in ends):
        raise TypeError("data_offsets are not integers")
    return max(ends, default=0)


def _open_regular(path: str, flags: int) -> int:
    # To open a pipe waits for somebody who writes to it, and a device may have no end.
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SnapshotError(f"{path} is no regular file")
    return descriptor
