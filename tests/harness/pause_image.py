"""The image of a pod's sandbox container: one static program and nothing else."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from harness import containerd, tools
from harness.cache import cache_folder

TAG = "dev"


def ensure() -> None:
    """Have it in the store that instances are cloned from."""
    program = tools.tool("pause")
    layout = cache_folder() / "pause"
    write_layout(layout, program)
    containerd.import_to_store(layout, TAG, containerd.PAUSE_IMAGE)


def write_layout(layout: Path, program: Path, entrypoint: str = "/pause") -> None:
    layer = _layer(program)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": [entrypoint], "User": "65532:65532"},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
    }
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": _blob(layout, "application/vnd.oci.image.config.v1+json", json.dumps(config).encode()),
        "layers": [_blob(layout, "application/vnd.oci.image.layer.v1.tar", layer)],
    }
    entry = _blob(layout, manifest["mediaType"], json.dumps(manifest).encode())
    entry["annotations"] = {"org.opencontainers.image.ref.name": TAG}
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))


def _layer(program: Path) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        entry = tarfile.TarInfo("pause")
        entry.size, entry.mode = program.stat().st_size, 0o755
        archive.addfile(entry, io.BytesIO(program.read_bytes()))
    return stream.getvalue()


def _blob(layout: Path, media_type: str, data: bytes) -> dict[str, Any]:
    digest = _digest(data)
    file = layout / "blobs" / digest.replace(":", "/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
