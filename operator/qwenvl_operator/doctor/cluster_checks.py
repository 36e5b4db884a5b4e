"""What the doctor finds about a cluster: pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from qwenvl_operator.doctor.findings import Finding, Heading, Level, age, fail, named, ok, place, skipped, some, warn
from qwenvl_operator.doctor.foundation_checks import check_foundation, is_reconciled
from qwenvl_operator.doctor.readings import ClusterReadings, Listed, Unread
from qwenvl_operator.fitness import PRODUCT_LABEL
from qwenvl_operator.objects import Manifest
from qwenvl_operator.pods import parse_time
from qwenvl_operator.reasons import Reason
from qwenvl_operator.room import allocatable, free_on, held_on_nodes
from qwenvl_operator.status import Status, find_condition

ENFORCE = "pod-security.kubernetes.io/enforce"
FORBID_HOST_PATH = ("baseline", "restricted")
GPU = "nvidia.com/gpu"


def check_cluster(readings: ClusterReadings) -> Iterator[Finding]:
    """The prerequisites, and how every resource is."""
    yield from check_foundation(readings)
    yield from check_accelerators(readings)
    yield from check_runtime_classes(readings)
    yield from check_namespaces(readings)
    yield from check_resources(readings)


def check_accelerators(readings: ClusterReadings) -> Iterator[Finding]:
    """What the nodes offer of the accelerators that resources ask for, and how much of it is free."""
    crs = [] if isinstance(readings.resources, Unread) else readings.resources
    asked = {_accelerator(cr) for cr in crs} or {GPU}
    for resource in sorted(asked - {"cpu"}):
        if isinstance(readings.nodes, Unread):
            yield skipped(resource, readings.nodes)
        else:
            yield from _check_resource(resource, readings.nodes, readings.pods)


def _check_resource(resource: str, nodes: list[Manifest], pods: list[Manifest] | Unread) -> Iterator[Finding]:
    offering = [node for node in nodes if allocatable(node, resource)]
    if not offering:
        yield fail(
            resource,
            f"none of {len(nodes)} node(s) offers any",
            "install the device plugin (or the GPU operator), or see why it does not run",
            Heading.ACCELERATORS,
        )
    broken = [
        node["metadata"]["name"]
        for node in nodes
        if str(node.get("status", {}).get("capacity", {}).get(resource, "0")) != "0" and node not in offering
    ]
    if broken:
        said = f"there are some on {some(broken)}, and none of them is healthy"
        yield warn(resource, said, "look at the node and its device plugin", Heading.ACCELERATORS)
    products: dict[str, list[Manifest]] = {}
    for node in offering:
        products.setdefault(node["metadata"].get("labels", {}).get(PRODUCT_LABEL, "unlabelled"), []).append(node)
    for product, same in sorted(products.items()):
        there = sum(allocatable(node, resource) for node in same)
        free = "how many are free cannot be seen"
        if not isinstance(pods, Unread):
            held = held_on_nodes(pods)
            free = f"{sum(free_on(node, held, [resource])[resource] for node in same):.0f} free"
        yield ok(resource, f"{there:.0f} on {len(same)} node(s) ({product}), {free}")


def check_runtime_classes(readings: ClusterReadings) -> Iterator[Finding]:
    """Whether those that resources name are there."""
    crs = [] if isinstance(readings.resources, Unread) else readings.resources
    asked = {name for cr in crs if (name := cr["spec"].get("hardware", {}).get("runtimeClassName"))}
    for name in sorted(asked):
        yield check_runtime_class(name, readings.runtime_classes)


def check_runtime_class(name: str, runtime_classes: Listed) -> Finding:
    """Whether a RuntimeClass is there: the API server refuses pods that name another."""
    if isinstance(runtime_classes, Unread):
        return skipped("RuntimeClass", runtime_classes)
    there = sorted(one["metadata"]["name"] for one in runtime_classes)
    if name in there:
        return ok("RuntimeClass", f"{name} exists")
    said = f"there is no {name}, so the API server refuses the pods; there is {', '.join(there) or 'none at all'}"
    return fail("RuntimeClass", said, "correct hardware.runtimeClassName, or leave it out", Reason.PODS_REFUSED)


def check_namespaces(readings: ClusterReadings) -> Iterator[Finding]:
    """The Pod Security level of each namespace that has resources, beside what these ask for."""
    if isinstance(readings.resources, Unread) or not readings.resources:
        return
    if isinstance(readings.namespaces, Unread):
        yield skipped("Pod Security", readings.namespaces)
        return
    used = {cr["metadata"]["namespace"] for cr in readings.resources}
    levels = Counter(_level(one) for one in readings.namespaces if one["metadata"]["name"] in used)
    counted = ", ".join(f"{level} in {count} namespace(s)" for level, count in sorted(levels.items()))
    judged = [check_pod_security(cr, readings.namespaces) for cr in readings.resources]
    refused = [finding for finding in judged if finding.level is Level.FAIL]
    yield from refused or [ok("Pod Security", f"{counted}: every resource may have its pods")]


def check_pod_security(cr: Manifest, namespaces: Listed) -> Finding:
    """Whether the namespace's level lets the pods in: they satisfy `restricted` but for hostPath volumes."""
    if isinstance(namespaces, Unread):
        return skipped("Pod Security", namespaces)
    namespace = cr["metadata"]["namespace"]
    level = next((_level(one) for one in namespaces if one["metadata"]["name"] == namespace), "privileged")
    if level not in FORBID_HOST_PATH or "hostPath" not in cr["spec"].get("model", {}).get("source", {}):
        return ok("Pod Security", f"{namespace} enforces {level}, which allows the pods")
    said = f"{namespace} enforces {level}, which forbids the hostPath of {cr['metadata']['name']}"
    return fail("Pod Security", said, "take a claim, or another namespace", Reason.POD_SECURITY_REFUSED)


