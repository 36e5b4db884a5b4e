"""Kubernetes Events: what the API server asks of their fields."""

from __future__ import annotations

import pytest

from qwenvl_operator.events import build_event, last_seen
from qwenvl_operator.objects import Manifest

CR: Manifest = {
    "apiVersion": "qwenvl.io/v1alpha1",
    "kind": "QwenVLDeployment",
    "metadata": {"name": "reports", "namespace": "ai", "uid": "cr-uid", "resourceVersion": "10"},
}


def event(note: str = "1 of 1 replicas are ready.", now: float = 1_800_000_000.25, instance: str = "pod-a") -> Manifest:
    return build_event(CR, "Normal", "Serving", note, now=now, instance=instance)


def test_an_event_says_who_said_what_about_whom() -> None:
    built = event()
    name = built["metadata"].pop("name")
    assert name.startswith("reports.")
    assert built == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"namespace": "ai"},
        "eventTime": "2027-01-15T08:00:00.250000Z",
        "type": "Normal",
        "reason": "Serving",
        "action": "Reconcile",
        "note": "1 of 1 replicas are ready.",
        "regarding": {
            "apiVersion": "qwenvl.io/v1alpha1",
            "kind": "QwenVLDeployment",
            "namespace": "ai",
            "name": "reports",
            "uid": "cr-uid",
            "resourceVersion": "10",
        },
        "reportingController": "qwenvl-operator",
        "reportingInstance": "pod-a",
    }


def test_the_name_follows_from_the_transition() -> None:
    assert event()["metadata"]["name"] == event()["metadata"]["name"]
    assert event()["metadata"]["name"] != event(now=1_800_000_001.0)["metadata"]["name"]
    assert event()["metadata"]["name"] != event(note="other")["metadata"]["name"]


@pytest.mark.parametrize("note", ["x" * 5000, "ß" * 600, "x" + "🙂" * 300])
def test_a_long_note_is_cut_to_the_bytes_that_the_api_server_takes(note: str) -> None:
    cut = event(note=note)["note"]
    assert len(cut.encode()) <= 1024
    assert cut.endswith("...")
    assert note.startswith(cut[:-3])


def test_a_note_of_the_full_length_is_kept() -> None:
    assert event(note="x" * 1024)["note"] == "x" * 1024


def test_a_long_instance_name_is_cut() -> None:
    assert len(event(instance="p" * 300)["reportingInstance"]) == 128


@pytest.mark.parametrize(
    ("times", "second"),
    [
        ({"deprecatedLastTimestamp": "2027-01-15T08:00:09Z", "eventTime": None}, 9),
        ({"eventTime": "2027-01-15T08:00:05.000000Z", "series": {"lastObservedTime": "2027-01-15T08:00:20Z"}}, 20),
        ({"eventTime": "2027-01-15T08:00:20Z", "deprecatedLastTimestamp": "2027-01-15T08:00:09Z"}, 20),
        ({"deprecatedLastTimestamp": None, "eventTime": None, "series": None}, 1),
    ],
    ids=["old", "series", "both", "none"],
)
def test_an_event_is_as_old_as_the_newest_of_its_times(times: Manifest, second: int) -> None:
    seen = last_seen({"metadata": {"creationTimestamp": "2027-01-15T08:00:01Z"}, **times})
    assert seen == 1_800_000_000 + second
