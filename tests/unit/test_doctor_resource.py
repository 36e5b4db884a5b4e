"""What the doctor says of one resource: what it lacks, by whose fault, in the words of its conditions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from doctor_samples import (
    COMPLETE,
    CR,
    FORBIDDEN,
    claim,
    cluster,
    failures,
    holder,
    lease,
    node,
    operator,
    own,
    quota,
    resource,
)
from samples import KEY, NOW, STARTED, cr_manifest, custom_resource, live_children, observed, pod

from qwenvl_operator.doctor.findings import Finding, Level
from qwenvl_operator.doctor.readings import ClusterReadings, ResourceReadings
from qwenvl_operator.doctor.resource_checks import check_resource
from qwenvl_operator.facts import Facts
from qwenvl_operator.fitness import check_spec
from qwenvl_operator.footprint import Fit
from qwenvl_operator.objects import Manifest
from qwenvl_operator.pods import timestamp
from qwenvl_operator.reasons import Reason
from qwenvl_operator.verdict import judge

WELL = cluster()
AWAY = cluster(operators=[operator(lease=lease(renewed=NOW - 7200))])
NEW = resource("Applying", state="Reconciling")
CHILDREN = list(live_children(CR, **COMPLETE).values())


def examine(own_readings: Any, readings: ClusterReadings = WELL) -> list[Finding]:
    return list(check_resource(KEY, readings, own_readings))


def of_spec(*pods: Manifest, **spec: Any) -> ResourceReadings:
    """A resource with another spec, and so with children and pods of another revision."""
    cr = custom_resource(**spec)
    children = list(live_children(cr).values())
    return own(cr=resource(**spec), children=children, pods=list(pods) or [pod(cr, ready=True, gate=True)])


def without_pods(**changes: Any) -> ResourceReadings:
    return own(**{"cr": NEW, "pods": [], **changes})


def event(reason: str, note: str, about: str = "reports-1", seconds: float = 30, kind: str = "Warning") -> Manifest:
    return {
        "metadata": {"name": f"{about}.{reason}", "namespace": "ai", "creationTimestamp": STARTED},
        "type": kind,
        "reason": reason,
        "note": note,
        "regarding": {"kind": "Pod", "name": about, "uid": f"{about}-uid"},
        "reportingController": "default-scheduler" if reason == "FailedScheduling" else "kubelet",
        "deprecatedLastTimestamp": timestamp(NOW - seconds),
    }


def two(modes: tuple[str, ...]) -> ResourceReadings:
    cr = custom_resource(replicas=2)
    pods = [pod(cr, name, ready=True, gate=False) for name in ("reports-1", "reports-2")]
    for one in pods:
        one["status"]["conditions"].append({"type": "Ready", "status": "True"})
    return own(*pods, cr=resource(replicas=2), claims=[claim(modes=modes)])


FOREIGN = [{**child, "metadata": {**child["metadata"], "ownerReferences": []}} for child in CHILDREN[2:3]]
WAITS = pod(CR, scheduled=False)
TAINTED = node(spec={"taints": [{"key": "gpu", "effect": "NoSchedule"}]})
CORDONED = node("node-b", spec={"unschedulable": True})
BASELINE = {"metadata": {"name": "ai", "labels": {"pod-security.kubernetes.io/enforce": "baseline"}}}
TOO_LARGE = check_spec(custom_resource(hardware={"accelerator": {"model": "A10-24G"}}).spec)
assert isinstance(TOO_LARGE, Fit)
STARTING = pod(CR, running=False)
PREPARED = pod(CR, running=False)
"""Has a node, on which its container is yet to be made."""
PREPARED["status"]["containerStatuses"] = []
UNMOUNTED = event("FailedMount", "MountVolume.SetUp failed")
STUCK = "VolumeUnavailable: Node node-a cannot start pod reports-1: MountVolume.SetUp failed"
EVENTS = [
    event("Unhealthy", "an older one", seconds=300),
    event("Unhealthy", "no such\nfolder"),
    event("FailedScheduling", "told by the pod"),
    event("Pulled", "fine", kind="Normal"),
    event("BackOff", "another's", about="other-1"),
    {name: value for name, value in event("", "without a reason", seconds=400).items() if name != "reason"},
]
CRASHED = pod(CR, waiting="CrashLoopBackOff", exit_code=10, restarts=5, last_words="ENGINE_DIED: no kernel")

WRONG = {
    "no claim": (
        own(claims=[]),
        ["claim weights: does not exist in the namespace ai"],
    ),
    "unbound claim": (
        own(claims=[claim(phase="Pending")]),
        ["claim weights: is Pending: no volume is bound to it yet (StorageClass none)"],
    ),
    "lost claim": (own(claims=[claim(phase="Lost")]), ["claim weights: is Lost: its volume is gone"]),
    "ending claim": (
        own(claims=[{**claim(), "metadata": {"name": "weights", "deletionTimestamp": STARTED}}]),
        ["claim weights: is being deleted, and stays only as long as a pod uses it"],
    ),
    "claim of one node": (
        two(("ReadWriteOnce",)),
        ["claim weights: is Bound, ReadWriteOnce: all 2 pods have to be on one node"],
    ),
    "claim of one pod": (
        two(("ReadWriteOncePod",)),
        ["claim weights: is Bound, ReadWriteOncePod: one pod at a time, not 2"],
    ),
    "name taken": (
        own(children=[*CHILDREN[:2], *FOREIGN, *CHILDREN[3:]]),
        ["name: NameTaken: Service reports exists and is not this resource's: rename one of the two, or delete it."],
    ),
    "quota": (
        without_pods(quotas=[quota({"requests.nvidia.com/gpu": "4"}, used="4")]),
        [
            "status: not Ready for 5 min: Applying: because",
            "quota: limits has 4 of 4 requests.nvidia.com/gpu used, and a pod takes 1",
        ],
    ),
    "quota of memory": (
        without_pods(quotas=[quota({"limits.memory": "1Gi"})]),
        [
            "status: not Ready for 5 min: Applying: because",
            "quota: limits wants every pod to say its limits.memory: set runtime.resources",
        ],
    ),
    "node selector": (
        of_spec(hardware={"nodeSelector": {"zone": "b"}}),
        ["nodes: none of 1 has the label zone=b"],
    ),
    "taints": (
        own(),
        ["nodes: none may take its pods: node-a is tainted gpu:NoSchedule, node-b is cordoned"],
        cluster(nodes=[TAINTED, CORDONED]),
    ),
    "too small": (
        of_spec(hardware={"accelerator": {"count": 4}}),
        ["nodes: none of 1 that may take a pod has 4 nvidia.com/gpu: node-a has the most, 2"],
    ),
    "no GPU": (
        own(),
        ["nodes: none of 1 that may take a pod has 1 nvidia.com/gpu: none offers any"],
        cluster(nodes=[node(gpus=0)]),
    ),
    "too much memory": (
        of_spec(runtime={"resources": {"limits": {"memory": "256Gi"}}}),
        ["nodes: none of 1 that may take a pod has 256Gi memory: node-a has the most, 128Gi"],
    ),
    "no room": (
        own(WAITS, cr=NEW),
        [
            "status: not Ready for 5 min: Applying: because",
            "nodes: no room for 1 more pod(s): node-a has 0 of 2 nvidia.com/gpu free, held by team-b/other (2)",
            "pod: WaitingForGPU: Pod reports-1 fits no node since 2027-01-15T07:59:00Z: "
            "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. It asks for 1 nvidia.com/gpu. "
            "In all, free or not, there are 2 on node node-a.",
        ],
        cluster(pods=[holder(2)]),
    ),
    "RuntimeClass": (
        of_spec(hardware={"runtimeClassName": "kata"}),
        ["RuntimeClass: there is no kata, so the API server refuses the pods; there is nvidia"],
    ),
    "Pod Security": (
        of_spec(model={"source": {"hostPath": {"path": "/data"}}}),
        ["Pod Security: ai enforces baseline, which forbids the hostPath of reports"],
        cluster(namespaces=[BASELINE]),
    ),
    "fit": (
        of_spec(hardware={"accelerator": {"model": "A10-24G"}}),
        [f"fit: DoesNotFit: {TOO_LARGE.message}"],
    ),
    "spec": (
        own(cr=resource(engine={"extraArgs": ["--port=1"]})),
        [
            "spec: InvalidSpec: spec.engine.extraArgs: remove --port (the front owns the pod's ports): "
            "the operator sets these or forbids them.",
        ],
    ),
    "crash": (
        own(CRASHED, cr=NEW),
        [
            "status: not Ready for 5 min: Applying: because",
            "pod: EngineCrashed: Pod reports-1 has ended 6 time(s), last with "
            "Error, exit code 10: ENGINE_DIED: no kernel. `kubectl logs --previous reports-1` has the rest.",
        ],
    ),
    "events": (
        own(STARTING, cr=NEW, events=EVENTS),
        [
            "status: not Ready for 5 min: Applying: because",
            "pod: StartingContainer: Pod reports-1 is scheduled; its image and volumes are being prepared.",
            "event: reports-1, 6 min ago, Warning: without a reason",
            "event: reports-1, 30 s ago, Unhealthy: no such\nfolder",
        ],
    ),
    "volume": (
        own(PREPARED, cr=NEW, events=[UNMOUNTED, event("FailedToRetrieveImagePullSecret", "no secret", seconds=50)]),
        [
            "status: not Ready for 5 min: Applying: because",
            f"pod: {STUCK}",
            "event: reports-1, 50 s ago, FailedToRetrieveImagePullSecret: no secret",
        ],
    ),
    "unseen generation": (
        own(cr=resource(generation=2)),
        ["status: the operator has yet to look at generation 3; Ready for 5 min: AllReplicasReady: because"],
    ),
    "no such resource": (None, ["resource: there is no QwenVLDeployment reports in the namespace ai"]),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named_and_nothing_else(case: Any) -> None:
    own_readings, said, *readings = case
    assert failures(examine(own_readings, *readings)) == said


RIGHT = {
    "all is well": own(),
    "shared claim": two(("ReadWriteMany",)),
    "quota with room": without_pods(cr=resource(), quotas=[quota({"pods": "4", "cpu": "1"})]),
    "quota that is full, and all pods there": own(quotas=[quota({"pods": "1"}, used="1")]),
    "quota of other pods": without_pods(cr=resource(), quotas=[quota({"pods": "0"}, scopes=["BestEffort"])]),
    "suspended": of_spec(suspend=True),
    "old warnings": own(events=EVENTS),
}


@pytest.mark.parametrize("own_readings", RIGHT.values(), ids=RIGHT)
def test_where_all_is_well_nothing_is_wrong(own_readings: ResourceReadings) -> None:
    assert failures(examine(own_readings)) == []


def test_a_resource_whose_pods_have_their_nodes_needs_no_more_room() -> None:
    assert failures(examine(own(), cluster(pods=[holder(2)]))) == []


def test_without_an_operator_its_own_judgement_says_what_is_there() -> None:
    findings = examine(own(CRASHED, cr=resource(generation=2)), AWAY)
    assert failures(findings)[:2] == [
        "lease: pod-a renewed it last 2 h ago, so nobody reconciles",
        "status: nobody reconciles generation 3; Ready for 5 min: AllReplicasReady: because",
    ]
    verdict = judge(Facts(cr=CR, observed=observed(cr_manifest(), CRASHED, children=live_children(CR)), now=NOW))
    [now] = [finding for finding in findings if finding.about == "now"]
    assert now.said == f"{verdict.reason}: {verdict.message}"
    assert now.see == "docs/troubleshooting.md#enginecrashed"


def test_what_status_says_of_a_pod_is_not_said_again() -> None:
    verdict = judge(Facts(cr=CR, observed=observed(cr_manifest(), CRASHED, children=live_children(CR)), now=NOW))
    other = pod(CR, "reports-2", waiting="ImagePullBackOff")
    status = resource(verdict.reason, state="Stalled", message=verdict.message)
    findings = examine(own(CRASHED, other, cr=status))
    assert [finding.said for finding in findings if finding.about == "status"] == [
        f"not Ready for 5 min: {verdict.reason}: {verdict.message}"
    ]
    [said] = [finding.said for finding in findings if finding.about == "pod"]
    assert said.startswith("ImagePullFailed: Pod reports-2 cannot pull")


def test_what_keeps_a_node_from_starting_a_pod_is_told_as_status_tells_it() -> None:
    reason, _, message = STUCK.partition(": ")
    status = resource(reason, state="Reconciling", message=message)
    assert failures(examine(own(PREPARED, cr=status, events=[UNMOUNTED]))) == [f"status: not Ready for 5 min: {STUCK}"]
    away = examine(own(PREPARED, cr=NEW, events=[UNMOUNTED]), AWAY)
    assert [finding.said for finding in away if finding.about in ("now", "pod", "event")] == [STUCK]


def test_of_pods_that_nobody_may_read_events_of_only_the_pods_are_told() -> None:
    findings = examine(own(PREPARED, cr=NEW, events=FORBIDDEN))
    assert [finding.said for finding in findings if finding.about in ("pod", "events")] == [
        "StartingContainer: Pod reports-1 is scheduled; its image and volumes are being prepared.",
        FORBIDDEN.why,
    ]


PINNED = {"source": {"hostPath": {"path": "/data"}}, "manifestDigest": f"sha256:{'0' * 64}"}
ASKED = {
    "hashing": (
        {"model": PINNED},
        {},
        "VerifyingSnapshot",
        "Pod reports-1 has hashed 3.1 of 32.0 GB of the snapshot.",
    ),
    "unreadable": (
        {},
        {"ready": True},
        "WarmupReportUnreadable",
        "The warm-up report of pod reports-1 cannot be read: no route",
    ),
}


@pytest.mark.parametrize(("spec", "state", "reason", "message"), ASKED.values(), ids=ASKED)
def test_what_a_pod_has_told_the_operator_is_not_contradicted(
    spec: dict[str, Any], state: dict[str, Any], reason: str, message: str
) -> None:
    cr = custom_resource(**spec)
    told = resource(reason, state="Reconciling", message=message, **spec)
    children = list(live_children(cr).values())
    assert failures(examine(own(pod(cr, **state), cr=told, children=children))) == [
        f"status: not Ready for 5 min: {reason}: {message}"
    ]
    readings = own(pod(cr, waiting="ImagePullBackOff"), cr=told, children=children)
    [said] = [finding.said for finding in examine(readings) if finding.about == "pod"]
    assert said.startswith("ImagePullFailed")


def test_a_cache_that_cannot_be_written_is_refused() -> None:
    spec = {"runtime": {"cache": {"persistentVolumeClaim": {"claimName": "cache"}}}}
    readings = replace(of_spec(**spec), claims=[claim(), claim("cache")])
    assert failures(examine(readings)) == ["claim cache: is Bound, ReadOnlyMany: the cache has to be written"]


def test_a_pod_that_serves_tells_where_and_how_it_ended_before() -> None:
    restarted = pod(CR, ready=True, gate=True, exit_code=10, restarts=1, last_words="ENGINE_DIED: no kernel")
    [finding] = [finding for finding in examine(own(restarted)) if finding.about == "pod"]
    assert finding.level is Level.OK
    assert finding.said.startswith("reports-1 on node-a gets traffic, running for 60 s; it has ended 1 time(s) before")
    assert "ENGINE_DIED: no kernel" in finding.said


LEAVING = {
    "deleted": ({}, True, "reports-0 is ending"),
    "evicted": (
        {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."},
        False,
        "reports-0 has ended, and holds nothing any more: Evicted: The node was low on memory.",
    ),
    "succeeded": ({"phase": "Succeeded"}, False, "reports-0 has ended, and holds nothing any more: Succeeded"),
    "failed, and deleted": ({"phase": "Failed"}, True, "reports-0 is ending"),
}


@pytest.mark.parametrize(("status", "deleted", "said"), LEAVING.values(), ids=LEAVING)
def test_a_pod_is_ending_only_if_somebody_takes_it_away(status: dict[str, str], deleted: bool, said: str) -> None:
    gone = pod(CR, "reports-0", status=status)
    if deleted:
        gone["metadata"]["deletionTimestamp"] = STARTED
    findings = examine(own(gone, pod(CR, ready=True, gate=True)))
    assert failures(findings) == []
    assert said in [finding.said for finding in findings if finding.about == "pod"]


def test_what_may_not_be_read_is_skipped_and_its_right_named() -> None:
    spec = {"hardware": {"runtimeClassName": "nvidia"}}
    hidden = replace(of_spec(pod(CR), **spec), claims=FORBIDDEN, quotas=FORBIDDEN, events=FORBIDDEN)
    nothing = cluster(nodes=FORBIDDEN, runtime_classes=FORBIDDEN, namespaces=FORBIDDEN)
    findings = [finding for finding in examine(hidden, nothing) if finding.said == FORBIDDEN.why]
    assert [finding.about for finding in findings] == [
        "claim weights",
        "RuntimeClass",
        "Pod Security",
        "nodes",
        "quota",
        "events",
    ]
    assert {finding.level for finding in findings} == {Level.SKIPPED}
    unseen = [finding.about for finding in examine(own(pods=FORBIDDEN)) if finding.said == FORBIDDEN.why]
    assert unseen == ["now"]
    assert [finding.about for finding in examine(FORBIDDEN) if finding.said == FORBIDDEN.why] == ["resource"]
    unheld = examine(own(), cluster(pods=FORBIDDEN))
    assert [finding.about for finding in unheld if finding.said == FORBIDDEN.why] == ["nodes"]


@pytest.mark.parametrize(("reason", "level"), [("Suspended", Level.OK), ("EngineSlow", Level.WARN)])
def test_status_is_as_grave_as_its_conditions(reason: str, level: Level) -> None:
    state = "rest" if reason == Reason.SUSPENDED else "Ready"
    [finding] = [one for one in examine(own(cr=resource(reason, state=state))) if one.about == "status"]
    assert finding.level is level
