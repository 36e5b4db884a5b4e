"""Building ordinary Dockerfiles without a Docker engine, in an image storage of our own."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from harness.cache import cache_folder, locked
from harness.commands import PRIVATE, CommandError, run

_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
_LAYOUT_TAG_SEPARATORS = str.maketrans("/:", "--")


def _buildah(*arguments: str | Path, caches: Mapping[str, Path] | None = None) -> str:
    with _storage(caches or {}) as (scratch, enter):
        options = ("--root", _root(), "--runroot", scratch / "run", "--storage-driver", "overlay")
        return run(*enter, "buildah", *options, *arguments, env={"TMPDIR": str(scratch)})


def _root() -> Path:
    return cache_folder() / "buildah"


@contextmanager
def _storage(caches: Mapping[str, Path]) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Hold the storage; yields a scratch folder, and what to put before a command that uses the storage.

    A namespace of its own: an interrupted build leaves no mount and no process, and forgets what it had mounted.
    """
    scratch = cache_folder() / "scratch"
    with locked(cache_folder() / "buildah.lock"), ExitStack() as stack:
        shutil.rmtree(scratch, ignore_errors=True)
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        # Where buildah looks for the folder behind `RUN --mount=type=cache,id=...`.
        known = scratch / "buildah-cache"
        known.mkdir(parents=True)
        for identifier, path in caches.items():
            path.mkdir(parents=True, exist_ok=True)
            (known / identifier).symlink_to(path)
        yield scratch, (*PRIVATE, *_with_own_var_lib())


def _with_own_var_lib() -> tuple[str, ...]:
    """Its notes on which layer has which digest go to /var/lib, whatever it is told. Here that is in our cache."""
    own = cache_folder() / "buildah-var"
    for part in ("upper", "work"):
        (own / part).mkdir(parents=True, exist_ok=True)
    options = f"lowerdir=/var/lib,upperdir={own / 'upper'},workdir={own / 'work'}"
    return "sh", "-ec", f'mount -t overlay -o "{options}" overlay /var/lib; exec "$@"', "sh"


def build(
    name: str,
    dockerfile: Path,
    context: Path,
    target: str = "",
    arguments: Mapping[str, str] | None = None,
) -> None:
    options = [
        "--isolation=chroot",
        "--layers",
        "--pull=never",
        "--format=oci",
        f"--tag={name}",
        f"--file={dockerfile}",
    ]
    options += [f"--target={target}"] if target else []
    options += [f"--build-arg={key}={value}" for key, value in (arguments or {}).items()]
    options += [f"--volume={path}:{inside}:ro" for path, inside in _host_settings().items()]
    _buildah("build", *options, context, caches={"uv": _uv_cache()})


def _uv_cache() -> Path:
    """What uv has downloaded for the host serves the images too."""
    return Path(os.environ.get("UV_CACHE_DIR") or "~/.cache/uv").expanduser()


def _host_settings() -> dict[Path, str]:
    """What RUN steps see of this machine, and what is in no image: its certificates and its package indexes."""
    candidates = {
        Path(os.environ.get("SSL_CERT_FILE") or _CERTIFICATES): _CERTIFICATES,
        Path("/etc/pip.conf"): "/etc/pip.conf",
        Path("/etc/uv/uv.toml"): "/etc/uv/uv.toml",
    }
    return {path: inside for path, inside in candidates.items() if path.is_file()}


def label(name: str, key: str) -> str:
    """A label of an image; empty when there is no such image or label."""
    try:
        found = json.loads(_buildah("inspect", "--type=image", name))
    except CommandError:
        return ""
    return str((found["OCIv1"]["config"].get("Labels") or {}).get(key, ""))


def write_layout(name: str, layout: Path) -> str:
    """Write an image into an OCI layout, less the layers that lie there; returns its tag in the layout."""
    tag = name.translate(_LAYOUT_TAG_SEPARATORS)
    # By skopeo: buildah itself would compress every layer again for each image, two minutes for the largest.
    with _storage({}) as (scratch, enter):
        source = f"containers-storage:[overlay@{_root()}+{scratch / 'run'}]{name}"
        options = ("--insecure-policy", "--tmpdir", scratch)
        run(*enter, "skopeo", *options, "copy", "--dest-oci-accept-uncompressed-layers", source, f"oci:{layout}:{tag}")
    return tag
