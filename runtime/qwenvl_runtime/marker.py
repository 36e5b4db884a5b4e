"""Remembers that a snapshot was hashed, so that an unchanged volume is not hashed at every start.

Bound to the manifest's digest and to what the file system says of every file: nothing changes a file's content and
leaves its change time alone, short of a clock that is set back.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

FOLDER = "snapshots"
# A file that changes again within one tick of the clock keeps its times: a young one is hashed once more.
_SETTLED_NS = 2 * 10**9

Stamp = tuple[int, int, int, int, int]
"""Size, modification and change time in nanoseconds, inode, device."""


class Marker(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    stamps: dict[str, Stamp]
    hashed_at: float


def take_stamps(files: Mapping[str, Path]) -> dict[str, Stamp]:
    """Raises OSError."""
    return {name: _stamp(path.stat(follow_symlinks=False)) for name, path in files.items()}


def read_marker(folder: Path, digest: str) -> Marker | None:
    """What was remembered; None as well for a marker that cannot be read."""
    with suppress(OSError, ValidationError):
        return Marker.model_validate_json(_path(folder, digest).read_bytes())
    return None


def write_marker(folder: Path, marker: Marker) -> None:
    """Raises OSError."""
    newest = max((max(modified, changed) for _, modified, changed, _, _ in marker.stamps.values()), default=0)
    if newest > marker.hashed_at * 1e9 - _SETTLED_NS:
        return
    path = _path(folder, marker.digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Other pods may share the cache volume.
    partial = path.with_suffix(f".{os.getpid()}-{os.urandom(4).hex()}")
    try:
        partial.write_text(marker.model_dump_json())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _path(folder: Path, digest: str) -> Path:
    return folder / FOLDER / f"{digest.removeprefix('sha256:')}.json"


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev
