"""The operator as the chart installs it, at a real kube-apiserver: as its service account, with its least rights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from cluster.resources import make_namespace
from harness.cluster import Cluster
from harness.manifests import render


class Installed:
    """One release that watches some new namespaces and lives in another."""

    def __init__(self, cluster: Cluster, folder: Path, *, namespaces: int = 1) -> None:
        self.cluster = cluster
        self.home, *self.namespaces = (make_namespace(cluster) for _ in range(namespaces + 1))
        arguments = (
            f"--namespace={self.home}",
            f"--set=watchNamespaces={{{','.join(self.namespaces)}}}",
            "--set=rbac.aggregateToDefaultRoles=false",
        )
        kinds = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
        self.rights = [
            manifest for manifest in yaml.safe_load_all(render(*arguments)) if manifest and manifest["kind"] in kinds
        ]
        assert not any(manifest["kind"].startswith("Cluster") for manifest in self.rights)
        cluster.apply(*self.rights)
        account = next(item["metadata"]["name"] for item in self.rights if item["kind"] == "ServiceAccount")
        self.user = f"system:serviceaccount:{self.home}:{account}"
        self.kubeconfig = folder / "account.kubeconfig"
        token = cluster.kubectl("create", "token", account, f"--namespace={self.home}").strip()
        self.kubeconfig.write_text(json.dumps(kubeconfig_with(cluster, {"token": token})))

    @property
    def watched(self) -> str:
        """The first of the watched namespaces."""
        return self.namespaces[0]

    @property
    def settings(self) -> dict[str, str]:
        return {"namespaces": ",".join(self.namespaces), "lease_namespace": self.home, "identity": "pod-a"}

    def requests(self) -> list[dict[str, Any]]:
        """What the operator has asked, its lease left out."""
        return [
            event
            for event in self.cluster.audit_events()
            if event["user"].get("username") == self.user and event.get("objectRef", {}).get("resource") != "leases"
        ]

    def writes(self) -> list[dict[str, Any]]:
        return [event for event in self.requests() if event["verb"] not in ("get", "list", "watch")]


def kubeconfig_with(cluster: Cluster, user: dict[str, str]) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(cluster.kubeconfig.read_text())
    return {**config, "users": [{"name": config["users"][0]["name"], "user": user}]}
