"""Small builders of manifests for the pure tests of the operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qwenvl_operator.custom_resource import CustomResource
from qwenvl_operator.desired import desired_children, render
from qwenvl_operator.gate import decide
from qwenvl_operator.naming import CONTAINER, GATE, REVISION_LABEL, labels
from qwenvl_operator.objects import Key, Kind, Manifest, ref_of
from qwenvl_operator.observed import Observed, Store
from qwenvl_operator.pods import timestamp
from qwenvl_operator.rollout import Strategy
from qwenvl_runtime.config import WarmupReport, WarmupShot

KEY = Key("ai", "reports")
NOW = 1_800_000_000.0
STARTED = "2027-01-15T07:59:00Z"
STARTED_AT = 1_799_999_940.0


def cr_manifest(**spec: Any) -> Manifest:
    return {
        "apiVersion": "qwenvl.io/v1alpha1",
        "kind": "QwenVLDeployment",
        "metadata": {
            "name": KEY.name,
            "namespace": KEY.namespace,
            "uid": "cr-uid",
            "generation": 3,
            "resourceVersion": "10",
            "creationTimestamp": STARTED,
        },
        "spec": {"model": {"source": {"persistentVolumeClaim": {"claimName": "weights"}}}, **spec},
        "status": {"observedGeneration": -1},
    }


def custom_resource(**spec: Any) -> CustomResource:
    return CustomResource.parse(cr_manifest(**spec))


def live_children(cr: CustomResource, **deployment_status: Any) -> dict[Any, Manifest]:
    """The children as an API server would hold them after they were applied."""
    children = {}
    for manifest in desired_children(cr, render(cr, "registry.local/runtime:1"), Strategy.RECREATE):
        live = {**manifest, "metadata": {**manifest["metadata"], "uid": "u", "generation": 1, "resourceVersion": "1"}}
        if manifest["kind"] == "Deployment":
            live["status"] = {"observedGeneration": 1, **deployment_status}
        children[ref_of(live)] = live
    return children


def confirm(store: Store, kind: Kind, manifests: Sequence[Manifest], mark: int, namespace: str = "") -> None:
    """Make a store agree with a list that comes on one page."""
    store.drop_missing(kind, store.take_in(manifests, mark), mark, namespace)


def pod(cr: CustomResource, name: str = "reports-1", *, revision: str = "", **state: Any) -> Manifest:
    """A runtime pod on a node; `state` sets how far it has come."""
    container: Manifest = {
        "name": CONTAINER,
        "containerID": "containerd://one",
        "ready": state.get("ready", False),
        "started": state.get("started", False),
        "restartCount": state.get("restarts", 0),
        "state": {"running": {"startedAt": STARTED}} if state.get("running", True) else {},
    }
    if waiting := state.get("waiting"):
        container["state"] = {"waiting": {"reason": waiting, "message": "because"}}
    if exit_code := state.get("exit_code"):
        container["lastState"] = {
            "terminated": {
                "exitCode": exit_code,
                "reason": state.get("exit_reason", "Error"),
                "message": state.get("last_words", "BAD_CONFIG: no such file"),
                "startedAt": STARTED if "life" in state else None,
                "finishedAt": timestamp(STARTED_AT + state["life"]) if "life" in state else None,
            }
        }
    scheduled = state.get("scheduled", True)
    manifest: Manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": KEY.namespace,
            "uid": f"{name}-uid",
            "resourceVersion": "5",
            "creationTimestamp": STARTED,
            "labels": {
                **labels(KEY),
                REVISION_LABEL: revision or cr.revision,
                "pod-template-hash": state.get("template", revision or cr.revision),
            },
        },
        "spec": {
            "readinessGates": [{"conditionType": GATE}],
            "containers": [{"name": CONTAINER, "image": "registry.local/runtime:1"}],
            **({"nodeName": "node-a"} if scheduled else {}),
        },
        "status": {
            "conditions": [
                {
                    "type": "PodScheduled",
                    "status": str(scheduled),
                    "reason": "" if scheduled else "Unschedulable",
                    "message": ""
                    if scheduled
                    else state.get("unscheduled", "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."),
                    "lastTransitionTime": STARTED,
                },
                {"type": "ContainersReady", "status": str(state.get("ready", False)), "lastTransitionTime": STARTED},
            ],
            "containerStatuses": [container] if scheduled else [],
            **state.get("status", {}),
        },
    }
    if state.get("gate"):
        decision = decide(manifest, report(cr, pod=name))
        assert decision is not None
        manifest["status"]["conditions"] += decision.manifest(manifest, STARTED)["status"]["conditions"]
        manifest["status"]["conditions"].append({"type": "Ready", "status": "True"})
    return manifest


def report(cr: CustomResource, **changes: Any) -> WarmupReport:
    shots = (
        WarmupShot(name="text", first_seconds=0.4, steady_seconds=0.1),
        WarmupShot(name="proof", width=768, height=768, first_seconds=0.3, steady_seconds=0.2),
    )
    values = {
        "boot_id": "b",
        "pod": "reports-1",
        "revision": cr.revision,
        "started_at": STARTED_AT,
        "complete": True,
        "shots": shots,
        **changes,
    }
    return WarmupReport(**values)


def observed(cr: Manifest, *pods: Manifest, children: dict[Any, Manifest] | None = None) -> Observed:
    return Observed(cr=cr, children=children or {}, pods=pods)
