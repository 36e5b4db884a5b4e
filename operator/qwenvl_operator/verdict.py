"""What is to be said about a CR now: ordered checks, of which the first that has something to say is the verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from qwenvl_operator.api.v1alpha1 import FitStatus, RolloutStrategy
from qwenvl_operator.causes import HOPELESS, advise, crash_reason, refusal_reason, tell_unplaced, unscheduled_reason
from qwenvl_operator.custom_resource import CustomResource
from qwenvl_operator.deadlines import Deadlines
from qwenvl_operator.fitness import find_slowdown
from qwenvl_operator.gate import is_open
from qwenvl_operator.naming import GATE, config_map_name
from qwenvl_operator.objects import Manifest
from qwenvl_operator.observed import Observed
from qwenvl_operator.obstacles import Obstacles
from qwenvl_operator.pods import (
    Container,
    condition,
    container,
    has_ended,
    has_gate,
    image_of,
    is_ending,
    is_left_behind,
    is_on_lost_node,
    is_ready,
    is_scheduled,
    parse_time,
    revision_of,
)
from qwenvl_operator.reasons import Reason
from qwenvl_operator.rollout import awaited_ends, has_missed_deadline, is_rolled_out, is_seen
from qwenvl_operator.snapshots import Progress, describe

CRASHES_BEFORE_STALLED = 3
NAMED_PODS = 3


@dataclass(frozen=True)
class Verdict:
    """The summary of a CR's state."""

    reason: Reason
    message: str
    ready: bool = False
    stalled: bool = False
    """Nothing will change before a person has acted."""
    at_rest: bool = False
    """Nothing is going on although the CR is not ready: it is meant to have no pods."""


@dataclass(frozen=True)
class Facts:
    """Everything a verdict is made of."""

    cr: CustomResource
    observed: Observed
    now: float
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """By pod name: why its warm-up report could not be read just now."""
    progress: Progress = field(default_factory=dict)
    """How far the pods that load are with the verification of the snapshot."""
    obstacles: Obstacles = field(default_factory=dict)
    """What keeps nodes from making the containers of pods."""
    offers: str = ""
    """How many GPUs there are on which nodes, in a sentence; empty where nobody waits for one."""
    fit: FitStatus = field(default_factory=FitStatus)


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
    waiting = [
        pod for pod in living_pods(facts.observed) if revision_of(pod) == facts.cr.revision and not is_ready(pod)
    ]
    verdicts = [judge_pod(pod, facts) for pod in waiting]
    # Members of an enumeration have an order: the later ones are worse.
    return max(verdicts, key=lambda verdict: (verdict.stalled, list(Reason).index(verdict.reason)), default=None)


def _rolling_out(facts: Facts) -> Verdict:
    """What is said where no pod of the current revision has anything to say for itself."""
    revision, pods = facts.cr.revision, facts.observed.pods
    old = awaited_ends(facts.observed, revision)
    own = [pod for pod in pods if revision_of(pod) == revision]
    # Where an old pod is on its way out, a failed pod of this revision may be from the last time that it was current.
    if own and all(map(has_ended, own)) and not any(map(is_ending, old)):
        message = f"Every pod of revision {revision} has failed, the last one on {_tell_end(own[-1])}"
    elif old:
        message = f"Waiting for the pods of the previous revision to end: {_name_some(old)}."
    else:
        message = "Waiting for the Deployment controller to bring the pods to the number that is wanted."
    return Verdict(Reason.ROLLING_OUT, message)


def _tell_end(pod: Manifest) -> str:
    status = pod["status"]
    return f"{_node_of(pod)}: {status.get('reason', status['phase'])}: {status.get('message', 'no message.')}"


def _name_some(pods: list[Manifest]) -> str:
    named = [f"{pod['metadata']['name']} on {_node_of(pod)}" for pod in pods[:NAMED_PODS]]
    return ", ".join(named) + (f" and {len(pods) - NAMED_PODS} more" if len(pods) > NAMED_PODS else "")


def _node_of(pod: Manifest) -> str:
    return f"node {pod['spec']['nodeName']}" if is_scheduled(pod) else "no node"


def judge_pod(pod: Manifest, facts: Facts) -> Verdict:
    """What is to be said about a pod that gets no traffic."""
    if not is_scheduled(pod):
        return judge_unplaced(pod, facts)
    state = container(pod)
    if state.running_since is None:
        return _judge_waiting(pod, facts)
    verdict = _judge_running(pod, facts)
    if state.ready or not state.last_exit:
        return verdict
    crashes = _tell_crashes(pod, state.restarts)
    if not _is_looping(state, facts):
        return replace(verdict, message=f"{verdict.message} {crashes}")
    # It looks well for a moment after each crash, which takes nothing back.
    return Verdict(crash_reason(state), f"{crashes} {verdict.message}", stalled=True)


