"""Whether a snapshot may be loaded: it is there, it is what its manifest says, and in the declared format.

Blocking work without a network, done in a thread before the engine starts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

from qwenvl_runtime.config import RuntimeConfig, SnapshotReport
from qwenvl_runtime.hashing import Progress, hash_files
from qwenvl_runtime.manifest import Manifest, SnapshotError, digest_of, list_files, read_manifest, unreadable
from qwenvl_runtime.marker import Marker, Stamp, read_marker, take_stamps, write_marker
from qwenvl_runtime.mismatch import MismatchError, compare, compare_hashes, name_some
from qwenvl_runtime.quantization import find_format
from qwenvl_runtime.weights import check_weights, read_object

_CONFIG = "config.json"
_MODELOPT_CONFIG = "hf_quant_config.json"

logger = logging.getLogger(__name__)


class QuantizationMismatchError(SnapshotError):
    """The weights are in another format than the resource declares."""


@dataclass(frozen=True)
class Verified:
    """What was found to match."""

    digest: str
    """The manifest's own."""
    manifest: Manifest
    stamps: Mapping[str, Stamp]
    folders: Mapping[str, Stamp]
    hashed_at: float
    from_marker: bool = False


class Snapshot:
    """The one snapshot that this process is to load."""

    def __init__(self, config: RuntimeConfig, markers: Path) -> None:
        """`markers`: a folder that may outlive the process."""
        self._config = config
        self._folder = Path(config.engine.model_path)
        self._markers = markers
        self._verified: Verified | None = None
        self.progress = Progress()

    def check(self, now: float) -> None:
        """Raises SnapshotError, of which QuantizationMismatchError is one."""
        settings, engine = self._config.snapshot, self._config.engine
        self.progress.step = f"looking for {self._folder / _CONFIG}"
        require_model(self._folder)
        if settings.manifest_digest:
            digest = settings.manifest_digest
            marker = read_marker(self._markers, digest) if settings.trust_marker else None
            verified = verify(self._folder, digest, marker, self.progress, now)
            self._verified = verified
            if not verified.from_marker:
                self._remember(Marker(digest=digest, stamps=dict(verified.stamps), hashed_at=verified.hashed_at))
        self.progress.step = "reading the headers of the weights"
        # Some of the engine's loaders need none, or name their files otherwise.
        check_weights(self._folder, required=not any(each.startswith("--load") for each in engine.extra_args))
        if engine.quantization is not None:
            self.progress.step = f"reading {self._folder / _CONFIG}"
            check_quantization(self._folder, engine.quantization, engine.extra_args)

    def check_unchanged(self) -> None:
        """That what was verified is what has been loaded meanwhile, by the files' times. Raises SnapshotError."""
        if self._verified is not None:
            seen = {**self._verified.stamps, **self._verified.folders}
            _require_same(self._folder, seen, "while the engine loaded it")

    def report(self) -> SnapshotReport | None:
        """How far the verification is; None if nothing is pinned."""
        digest, verified = self._config.snapshot.manifest_digest, self._verified
        if not digest:
            return None
        if verified is None:
            return SnapshotReport(digest=digest, bytes_total=self.progress.total, bytes_done=self.progress.done)
        size = verified.manifest.size
        return SnapshotReport(
            digest=digest,
            files=len(verified.manifest.files),
            bytes_total=size,
            bytes_done=size,
            verified_at=verified.hashed_at,
            from_marker=verified.from_marker,
        )

    def _remember(self, marker: Marker) -> None:
        try:
            write_marker(self._markers, marker)
        except OSError as error:
            logger.warning("the next start will hash the snapshot again: no marker: %s", error)


def require_model(folder: Path) -> None:
    """That the folder is one of a model at all. Raises SnapshotError."""
    try:
        if not folder.is_dir():
            raise SnapshotError(f"{folder} is missing or no folder: is spec.model.source right?")
        if not (folder / _CONFIG).is_file():
            raise SnapshotError(f"{folder / _CONFIG} is missing: {folder} is not the folder of a snapshot")
    except OSError as error:
        raise unreadable(error.filename or folder, error) from error


def verify(
    folder: Path, digest: str, marker: Marker | None, progress: Progress, now: float, *, find_all: bool = False
) -> Verified:
    """Compare the folder with its manifest, whose digest must be `digest` if one is given. Hashes nothing if `marker`
    says that nothing has changed, nor, unless it is to `find_all`, once a name or a size is wrong. Raises
    SnapshotError, of which MismatchError is one."""
    progress.step = "listing its files"
    data = read_manifest(folder)
    found = digest_of(data)
    if digest and found != digest:
        raise SnapshotError(f"{folder}: qwenvl-manifest.json has the digest {found}, not {digest}")
    manifest = Manifest.parse(data)
    files = list_files(folder)
    try:
        stamps, folders = take_stamps(files), take_stamps(_list_folders(folder, files))
    except OSError as error:
        raise unreadable(error.filename, error) from error
    wrong = compare(manifest, stamps)
    if any(wrong.values()) and not find_all:
        raise MismatchError(folder, wrong)
    if marker is not None and marker.digest == digest and marker.stamps == stamps:
        return Verified(found, manifest, stamps, folders, marker.hashed_at, from_marker=True)
    progress.step, progress.total = "hashing", manifest.size
    sizes = {entry.path: entry.size for entry in manifest.files}
    hashes = hash_files({name: files[name] for name, stamp in stamps.items() if sizes.get(name) == stamp[0]}, progress)
    wrong |= compare_hashes(manifest, hashes)
    if any(wrong.values()):
        raise MismatchError(folder, wrong)
    _require_same(folder, {**stamps, **folders}, "while it was hashed")
    return Verified(found, manifest, stamps, folders, now)


def check_quantization(folder: Path, declared: str, extra_args: tuple[str, ...]) -> None:
    """Raises SnapshotError, of which QuantizationMismatchError is one."""
    path, other = folder / _CONFIG, folder / _MODELOPT_CONFIG
    try:
        config = read_object(path)
        found = find_format(config, read_object(other) if other.is_file() else None, extra_args)
    except OSError as error:
        raise unreadable(error.filename or path, error) from error
    except ValueError as error:
        raise SnapshotError(f"{folder}: {error}") from error
    if declared not in found.names:
        known = f" ({' or '.join(sorted(found.names))})" if found.names else ""
        raise QuantizationMismatchError(
            f"spec.model.quantization is {declared}, and {path} says {found.words}{known}: change the one or the other"
        )


def _list_folders(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """A folder that is moved away and back leaves its files' times alone, but not its own."""
    root = folder.resolve()
    return {f"{parent}/": root / parent for name in names for parent in PurePath(name).parents}


def _require_same(folder: Path, stamps: Mapping[str, Stamp], when: str) -> None:
    try:
        files = list_files(folder)
        now = take_stamps({**files, **_list_folders(folder, files)})
    except OSError as error:
        raise unreadable(error.filename or folder, error) from error
    changed = sorted(name for name in now.keys() | stamps.keys() if now.get(name) != stamps.get(name))
    if changed:
        raise SnapshotError(f"{folder} has changed {when}: {name_some(changed)}")
