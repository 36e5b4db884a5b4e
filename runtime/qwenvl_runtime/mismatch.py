"""What of a snapshot is not as its manifest says: pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from qwenvl_runtime.manifest import Manifest, SnapshotError
from qwenvl_runtime.marker import Stamp

_NAMED = 5


class MismatchError(SnapshotError):
    """The folder is not what its manifest says. `wrong` has the files by kind, the message only some of them."""

    def __init__(self, folder: Path, wrong: Mapping[str, list[str]]) -> None:
        said = [f"{kind}: {name_some(names)}" for kind, names in wrong.items() if names]
        super().__init__(f"{folder} is not what its manifest says; {'; '.join(said)}")
        self.wrong = wrong


def compare(manifest: Manifest, stamps: Mapping[str, Stamp]) -> dict[str, list[str]]:
    """What is wrong by names and sizes, by kind."""
    listed = {entry.path: entry.size for entry in manifest.files}
    return {
        "missing": sorted(listed.keys() - stamps.keys()),
        "not in the manifest": sorted(stamps.keys() - listed.keys()),
        "of another size": [
            f"{name} ({stamps[name][0]} bytes, the manifest says {size})"
            for name, size in listed.items()
            if name in stamps and stamps[name][0] != size
        ],
    }


def compare_hashes(manifest: Manifest, hashes: Mapping[str, str | OSError]) -> dict[str, list[str]]:
    """What is wrong with these files, all of which the manifest lists, by kind."""
    listed = {entry.path: entry.sha256 for entry in manifest.files}
    found = sorted(hashes.items())
    return {
        "of another content (sha256)": [name for name, it in found if isinstance(it, str) and it != listed[name]],
        "unreadable": [f"{name} ({it.strerror})" for name, it in found if isinstance(it, OSError)],
    }


def name_some(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
