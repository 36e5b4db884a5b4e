"""What the product adds to the start of a pod: from `kubectl apply` to Ready, beside a pod with the engine alone.

The engine is simulated and there at once, so that nothing but the difference shows: the operator, the runtime around
the engine, the way of the warm-up through the front, the gate. `make demo` splits a start with a real engine.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from pathlib import Path
from typing import Any

from bench.report import Goal, Part, render_table
from harness import images, node
from harness.installed import Installed, install, trial
from harness.instance import Instance
from harness.progress import step
from harness.runtime_process import build_config
from qwenvl_runtime.engine import MODULE, build_arguments

_ROUNDS = 15
_KUBELET_ROUND_S = 1.0
"""How often the kubelet looks at its containers."""
_NAME = "reports"
_BARE, _OURS = "a pod with the engine alone", "a QwenVLDeployment"
_SOCKET = Path("/tmp/engine.sock")


def run_start() -> Part:
    with node.running(Instance("bench")) as running:
        images.ensure_on(running, images.OPERATOR, images.RUNTIME_FAKE)
        install(running, images.OPERATOR.name, images.RUNTIME_FAKE.name)
        with step(f"Starting pods, {_ROUNDS} rounds", "3 min"):
            seconds = measure(Installed(running))
    pairs = [ours - bare for ours, bare in zip(seconds[_OURS], seconds[_BARE], strict=True)]
    # Each is a whole number of the kubelet's rounds, and a little: a median would be one of them.
    added, error = statistics.mean(pairs), statistics.stdev(pairs) / math.sqrt(_ROUNDS)
    rows = [[what, f"{statistics.mean(each):.1f} s", f"{max(each):.1f} s"] for what, each in seconds.items()]
    rows.append(["added", f"{added:.2f} ± {error:.2f} s", f"{max(pairs):.1f} s"])
    title = f"From `kubectl apply` to Ready with an engine that is there at once, {_ROUNDS} rounds"
    goal = Goal("start of a pod, added to one with the engine alone", 3, added, "s")
    return Part("start", [goal], [render_table(title, ["", "mean", "longest"], rows)])


def measure(installed: Installed) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {_BARE: [], _OURS: []}
    cr = {"apiVersion": "qwenvl.io/v1alpha1", "kind": "QwenVLDeployment", "spec": trial()}
    for number in range(-1, _ROUNDS):
        bare = time_start(installed, "pod", build_bare_pod())
        ours = time_start(installed, "qvl", cr)
        if number >= 0:  # the first of each finds nothing in any cache
            seconds[_BARE].append(bare)
            seconds[_OURS].append(ours)
    return seconds


def time_start(installed: Installed, kind: str, manifest: dict[str, Any]) -> float:
    """Seconds until a watch says that it is Ready; it is gone afterwards."""
    kubectl = installed.node.kubectl
    # What waits for the kubelet's next look would else always wait for as long, for one kind of pod and for the other.
    time.sleep(random.uniform(0, _KUBELET_ROUND_S))
    began = time.monotonic()
    installed.node.apply({**manifest, "metadata": {"name": _NAME, "namespace": "default"}})
    kubectl("wait", kind, _NAME, "--for=condition=Ready", "--timeout=2m")
    seconds = time.monotonic() - began
    if kind == "qvl":
        installed.remove(_NAME)
    else:
        kubectl("delete", "pod", _NAME, "--grace-period=0", "--force", "--wait")
    return seconds


def build_bare_pod() -> dict[str, Any]:
    """What people write without an operator: the engine, and the probes that a slow start needs, every second."""
    looks = {"exec": {"command": ["test", "-S", str(_SOCKET)]}, "periodSeconds": 1}
    container = {
        "name": "engine",
        "image": images.RUNTIME_FAKE.name,
        "command": ["python3", "-m", MODULE, *build_arguments(build_config(), _SOCKET)],
        # Without a startup probe a liveness probe would end an engine that loads for minutes.
        "startupProbe": {**looks, "failureThreshold": 600},
        "readinessProbe": looks,
        "livenessProbe": {**looks, "periodSeconds": 10},
    }
    return {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [container]}}
