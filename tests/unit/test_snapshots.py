"""What a resource's status says of its snapshot, and which pods are asked how far they are."""

from __future__ import annotations

from typing import Any

import pytest
from samples import NOW, cr_manifest, custom_resource, live_children, observed, pod, report

from qwenvl_operator.facts import Facts
from qwenvl_operator.objects import Manifest
from qwenvl_operator.reasons import Reason
from qwenvl_operator.snapshots import loading_pods
from qwenvl_operator.status import derive_status, find_condition
from qwenvl_operator.verdict import judge
from qwenvl_runtime.config import SnapshotReport

DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64
PINNED = {"model": {"source": {"hostPath": {"path": "/models/fp8"}}, "manifestDigest": DIGEST}}
CR = custom_resource(**PINNED)
BAD = "SNAPSHOT_INVALID: /model is not what its manifest says; missing:\nmodel.safetensors"
HALF = SnapshotReport(digest=DIGEST, bytes_total=30_000_000_000, bytes_done=12_000_000_000)
WHOLE = SnapshotReport(digest=DIGEST, files=9, bytes_total=30, bytes_done=30, verified_at=NOW)
AT = "2027-01-15T08:00:00Z"


def status_of(
    *pods: Manifest, spec: Any = PINNED, report: Any = None, previous: Any = None, **progress: SnapshotReport
) -> Manifest:
    manifest = {**cr_manifest(**spec), "status": previous or {"observedGeneration": -1}}
    resource = custom_resource(**spec)
    snapshot = observed(manifest, *pods, children=live_children(resource))
    named = {name.replace("_", "-"): each for name, each in progress.items()}
    return derive_status(Facts(cr=resource, observed=snapshot, now=NOW, progress=named), report)


def said(status: Manifest) -> tuple[str, str, str] | None:
    found = find_condition(status, "SnapshotVerified")
    return (found["status"], found["reason"], found["message"]) if found else None


def failed(words: str, **state: Any) -> Manifest:
    return pod(CR, exit_code=13, last_words=words, restarts=1, **state)


def test_nothing_is_said_where_nothing_is_pinned() -> None:
    status = status_of(pod(custom_resource()), spec={})
    assert said(status) is None
    assert "snapshot" not in status


def test_before_anything_is_known_it_is_unknown() -> None:
    assert said(status_of()) == ("Unknown", Reason.NO_PODS, "There are no pods.")
    assert said(status_of(pod(CR))) == (
        "Unknown",
        Reason.VERIFYING_SNAPSHOT,
        "No pod has verified the snapshot yet.",
    )


def test_progress_is_told_while_it_lasts() -> None:
    status = status_of(pod(CR), reports_1=HALF)
    words = "Pod reports-1 has hashed 12.0 of 30.0 GB of the snapshot."
    assert said(status) == ("Unknown", Reason.VERIFYING_SNAPSHOT, words)
    ready = find_condition(status, "Ready")
    assert (ready["reason"], ready["message"]) == (Reason.VERIFYING_SNAPSHOT, words)
    assert find_condition(status, "Reconciling")["status"] == "True"
    verified = status_of(pod(CR), reports_1=WHOLE)
    assert find_condition(verified, "Ready")["reason"] == Reason.LOADING_MODEL


def test_what_was_verified_is_told_and_stays() -> None:
    first = status_of(pod(CR), reports_1=WHOLE)
    assert first["snapshot"] == {"digest": DIGEST, "verifiedAt": AT}
    found = said(first)
    assert found is not None
    assert found[:2] == ("True", Reason.SNAPSHOT_VERIFIED)
    assert DIGEST in found[2]
    later = status_of(pod(CR, ready=True, gate=True), previous=first)
    assert (later["snapshot"], said(later)) == (first["snapshot"], found)
    again = status_of(pod(CR), previous=first, reports_1=HALF)
    assert said(again) == found, "another pod that verifies does not unsay it"
    older = report(CR, snapshot=WHOLE.model_copy(update={"verified_at": NOW - 900, "from_marker": True}))
    assert status_of(pod(CR, ready=True), previous=first, report=older)["snapshot"] == first["snapshot"]


def test_the_warm_up_s_report_tells_it_too() -> None:
    assert status_of(pod(CR, ready=True), report=report(CR, snapshot=WHOLE))["snapshot"]["digest"] == DIGEST


