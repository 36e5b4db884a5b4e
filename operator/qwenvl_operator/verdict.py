"""What is to be said about a CR now: ordered checks, of which the first that has something to say is the verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from qwenvl_operator.causes import refusal_reason, was_evicted_for_memory
from qwenvl_operator.deadlines import Deadlines
from qwenvl_operator.facts import Facts, Verdict
from qwenvl_operator.fitness import find_slowdown
from qwenvl_operator.objects import Manifest
from qwenvl_operator.observed import Observed
from qwenvl_operator.pod_verdict import CRASHES_BEFORE_STALLED, judge_pod
from qwenvl_operator.pods import (
    condition,
    ended_at,
    has_ended,
    is_ending,
    is_left_behind,
    is_ready,
    is_scheduled,
    revision_of,
)
from qwenvl_operator.reasons import Reason
from qwenvl_operator.rollout import Strategy, awaited_ends, has_missed_deadline, is_rolled_out, is_seen

NAMED_PODS = 3
_STRATEGIES = {
    Strategy.SURGE: "Each ends when a new one is ready.",
    Strategy.IN_PLACE: "One at a time ends before a new one starts, while the others serve.",
    Strategy.RECREATE: "All end before a new one starts.",
}


def judge(facts: Facts) -> Verdict:
    """The first check that has something to say wins; a Deployment that made no progress for its whole deadline makes
    whatever is said a matter for a person."""
    checks: tuple[Callable[[Facts], Verdict | None], ...] = (_at_rest, _not_applied, _complete, _refused, _worst_pod)
    verdict = next((found for check in checks if (found := check(facts)) is not None), None) or _rolling_out(facts)
    deadline = Deadlines.of(facts.cr.spec).progress
    if not (verdict.ready or verdict.at_rest or verdict.stalled) and has_missed_deadline(facts.observed):
        message = f"No progress for {deadline} s (from startup.budget and warmup.budget). {verdict.message}"
        return Verdict(verdict.reason, message, stalled=True)
    return verdict


def living_pods(observed: Observed) -> list[Manifest]:
    """Pods that are not on their way out."""
    return [pod for pod in observed.pods if not is_ending(pod)]


def ready_pods(observed: Observed) -> list[Manifest]:
    """Pods that get traffic."""
    return [pod for pod in living_pods(observed) if is_ready(pod)]


def _at_rest(facts: Facts) -> Verdict | None:
    if facts.cr.replicas:
        return None
    if pods := [pod for pod in facts.observed.pods if not is_left_behind(pod)]:
        return Verdict(Reason.ROLLING_OUT, f"Waiting for {len(pods)} pod(s) to finish and end: {_name_some(pods)}.")
    if facts.cr.spec.suspend:
        return Verdict(Reason.SUSPENDED, "No pods: spec.suspend is true. Set it to false to serve again.", at_rest=True)
    return Verdict(Reason.SCALED_TO_ZERO, "No pods: spec.replicas is 0.", at_rest=True)


def _not_applied(facts: Facts) -> Verdict | None:
    deployment = facts.observed.deployment()
    if deployment is None:
        return Verdict(Reason.APPLYING, "Creating the children.")
    if not is_seen(deployment):
        return Verdict(Reason.APPLYING, "Waiting for the Deployment controller to see the change.")
    return None


def _complete(facts: Facts) -> Verdict | None:
    ready = len(ready_pods(facts.observed))
    if not is_rolled_out(facts.observed, facts.cr.revision) or ready < facts.cr.replicas:
        return None
    message = f"{ready} of {facts.cr.replicas} replicas are warm and get traffic."
    if not (facts.cr.spec.engine.cuda_graphs or facts.cr.on_cpu):
        message += " Warning: spec.engine.cudaGraphs is false, which makes decoding 9 to 15 times slower."
    if slowdown := find_slowdown(facts.cr.spec, facts.fit):
        return Verdict(Reason.ENGINE_SLOW, f"{message} Warning: {slowdown}.", ready=True)
    return Verdict(Reason.ALL_REPLICAS_READY, message, ready=True)


def _refused(facts: Facts) -> Verdict | None:
    deployment = facts.observed.deployment() or {}
    failure = condition(deployment, "ReplicaFailure")
    if failure.get("status") != "True":
        return None
    message = failure.get("message", "")
    return Verdict(refusal_reason(message), f"The API server refuses the pods: {message}", stalled=True)


def _worst_pod(facts: Facts) -> Verdict | None:
    verdicts = [judge_pod(pod, facts) for pod in _own_pods(facts) if not (is_ending(pod) or is_ready(pod))]
    # Members of an enumeration have an order: the later ones are worse.
    worst = max(verdicts, key=lambda verdict: (verdict.stalled, list(Reason).index(verdict.reason)), default=None)
    return worst and _add_failed(worst, facts)


def _add_failed(verdict: Verdict, facts: Facts) -> Verdict:
    """The same, with the pods that have failed before: nobody restarts those, and each new one looks well at first."""
    failed = [pod for pod in _own_pods(facts) if is_left_behind(pod) and pod["status"]["phase"] == "Failed"]
    since = facts.now - Deadlines.of(facts.cr.spec).progress
    lately = sorted((pod for pod in failed if ended_at(pod) > since), key=ended_at)
    if not lately:
        return verdict
    message = f"{len(lately)} pod(s) before it have failed, the last one on {_tell_end(lately[-1])} {verdict.message}"
    if len(lately) < CRASHES_BEFORE_STALLED or verdict.stalled:
        return replace(verdict, message=message)
    return Verdict(_failure_reason(lately[-1]), message, stalled=True)


def _failure_reason(pod: Manifest) -> Reason:
    return Reason.OUT_OF_HOST_MEMORY if was_evicted_for_memory(pod) else Reason.PODS_FAILED


def _own_pods(facts: Facts) -> list[Manifest]:
    return [pod for pod in facts.observed.pods if revision_of(pod) == facts.cr.revision]


def _rolling_out(facts: Facts) -> Verdict:
    """What is said where no pod of the current revision has anything to say for itself."""
    revision, own = facts.cr.revision, _own_pods(facts)
    old = awaited_ends(facts.observed, revision)
    # Where an old pod is on its way out, a failed pod of this revision may be from the last time that it was current.
    if own and all(map(has_ended, own)) and not any(map(is_ending, old)):
        last = max(own, key=ended_at)
        message = f"Every pod of revision {revision} has failed, the last one on {_tell_end(last)}"
        return Verdict(_failure_reason(last), message)
    if old:
        strategy = _STRATEGIES[Strategy.of(facts.observed.deployment() or {"spec": {}})]
        message = f"Waiting for the pods of the previous revision to end: {_name_some(old)}. {strategy}"
    else:
        message = "Waiting for the Deployment controller to bring the pods to the number that is wanted."
    return Verdict(Reason.ROLLING_OUT, message)


def _tell_end(pod: Manifest) -> str:
    status = pod["status"]
    message = str(status.get("message", "no message")).strip().rstrip(".")
    return f"{_node_of(pod)}: {status.get('reason', status['phase'])}: {message}."


def _name_some(pods: list[Manifest]) -> str:
    named = [f"{pod['metadata']['name']} on {_node_of(pod)}" for pod in pods[:NAMED_PODS]]
    return ", ".join(named) + (f" and {len(pods) - NAMED_PODS} more" if len(pods) > NAMED_PODS else "")


def _node_of(pod: Manifest) -> str:
    return f"node {pod['spec']['nodeName']}" if is_scheduled(pod) else "no node"
