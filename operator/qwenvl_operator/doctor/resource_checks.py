"""What the doctor finds about one QwenVLDeployment, from what it stands on to what became of it: pure."""

from __future__ import annotations

from collections.abc import Iterator

from qwenvl_operator.doctor.case import Case
from qwenvl_operator.doctor.cluster_checks import check_status
from qwenvl_operator.doctor.findings import Finding, Heading, Level, age, fail, named, ok, place, skipped, warn
from qwenvl_operator.doctor.foundation_checks import check_foundation, is_reconciled
from qwenvl_operator.doctor.needs_checks import check_needs
from qwenvl_operator.doctor.readings import ClusterReadings, ResourceReadings, Unread
from qwenvl_operator.doctor.room_checks import check_quotas, check_room
from qwenvl_operator.errors import InvalidSpec, Waiting
from qwenvl_operator.events import last_seen
from qwenvl_operator.facts import Facts, Verdict
from qwenvl_operator.objects import Key, Manifest, ref_of
from qwenvl_operator.observed import Observed
from qwenvl_operator.obstacles import Obstacles
from qwenvl_operator.plan import refuse_foreign
from qwenvl_operator.pod_verdict import judge_pod
from qwenvl_operator.pods import container, is_ending, is_left_behind, is_ready
from qwenvl_operator.reasons import Reason
from qwenvl_operator.status import find_condition
from qwenvl_operator.verdict import judge

SHOWN_EVENTS = 3
HEARD = {Reason.LOADING_MODEL: Reason.VERIFYING_SNAPSHOT, Reason.WAITING_FOR_GATE: Reason.REPORT_UNREADABLE}
"""What is seen of a pod, and what the operator says of it in that place, who has asked the pod itself."""


def check_resource(key: Key, cluster: ClusterReadings, own: ResourceReadings | Unread | None) -> Iterator[Finding]:
    """What it stands on, what status says, what it needs, and its pods."""
    yield from check_foundation(cluster)
    if isinstance(own, Unread):
        yield skipped("resource", own)
    elif own is None:
        said = f"there is no QwenVLDeployment {key.name} in the namespace {key.namespace}"
        yield fail("resource", said, "name its namespace with -n; kubectl get qvl -A lists them", Heading.RESOURCE)
    else:
        yield from _check_existing(cluster, own)


def _check_existing(cluster: ClusterReadings, own: ResourceReadings) -> Iterator[Finding]:
    status = check_status(own.cr, "status", cluster)
    yield status
    try:
        case = Case.open(cluster, own)
    except InvalidSpec as error:
        yield fail("spec", named(error.reason, error.message), "correct the spec", error.reason)
        return
    yield from check_names(case)
    yield from check_needs(case)
    if case.cr.replicas:
        yield from check_room(case)
        yield from check_quotas(case)
    now = list(check_now(case))
    yield from now
    # Status, or the judgement in its place, is about the worst pod: once is enough.
    yield from (pod for pod in check_pods(case) if not any(pod.said in told.said for told in (status, *now)))
    yield from check_events(case)


def check_names(case: Case) -> Iterator[Finding]:
    """Whether somebody else has an object of a child's name."""
    if isinstance(case.own.children, Unread):
        return
    for child in case.own.children:
        try:
            refuse_foreign(ref_of(child), child, case.cr.uid)
        except InvalidSpec as error:
            yield fail("name", named(error.reason, error.message), "rename one of the two", error.reason)
        except Waiting as waiting:
            yield warn("name", waiting.message, "look again in a minute", Heading.RESOURCE)


def check_now(case: Case) -> Iterator[Finding]:
    """The operator's own judgement of what is there, where the operator is not there to say it."""
    facts = case.facts
    if isinstance(facts, Unread):
        yield skipped("now", facts)
        return
    if not _is_current(case):
        yield _tell("now", judge(facts))


