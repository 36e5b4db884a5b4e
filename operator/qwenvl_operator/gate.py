"""The readiness gate of a runtime pod: pure decisions from the warm-up report of its very container."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from qwenvl_operator.naming import GATE
from qwenvl_operator.objects import Manifest
from qwenvl_operator.pods import condition, container, has_gate, is_ending, revision_of
from qwenvl_runtime.config import WarmupReport

# The kubelet writes the start of a container in whole seconds, rounded down.
CLOCK_RESOLUTION = 1.0


@dataclass(frozen=True)
class GateDecision:
    """The condition that a pod should get."""

    open: bool
    reason: str
    message: str

    def manifest(self, pod: Manifest, now: str) -> Manifest:
        """The pod's identity and the one condition, for a server-side apply of its status."""
        metadata = pod["metadata"]
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"]},
            "status": {
                "conditions": [
                    {
                        "type": GATE,
                        "status": str(self.open),
                        "reason": self.reason,
                        "message": self.message,
                        "lastTransitionTime": now,
                    }
                ]
            },
        }


def is_open(pod: Manifest) -> bool:
    """Whether the gate was opened for the container that runs now, and not for an earlier life of it."""
    gate = condition(pod, GATE)
    return gate.get("status") == "True" and gate.get("message") == _open(pod).message


def wants_report(pod: Manifest, heard: Collection[str] = (), *, untold: str = "") -> bool:
    """Whether the container says that it is ready, and its report has yet to be read.

    `heard`: the containers without a gate whose report was read; where there is a gate, that tells it. Neither tells
    what the report said, which has yet to be told of the revision `untold`.
    """
    known = is_open(pod) if has_gate(pod) else container(pod).id in heard
    return not is_ending(pod) and container(pod).ready and not (known and revision_of(pod) != untold)


def must_close(pod: Manifest) -> bool:
    """Whether the gate stands open for a container that is gone: the kubelet keeps it so (kubernetes#91352)."""
    return has_gate(pod) and condition(pod, GATE).get("status") == "True" and not is_open(pod)


def decide(pod: Manifest, report: WarmupReport | None) -> GateDecision | None:
    """What to write, None if the gate is as it should be."""
    if has_gate(pod) and wants_report(pod) and report is not None and speaks_for(report, pod):
        return _open(pod)
    if must_close(pod):
        return GateDecision(False, "ContainerChanged", f"Container {container(pod).id or 'none'} is not warmed up.")
    return None


def speaks_for(report: WarmupReport, pod: Manifest) -> bool:
    """Whether the report is complete, and of the container that runs in this pod now."""
    return report.complete and is_of(report, pod)


def is_of(report: WarmupReport, pod: Manifest) -> bool:
    """Whether the report is of the container that runs in this pod now: not of its predecessor, and not of another pod
    that has had the same address."""
    since = container(pod).running_since
    return (
        report.pod == pod["metadata"]["name"]
        and report.revision == revision_of(pod)
        and since is not None
        and report.started_at >= since - CLOCK_RESOLUTION
    )


def _open(pod: Manifest) -> GateDecision:
    return GateDecision(
        True, "WarmedUp", f"Container {container(pod).id} of revision {revision_of(pod)} answered the warm-up set."
    )
