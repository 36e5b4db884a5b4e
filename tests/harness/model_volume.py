"""A volume with the tiny model on it."""

from __future__ import annotations

from typing import Any

from harness.cluster import Cluster
from harness.node import Node
from harness.tiny_model import snapshot

NAMESPACE = "default"
CLAIM = "tiny-model"


def fill(cluster: Cluster, image: str) -> None:
    """Have a claim with the tiny model on it, filled through a pod, as on any cluster; `image` is one with tar."""
    if not cluster.kubectl("get", "persistentvolumeclaim", CLAIM, f"--namespace={NAMESPACE}", "--ignore-not-found"):
        # A claim that somebody has made is theirs to shape: of another class, say, or bound to a volume of its own.
        cluster.apply(*([local_volume(cluster)] if isinstance(cluster, Node) else []), claim(isinstance(cluster, Node)))
    cluster.apply(loader(image))
    cluster.kubectl("wait", f"--namespace={NAMESPACE}", "--for=condition=Ready", f"pod/{CLAIM}-loader", "--timeout=5m")
    cluster.kubectl("cp", f"--namespace={NAMESPACE}", f"{snapshot.PATH}/.", f"{CLAIM}-loader:/model", timeout=300)
    cluster.kubectl("delete", f"--namespace={NAMESPACE}", "pod", f"{CLAIM}-loader", "--wait=false", "--grace-period=1")


def local_volume(running: Node) -> dict[str, Any]:
    path = running.instance.state / "volumes" / CLAIM
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o777)
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": CLAIM},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "local",
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"namespace": NAMESPACE, "name": CLAIM},
            "hostPath": {"path": str(path), "type": "Directory"},
        },
    }


def claim(own: bool) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "accessModes": ["ReadWriteMany" if own else "ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}},
    }
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": CLAIM, "namespace": NAMESPACE},
        "spec": {**spec, "storageClassName": "local"} if own else spec,
    }


def loader(image: str) -> dict[str, Any]:
    """A pod that does nothing but hold the volume open for writing."""
    container = {
        "name": "loader",
        "image": image,
        "command": ["python3", "-c", "import signal; signal.pause()"],
        "volumeMounts": [{"name": "model", "mountPath": "/model"}],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{CLAIM}-loader", "namespace": NAMESPACE},
        "spec": {
            "containers": [container],
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "fsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumes": [{"name": "model", "persistentVolumeClaim": {"claimName": CLAIM}}],
        },
    }