def _judge_waiting(pod: Manifest, facts: Facts) -> Verdict:
    name, state = pod["metadata"]["name"], container(pod)
    if state.waiting_reason in ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"):
        message = f"Pod {name} cannot pull {image_of(pod)}: {state.waiting_message}"
        return Verdict(Reason.IMAGE_PULL_FAILED, f"{message} {_advise_image(pod, facts.cr)}".rstrip(), stalled=True)
    if state.waiting_reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
        return Verdict(
            Reason.CONTAINER_REFUSED, f"Pod {name} cannot start its container: {state.waiting_message}", stalled=True
        )
    if state.last_exit:
        reason = crash_reason(state)
        stalled = _is_looping(state, facts) or reason in HOPELESS
        return Verdict(reason, _tell_crashes(pod, state.restarts + 1), stalled=stalled)
    if obstacle := facts.obstacles.get(name):
        return Verdict(obstacle.reason, f"Node {pod['spec']['nodeName']} cannot start pod {name}: {obstacle.note}")
    return Verdict(Reason.STARTING_CONTAINER, f"Pod {name} is scheduled; its image and volumes are being prepared.")


def _advise_image(pod: Manifest, cr: CustomResource) -> str:
    """What to do about an image that the spec does not name: correcting the operator's alone changes no revision."""
    if cr.spec.runtime.image or revision_of(pod) != cr.revision:
        return ""
    return (
        "This is the operator's default from when the revision was first seen: set spec.runtime.image, or correct "
        f"runtimeImage of the chart and then delete the ConfigMap {config_map_name(cr.key, cr.revision)}."
    )


def _is_looping(state: Container, facts: Facts) -> bool:
    """Whether crash follows upon crash. A life that was longer than any start may be was one that served: restarts are
    counted over all of a pod's life, and one more after weeks of service is no loop."""
    has_served = state.last_life is not None and state.last_life > Deadlines.of(facts.cr.spec).progress
    return state.restarts >= CRASHES_BEFORE_STALLED and not has_served


def _tell_crashes(pod: Manifest, times: int) -> str:
    name, state = pod["metadata"]["name"], container(pod)
    message = f"Pod {name} has ended {times} time(s), last with {state.last_exit}"
    end = "" if message.endswith((".", "?")) else "."
    return f"{message}{end} {advise(crash_reason(state), name)}".rstrip()


def _judge_running(pod: Manifest, facts: Facts) -> Verdict:
    name, state = pod["metadata"]["name"], container(pod)
    if is_on_lost_node(pod):
        node = pod["spec"]["nodeName"]
        message = (
            f"Pod {name} gets no traffic since node {node} has stopped reporting: see `kubectl describe node {node}`."
        )
        return Verdict(Reason.NODE_LOST, message)
    if state.ready:
        return _judge_warm(pod, facts)
    if state.is_loading:
        return _judge_loading(name, facts)
    if is_open(pod):
        message = (
            f"Pod {name} was warm and is not ready any more: its engine makes no progress, or the container is too busy"
            " to answer its probe. If the engine does not go on, its container is restarted within a minute."
        )
        return Verdict(Reason.READINESS_LOST, message)
    return Verdict(Reason.WARMING_UP, f"Pod {name} answers its warm-up pictures.")


def _judge_warm(pod: Manifest, facts: Facts) -> Verdict:
    name = pod["metadata"]["name"]
    if is_open(pod) or not has_gate(pod):
        return Verdict(Reason.WAITING_FOR_GATE, f"Pod {name} is warm, and gets no traffic yet{_tell_unready(pod)}")
    since = parse_time(condition(pod, "ContainersReady").get("lastTransitionTime", "1970-01-01T00:00:00Z"))
    if name in facts.unreadable and facts.now - since > Deadlines.of(facts.cr.spec).gate:
        message = f"The warm-up report of pod {name} cannot be read: {facts.unreadable[name]}"
        return Verdict(Reason.REPORT_UNREADABLE, message, stalled=True)
    return Verdict(Reason.WAITING_FOR_GATE, f"Pod {name} is warm; its report is being read.")


def _tell_unready(pod: Manifest) -> str:
    """Why the kubelet holds a warm pod back; nothing while that is our own gate, which it has yet to see open."""
    ready = condition(pod, "Ready")
    message = ready.get("message", "")
    return f": {ready['reason']}: {message}" if ready.get("reason") and GATE not in message else "."


def _judge_loading(name: str, facts: Facts) -> Verdict:
    report = facts.progress.get(name)
    if report is not None and report.verified_at is None:
        return Verdict(Reason.VERIFYING_SNAPSHOT, f"Pod {name} {describe(report)}.")
    return Verdict(Reason.LOADING_MODEL, f"Pod {name} loads the model.")


def judge_unplaced(pod: Manifest, facts: Facts) -> Verdict:
    """What is to be said about a pod without a node."""
    cr, scheduled = facts.cr, condition(pod, "PodScheduled")
    said, message = scheduled.get("message", ""), tell_unplaced(pod)
    if not scheduled.get("reason"):
        # Every pod begins like this; it lasts where no scheduler is at work.
        return Verdict(Reason.STARTING_CONTAINER, message)
    accelerator = cr.spec.hardware.accelerator
    if cr.on_cpu or f"Insufficient {accelerator.resource}" not in said:
        return Verdict(unscheduled_reason(said), message)
    message += f" It asks for {accelerator.count} {accelerator.resource}. {facts.offers}".rstrip()
    if cr.spec.rollout.strategy is RolloutStrategy.SURGE:
        message += " With spec.rollout.strategy Auto or Recreate the old pod would give up its GPU first."
    return Verdict(Reason.WAITING_FOR_GPU, message)
