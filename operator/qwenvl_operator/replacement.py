"""Pods that starting their container again does not help: pure.

A container that starts anew in its pod gets the GPU that it had; another pod may get another one, on another node.
"""

from __future__ import annotations

from collections.abc import Iterable

from qwenvl_operator.causes import crash_reason
from qwenvl_operator.objects import Manifest
from qwenvl_operator.pods import container, is_ending
from qwenvl_operator.reasons import Reason

RESTARTS_BEFORE_REPLACED = 2
"""So that a fault that passes costs no pod, and the kubelet's backoff, 10 s and then 20 s, bounds how fast pods follow
each other where every GPU is broken."""


def pods_to_replace(pods: Iterable[Manifest]) -> list[Manifest]:
    """The pods whose container has ended again and again, the last time for a GPU that does not work, and does not
    run now."""
    return [pod for pod in pods if not is_ending(pod) and _has_lost_gpu(pod)]


def explain(pod: Manifest) -> str:
    """What is said of the pod as it is taken away."""
    state, name, node = container(pod), pod["metadata"]["name"], pod["spec"]["nodeName"]
    return (
        f"Pod {name} is replaced: its container has ended {state.restarts + 1} times, and a GPU of node {node} does "
        f"not work: {state.last_exit}"
    )


def _has_lost_gpu(pod: Manifest) -> bool:
    state = container(pod)
    return (
        state.running_since is None
        and state.restarts >= RESTARTS_BEFORE_REPLACED
        and crash_reason(state) is Reason.GPU_LOST
    )
