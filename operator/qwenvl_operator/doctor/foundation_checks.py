"""What the doctor finds about what every resource stands on: pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version

from qwenvl_operator.api import crd
from qwenvl_operator.api.v1alpha1 import VERSION
from qwenvl_operator.doctor.findings import Finding, Heading, Level, age, fail, ok, skipped, some, warn
from qwenvl_operator.doctor.readings import ClusterReadings, OperatorReadings, Unread
from qwenvl_operator.lease import Timing
from qwenvl_operator.objects import Manifest
from qwenvl_operator.pods import condition, container, is_unschedulable, parse_time

OLDEST = (1, 30)
"""The chart's kubeVersion: the CRD's rules use CEL's `quantity`."""
# The lease's times are another machine's: clocks may differ by as much without anything being wrong.
SKEW = 60.0
OPERATOR_CONTAINER = "operator"


def check_foundation(readings: ClusterReadings) -> Iterator[Finding]:
    """What every resource stands on: the API server, the CRD, and an operator that is at work."""
    yield check_version(readings.version)
    yield check_definition(readings.definition)
    if isinstance(readings.operators, Unread):
        yield skipped("operator", readings.operators)
        return
    if not readings.operators:
        yield fail("operator", "there is no Deployment of the operator", "install the chart", Heading.OPERATOR)
    for operator in readings.operators:
        yield check_operator(operator, readings)
        yield check_lease(operator, readings.now)
        yield check_rights(operator)
    watched = [operator.installation for operator in readings.operators]
    if any(one.overlaps(other) for index, one in enumerate(watched) for other in watched[:index]):
        names = " and ".join(one.name for one in watched)
        yield fail("operator", f"{names} watch the same namespaces", "remove all but one", Heading.OPERATOR)


