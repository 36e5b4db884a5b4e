"""What Argo CD and Flux make of a resource: the Lua check that is documented, and the rules of kstatus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lupa.lua51 import LuaRuntime  # the version that Argo CD embeds
from samples import KEY, NOW, cr_manifest, custom_resource, live_children, observed, pod

from qwenvl_operator.facts import Facts, Verdict
from qwenvl_operator.objects import Manifest
from qwenvl_operator.reasons import Reason
from qwenvl_operator.status import derive_problem_status, derive_status, find_condition

SCRIPT = (Path(__file__).parents[2] / "docs/argocd/health.lua").read_text()
CR = custom_resource()
COMPLETE = {"updatedReplicas": 1, "replicas": 1, "readyReplicas": 1}


def argo(resource: Manifest) -> tuple[str, str]:
    """Health and message by the script, as Argo CD runs it."""
    lua = LuaRuntime(unpack_returned_tuples=True)
    lua.globals().obj = lua.table_from(resource, recursive=True)
    health = lua.execute(SCRIPT)
    return health["status"], health["message"]


def kstatus(resource: Manifest) -> str:
    """The rules of sigs.k8s.io/cli-utils/pkg/kstatus for a custom resource, in their order."""
    metadata, status = resource["metadata"], resource.get("status", {})
    if "deletionTimestamp" in metadata:
        return "Terminating"
    if status.get("observedGeneration", metadata["generation"]) != metadata["generation"]:
        return "InProgress"
    said = {kind: find_condition(status, kind).get("status") for kind in ("Reconciling", "Stalled", "Ready")}
    if said["Reconciling"] == "True":
        return "InProgress"
    if said["Stalled"] == "True":
        return "Failed"
    return "Current" if said["Ready"] in ("True", None) else "InProgress"


def resource(*pods: Manifest, generation: int = 3, spec: dict[str, Any] | None = None, **deployment: Any) -> Manifest:
    """A resource as the operator left it at generation 3."""
    manifest, cr = cr_manifest(**(spec or {})), custom_resource(**(spec or {}))
    facts = Facts(cr, observed(manifest, *pods, children=live_children(cr, **deployment)), NOW)
    metadata = {**manifest["metadata"], "generation": generation}
    return {**manifest, "metadata": metadata, "status": derive_status(facts, None)}


def invalid() -> Manifest:
    verdict = Verdict(Reason.INVALID_SPEC, "spec.engine: wrong", stalled=True)
    return {**cr_manifest(), "status": derive_problem_status(observed(cr_manifest()), KEY, verdict, NOW)}


WARM = pod(CR, ready=True, gate=True)
RESOURCES = {
    "seen by no operator": (cr_manifest(), "InProgress", "Progressing"),
    "older than the default of its status": ({**cr_manifest(), "status": {}}, None, "Progressing"),
    "ready": (resource(WARM, **COMPLETE), "Current", "Healthy"),
    "ready, and changed since": (resource(WARM, generation=4, **COMPLETE), "InProgress", "Progressing"),
    "loading": (resource(pod(CR)), "InProgress", "Progressing"),
    "without an image": (resource(pod(CR, waiting="ImagePullBackOff")), "Failed", "Degraded"),
    "invalid": (invalid(), "Failed", "Degraded"),
    "suspended": (resource(spec={"suspend": True}), "InProgress", "Suspended"),
    "scaled to zero": (resource(spec={"replicas": 0}), "InProgress", "Suspended"),
}


@pytest.mark.parametrize("name", RESOURCES)
def test_tools_see_what_is_true(name: str) -> None:
    manifest, by_kstatus, by_argo = RESOURCES[name]
    health, message = argo(manifest)
    assert health == by_argo
    assert message in ("Waiting for the operator", find_condition(manifest["status"], "Ready").get("message"))
    # The CRD gives every resource a status: for one without, kstatus would have no rule that holds it back.
    assert by_kstatus is None or kstatus(manifest) == by_kstatus
