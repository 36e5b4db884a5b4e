"""What keeps a node from making a pod's container: the kubelet says it in Events and nowhere else. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from qwenvl_operator.custom_resource import CustomResource
from qwenvl_operator.events import last_seen
from qwenvl_operator.objects import Manifest
from qwenvl_operator.pods import PREPARING, condition, container, is_ending, is_scheduled, parse_time, revision_of
from qwenvl_operator.reasons import Reason

PATIENCE = 10.0
"""Seconds that a node has to make a container before its Events are read."""
_REASONS = {
    "FailedMount": Reason.VOLUME_UNAVAILABLE,
    "FailedAttachVolume": Reason.VOLUME_UNAVAILABLE,
    "FailedMapVolume": Reason.VOLUME_UNAVAILABLE,
    "FailedCreatePodSandBox": Reason.CONTAINER_REFUSED,
}
_RECORDERS = ("kubelet", "attachdetach-controller")


@dataclass(frozen=True)
class Obstacle:
    reason: Reason
    note: str
    """The kubelet's own words."""


Obstacles = Mapping[str, Obstacle]
"""By pod name."""


def awaited_pods(cr: CustomResource, pods: Iterable[Manifest]) -> list[Manifest]:
    """The pods that have a node and no container yet, and whose status gives no reason for it."""
    return [
        pod
        for pod in pods
        if revision_of(pod) == cr.revision
        and is_scheduled(pod)
        and not is_ending(pod)
        and container(pod).waiting_reason in ("", *PREPARING)
        and not container(pod).id
    ]


def has_waited(pod: Manifest, now: float) -> bool:
    """Whether a pod has waited for its container so long that its Events are worth a look."""
    since = condition(pod, "PodScheduled").get("lastTransitionTime", pod["metadata"]["creationTimestamp"])
    return now - parse_time(since) > PATIENCE


def find_obstacle(events: Iterable[Manifest]) -> Obstacle | None:
    """The newest Event counts of those who prepare the container: what was in the way before a pull began is no longer,
    and what anybody else says of the pod changes nothing."""
    theirs = [event for event in events if _recorder(event) in _RECORDERS]
    newest = max(theirs, key=lambda event: (last_seen(event), event.get("type") == "Warning"), default={})
    reason = _REASONS.get(newest.get("reason", ""))
    return Obstacle(reason, newest.get("note", "")) if reason else None


def _recorder(event: Manifest) -> str:
    """Who says so, in the two places that the API has for it."""
    source: Manifest = event.get("deprecatedSource") or {}
    return str(event.get("reportingController") or source.get("component", ""))