def check_resources(readings: ClusterReadings) -> Iterator[Finding]:
    """Each resource, by what its status says."""
    if isinstance(readings.resources, Unread):
        if not readings.resources.unknown:
            yield skipped("resources", readings.resources)
        return
    if not readings.resources:
        yield ok("resources", "there is no QwenVLDeployment")
    for cr in readings.resources:
        yield check_status(cr, "/".join((cr["metadata"]["namespace"], cr["metadata"]["name"])), readings)


def check_status(cr: Manifest, about: str, readings: ClusterReadings) -> Finding:
    """What status says, since when, and whether it is about the present spec."""
    status, generation = cr.get("status", {}), cr["metadata"]["generation"]
    ready = find_condition(status, "Ready")
    if deleted := cr["metadata"].get("deletionTimestamp"):
        said = f"is being deleted for {age(readings.now - parse_time(deleted))}, and waits for its children to go"
        return warn(about, said, "look which of them stays, and for which finalizer", Heading.RESOURCE)
    said = _describe(ready, readings.now)
    at_work = is_reconciled(readings, cr["metadata"]["namespace"])
    if status.get("observedGeneration") != generation:
        if at_work is False:
            said = f"nobody reconciles generation {generation}; {said}"
            return fail(about, said, "bring the operator back", Heading.OPERATOR)
        said = f"the operator has yet to look at generation {generation}; {said}"
        return warn(about, said, "if it stays, look at the operator's logs", Heading.OPERATOR)
    if at_work is False:
        return warn(about, f"nobody reconciles; {said}", "bring the operator back", Heading.OPERATOR)
    level = _level_of(status)
    return ok(about, said) if level is Level.OK else Finding(level, about, said, see=place(ready["reason"]))


def _describe(ready: Status, now: float) -> str:
    if not ready:
        return "status says nothing"
    word = "Ready" if ready["status"] == "True" else "not Ready"
    return (
        f"{word} for {age(now - parse_time(ready['lastTransitionTime']))}: {named(ready['reason'], ready['message'])}"
    )


def _level_of(status: Status) -> Level:
    if find_condition(status, "Stalled").get("status") == "True":
        return Level.FAIL
    if find_condition(status, "Reconciling").get("status") == "True":
        return Level.WARN
    return Level.WARN if find_condition(status, "Ready").get("reason") == Reason.ENGINE_SLOW else Level.OK


def _accelerator(cr: Manifest) -> str:
    return str(cr["spec"].get("hardware", {}).get("accelerator", {}).get("resource", GPU))


def _level(namespace: Manifest) -> str:
    return str(namespace["metadata"].get("labels", {}).get(ENFORCE, "privileged"))
