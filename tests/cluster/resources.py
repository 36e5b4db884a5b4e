"""QwenVLDeployments at a real kube-apiserver, for the tests of the operator's process."""

from __future__ import annotations

import uuid
from typing import Any

from harness.cluster import Cluster
from harness.commands import CommandError


def make_namespace(cluster: Cluster) -> str:
    name = f"operator-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    return name


def custom_resource(namespace: str, name: str = "reports", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "qwenvl.io/v1alpha1",
        "kind": "QwenVLDeployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"model": {"source": {"persistentVolumeClaim": {"claimName": "weights"}}}, **spec},
    }


def find(cluster: Cluster, namespace: str, what: str) -> dict[str, Any] | None:
    try:
        return cluster.get(what, f"--namespace={namespace}")
    except CommandError as error:
        if "NotFound" in error.output:
            return None
        raise


def is_seen(cluster: Cluster, namespace: str, name: str = "reports") -> bool:
    """Whether the operator has said something about the CR's present generation."""
    cr = find(cluster, namespace, f"qvl/{name}")
    return cr is not None and cr["status"]["observedGeneration"] == cr["metadata"]["generation"]
