"""How much room the nodes have for runtime pods, by what the scheduler counts: pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

from qwenvl_operator.api.quantity import parse_quantity
from qwenvl_operator.api.v1alpha1 import Toleration
from qwenvl_operator.custom_resource import CustomResource
from qwenvl_operator.naming import owner_key
from qwenvl_operator.objects import Manifest
from qwenvl_operator.pods import has_ended, is_unschedulable

_NAMED_NODES = 3


class Room(NamedTuple):
    """How many more runtime pods the nodes can take."""

    free: int
    vacated: int
    """The same once the pods that the CR has by now are gone."""


def find_room(cr: CustomResource, nodes: Iterable[Manifest], pods: Iterable[Manifest]) -> Room:
    """The room as it is, and what replacing the CR's own pods could make of it."""
    nodes, pods = list(nodes), list(pods)
    others = [pod for pod in pods if not _is_own(cr, pod)]
    return Room(free_room(cr, nodes, pods), free_room(cr, nodes, others))


def free_room(cr: CustomResource, nodes: Iterable[Manifest], pods: Iterable[Manifest]) -> int:
    """How many more runtime pods the nodes can take, by what the scheduler counts.

    Node selector, taints, cordons and every requested resource are looked at; affinities are not, since runtime pods
    have none. Pods that are ending still hold what they hold.
    """
    demand, held = demand_of(cr), held_on_nodes(pods)
    return sum(_fits(demand, free_on(node, held, demand)) for node in nodes if is_eligible(cr, node))


def is_asked_for(cr: CustomResource, pods: Iterable[Manifest]) -> bool:
    """Whether a pod of the CR may be waiting for an accelerator."""
    return not cr.on_cpu and any(map(is_unschedulable, pods))


def describe_offers(cr: CustomResource, nodes: Iterable[Manifest]) -> str:
    """How many of the accelerator there are, on which of the nodes that pods of this CR may go to; where there are
    none, what keeps the pods from those that are elsewhere."""
    resource, eligible, others = cr.spec.hardware.accelerator.resource, defaultdict(list), []
    for node in nodes:
        offered, name = int(allocatable(node, resource)), node["metadata"]["name"]
        if not offered:
            continue
        if hindrance := find_hindrance(cr, node):
            others.append(f"{name} {hindrance}")
        else:
            eligible[offered].append(name)
    if not eligible:
        more = f", and {len(others) - _NAMED_NODES} more" if len(others) > _NAMED_NODES else ""
        why = f": {', '.join(others[:_NAMED_NODES])}{more}" if others else ""
        return f"No node that it may go to offers {resource}{why}."
    offers = [f"{offered} on {_name_some(eligible[offered])}" for offered in sorted(eligible, reverse=True)]
    return f"In all, free or not, there are {', '.join(offers)}."


def held_on_nodes(pods: Iterable[Manifest]) -> dict[str, dict[str, float]]:
    """By node and resource, what pods hold of it; under an empty name, what those ask for that have no node."""
    held: dict[str, dict[str, float]] = {}
    for pod in pods:
        used = held.setdefault(pod["spec"].get("nodeName", ""), {})
        for name, amount in held_by(pod).items():
            used[name] = used.get(name, 0.0) + amount
    return held


def held_by(pod: Manifest) -> dict[str, float]:
    """By resource, what a pod holds on its node; nothing once it has come to its end."""
    if has_ended(pod):
        return {}
    held = {"pods": 1.0}
    for container in pod["spec"]["containers"]:
        for name, amount in container.get("resources", {}).get("requests", {}).items():
            held[name] = held.get(name, 0.0) + float(parse_quantity(str(amount)))
    return held


def free_on(node: Manifest, held: dict[str, dict[str, float]], resources: Iterable[str]) -> dict[str, float]:
    """By resource, what a node still has to give."""
    used = held.get(node["metadata"]["name"], {})
    return {name: allocatable(node, name) - used.get(name, 0.0) for name in resources}


def allocatable(node: Manifest, resource: str) -> float:
    """How much of a resource a node gives to pods."""
    return float(parse_quantity(str(node.get("status", {}).get("allocatable", {}).get(resource, "0"))))


def demand_of(cr: CustomResource) -> dict[str, float]:
    """By resource, what one runtime pod asks of a node."""
    resources = cr.spec.runtime.resources
    # A limit without a request is a request of the same size.
    amounts: dict[str, Any] = {**resources.limits, **resources.requests}
    demand = {name: float(parse_quantity(str(amount))) for name, amount in amounts.items()}
    if not cr.on_cpu:
        demand[cr.spec.hardware.accelerator.resource] = float(cr.spec.hardware.accelerator.count)
    return {**demand, "pods": 1.0}


def is_eligible(cr: CustomResource, node: Manifest) -> bool:
    """Whether the node's labels, taints and cordon let a runtime pod in."""
    return not find_hindrance(cr, node)


def find_hindrance(cr: CustomResource, node: Manifest) -> str:
    """What of the node keeps a runtime pod out, as a predicate; empty where nothing does."""
    labels, hardware = node["metadata"].get("labels", {}), cr.spec.hardware
    if node["spec"].get("unschedulable"):
        return "is cordoned"
    for name, value in hardware.node_selector.items():
        if labels.get(name) != value:
            has = f"has {name}={labels[name]}" if name in labels else f"has no label {name}"
            return f"{has} and spec.hardware.nodeSelector wants {value}"
    for taint in node["spec"].get("taints", ()):
        tolerated = any(_tolerates(toleration, taint) for toleration in hardware.tolerations)
        if taint["effect"] != "PreferNoSchedule" and not tolerated:
            key = "=".join(filter(None, (taint["key"], taint.get("value", ""))))
            return f"has the taint {key}:{taint['effect']}, which spec.hardware.tolerations has not"
    return ""


def _name_some(names: list[str]) -> str:
    return "node " + names[0] if len(names) == 1 else f"each of {len(names)} nodes"


def _is_own(cr: CustomResource, pod: Manifest) -> bool:
    metadata = pod["metadata"]
    return owner_key(metadata["namespace"], metadata.get("labels") or {}) == cr.key


def _fits(demand: dict[str, float], free: dict[str, float]) -> int:
    return max(0, int(min(free[name] // amount for name, amount in demand.items() if amount > 0)))


def _tolerates(toleration: Toleration, taint: Manifest) -> bool:
    """The rule of k8s.io/api/core/v1 Toleration.ToleratesTaint."""
    if toleration.get("effect") and toleration["effect"] != taint["effect"]:
        return False
    if toleration.get("key") and toleration["key"] != taint["key"]:
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return True
    return bool(toleration.get("value", "") == taint.get("value", ""))
