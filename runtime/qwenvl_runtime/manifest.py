"""The manifest of a snapshot: size and sha256 of every file, in one file beside them whose own digest is pinned.

What is in a folder is listed here too, by the rules that `create` and `verify` share: nothing but regular files and
links to such within the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

FILE = "qwenvl-manifest.json"
MAX_BYTES = 64 << 20
# Where a file system keeps what its repair found: at the root of many volumes, and closed to all but root.
_NOT_OF_THE_SNAPSHOT = "lost+found"


class SnapshotError(Exception):
    """A snapshot that may not be loaded; the message names the files."""


class Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    path: Annotated[str, Field(min_length=1)]
    """Relative to the snapshot's folder, with `/`."""
    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    @field_validator("path")
    @classmethod
    def _is_within(cls, path: str) -> str:
        if path.startswith("/") or ".." in path.split("/") or str(PurePosixPath(path)) != path or "\0" in path:
            raise ValueError(f"{path!r} is not the plain relative path of a file within the folder")
        if path == FILE:
            raise ValueError("a manifest does not list itself")
        return path


class Manifest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: Literal[1] = 1
    files: tuple[Entry, ...]

    @model_validator(mode="after")
    def _is_sorted(self) -> Self:
        paths = [entry.path for entry in self.files]
        for before, after in pairwise(paths):
            if before == after:
                raise ValueError(f"{after!r} is listed twice")
            if before > after:
                raise ValueError(f"{after!r} is not in its place: files are sorted by their paths")
        return self

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Manifest:
        return cls(files=tuple(sorted(entries, key=lambda entry: entry.path)))

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Raises SnapshotError."""
        try:
            return cls.model_validate_json(data, strict=True)
        except ValidationError as error:
            found = error.errors(include_url=False)[0]
            where = ".".join(map(str, found["loc"]))
            raise SnapshotError(f"{FILE} is not a manifest: {where and f'{where}: '}{found['msg']}") from error

    def dump(self) -> bytes:
        """The file's bytes: the same for the same files."""
        return (json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True) + "\n").encode()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def read_manifest(folder: Path) -> bytes:
    """Raises SnapshotError."""
    path = folder / FILE
    try:
        if path.is_symlink() or not path.is_file():
            raise SnapshotError(f"{path} is missing or no regular file: `qwenvl manifest create` writes it")
        if path.stat().st_size > MAX_BYTES:
            raise SnapshotError(f"{path} has more than {MAX_BYTES} bytes, which no manifest has")
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error


def list_files(folder: Path) -> dict[str, Path]:
    """Every file of a snapshot by its path, and the regular file that it is. Raises SnapshotError."""
    try:
        root = folder.resolve(strict=True)
        return dict(_walk(root, root))
    except RecursionError as error:
        raise SnapshotError(f"{folder} has folders within folders, too deep for a snapshot") from error
    except OSError as error:
        raise unreadable(error.filename or folder, error) from error


def unreadable(path: Path | str, error: OSError) -> SnapshotError:
    return SnapshotError(f"{path} cannot be read: {error.strerror} (as user {os.geteuid()})")


def _walk(root: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    with os.scandir(folder) as found:
        for item in found:
            path = Path(item.path)
            name = path.relative_to(root).as_posix()
            if name in (FILE, _NOT_OF_THE_SNAPSHOT):
                continue
            if not name.isprintable():
                raise SnapshotError(f"{name!a} is a name with unprintable characters, or not in UTF-8")
            if item.is_dir(follow_symlinks=False):
                yield from _walk(root, path)
            else:
                yield name, _follow(root, path, name) if item.is_symlink() else _regular(path, name)


def _follow(root: Path, link: Path, name: str) -> Path:
    # As the engine will: a link to a file within the folder is that file, which is listed as well.
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise SnapshotError(f"{name} is a symbolic link that leads nowhere") from error
    if not target.is_relative_to(root):
        raise SnapshotError(f"{name} is a symbolic link out of the folder, to {target}: copy the file itself")
    return _regular(target, name)


def _regular(path: Path, name: str) -> Path:
    if not stat.S_ISREG(path.stat().st_mode):
        raise SnapshotError(f"{name} is neither a regular file nor a link to one")
    return path
