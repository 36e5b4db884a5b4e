"""Hashes many files at once, as fast as they can be read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

# hashlib and reads let go of the interpreter's lock, so threads are enough. More of them than cores cost nothing, and
# keep a network volume busy.
_THREADS = 8
_CHUNK = 4 << 20


class Progress:
    """How far a verification has come: written by its threads, read by anybody."""

    def __init__(self) -> None:
        self.step = ""
        """What is being done, as in "it was still ..."."""
        self.total = 0
        """Bytes to hash; 0 until it begins."""
        self.done = 0
        self._lock = Lock()

    def add(self, size: int) -> None:
        with self._lock:
            self.done += size


def hash_files(files: Mapping[str, Path], progress: Progress) -> dict[str, str | OSError]:
    """The sha256 of each file in hexadecimal, or why it could not be read."""

    def size(name: str) -> int:
        try:
            return files[name].stat().st_size
        except OSError:
            return 0

    # The largest first: otherwise the last thread might begin with it when all others are done.
    names = sorted(files, key=size, reverse=True)
    with ThreadPoolExecutor(_THREADS, "hash") as pool:
        return dict(zip(names, pool.map(lambda name: _hash(files[name], progress), names), strict=True))


def _hash(path: Path, progress: Progress) -> str | OSError:
    try:
        with open(path, "rb", buffering=0, opener=_open_regular) as file:
            # Read ahead further. Nothing is dropped behind: the engine reads the same pages a moment later.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            size = os.fstat(file.fileno()).st_size
            digest, buffer = hashlib.sha256(), memoryview(bytearray(min(size, _CHUNK) or 1))
            while size := file.readinto(buffer):
                digest.update(buffer[:size])
                progress.add(size)
            return digest.hexdigest()
    except OSError as error:
        return error


def _open_regular(path: str, flags: int) -> int:
    # A link or a pipe that has taken a file's place since it was listed: the one would lead out, the other hang.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
