"""The user's cache folder: everything that is slow to make is made once and kept there, under a key of its inputs."""

import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.progress import say

REPOSITORY = Path(__file__).resolve().parents[2]


def cache_folder() -> Path:
    return Path(os.environ.get("QWENVL_CACHE") or "~/.cache/qwenvl").expanduser().resolve()


def content_key(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(f"{len(data)}:".encode() + data)
    return digest.hexdigest()[:12]


def files_key(paths: Iterable[Path], root: Path) -> str:
    """The key of files and folders, by path below `root` and content; what Python compiles does not count."""
    parts: list[str | bytes] = []
    for path in paths:
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in found:
            if file.is_file() and "__pycache__" not in file.parts:
                parts += [str(file.relative_to(root)), file.read_bytes()]
    return content_key(*parts)


@contextmanager
def locked(path: Path, shared: bool = False) -> Iterator[None]:
    """Hold a lock between processes; it ends with the process, however that ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"    waiting for another process that holds {path}")
            fcntl.flock(file, kind)
        yield
