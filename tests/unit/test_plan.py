"""Only what differs is written."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from samples import cr_manifest, custom_resource, live_children, observed, pod

from qwenvl_operator.desired import desired_children, render
from qwenvl_operator.objects import Kind, Manifest, ref_of
from qwenvl_operator.plan import covers, differences, make_plan
from qwenvl_operator.rollout import Strategy

CR = custom_resource()
DESIRED = desired_children(CR, render(CR, "registry.local/runtime:1"), Strategy.RECREATE)


def kinds(manifests: tuple[Manifest, ...]) -> list[str]:
    return [manifest["kind"] for manifest in manifests]


def plan_for(children: dict[Any, Manifest], *pods: Manifest) -> tuple[list[str], list[str]]:
    plan = make_plan(DESIRED, observed(cr_manifest(), *pods, children=children), CR.revision)
    return kinds(plan.apply), kinds(plan.prune)


def test_everything_is_applied_at_first_in_order() -> None:
    assert plan_for({}) == (["ServiceAccount", "ConfigMap", "Service", "Deployment", "PodDisruptionBudget"], [])


def test_nothing_is_written_at_rest() -> None:
    assert plan_for(live_children(CR)) == ([], [])


def test_what_others_added_is_left_alone() -> None:
    children = copy.deepcopy(live_children(CR))
    for child in children.values():
        child["metadata"]["labels"]["team"] = "reports"
        if child["kind"] == "Deployment":
            template = child["spec"]["template"]
            template["metadata"]["annotations"] = {"kubectl.kubernetes.io/restartedAt": "now"}
            template["spec"]["containers"].append({"name": "sidecar"})
            template["spec"]["restartPolicy"] = "Always"
    assert plan_for(children) == ([], [])


def test_drift_is_repaired() -> None:
    children = copy.deepcopy(live_children(CR))
    for child in children.values():
        if child["kind"] == "Deployment":
            child["spec"]["template"]["spec"]["containers"][0]["image"] = "somebody.else/image"
        if child["kind"] == "Service":
            child["spec"]["selector"] = {}
    assert plan_for(children) == (["Service", "Deployment"], [])


ADDITIONS: dict[str, Callable[[Manifest], None]] = {
    "paused": lambda spec: spec.update(paused=True),
    "hostNetwork": lambda spec: spec["template"]["spec"].update(hostNetwork=True),
    "env": lambda spec: runtime(spec).update(env=[{"name": "LD_PRELOAD", "value": "/x.so"}]),
    "envFrom": lambda spec: runtime(spec).update(envFrom=[{"configMapRef": {"name": "x"}}]),
    "command": lambda spec: runtime(spec).update(command=["sleep", "inf"]),
    "args": lambda spec: runtime(spec).update(args=["--debug"]),
    "lifecycle": lambda spec: runtime(spec).update(lifecycle={"preStop": {"sleep": {"seconds": 600}}}),
}


def runtime(spec: Manifest) -> Manifest:
    found: Manifest = spec["template"]["spec"]["containers"][0]
    return found


@pytest.mark.parametrize("field", ADDITIONS)
def test_what_changes_how_the_runtime_runs_is_taken_back_unless_it_comes_in_with_our_own_write(field: str) -> None:
    children = copy.deepcopy(live_children(CR))
    ref, deployment = next((ref, child) for ref, child in children.items() if ref.kind is Kind.DEPLOYMENT)
    ADDITIONS[field](deployment["spec"])
    assert plan_for(children) == (["Deployment"], [])
    wanted = next(manifest for manifest in DESIRED if ref_of(manifest) == ref)
    injected = {ref: frozenset(found.path for found in differences(deployment, wanted))}
    plan = make_plan(DESIRED, observed(cr_manifest(), children=children), CR.revision, injected)
    assert plan.apply == ()


def test_a_field_that_is_no_longer_wanted_is_noticed() -> None:
    selected = custom_resource(hardware={"nodeSelector": {"gpu": "h100"}})
    assert "Deployment" in plan_for(live_children(selected))[0]


def test_configuration_of_an_old_revision_stays_while_its_pods_do() -> None:
    old = custom_resource(engine={"maxModelLen": 32768})
    before = {ref: child for ref, child in live_children(old).items() if ref.kind is Kind.CONFIG_MAP}
    done = live_children(CR, updatedReplicas=1, replicas=1)
    assert plan_for({**before, **done}, pod(CR), pod(old, "old")) == ([], [])
    assert plan_for({**before, **done}, pod(CR)) == ([], ["ConfigMap"])


def test_a_child_that_nobody_wants_is_pruned() -> None:
    children = live_children(CR)
    ref, service = next((ref, child) for ref, child in children.items() if ref.kind is Kind.SERVICE)
    stray = {**service, "metadata": {**service["metadata"], "name": "stray"}}
    assert plan_for({**children, ref._replace(name="stray"): stray}) == ([], ["Service"])


@pytest.mark.parametrize(
    ("live", "wanted", "covered"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ("1", "1000m", True),
        ("8Gi", "8192Mi", True),
        ("8Gi", "9Gi", False),
        ([{"name": "x", "v": 1}, {"name": "y"}], [{"name": "x"}], True),
        ([{"name": "x", "v": 1}], [{"name": "x", "v": 2}], False),
        (["a", "b"], ["a"], False),
        (["a", "b"], ["b", "a"], False),
        (None, None, True),
        ({"maxSurge": 1}, None, False),
        (None, "", True),
        (None, False, False),
    ],
    ids=str,
)
def test_covers(live: Any, wanted: Any, covered: bool) -> None:
    assert covers(live, wanted) is covered