def check_pods(case: Case) -> Iterator[Finding]:
    """Each pod: where it is, and why it gets no traffic."""
    facts = case.facts
    if isinstance(facts, Unread):
        return
    for pod in facts.observed.pods:
        if is_ending(pod) or is_ready(pod):
            yield _check_pod(pod, facts)
        elif not _knows_more(case, pod, verdict := judge_pod(pod, facts)):
            yield _tell("pod", verdict)


def _is_current(case: Case) -> bool:
    """Whether status is what an operator that is at work says of the present spec."""
    seen = case.own.cr.get("status", {}).get("observedGeneration") == case.cr.generation
    return seen and is_reconciled(case.cluster, case.cr.key.namespace) is not False


def _knows_more(case: Case, pod: Manifest, verdict: Verdict) -> bool:
    """Whether status says of this pod what cannot be seen from here."""
    ready = find_condition(case.own.cr.get("status", {}), "Ready")
    heard = HEARD.get(verdict.reason, "") == ready.get("reason")
    return heard and _is_current(case) and pod["metadata"]["name"] in ready["message"]


def _check_pod(pod: Manifest, facts: Facts) -> Finding:
    """A pod that there is nothing to judge about."""
    name, state = pod["metadata"]["name"], container(pod)
    if is_left_behind(pod):
        status = pod["status"]
        why = ": ".join(filter(None, (status.get("reason", status["phase"]), status.get("message"))))
        return ok("pod", f"{name} has ended, and holds nothing any more: {why}")
    if is_ending(pod):
        return ok("pod", f"{name} is ending")
    lasts = "" if state.running_since is None else f" for {age(facts.now - state.running_since)}"
    before = f"; it has ended {state.restarts} time(s) before, last with {state.last_exit}" if state.restarts else ""
    return ok("pod", f"{name} on {pod['spec'].get('nodeName')} gets traffic, running{lasts}{before}")


def check_events(case: Case) -> Iterator[Finding]:
    """The latest warnings about pods that get no traffic: secrets and probes are told nowhere else."""
    facts = case.facts
    if isinstance(facts, Unread):
        return
    waiting = _waiting(facts.observed)
    if not waiting:
        return
    if isinstance(case.own.events, Unread):
        yield skipped("events", case.own.events)
        return
    warnings = [event for event in case.own.events if event.get("type") == "Warning" and _pod_of(event) in waiting]
    latest = {(_pod_of(event), _reason(event)): event for event in sorted(warnings, key=last_seen)}
    untold = [event for event in latest.values() if not _is_told(event, facts.obstacles)]
    for event in untold[-SHOWN_EVENTS:]:
        passed = age(case.cluster.now - last_seen(event))
        said = f"{_pod_of(event)}, {passed} ago, {_reason(event)}: {event.get('note')}"
        yield warn("event", said, "kubectl describe pod shows all of them", Heading.RESOURCE)


def _tell(about: str, verdict: Verdict) -> Finding:
    said = named(verdict.reason, verdict.message)
    if verdict.ready or verdict.at_rest:
        return ok(about, said)
    return Finding(Level.FAIL if verdict.stalled else Level.WARN, about, said, see=place(verdict.reason))


def _is_told(event: Manifest, obstacles: Obstacles) -> bool:
    """Whether the pod's own line says it, as it does what the scheduler says."""
    obstacle = obstacles.get(_pod_of(event))
    return _reason(event) == "FailedScheduling" or (obstacle is not None and obstacle.note == event.get("note"))


def _waiting(observed: Observed) -> set[str]:
    return {pod["metadata"]["name"] for pod in observed.pods if not is_ending(pod) and not is_ready(pod)}


def _pod_of(event: Manifest) -> str:
    regarding = event.get("regarding", {})
    return str(regarding.get("name")) if regarding.get("kind") == "Pod" else ""


def _reason(event: Manifest) -> str:
    """What the Event is about in one word, which the older API does not ask for."""
    return str(event.get("reason") or "Warning")
