"""A load within its budget meets no other deadline, however long it takes."""

from __future__ import annotations

import pytest
from samples import custom_resource

from qwenvl_operator.deadlines import PROBE_PERIOD, Deadlines
from qwenvl_operator.pod_verdict import CRASHES_BEFORE_STALLED

MINUTE = 60


@pytest.mark.parametrize(("budget", "load"), [("30m", 25 * MINUTE), ("30m", 30 * MINUTE), ("12h", 11 * 60 * MINUTE)])
def test_nothing_ends_a_load_before_its_budget_does(budget: str, load: int) -> None:
    deadlines = Deadlines.of(custom_resource(startup={"budget": budget}).spec)
    assert load <= deadlines.startup_budget < deadlines.startup_probe_failures * PROBE_PERIOD
    assert load + deadlines.warmup_budget < deadlines.progress


def test_a_start_after_crashes_has_its_whole_budget_too() -> None:
    deadlines = Deadlines.of(custom_resource(startup={"budget": "30m"}).spec)
    crashed = CRASHES_BEFORE_STALLED * deadlines.startup_budget  # the kubelet has counted these failures of the probe
    assert crashed + deadlines.startup_budget < deadlines.startup_probe_failures * PROBE_PERIOD


def test_a_request_as_long_as_promised_ends_before_the_pod_is_killed() -> None:
    deadlines = Deadlines.of(custom_resource(drain={"longestRequest": "5m"}).spec)
    assert deadlines.longest_request == 5 * MINUTE < deadlines.termination_grace
