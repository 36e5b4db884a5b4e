"""A cluster and a resource that are well, as the doctor has read them; tests change what is to be wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from samples import KEY, NOW, cr_manifest, custom_resource, live_children, pod

from qwenvl_operator.api import crd
from qwenvl_operator.doctor.findings import Finding, Level
from qwenvl_operator.doctor.installation import Installation
from qwenvl_operator.doctor.readings import ClusterReadings, OperatorReadings, ResourceReadings, Unread
from qwenvl_operator.objects import Manifest
from qwenvl_operator.pods import timestamp
from qwenvl_operator.reasons import Reason

MANIFESTS = Path(__file__).parents[2] / "docs/manifests/qwenvl-operator.yaml"
DEPLOYMENT = next(one for one in yaml.safe_load_all(MANIFESTS.read_text()) if one["kind"] == "Deployment")
COMPLETE = {"updatedReplicas": 1, "replicas": 1, "readyReplicas": 1}
FORBIDDEN = Unread("needs: list somethings")
CR = custom_resource()
"""A claim named weights, one GPU."""


def named(name: str, namespace: str = KEY.namespace, **fields: Any) -> Manifest:
    return {"metadata": {"name": name, "namespace": namespace}, **fields}


def definition(**changes: Any) -> Manifest:
    established = {"conditions": [{"type": "Established", "status": "True"}]}
    return {**crd.custom_resource_definition(), "status": established, **changes}


def deployment(available: str = "True", **spec: Any) -> Manifest:
    """The operator's, as the chart renders it."""
    status = {"conditions": [{"type": "Available", "status": available}]}
    return {**DEPLOYMENT, "spec": {**DEPLOYMENT["spec"], **spec}, "status": status}


def lease(holder: str = "pod-a", renewed: float = NOW - 1, without: str = "") -> Manifest:
    spec = {"holderIdentity": holder, "renewTime": timestamp(renewed), "leaseDurationSeconds": 15}
    return named("qwenvl-operator", spec={name: value for name, value in spec.items() if name != without})


def operator(**changes: Any) -> OperatorReadings:
    return replace(OperatorReadings(Installation(deployment()), lease(), []), **changes)


def node(name: str = "node-a", gpus: int = 2, **changes: Any) -> Manifest:
    there = {"nvidia.com/gpu": str(gpus), "cpu": "32", "memory": "128Gi", "pods": "110"}
    metadata = {"name": name, "labels": {"nvidia.com/gpu.product": "NVIDIA-L40S", **changes.get("labels", {})}}
    status = {"allocatable": there, "capacity": {**there, **changes.get("capacity", {})}}
    return {"metadata": metadata, "spec": changes.get("spec", {}), "status": status}


def holder(gpus: int, name: str = "other", node: str = "node-a") -> Manifest:
    resources = {"requests": {"nvidia.com/gpu": str(gpus)}}
    spec = {"nodeName": node, "containers": [{"name": "main", "resources": resources}]}
    return {**named(name, "team-b"), "spec": spec, "status": {"phase": "Running"}}


def condition(kind: str, status: bool, reason: str, message: str, since: float) -> Manifest:
    return {
        "type": kind,
        "status": str(status),
        "reason": reason,
        "message": message,
        "lastTransitionTime": timestamp(since),
    }


def resource(
    reason: str = Reason.ALL_REPLICAS_READY,
    *,
    state: str = "Ready",
    generation: int = 3,
    message: str = "because",
    since: float = NOW - 300,
    **spec: Any,
) -> Manifest:
    """A QwenVLDeployment of generation 3 in one of the states Ready, Reconciling, Stalled and rest."""
    conditions = [
        condition(kind, kind == state, reason, message, since) for kind in ("Ready", "Reconciling", "Stalled")
    ]
    return {**cr_manifest(**spec), "status": {"observedGeneration": generation, "conditions": conditions}}


def cluster(**changes: Any) -> ClusterReadings:
    well = ClusterReadings(
        now=NOW,
        version="v1.34.4",
        definition=definition(),
        operators=[operator()],
        nodes=[node()],
        pods=[],
        runtime_classes=[named("nvidia")],
        namespaces=[{"metadata": {"name": KEY.namespace, "labels": {}}}],
        resources=[resource()],
    )
    return replace(well, **changes)


def claim(name: str = "weights", phase: str = "Bound", modes: tuple[str, ...] = ("ReadOnlyMany",)) -> Manifest:
    return named(name, spec={"accessModes": list(modes)}, status={"phase": phase})


def own(*pods: Manifest, cr: Manifest | None = None, **changes: Any) -> ResourceReadings:
    """A resource with these pods; without any, the one that it should have."""
    well = ResourceReadings(
        cr=cr or resource(),
        children=list(live_children(CR, **COMPLETE).values()),
        pods=list(pods) or [pod(CR, ready=True, gate=True)],
        claims=[claim()],
        quotas=[],
        events=[],
    )
    return replace(well, **changes)


def quota(hard: dict[str, str], used: str = "0", **spec: Any) -> Manifest:
    return named("limits", spec={"hard": hard, **spec}, status={"hard": hard, "used": dict.fromkeys(hard, used)})


def failures(findings: list[Finding]) -> list[str]:
    """What is not well, as a line each."""
    return [f"{one.about}: {one.said}" for one in findings if one.level in (Level.WARN, Level.FAIL)]
