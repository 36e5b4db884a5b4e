"""What a runtime pod says about itself: pure readers of one pod manifest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from qwenvl_operator.naming import CONTAINER, GATE, REVISION_LABEL
from qwenvl_operator.objects import Manifest

PREPARING = ("ContainerCreating", "PodInitializing")
"""Why a container waits with which nothing is wrong yet."""
# Of the scheduler's filters NodeResourcesFit, VolumeRestrictions (ReadWriteOncePod) and NodeVolumeLimits.
_HELD_BY_OTHERS = re.compile(r"Insufficient |Too many pods|ReadWriteOncePod|max volume count")


@dataclass(frozen=True)
class Container:
    """The runtime container in its current life."""

    id: str
    """`containerd://...`; empty before the first start."""
    running_since: float | None
    """Unix time, None while it does not run."""
    ready: bool
    """Whether its own readiness probe passes."""
    is_loading: bool
    """Whether it runs, and its startup probe has yet to pass."""
    restarts: int
    waiting_reason: str
    """Such as ImagePullBackOff or CrashLoopBackOff; empty when it does not wait."""
    waiting_message: str
    last_exit: str
    """How the previous life ended, in one line; empty if there was none."""
    last_exit_reason: str
    """The kubelet's word for it, such as Error or OOMKilled."""
    last_life: float | None
    """Seconds that the previous life lasted, None where the kubelet does not know."""
    last_words: str
    """What the runtime wrote into its termination message."""


def container(pod: Manifest, name: str = CONTAINER) -> Container:
    """A container of a pod, the runtime's if no other is named; all zero before the kubelet has said anything."""
    statuses = pod.get("status", {}).get("containerStatuses", ())
    return _read_container(next((status for status in statuses if status["name"] == name), {}))


def blocking_init_container(pod: Manifest) -> tuple[str, Container] | None:
    """The init container that the runtime waits for, which somebody else has put in, with its name."""
    for status in pod.get("status", {}).get("initContainerStatuses", ()):
        ended = status.get("state", {}).get("terminated", {})
        if not (status.get("started") or (ended and ended.get("exitCode") == 0)):
            return status["name"], _read_container(status)
    return None


def _read_container(status: Manifest) -> Container:
    state = status.get("state", {})
    ended = state.get("terminated") or status.get("lastState", {}).get("terminated") or {}
    return Container(
        id=status.get("containerID", ""),
        running_since=parse_time(state["running"]["startedAt"]) if "running" in state else None,
        ready=bool(status.get("ready")),
        is_loading="running" in state and not status.get("started"),
        restarts=int(status.get("restartCount", 0)),
        waiting_reason=state.get("waiting", {}).get("reason", ""),
        waiting_message=state.get("waiting", {}).get("message", ""),
        last_exit=_last_exit(ended),
        last_exit_reason=ended.get("reason", ""),
        last_life=_life(ended),
        last_words=ended.get("message", ""),
    )


def runtime_of(pod: Manifest) -> Manifest:
    """The runtime container as it is asked for; others may have put containers of theirs before it."""
    return next((item for item in pod["spec"]["containers"] if item["name"] == CONTAINER), {})


def revision_of(pod: Manifest) -> str:
    return str(pod["metadata"].get("labels", {}).get(REVISION_LABEL, ""))


def template_of(pod: Manifest) -> str:
    """Hash of the template that the pod was made from, as the Deployment controller labels it."""
    return str(pod["metadata"].get("labels", {}).get("pod-template-hash", ""))


def is_ending(pod: Manifest) -> bool:
    """Whether the pod is being deleted, or has come to its end already."""
    return bool(pod["metadata"].get("deletionTimestamp")) or has_ended(pod)


def has_ended(pod: Manifest) -> bool:
    """Whether the pod holds nothing any more."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def is_left_behind(pod: Manifest) -> bool:
    """Whether the pod has ended and nobody takes it away, as a ReplicaSet leaves a pod that failed."""
    return has_ended(pod) and not pod["metadata"].get("deletionTimestamp")


def ended_at(pod: Manifest) -> float:
    """Unix time of the last that is known of a pod that has ended."""
    times = [item.get("lastTransitionTime") for item in pod["status"].get("conditions", ())]
    return max(parse_time(time) for time in (*times, pod["metadata"]["creationTimestamp"]) if time)


def condition(pod: Manifest, kind: str) -> Manifest:
    """A condition of the pod, empty if it has none of that type."""
    return next((item for item in pod.get("status", {}).get("conditions", ()) if item["type"] == kind), {})


def is_unschedulable(pod: Manifest) -> bool:
    scheduled = condition(pod, "PodScheduled")
    return scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable"


def lacks_room(pod: Manifest) -> bool:
    """Whether the scheduler places the pod nowhere for want of something that other pods hold."""
    return is_unschedulable(pod) and bool(_HELD_BY_OTHERS.search(condition(pod, "PodScheduled").get("message", "")))


def is_scheduled(pod: Manifest) -> bool:
    return bool(pod["spec"].get("nodeName"))


def is_ready(pod: Manifest) -> bool:
    """Whether the Service sends traffic to the pod."""
    return condition(pod, "Ready").get("status") == "True"


def is_on_lost_node(pod: Manifest) -> bool:
    """Whether the pod is out of the Services because its node no longer reports.

    The kubelet gives a reason wherever it says that a pod is not ready; the node controller, in its place, gives none.
    """
    ready = condition(pod, "Ready")
    return ready.get("status") == "False" and not ready.get("reason") and container(pod).ready


def has_gate(pod: Manifest) -> bool:
    return any(gate["conditionType"] == GATE for gate in pod["spec"].get("readinessGates", ()))


def changed_at(pod: Manifest, kind: str) -> float | None:
    """Unix time at which a condition took its present status, None where nobody has said."""
    since = condition(pod, kind).get("lastTransitionTime")
    return parse_time(since) if since else None


def parse_time(text: str) -> float:
    """Unix time of a Kubernetes timestamp."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def timestamp(time: float) -> str:
    """A Unix time in the form of metav1.Time."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _life(ended: Manifest) -> float | None:
    # The kubelet writes null where it has lost sight of the container.
    started, finished = ended.get("startedAt"), ended.get("finishedAt")
    return parse_time(finished) - parse_time(started) if started and finished else None


def _last_exit(ended: Manifest) -> str:
    if not ended:
        return ""
    reason, code = ended.get("reason", "Error"), ended.get("exitCode", 0)
    message = " ".join(ended.get("message", "").split())
    return f"{reason}, exit code {code}" + (f": {message}" if message else "")
