"""The gate opens for the container that reported, and for no other."""

from __future__ import annotations

import pytest
from samples import STARTED_AT, custom_resource, pod, report

from qwenvl_operator import gate

CR = custom_resource()


def test_it_opens_for_a_ready_container_that_reported() -> None:
    decision = gate.decide(pod(CR, ready=True), report(CR))
    assert decision is not None
    assert decision.open
    assert decision.message == f"Container containerd://one of revision {CR.revision} answered the warm-up set."


@pytest.mark.parametrize(
    "changes",
    [
        {"complete": False},
        {"pod": "reports-2"},
        {"revision": "0123456789"},
        {"started_at": STARTED_AT - 60},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_it_stays_shut_for_a_report_of_something_else(changes: dict[str, object]) -> None:
    assert gate.decide(pod(CR, ready=True), report(CR, **changes)) is None


def test_it_stays_shut_for_a_container_that_is_not_ready() -> None:
    assert gate.decide(pod(CR, ready=False), report(CR)) is None


def test_an_open_gate_is_left_alone() -> None:
    assert gate.decide(pod(CR, ready=True, gate=True), None) is None


def test_it_closes_when_the_container_is_another() -> None:
    restarted = pod(CR, ready=True, gate=True)
    restarted["status"]["containerStatuses"][0]["containerID"] = "containerd://two"
    decision = gate.decide(restarted, None)
    assert decision is not None
    assert not decision.open
    assert "containerd://two" in decision.message


def test_it_opens_again_for_the_new_container() -> None:
    restarted = pod(CR, ready=True, gate=True)
    restarted["status"]["containerStatuses"][0]["containerID"] = "containerd://two"
    decision = gate.decide(restarted, report(CR))
    assert decision is not None
    assert decision.open
    assert "containerd://two" in decision.message


def test_a_pod_without_the_gate_gets_none() -> None:
    fallback = pod(CR, ready=True)
    fallback["spec"]["readinessGates"] = []
    assert gate.decide(fallback, report(CR)) is None


def test_an_ending_pod_is_not_opened() -> None:
    ending = pod(CR, ready=True)
    ending["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z"
    assert gate.decide(ending, report(CR)) is None
