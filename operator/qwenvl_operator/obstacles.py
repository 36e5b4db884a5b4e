"""What keeps a node from making a pod's container: the kubelet says it in Events and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from qwenvl_operator.cluster import Cluster
from qwenvl_operator.custom_resource import CustomResource
from qwenvl_operator.errors import ApiError
from qwenvl_operator.objects import Manifest
from qwenvl_operator.pods import condition, container, is_ending, is_scheduled, parse_time, revision_of
from qwenvl_operator.reasons import Reason

PATIENCE = 10.0
"""Seconds that a node has to make a container before its Events are read."""
_REASONS = {
    "FailedMount": Reason.VOLUME_UNAVAILABLE,
    "FailedAttachVolume": Reason.VOLUME_UNAVAILABLE,
    "FailedMapVolume": Reason.VOLUME_UNAVAILABLE,
    "FailedCreatePodSandBox": Reason.CONTAINER_REFUSED,
}


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
        and container(pod).waiting_reason in ("", "ContainerCreating")
        and not container(pod).id
    ]


async def read_obstacles(cluster: Cluster, pods: Iterable[Manifest], now: float) -> Obstacles:
    """What is in the way of those that have waited for a while. Raises ApiError."""
    found = {pod["metadata"]["name"]: await _read(cluster, pod) for pod in pods if now - _since(pod) > PATIENCE}
    return {name: obstacle for name, obstacle in found.items() if obstacle is not None}


def find_obstacle(events: Iterable[Manifest]) -> Obstacle | None:
    """The newest Event counts: what was in the way before a pull began is no longer."""
    newest = max(events, key=lambda event: (_time(event), event["type"] == "Warning"), default=None)
    if newest is None or newest["reason"] not in _REASONS:
        return None
    return Obstacle(_REASONS[newest["reason"]], newest.get("note", ""))


async def _read(cluster: Cluster, pod: Manifest) -> Obstacle | None:
    try:
        return find_obstacle(await cluster.list_events(pod))
    except ApiError as error:
        # Without the right to read Events less is said; that must not keep the rest from being said.
        if not error.is_refusal:
            raise
        return None


def _since(pod: Manifest) -> float:
    return parse_time(condition(pod, "PodScheduled").get("lastTransitionTime", pod["metadata"]["creationTimestamp"]))


def _time(event: Manifest) -> float:
    """Unix time at which the Event was seen last, in the three forms that its recorders have had."""
    series: Manifest = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("deprecatedLastTimestamp"), event.get("eventTime"))
    return max((parse_time(time) for time in times if time), default=0.0)
