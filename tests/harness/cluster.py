"""A running cluster as tests use it: kubectl, and what the apiserver's audit log says was asked of it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.commands import run


@dataclass(frozen=True)
class Cluster:
    """What every cluster offers, with a kubelet or without."""

    kubeconfig: Path
    kubectl_program: Path
    audit_log: Path

    def kubectl(self, *arguments: str | Path, input: str | None = None, timeout: float = 120) -> str:  # noqa: A002
        """Run kubectl and return what it printed; raises CommandError with its message."""
        program = (self.kubectl_program, f"--kubeconfig={self.kubeconfig}")
        return run(*program, *arguments, input=input, timeout=timeout)

    def get(self, *arguments: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "--output=json"))
        return found

    def apply(self, *manifests: dict[str, Any]) -> None:
        items = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        self.kubectl("apply", "--filename=-", input=json.dumps(items))

    def audit_events(self) -> list[dict[str, Any]]:
        """Every request the apiserver has answered, oldest first, as audit.k8s.io events without bodies."""
        lines = self.audit_log.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]
