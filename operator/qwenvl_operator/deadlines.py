"""One budget, and every probe and deadline that follows from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from qwenvl_operator.api.quantity import parse_duration
from qwenvl_operator.api.v1alpha1 import QwenVLDeploymentSpec

PROBE_PERIOD = 1
"""Of the probes that a start waits for."""
# The kubelet counts failures of the startup probe on over restarts of the container (kubelet/prober/worker.go): a start
# after crashes would get what is left of the budget. By the fourth the resource has been Stalled for a while.
STARTS_COUNTED = 4
# The runtime gives up by itself when the budget is spent and says why; the probe is there for a runtime that hangs.
PROBE_MARGIN = 60
# How long it takes until every kube-proxy and client has seen that a pod's endpoint is not ready.
PROPAGATION = 10
ENGINE_STOP = 20
GRACE_MARGIN = 10


@dataclass(frozen=True)
class Deadlines:
    """Seconds, but for `startup_probe_failures`."""

    startup_budget: float
    warmup_budget: float
    longest_request: float
    startup_probe_failures: int
    progress: int
    """The Deployment's progressDeadlineSeconds: load, warm-up, and a quarter more for scheduling and image."""
    gate: float
    """How long after its container is ready a pod may wait for its gate before that is called a fault."""
    termination_grace: int

    @classmethod
    def of(cls, spec: QwenVLDeploymentSpec) -> Deadlines:
        startup = parse_duration(spec.startup.budget)
        warmup = parse_duration(spec.warmup.budget)
        longest = parse_duration(spec.drain.longest_request)
        return cls(
            startup_budget=startup,
            warmup_budget=warmup,
            longest_request=longest,
            startup_probe_failures=math.ceil((STARTS_COUNTED * startup + PROBE_MARGIN) / PROBE_PERIOD),
            progress=math.ceil((startup + warmup) * 1.25) + PROBE_MARGIN,
            gate=max(30.0, startup / 10),
            termination_grace=math.ceil(PROPAGATION + longest + ENGINE_STOP + GRACE_MARGIN),
        )