def test_another_pin_is_not_verified_by_the_old_one() -> None:
    before = {"observedGeneration": 1, "snapshot": {"digest": OTHER, "verifiedAt": AT}}
    status = status_of(pod(CR), previous=before, reports_1=WHOLE.model_copy(update={"digest": OTHER}))
    assert "snapshot" not in status
    assert find_condition(status, "SnapshotVerified")["status"] == "Unknown"


@pytest.mark.parametrize(
    ("words", "reason", "message"),
    [
        (BAD, Reason.SNAPSHOT_INVALID, "/model is not what its manifest says; missing: model.safetensors"),
        ("QUANTIZATION_MISMATCH: is fp8, not awq", Reason.QUANTIZATION_MISMATCH, "is fp8, not awq"),
    ],
)
@pytest.mark.parametrize("spec", [PINNED, {}])
@pytest.mark.parametrize("again", [False, True])
def test_a_snapshot_that_is_not_loaded_is_told_with_its_file(
    words: str, reason: Reason, message: str, spec: Any, again: bool
) -> None:
    cr = custom_resource(**spec)
    state = {} if again else {"waiting": "CrashLoopBackOff"}
    bad = pod(cr, exit_code=13, last_words=words, restarts=1, **state)
    status = status_of(bad, spec=spec, previous={"snapshot": {"digest": DIGEST, "verifiedAt": AT}})
    assert said(status) == ("False", reason, f"Pod reports-1: {message}")
    if not again:
        ready = find_condition(status, "Ready")
        assert (ready["reason"], find_condition(status, "Stalled")["status"]) == (reason, "True")
        assert words.rsplit(maxsplit=1)[-1] in ready["message"]


def test_a_mended_snapshot_is_called_whole_as_soon_as_it_was_verified() -> None:
    found = said(status_of(failed(BAD), reports_1=WHOLE))
    assert found is not None
    assert found[0] == "True"
    assert find_condition(status_of(failed(BAD), reports_1=HALF), "SnapshotVerified")["status"] == "False"
    assert find_condition(status_of(failed(BAD, ready=True)), "SnapshotVerified")["status"] == "Unknown"


def test_other_deaths_say_nothing_of_the_snapshot() -> None:
    died = failed("ENGINE_DIED: SNAPSHOT_INVALID was not it", waiting="CrashLoopBackOff")
    assert find_condition(status_of(died), "SnapshotVerified")["status"] == "Unknown"


def test_what_pods_of_an_earlier_revision_ended_for_is_past() -> None:
    old = pod(CR, revision="old", exit_code=13, last_words=BAD, waiting="CrashLoopBackOff")
    assert find_condition(status_of(old, pod(CR, "new")), "SnapshotVerified")["status"] == "Unknown"


def test_a_bad_snapshot_leaves_what_serves_alone() -> None:
    old = pod(CR, "old", revision="old", ready=True)
    old["status"]["conditions"].append({"type": "Ready", "status": "True"})
    status = status_of(old, failed(BAD, waiting="CrashLoopBackOff"))
    assert status["readyReplicas"] == 1
    assert find_condition(status, "Available")["status"] == "True"
    assert find_condition(status, "SnapshotVerified")["status"] == "False"


def test_only_pods_that_load_a_pinned_snapshot_are_asked() -> None:
    loading = pod(CR, "loading")
    others = (
        pod(CR, "started", started=True),
        pod(CR, "ready", started=True, ready=True),
        pod(CR, "waiting", waiting="CrashLoopBackOff"),
        pod(CR, "pending", scheduled=False),
        pod(CR, "old", revision="old"),
    )
    assert loading_pods(CR, (loading, *others)) == [loading]
    free = custom_resource()
    assert loading_pods(free, (pod(free),)) == []


def test_a_restart_that_verifies_tells_how_it_ended_before() -> None:
    bad = failed(BAD)
    snapshot = observed(cr_manifest(**PINNED), bad, children=live_children(CR))
    verdict = judge(Facts(cr=CR, observed=snapshot, now=NOW, progress={"reports-1": HALF}))
    assert verdict.reason is Reason.VERIFYING_SNAPSHOT
    assert "has ended 1 time(s), last with" in verdict.message
