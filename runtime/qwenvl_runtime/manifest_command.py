"""Writes the manifest of a snapshot, or verifies a snapshot by it. Needs no cluster and no network."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from pathlib import Path

from qwenvl_runtime.hashing import Progress, hash_files
from qwenvl_runtime.manifest import FILE, Entry, Manifest, SnapshotError, digest_of, list_files
from qwenvl_runtime.mismatch import MismatchError
from qwenvl_runtime.snapshot import require_model, verify
from qwenvl_runtime.weights import check_weights

GOOD, INVALID = 0, 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    create = actions.add_parser("create", help=f"hash every file and write {FILE} into the folder")
    check = actions.add_parser("verify", help="compare the folder with its manifest")
    for action in (create, check):
        action.add_argument("folder", type=Path, help="folder of the snapshot: the one that holds config.json")
    check.add_argument("--digest", type=_digest, help="what spec.model.manifestDigest pins: sha256:...")


def run(arguments: argparse.Namespace) -> int:
    """0: written, or all is as it should be; 1: not so, and standard error says why."""
    began = time.monotonic()
    try:
        if arguments.action == "create":
            manifest, digest = create(arguments.folder)
        else:
            digest = arguments.digest or ""
            verified = verify(arguments.folder, digest, None, Progress(), time.time(), find_all=True)
            manifest, digest = verified.manifest, verified.digest
    except MismatchError as error:
        print(f"error: {arguments.folder} is not what its manifest says", file=sys.stderr)
        for kind, names in error.wrong.items():
            for name in names:
                print(f"{kind}: {name}", file=sys.stderr)
        return INVALID
    except (SnapshotError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return INVALID
    seconds = time.monotonic() - began
    print(f"{len(manifest.files)} files, {manifest.size:,} bytes, {seconds:.1f} s", file=sys.stderr)
    print(digest)
    return GOOD


def create(folder: Path) -> tuple[Manifest, str]:
    """Write the manifest; returns it and its digest. Raises SnapshotError, OSError."""
    require_model(folder)
    partial = _clear_way(folder)
    check_weights(folder)
    files = list_files(folder)
    entries = []
    for path, found in hash_files(files, Progress()).items():
        if isinstance(found, OSError):
            raise found
        entries.append(Entry(path=path, size=files[path].stat().st_size, sha256=found))
    manifest = Manifest.of(entries)
    data = manifest.dump()
    try:
        partial.write_bytes(data)
        partial.chmod(0o644)
        partial.replace(folder / FILE)
    finally:
        partial.unlink(missing_ok=True)
    return manifest, digest_of(data)


def _clear_way(folder: Path) -> Path:
    """Where the manifest is written first, without what an interrupted run left there: it would be listed."""
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SnapshotError(
            f"{folder} cannot be written to (as user {os.geteuid()}), and the manifest has to be in it: mount the"
            " volume writable once, or create the manifest where the snapshot came from and copy both"
        )
    partial = folder / f"{FILE}.part"
    partial.unlink(missing_ok=True)
    return partial


def _digest(text: str) -> str:
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not sha256: and 64 hexadecimal digits")
    return text
