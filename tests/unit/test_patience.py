"""What is told at once, and what is held back until it has lasted."""

from __future__ import annotations

import pytest
from samples import KEY, NOW

from qwenvl_operator.patience import STEPS, Patience
from qwenvl_operator.reasons import Reason
from qwenvl_operator.status import Status

NOTHING: Status = {"observedGeneration": -1}


def said(reason: Reason, *, ready: bool = False, stalled: bool = False, **more: object) -> Status:
    conditions = [
        {"type": "Ready", "status": str(ready), "reason": reason},
        {"type": "Stalled", "status": str(stalled), "reason": reason},
    ]
    return {"conditions": conditions, **more}


@pytest.mark.parametrize("step", STEPS)
def test_a_step_is_held_until_it_has_lasted(step: Reason) -> None:
    patience = Patience(2)
    assert patience.hold(KEY, NOTHING, said(step), NOW) == 2
    assert patience.hold(KEY, NOTHING, said(step, replicas=1), NOW + 1.5) == 0.5
    assert patience.hold(KEY, NOTHING, said(step, replicas=1), NOW + 2) is None


def test_each_step_has_its_own_time() -> None:
    patience = Patience(2)
    patience.hold(KEY, NOTHING, said(Reason.APPLYING), NOW)
    assert patience.hold(KEY, NOTHING, said(Reason.STARTING_CONTAINER), NOW + 1.5) == 2


@pytest.mark.parametrize("reason", set(Reason) - set(STEPS))
def test_whatever_is_no_step_of_a_start_is_told_at_once(reason: Reason) -> None:
    assert Patience().hold(KEY, NOTHING, said(reason), NOW) is None


@pytest.mark.parametrize(
    "told", [said(Reason.ALL_REPLICAS_READY, ready=True), said(Reason.IMAGE_PULL_FAILED, stalled=True)]
)
def test_what_holds_no_more_is_taken_back_at_once(told: Status) -> None:
    assert Patience().hold(KEY, told, said(Reason.APPLYING), NOW) is None


def test_what_is_held_is_known_until_it_is_told() -> None:
    patience = Patience()
    assert patience.newest(KEY, NOTHING) == NOTHING
    patience.hold(KEY, NOTHING, said(Reason.WAITING_FOR_GATE, warmup="figures"), NOW)
    assert patience.newest(KEY, NOTHING)["warmup"] == "figures"
    patience.forget(KEY)
    assert patience.newest(KEY, NOTHING) == NOTHING


def test_a_resource_waits_for_no_other() -> None:
    patience = Patience(2)
    patience.hold(KEY, NOTHING, said(Reason.APPLYING), NOW)
    assert patience.hold(KEY._replace(name="other"), NOTHING, said(Reason.APPLYING), NOW + 1.5) == 2
