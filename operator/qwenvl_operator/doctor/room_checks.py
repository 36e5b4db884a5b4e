"""Whether nodes and quotas have room for the pods of a resource, and who is in the way: pure."""

from __future__ import annotations

from collections.abc import Iterator

from qwenvl_operator.api.quantity import parse_quantity
from qwenvl_operator.desired import render
from qwenvl_operator.doctor.case import Case
from qwenvl_operator.doctor.findings import Finding, fail, measure, ok, skipped, some
from qwenvl_operator.doctor.readings import Unread
from qwenvl_operator.objects import Manifest
from qwenvl_operator.reasons import Reason
from qwenvl_operator.room import allocatable, demand_of, free_on, free_room, held_by, held_on_nodes, is_eligible

# Of these a quota counts requests under the bare name too.
BARE = ("cpu", "memory", "ephemeral-storage")
# A quota for these refuses every pod that does not say how much it wants.
COMPULSORY = tuple(f"{what}.{name}" for what in ("requests", "limits") for name in ("cpu", "memory"))


def check_room(case: Case) -> Iterator[Finding]:
    """Whether there are nodes that a pod may go to, that are large enough, and that have room."""
    nodes, pods = case.cluster.nodes, case.cluster.pods
    if isinstance(nodes, Unread):
        yield skipped("nodes", nodes)
        return
    eligible = [node for node in nodes if is_eligible(case.cr, node)]
    if not eligible:
        yield fail(
            "nodes", _shut_out(case, nodes), "correct hardware.nodeSelector or tolerations", Reason.UNSCHEDULABLE
        )
        return
    demand = demand_of(case.cr)
    if lack := _too_small(demand, eligible):
        yield fail("nodes", lack, "ask for less, or add such a node", _reason(case, lack))
    elif isinstance(pods, Unread):
        yield skipped("nodes", pods)
    elif case.unplaced and not free_room(case.cr, nodes, pods):
        said = f"no room for {case.unplaced} more pod(s): " + "; ".join(_taken(demand, eligible, pods))
        yield fail("nodes", said, "free some, or add a node", _reason(case, said))
    else:
        room = free_room(case.cr, nodes, pods)
        yield ok("nodes", f"{len(eligible)} of {len(nodes)} may take its pods, with room for {room} more")


def check_quotas(case: Case) -> Iterator[Finding]:
    """Whether the namespace's quotas let one more pod in, where one is missing."""
    if isinstance(case.own.quotas, Unread):
        yield skipped("quota", case.own.quotas)
        return
    # Those with a scope count some pods only.
    quotas = [one for one in case.own.quotas if not (one["spec"].get("scopes") or one["spec"].get("scopeSelector"))]
    full = [lack for quota in quotas if case.unborn for lack in _lacks(case, quota)]
    for lack in full:
        yield fail("quota", lack, "free some of it, or have it raised", Reason.QUOTA_EXCEEDED)
    if quotas and not full:
        yield ok("quota", f"{some(one['metadata']['name'] for one in quotas)}: nothing is in the way")


def _shut_out(case: Case, nodes: list[Manifest]) -> str:
    """Why no node may take a pod."""
    labels = [node["metadata"].get("labels", {}) for node in nodes]
    wanted = case.cr.spec.hardware.node_selector
    missing = [f"{key}={value}" for key, value in wanted.items() if all(own.get(key) != value for own in labels)]
    if missing:
        return f"none of {len(nodes)} has the label {some(missing)}"
    chosen = [node for node in nodes if wanted.items() <= node["metadata"].get("labels", {}).items()]
    if not chosen:
        return f"none of {len(nodes)} has all the labels of the node selector"
    return f"none may take its pods: {some(_barrier(node) for node in chosen)}"


def _barrier(node: Manifest) -> str:
    taints = [f"{taint['key']}:{taint['effect']}" for taint in node["spec"].get("taints", ())]
    return f"{node['metadata']['name']} is " + (
        "cordoned" if node["spec"].get("unschedulable") else f"tainted {some(taints)}"
    )


def _too_small(demand: dict[str, float], nodes: list[Manifest]) -> str:
    """What no node has enough of, even if it were empty."""
    for resource, amount in demand.items():
        largest = max(nodes, key=lambda node: allocatable(node, resource))
        most = allocatable(largest, resource)
        if most < amount:
            where = f"{largest['metadata']['name']} has the most, {measure(most)}" if most else "none offers any"
            return f"none of {len(nodes)} that may take a pod has {measure(amount)} {resource}: {where}"
    return ""


def _taken(demand: dict[str, float], nodes: list[Manifest], pods: list[Manifest]) -> Iterator[str]:
    """Per node, what it lacks and who holds it."""
    held = held_on_nodes(pods)
    for node in nodes:
        name, free = node["metadata"]["name"], free_on(node, held, demand)
        for resource in (resource for resource, amount in demand.items() if free[resource] < amount):
            holders = [
                f"{pod['metadata']['namespace']}/{pod['metadata']['name']} ({measure(amount)})"
                for pod in pods
                if pod["spec"].get("nodeName") == name and (amount := held_by(pod).get(resource, 0.0))
            ]
            there = allocatable(node, resource)
            yield f"{name} has {measure(free[resource])} of {measure(there)} {resource} free, held by {some(holders)}"


def _reason(case: Case, lack: str) -> Reason:
    resource = case.cr.spec.hardware.accelerator.resource
    return Reason.WAITING_FOR_GPU if not case.cr.on_cpu and resource in lack else Reason.UNSCHEDULABLE


def _lacks(case: Case, quota: Manifest) -> Iterator[str]:
    demand, name = _quota_demand(case), quota["metadata"]["name"]
    hard, used = quota.get("status", {}).get("hard", {}), quota.get("status", {}).get("used", {})
    for resource, limit in hard.items():
        amount = demand.get(resource, 0.0)
        if not amount and resource in COMPULSORY:
            yield f"{name} wants every pod to say its {resource}: set runtime.resources"
        spent = parse_quantity(str(used.get(resource, "0")))
        if amount and float(spent) + amount > float(parse_quantity(str(limit))):
            yield f"{name} has {spent} of {limit} {resource} used, and a pod takes {measure(amount)}"


def _quota_demand(case: Case) -> dict[str, float]:
    """By the names of a quota, what one more pod takes."""
    [container] = render(case.cr, "").template["spec"]["containers"]
    resources = container["resources"]
    limits = resources.get("limits", {})
    # A limit without a request is a request of the same size.
    requests = {**limits, **resources.get("requests", {})}
    demand = {f"requests.{name}": amount for name, amount in requests.items()}
    demand |= {f"limits.{name}": amount for name, amount in limits.items()}
    demand |= {name: requests[name] for name in BARE if name in requests}
    return {"pods": 1.0, "count/pods": 1.0, **{name: float(parse_quantity(amount)) for name, amount in demand.items()}}
