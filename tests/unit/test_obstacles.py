"""What a node says about a pod that it cannot start is found, and only while it holds."""

from __future__ import annotations

from typing import Any

import pytest
from samples import custom_resource, pod

from qwenvl_operator.objects import Manifest
from qwenvl_operator.obstacles import awaited_pods, find_obstacle
from qwenvl_operator.reasons import Reason

CR = custom_resource()


def event(reason: str, second: int, kind: str = "Warning", **changes: Any) -> Manifest:
    time = f"2027-01-15T08:00:{second:02}Z"
    said = {"type": kind, "reason": reason, "note": f"{reason} at {second}", "deprecatedLastTimestamp": time}
    return {"metadata": {"creationTimestamp": time}, **said, "reportingController": "kubelet", **changes}


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("FailedMount", Reason.VOLUME_UNAVAILABLE),
        ("FailedAttachVolume", Reason.VOLUME_UNAVAILABLE),
        ("FailedCreatePodSandBox", Reason.CONTAINER_REFUSED),
    ],
)
def test_the_newest_words_are_taken(said: str, reason: Reason) -> None:
    found = find_obstacle([event(said, 5), event("FailedMount", 3), event("Scheduled", 5, "Normal")])
    assert found is not None
    assert (found.reason, found.note) == (reason, f"{said} at 5")


def test_what_was_overcome_is_not_told() -> None:
    assert find_obstacle([]) is None
    assert find_obstacle([event("FailedMount", 3), event("Pulling", 9, "Normal")]) is None


def test_an_event_that_is_repeated_is_as_new_as_its_last_time() -> None:
    repeated = event("FailedMount", 3, series={"lastObservedTime": "2027-01-15T08:00:20.000000Z"})
    assert find_obstacle([repeated, event("Scheduled", 9, "Normal")]) is not None
    fresh = event("FailedMount", 3, deprecatedLastTimestamp=None, eventTime="2027-01-15T08:00:30.000000Z")
    assert find_obstacle([fresh, event("Pulling", 9, "Normal")]) is not None


@pytest.mark.parametrize(
    "recorder",
    [
        {"reportingController": "", "deprecatedSource": {"component": "kubelet", "host": "node-a"}},
        {"reportingController": "attachdetach-controller"},
    ],
    ids=["old", "attach"],
)
def test_those_that_prepare_a_container_are_heard(recorder: Manifest) -> None:
    assert find_obstacle([event("FailedAttachVolume", 3, **recorder)]) is not None


@pytest.mark.parametrize("recorder", [{"reportingController": "autoscaler"}, {"reportingController": ""}], ids=str)
def test_what_others_say_of_the_pod_hides_nothing(recorder: Manifest) -> None:
    said = [event("FailedMount", 3), event("NotTriggerScaleUp", 9, "Normal", **recorder)]
    found = find_obstacle(said)
    assert found is not None
    assert found.note == "FailedMount at 3"
    assert find_obstacle([event("FailedMount", 3, **recorder)]) is None


def test_an_event_may_lack_what_others_have() -> None:
    bare = event("", 9)
    del bare["type"], bare["reason"], bare["note"]
    assert find_obstacle([bare]) is None
    assert find_obstacle([bare, event("FailedMount", 10)]) is not None


def new(**state: Any) -> Manifest:
    """A pod for which the kubelet has made no container."""
    made = pod(CR, running=False, **state)
    for status in made["status"]["containerStatuses"]:
        status["containerID"] = ""
    return made


def test_only_pods_that_nothing_else_is_known_of_are_asked_about() -> None:
    silent = new(waiting="ContainerCreating")
    others = (
        new(waiting="ImagePullBackOff"),
        new(scheduled=False),
        new(revision="old"),
        pod(CR),
        pod(CR, waiting="CrashLoopBackOff", exit_code=1),
    )
    assert awaited_pods(CR, (silent, *others)) == [silent]
    assert awaited_pods(CR, [new()]) == [new()], "before the kubelet has seen it"
