"""The time from `kubectl apply` to Ready, split by stage, from what Kubernetes and the warm-up report say: pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any


def split_by_stage(cr: dict[str, Any], pod: dict[str, Any], stages: dict[str, float]) -> dict[str, float]:
    """Seconds per stage, in order. Kubernetes writes whole seconds, so each stage but the runtime's own is a second
    more or less; `stages` is the report's, to the millisecond."""
    container = pod["status"]["containerStatuses"][0]
    created = _time(cr["metadata"]["creationTimestamp"])
    scheduled = _transition(pod, "PodScheduled")
    started = _time(container["state"]["running"]["startedAt"])
    ready = _transition(pod, "Ready")
    return {
        "operator creates the pod": _time(pod["metadata"]["creationTimestamp"]) - created,
        "scheduler finds a node": scheduled - _time(pod["metadata"]["creationTimestamp"]),
        "image and volumes": started - scheduled,
        "engine loads the model": stages["engine"],
        "warm-up": stages["warmup"],
        "probes, gate and endpoint": max(0.0, ready - started - stages["engine"] - stages["warmup"]),
        "apply to Ready": ready - created,
    }


def _transition(pod: dict[str, Any], kind: str) -> float:
    condition = next(item for item in pod["status"]["conditions"] if item["type"] == kind)
    return _time(condition["lastTransitionTime"])


def _time(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
