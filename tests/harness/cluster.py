"""A running cluster as tests use it: kubectl, and what the apiserver's audit log says was asked of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.audit import AuditLog
from harness.commands import run

if TYPE_CHECKING:
    from harness.reader import Reader


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
        """What `kubectl get` would find; of a cluster that was started here."""
        return self._reader.get(*arguments)

    @cached_property
    def _audit(self) -> AuditLog:
        return AuditLog(self.audit_log)

    @cached_property
    def _reader(self) -> Reader:
        # What checks the machine imports this module before there is anything but Python.
        from harness.reader import Reader

        return Reader(self.kubeconfig)

    def apply(self, *manifests: dict[str, Any]) -> None:
        items = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        self.kubectl("apply", "--filename=-", input=json.dumps(items))

    def audit_events(self) -> list[dict[str, Any]]:
        """Every request the apiserver has answered, oldest first, as audit.k8s.io events without bodies."""
        return self._audit.read()
