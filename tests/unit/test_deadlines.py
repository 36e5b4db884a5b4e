"""A load within its budget meets no other deadline, however long it takes."""

from __future__ import annotations

import pytest
from samples import custom_resource

from qwenvl_operator.deadlines import STARTUP_PROBE_PERIOD, Deadlines

MINUTE = 60


@pytest.mark.parametrize(("budget", "load"), [("30m", 25 * MINUTE), ("30m", 30 * MINUTE), ("12h", 11 * 60 * MINUTE)])
def test_nothing_ends_a_load_before_its_budget_does(budget: str, load: int) -> None:
    deadlines = Deadlines.of(custom_resource(startup={"budget": budget}).spec)
    assert load <= deadlines.startup_budget < deadlines.startup_probe_failures * STARTUP_PROBE_PERIOD
    assert load + deadlines.warmup_budget < deadlines.progress


def test_a_request_as_long_as_promised_ends_before_the_pod_is_killed() -> None:
    deadlines = Deadlines.of(custom_resource(drain={"longestRequest": "5m"}).spec)
    assert deadlines.longest_request == 5 * MINUTE < deadlines.termination_grace
