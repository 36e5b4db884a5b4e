"""What is to be said about a pod that gets no traffic: pure."""

from __future__ import annotations

from dataclasses import replace

from qwenvl_operator.api.v1alpha1 import RolloutStrategy
from qwenvl_operator.causes import HOPELESS, advise, crash_reason, tell_unplaced, unscheduled_reason
from qwenvl_operator.custom_resource import CustomResource
from qwenvl_operator.deadlines import Deadlines
from qwenvl_operator.facts import Facts, Verdict
from qwenvl_operator.gate import is_open
from qwenvl_operator.naming import GATE, config_map_name
from qwenvl_operator.objects import Manifest
from qwenvl_operator.pods import (
    PREPARING,
    Container,
    blocking_init_container,
    changed_at,
    condition,
    container,
    has_gate,
    is_on_lost_node,
    is_scheduled,
    revision_of,
    runtime_of,
)
from qwenvl_operator.reasons import Reason
from qwenvl_operator.snapshots import describe

CRASHES_BEFORE_STALLED = 3
# Of pkg/kubelet/images/types.go.
_IMAGE_FAULTS = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
)
_NO_FAULTS = ("", *PREPARING, "CrashLoopBackOff")


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
    if state.waiting_reason in _IMAGE_FAULTS:
        message = f"Pod {name} cannot pull {runtime_of(pod)['image']}: {state.waiting_message}"
        return Verdict(Reason.IMAGE_PULL_FAILED, f"{message} {_advise_image(pod, facts.cr)}".rstrip(), stalled=True)
    if state.waiting_reason not in _NO_FAULTS:
        message = f"Pod {name} cannot start its container: {state.waiting_reason}: {state.waiting_message}"
        return Verdict(Reason.CONTAINER_REFUSED, message, stalled=True)
    if state.last_exit:
        reason = crash_reason(state)
        stalled = _is_looping(state, facts) or reason in HOPELESS
        return Verdict(reason, _tell_crashes(pod, state.restarts + 1), stalled=stalled)
    if obstacle := facts.obstacles.get(name):
        return Verdict(obstacle.reason, f"Node {pod['spec']['nodeName']} cannot start pod {name}: {obstacle.note}")
    if blocking := blocking_init_container(pod):
        return _judge_init_container(name, *blocking)
    return Verdict(Reason.STARTING_CONTAINER, f"Pod {name} is scheduled; its image and volumes are being prepared.")


def _judge_init_container(pod: str, name: str, state: Container) -> Verdict:
    message = f"Pod {pod} waits for its init container {name}, which the operator has not put in"
    said = state.last_exit if state.waiting_reason == "CrashLoopBackOff" else state.waiting_message
    if state.waiting_reason in _IMAGE_FAULTS:
        return Verdict(Reason.IMAGE_PULL_FAILED, f"{message}: {state.waiting_reason}: {said}", stalled=True)
    if state.waiting_reason not in ("", *PREPARING):
        stalled = state.waiting_reason != "CrashLoopBackOff" or state.restarts >= CRASHES_BEFORE_STALLED
        return Verdict(Reason.CONTAINER_REFUSED, f"{message}: {state.waiting_reason}: {said}", stalled=stalled)
    ended = f", and which has ended with {state.last_exit}" if state.last_exit else ""
    return Verdict(Reason.STARTING_CONTAINER, f"{message}{ended}.")


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
    return f"{message}{end} {advise(pod)}".rstrip()


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
    since = changed_at(pod, "ContainersReady") or 0.0
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
    reason = unscheduled_reason(cr, said)
    if reason is Reason.WAITING_FOR_GPU:
        accelerator = cr.spec.hardware.accelerator
        message += f" It asks for {accelerator.count} {accelerator.resource}. {facts.offers}".rstrip()
        if cr.spec.rollout.strategy is RolloutStrategy.SURGE:
            message += " With spec.rollout.strategy Auto or Recreate the old pod would give up its GPU first."
    return Verdict(reason, message)
