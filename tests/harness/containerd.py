"""containerd and its pod network: configuration, the store that all instances are cloned from, and importing images."""

import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from harness.cache import cache_folder, locked
from harness.commands import PRIVATE, CommandError
from harness.components import CONTAINERD_SOCKET
from harness.instance import Instance
from harness.tools import MissingToolError, find_system

PAUSE_IMAGE = "localhost/pause:dev"
_CONTENT = Path("io.containerd.content.v1.content") / "blobs" / "sha256"
_IMPORTED = "imported.json"
_IMPORT = ("ctr", "--namespace", "k8s.io", "images", "import", "-")
_SNAPSHOTS = Path("io.containerd.snapshotter.v1.overlayfs") / "snapshots"
_DATABASES = ("io.containerd.metadata.v1.bolt/meta.db", "io.containerd.snapshotter.v1.overlayfs/metadata.db")

# The opt plugin is off because it makes a folder in the host's /opt.
_CONFIGURATION = """\
version = 2
root = "{root}"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt"{disabled}]

[grpc]
  address = "{socket}"

[plugins."io.containerd.gc.v1.scheduler"]
  startup_delay = "{collect_after}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  disable_apparmor = true

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{cni_programs}"
  conf_dir = "{cni_configuration}"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
"""


def configuration(root: Path, cni_configuration: Path, pods: bool, collect: bool = True) -> str:
    """Of a containerd that runs pods or only imports images; `collect` says whether it drops layers no longer used."""
    plugin = find_system("ptp")
    if plugin is None:
        raise MissingToolError("The CNI plugins are missing (Debian: containernetworking-plugins)")
    return _CONFIGURATION.format(
        root=root,
        socket=CONTAINERD_SOCKET,
        disabled="" if pods else ', "io.containerd.grpc.v1.cri"',
        collect_after="100ms" if collect else "8760h",
        pause=PAUSE_IMAGE,
        cni_programs=Path(plugin).parent,
        cni_configuration=cni_configuration,
    )


def pod_network(instance: Instance) -> dict[str, Any]:
    """Each pod on a link of its own, so that every packet between pods is routed and meets the Services' rules."""
    ranges = [[{"subnet": instance.pod_network}]]
    addresses = {"type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "/run/cni"}
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "ptp", "ipam": addresses}]}


def store_folder() -> Path:
    return cache_folder() / "store"


def clone_store(root: Path) -> None:
    """Give an instance the store's images: links to its layers, which nobody writes to, and databases of its own."""
    with locked(cache_folder() / "store.lock", shared=True):
        for folder in (_CONTENT, _SNAPSHOTS):
            (root / folder).mkdir(parents=True, mode=0o700)
            for entry in (store_folder() / folder).iterdir():
                (root / folder / entry.name).symlink_to(entry)
        for database in _DATABASES:
            (root / database).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(store_folder() / database, root / database)


def blobs(root: Path) -> dict[str, Path]:
    """What lies in the content store of a containerd, by digest."""
    folder = root / _CONTENT
    return {blob.name: blob for blob in folder.iterdir()} if folder.exists() else {}


def imported() -> dict[str, str]:
    """The images that the store holds: name to manifest digest."""
    try:
        found: dict[str, str] = json.loads((store_folder() / _IMPORTED).read_text())
    except FileNotFoundError:
        return {}
    return found


def import_to_store(layout: Path, tag: str, name: str) -> None:
    """Import into the store, with a containerd that runs only for this; nothing happens when it is there already."""
    root = store_folder()
    settings = cache_folder() / "store.toml"
    with locked(cache_folder() / "store.lock"):
        root.mkdir(parents=True, exist_ok=True)
        known = imported()
        digest = find_image(layout, tag)["digest"]
        if known.get(name) == digest:
            return
        # What an instance has links to stays.
        in_use = any(path.is_dir() for path in (cache_folder() / "nodes").glob("*"))
        settings.write_text(configuration(root, root, pods=False, collect=not in_use))
        script = (
            "mount -t tmpfs tmpfs /run; containerd --config \"$1\" >\"$2\" 2>&1 & "
            "until ctr version >/dev/null 2>&1; do sleep 0.1; done; shift 2; \"$@\""
        )  # fmt: skip
        log = cache_folder() / "store.log"
        importing = (*PRIVATE, "sh", "-ec", script, "sh", str(settings), str(log), *_IMPORT)
        _send(importing, layout, tag, name, blobs(root))
        (root / _IMPORTED).write_text(json.dumps({**known, name: digest}, indent=1))


def import_to_node(enter: Sequence[str], root: Path, layout: Path, tag: str, name: str) -> None:
    """Import into a running instance; `enter` is what brings a command into its namespaces."""
    _send((*enter, *_IMPORT), layout, tag, name, blobs(root))


def _send(command: Sequence[str], layout: Path, tag: str, name: str, present: Iterable[str]) -> None:
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            write_archive(process.stdin, layout, tag, name, present)
            process.stdin.close()
            output = process.stdout.read().decode()
        except BrokenPipeError:
            output = process.stdout.read().decode()
    if process.returncode:
        raise CommandError(tuple(command), process.returncode, output)


def write_archive(stream: Any, layout: Path, tag: str, name: str, present: Iterable[str] = ()) -> None:
    """Write an image of an OCI layout as an archive under its full name, less the blobs that the receiver has."""
    descriptor = find_image(layout, tag)
    entry = {**descriptor, "annotations": {"io.containerd.image.name": name}}
    index = {"schemaVersion": 2, "manifests": [entry]}
    known = set(present)
    with tarfile.open(fileobj=stream, mode="w|") as archive:
        _add(archive, "oci-layout", (layout / "oci-layout").read_bytes())
        _add(archive, "index.json", json.dumps(index).encode())
        for digest in image_blobs(layout, descriptor["digest"]):
            if digest not in known:
                archive.add(layout / "blobs" / "sha256" / digest, f"blobs/sha256/{digest}")


def find_image(layout: Path, tag: str) -> dict[str, Any]:
    for descriptor in json.loads((layout / "index.json").read_text())["manifests"]:
        if descriptor.get("annotations", {}).get("org.opencontainers.image.ref.name") == tag:
            found: dict[str, Any] = descriptor
            return found
    raise KeyError(f"{layout} holds no image {tag}")


def image_blobs(layout: Path, digest: str) -> list[str]:
    """The blobs of an image, its manifest last: what names a blob comes after it."""
    manifest_blob = digest.removeprefix("sha256:")
    manifest = json.loads((layout / "blobs" / "sha256" / manifest_blob).read_text())
    parts = [*manifest["layers"], manifest["config"]]
    return [*dict.fromkeys(part["digest"].removeprefix("sha256:") for part in parts), manifest_blob]


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))