def check_version(served: str) -> Finding:
    found = re.match(r"v?(\d+)\.(\d+)", served)
    if found and (int(found[1]), int(found[2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return fail("API server", f"is {served}, older than {oldest}", "upgrade Kubernetes", Heading.API_SERVER)
    return ok("API server", served)


def check_definition(definition: Manifest | Unread | None) -> Finding:
    """Whether the CRD is there, served, and has the fields that this build knows."""
    about, see = "CRD", Heading.DEFINITION
    if isinstance(definition, Unread):
        return skipped(about, definition)
    if definition is None:
        return fail(about, f"{crd.NAME} is not installed", "install the chart with crds.enabled", see)
    if condition(definition, "Established").get("status") != "True":
        why = condition(definition, "NamesAccepted").get("message") or "it is new"
        return fail(about, f"is not established: {why}", "look which other CRD has its names", see)
    return _compare(definition)


def _compare(definition: Manifest) -> Finding:
    """The fields of the installed CRD beside those of this build: the API server drops what it does not know."""
    [known] = crd.custom_resource_definition()["spec"]["versions"]
    served = next((one for one in definition["spec"]["versions"] if one["name"] == VERSION and one["served"]), None)
    if served is None:
        return fail("CRD", f"does not serve {VERSION}", "install the CRD of this release", Heading.DEFINITION)
    ours, theirs = (set(_fields(one["schema"]["openAPIV3Schema"])) for one in (known, served))
    if lacking := ours - theirs:
        said = f"is of an older release, and drops {some(_outermost(lacking))}"
        return fail("CRD", said, "upgrade the chart, or apply the CRD of this release", Heading.DEFINITION)
    if beyond := theirs - ours:
        said = f"is of a newer release than this qwenvl, with {some(_outermost(beyond))}"
        return warn("CRD", said, "take the qwenvl of that release", Heading.DEFINITION)
    return ok("CRD", f"{VERSION} is served, with every field of this release")


def check_operator(operator: OperatorReadings, readings: ClusterReadings) -> Finding:
    """Whether the Deployment's pod runs, and why not."""
    about, deployment, name = "operator", operator.installation.deployment, operator.installation.name
    if not deployment["spec"].get("replicas", 1):
        return fail(about, f"{name} is scaled to 0", "scale it to 1", Heading.OPERATOR)
    if condition(deployment, "Available").get("status") != "True":
        pods = [] if isinstance(readings.pods, Unread) else readings.pods
        troubles = [_trouble(pod) for pod in pods if operator.installation.owns(pod)]
        failure = condition(deployment, "ReplicaFailure").get("message")
        why = "; ".join(filter(None, (failure, *troubles))) or "it has no ready pod"
        return fail(about, f"{name} is not available: {why}", "kubectl describe and logs of its pod", Heading.OPERATOR)
    theirs, ours = operator.installation.release, version("qwenvl")
    if theirs and theirs != ours:
        said = f"{name} is of release {theirs}, this qwenvl of {ours}"
        return warn(about, said, "take the qwenvl of that release", Heading.OPERATOR)
    watched = ", ".join(operator.installation.namespaces) or "all namespaces"
    return ok(about, f"{name} is available and watches {watched}")


def check_lease(operator: OperatorReadings, now: float) -> Finding:
    """Whether somebody is at work."""
    about, lease, advice = "lease", operator.lease, "look at the operator's pod and its logs"
    if isinstance(lease, Unread):
        return skipped(about, lease)
    record = (lease or {}).get("spec") or {}
    holder = record.get("holderIdentity")
    if not holder or "renewTime" not in record:
        said = f"{holder} has never renewed it" if holder else "nobody holds it"
        return fail(about, f"{said}, so nobody reconciles", advice, Heading.OPERATOR)
    passed, duration = now - parse_time(record["renewTime"]), record.get("leaseDurationSeconds", Timing.duration)
    if passed > duration + SKEW:
        said = f"{holder} renewed it last {age(passed)} ago, so nobody reconciles"
        return fail(about, said, advice, Heading.OPERATOR)
    if passed > duration:
        said = f"{holder} renewed it last {age(passed)} ago, and it lasts {duration:.0f} s"
        return warn(about, said, "look again in a minute: the operator restarts, or clocks differ", Heading.OPERATOR)
    if passed < -SKEW:
        said = f"{holder} renewed it {age(-passed)} from now"
        return warn(about, said, "set the clocks right: this machine's or the operator's node's", Heading.OPERATOR)
    return ok(about, f"{holder} renewed it {age(passed)} ago")


def check_rights(operator: OperatorReadings) -> Finding:
    about, lacks = "rights", operator.lacks
    if isinstance(lacks, Unread):
        return skipped(about, lacks)
    if lacks:
        said = f"{operator.installation.account} may not {some(map(str, lacks), len(lacks))}"
        return fail(about, said, "helm upgrade the chart, which grants them", Heading.RIGHTS)
    return ok(about, f"the operator has all {len(operator.installation.needed_rights)} that it needs")


def is_reconciled(readings: ClusterReadings, namespace: str) -> bool | None:
    """Whether an operator is at work in a namespace; None where that cannot be seen."""
    if isinstance(readings.operators, Unread):
        return None
    watching = [one for one in readings.operators if one.installation.watches(namespace)]
    if any(isinstance(one.lease, Unread) for one in watching):
        return None
    return any(check_lease(one, readings.now).level is not Level.FAIL for one in watching)


def _trouble(pod: Manifest) -> str:
    if is_unschedulable(pod):
        return str(condition(pod, "PodScheduled").get("message", ""))
    state = container(pod, OPERATOR_CONTAINER)
    return f"{state.waiting_reason}: {state.waiting_message}" if state.waiting_message else state.last_exit


def _fields(schema: Manifest, path: str = "") -> Iterator[str]:
    """The paths of a schema's fields, below items of lists too."""
    for name, field in schema.get("properties", {}).items():
        yield f"{path}{name}"
        yield from _fields(field, f"{path}{name}.")
        yield from _fields(field.get("items", {}), f"{path}{name}[].")


def _outermost(paths: set[str]) -> list[str]:
    """Without the fields of a field that is among them itself."""
    return [path for path in sorted(paths) if not any(path.startswith((f"{other}.", f"{other}[]")) for other in paths)]
