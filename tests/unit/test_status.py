"""Each state has its one reason, and the three conditions of kstatus never contradict each other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from samples import NOW, STARTED, cr_manifest, custom_resource, live_children, observed, pod, report

from qwenvl_operator.facts import Facts, Verdict
from qwenvl_operator.objects import Manifest
from qwenvl_operator.reasons import Reason
from qwenvl_operator.status import derive_problem_status, derive_status, find_condition, is_same
from qwenvl_operator.verdict import judge
from qwenvl_runtime.config import SnapshotReport

CR = custom_resource()
SHORT_SPEC = {"startup": {"budget": "5m"}}
SHORT = custom_resource(**SHORT_SPEC)
FAILED = {
    "phase": "Failed",
    "reason": "UnexpectedAdmissionError",
    "message": "Allocate failed: no healthy devices present.",
}
COMPLETE = {"updatedReplicas": 1, "replicas": 1, "readyReplicas": 1}
EXCEEDED = {"conditions": [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]}


def refused(message: str) -> dict[str, Any]:
    return {"conditions": [{"type": "ReplicaFailure", "status": "True", "message": message}]}


def crashed(last_words: str, **state: Any) -> Manifest:
    return pod(CR, waiting="CrashLoopBackOff", exit_code=10, restarts=5, last_words=last_words, **state)


def once_ready() -> Manifest:
    """A pod whose gate is open for the container that runs, and whose probe fails by now."""
    warm = pod(CR, started=True, ready=True, gate=True)
    warm["status"]["containerStatuses"][0]["ready"] = False
    warm["status"]["conditions"][-1]["status"] = "False"
    return warm


def facts(*pods: Manifest, spec: dict[str, Any] | None = None, unreadable: Any = None, **status: Any) -> Facts:
    cr = custom_resource(**(spec or {}))
    snapshot = observed(cr_manifest(**(spec or {})), *pods, children=live_children(cr, **status))
    return Facts(cr=cr, observed=snapshot, now=NOW, unreadable=unreadable or {})


def lost() -> Manifest:
    """As the node controller leaves a pod whose node is silent: as the kubelet left it, but for Ready."""
    left = pod(CR, started=True, ready=True, gate=True)
    left["status"]["conditions"][-1] = {"type": "Ready", "status": "False"}
    return left


STATES = {
    Reason.ALL_REPLICAS_READY: (facts(pod(CR, ready=True, gate=True), **COMPLETE), "Ready"),
    Reason.SUSPENDED: (facts(spec={"suspend": True}), "rest"),
    Reason.SCALED_TO_ZERO: (facts(spec={"replicas": 0}), "rest"),
    Reason.WAITING_FOR_GPU: (facts(pod(CR, scheduled=False)), "Reconciling"),
    Reason.STARTING_CONTAINER: (facts(pod(CR, running=False)), "Reconciling"),
    Reason.LOADING_MODEL: (facts(pod(CR)), "Reconciling"),
    Reason.WARMING_UP: (facts(pod(CR, started=True)), "Reconciling"),
    Reason.READINESS_LOST: (facts(once_ready()), "Reconciling"),
    Reason.WAITING_FOR_GATE: (facts(pod(CR, started=True, ready=True)), "Reconciling"),
    Reason.IMAGE_PULL_FAILED: (facts(pod(CR, waiting="ImagePullBackOff")), "Stalled"),
    Reason.CONTAINER_REFUSED: (facts(pod(CR, waiting="CreateContainerConfigError")), "Stalled"),
    Reason.RUNTIME_CRASHED: (
        facts(pod(CR, waiting="CrashLoopBackOff", exit_code=3, restarts=5)),
        "Stalled",
    ),
    Reason.REPORT_UNREADABLE: (
        facts(pod(SHORT, started=True, ready=True), spec=SHORT_SPEC, unreadable={"reports-1": "refused"}),
        "Stalled",
    ),
    Reason.ENGINE_CRASHED: (facts(crashed("ENGINE_DIED: the engine ended with exit code 1")), "Stalled"),
    Reason.ENGINE_FROZEN: (facts(crashed("ENGINE_FROZEN: the engine has done nothing for 45 s")), "Stalled"),
    Reason.STARTUP_BUDGET_EXCEEDED: (facts(crashed("LOAD_TIMEOUT: the engine did not load")), "Stalled"),
    Reason.WARMUP_FAILED: (facts(crashed("WARMUP_FAILED: the warm-up was not done")), "Stalled"),
    Reason.VERIFYING_SNAPSHOT: (
        replace(facts(pod(CR)), progress={"reports-1": SnapshotReport(digest="sha256:1", bytes_total=2)}),
        "Reconciling",
    ),
    Reason.SNAPSHOT_INVALID: (facts(crashed("SNAPSHOT_INVALID: model.safetensors: wrong sha256")), "Stalled"),
    Reason.QUANTIZATION_MISMATCH: (facts(crashed("QUANTIZATION_MISMATCH: the snapshot is awq")), "Stalled"),
    Reason.OUT_OF_GPU_MEMORY: (
        facts(crashed("ENGINE_DIED: the engine ended: torch.OutOfMemoryError: CUDA out of memory. Tried")),
        "Stalled",
    ),
    Reason.OUT_OF_HOST_MEMORY: (facts(crashed("", exit_reason="OOMKilled")), "Stalled"),
    Reason.GPU_LOST: (
        facts(crashed("ENGINE_DIED: torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered")),
        "Stalled",
    ),
    Reason.VOLUME_UNAVAILABLE: (
        facts(pod(CR, scheduled=False, unscheduled='0/1 nodes: persistentvolumeclaim "weights" not found.')),
        "Reconciling",
    ),
    Reason.NODE_LOST: (facts(lost()), "Reconciling"),
    Reason.UNSCHEDULABLE: (
        facts(pod(CR, scheduled=False, unscheduled="0/1 nodes: 1 Insufficient cpu.")),
        "Reconciling",
    ),
    Reason.PODS_REFUSED: (facts(**refused('RuntimeClass "nvidia" not found')), "Stalled"),
    Reason.QUOTA_EXCEEDED: (facts(**refused('pods "x" is forbidden: exceeded quota: gpus')), "Stalled"),
    Reason.POD_SECURITY_REFUSED: (facts(**refused('violates PodSecurity "restricted:latest": hostPath')), "Stalled"),
    Reason.PODS_FAILED: (facts(pod(CR, status=FAILED)), "Reconciling"),
    Reason.ROLLING_OUT: (
        facts(pod(CR, ready=True, gate=True), pod(CR, "old", revision="old"), **COMPLETE),
        "Reconciling",
    ),
}


@pytest.mark.parametrize("reason", STATES)
def test_each_state_has_its_reason(reason: Reason) -> None:
    state, expected = STATES[reason]
    verdict = judge(state)
    assert verdict.reason is reason, verdict
    status = derive_status(state, None)
    summary = {kind: find_condition(status, kind)["status"] for kind in ("Ready", "Reconciling", "Stalled")}
    assert [kind for kind, value in summary.items() if value == "True"] == ([] if expected == "rest" else [expected])
    assert find_condition(status, "Ready")["reason"] == reason


def test_no_progress_for_the_whole_deadline_is_for_a_person() -> None:
    verdict = judge(facts(pod(CR, scheduled=False), **EXCEEDED))
    assert verdict.stalled
    assert verdict.reason is Reason.WAITING_FOR_GPU
    assert verdict.message.startswith("No progress for 2685 s (from startup.budget and warmup.budget).")


@pytest.mark.parametrize(
    "status",
    [{"observedGeneration": 0}, {"replicas": 1}],
    ids=["before the Deployment controller has seen it", "before the old pod of a Recreate has gone"],
)
def test_the_deadline_of_one_revision_is_not_held_against_the_next(status: dict[str, Any]) -> None:
    verdict = judge(facts(pod(CR, "old", revision="old"), **EXCEEDED, **status))
    assert not verdict.stalled, verdict


def test_a_failed_pod_of_the_previous_revision_holds_nothing_up() -> None:
    state = facts(pod(CR, "old", revision="old", status=FAILED), pod(CR, ready=True, gate=True), **COMPLETE)
    assert judge(state).ready


@pytest.mark.parametrize("rest", [{"suspend": True}, {"replicas": 0}], ids=str)
def test_a_failed_pod_does_not_keep_a_resource_from_rest(rest: dict[str, Any]) -> None:
    assert judge(facts(pod(CR, status=FAILED), spec=rest)).at_rest


def test_a_pod_that_has_ended_and_is_being_deleted_is_waited_for() -> None:
    going = pod(CR, "old", revision="old", status=FAILED)
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert not judge(facts(going, pod(CR, ready=True, gate=True), **COMPLETE)).ready
    assert "1 pod(s) to finish and end: old" in judge(facts(going, spec={"suspend": True})).message


def test_pods_whose_end_is_awaited_are_named_with_their_nodes() -> None:
    old = [pod(CR, f"old-{n}", revision="old") for n in range(5)]
    verdict = judge(facts(*old, pod(CR, ready=True, gate=True), **COMPLETE))
    assert verdict.message == (
        "Waiting for the pods of the previous revision to end: "
        "old-0 on node node-a, old-1 on node node-a, old-2 on node node-a and 2 more. All end before a new one starts."
    )
    verdict = judge(facts(pod(CR), pod(CR, "unplaced", scheduled=False), spec={"suspend": True}))
    assert verdict.message == ("Waiting for 2 pod(s) to finish and end: reports-1 on node node-a, unplaced on no node.")


def test_a_revision_whose_pods_all_fail_is_told_with_why() -> None:
    serving = pod(CR, "old", revision="old", ready=True)
    for others in ((), (serving,)):
        verdict = judge(facts(*others, pod(CR, status=FAILED)))
        assert verdict.message == (
            f"Every pod of revision {CR.revision} has failed, the last one on node node-a: "
            "UnexpectedAdmissionError: Allocate failed: no healthy devices present."
        )
    serving["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z"
    assert "previous revision to end: old on" in judge(facts(serving, pod(CR, status=FAILED))).message


def test_no_previous_revision_is_spoken_of_where_there_is_none() -> None:
    assert "previous" not in judge(facts()).message


def test_a_crash_is_told_with_its_last_words() -> None:
    verdict = judge(STATES[Reason.RUNTIME_CRASHED][0])
    assert "exit code 3: BAD_CONFIG: no such file" in verdict.message


@pytest.mark.parametrize("state", [{}, {"started": True}, {"waiting": "CrashLoopBackOff"}])
def test_what_crashes_again_and_again_is_told_as_that_between_two_crashes_too(state: dict[str, Any]) -> None:
    verdict = judge(facts(pod(CR, exit_code=12, restarts=4, last_words="WARMUP_FAILED: status 500", **state)))
    assert (verdict.reason, verdict.stalled) == (Reason.WARMUP_FAILED, True)
    assert "WARMUP_FAILED: status 500." in verdict.message
    assert "kubectl logs --previous reports-1" in verdict.message


def test_a_few_crashes_are_told_beside_what_goes_on() -> None:
    verdict = judge(facts(pod(CR, exit_code=10, restarts=1, last_words="ENGINE_DIED: killed", started=True)))
    assert (verdict.reason, verdict.stalled) == (Reason.WARMING_UP, False)
    assert "has ended 1 time(s), last with Error, exit code 10: ENGINE_DIED: killed." in verdict.message


@pytest.mark.parametrize(("life", "stalled"), [(60, True), (86_400, False)])
@pytest.mark.parametrize("state", [{}, {"waiting": "CrashLoopBackOff"}], ids=["runs again", "waits"])
def test_a_crash_after_long_service_is_told_and_no_loop(state: dict[str, Any], life: float, stalled: bool) -> None:
    verdict = judge(facts(pod(CR, exit_code=10, restarts=4, last_words="ENGINE_DIED: killed", life=life, **state)))
    assert verdict.stalled is stalled
    assert "ENGINE_DIED: killed" in verdict.message


MEMORY = {
    "torch.OutOfMemoryError: CUDA out of memory.": "Lower spec.engine.maxNumSeqs",
    "RuntimeError: CUDA error: out of memory": "Lower spec.engine.maxNumSeqs",
    "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate": "Lower spec.engine.maxNumSeqs",
    "ValueError: No available memory for the cache blocks.": "Raise spec.engine.gpuMemoryUtilization",
    "ValueError: Free memory on device cuda:0 (10.1/79.2 GiB) on startup is less than desired GPU memory utilization "
    "(0.92, 72.9 GiB).": "Something else holds memory of this GPU",
}


@pytest.mark.parametrize("words", MEMORY)
def test_memory_of_the_gpu_is_told_with_what_helps(words: str) -> None:
    verdict = judge(facts(crashed(f"ENGINE_DIED: the engine ended: {words}")))
    assert verdict.reason is Reason.OUT_OF_GPU_MEMORY
    assert MEMORY[words] in verdict.message


def test_memory_of_the_host_is_the_nodes_where_the_pod_has_no_limit() -> None:
    killed = crashed("", exit_reason="OOMKilled")
    assert "the node is out of memory" in judge(facts(killed)).message
    killed["spec"]["containers"][0]["resources"] = {"limits": {"memory": "64Gi"}}
    assert "Raise spec.runtime.resources.limits.memory." in judge(facts(killed)).message


def evicted(number: int, message: str = "The node was low on resource: memory. Threshold quantity: 100Mi.") -> Manifest:
    return pod(CR, f"evicted-{number}", status={"phase": "Failed", "reason": "Evicted", "message": message})


def test_pods_that_failed_before_are_told_with_the_one_that_starts() -> None:
    verdict = judge(facts(evicted(1), pod(CR)))
    assert (verdict.reason, verdict.stalled) == (Reason.LOADING_MODEL, False)
    assert verdict.message == (
        "1 pod(s) before it have failed, the last one on node node-a: Evicted: The node was low on resource: memory. "
        "Threshold quantity: 100Mi. Pod reports-1 loads the model."
    )
    again = judge(facts(*map(evicted, range(3)), pod(CR)))
    assert (again.reason, again.stalled) == (Reason.OUT_OF_HOST_MEMORY, True)
    for_disk = [evicted(number, "The node was low on resource: ephemeral-storage.") for number in range(3)]
    again = judge(facts(*for_disk, pod(CR)))
    assert (again.reason, again.stalled) == (Reason.PODS_FAILED, True)
    assert judge(facts(*map(evicted, range(3)))).reason is Reason.OUT_OF_HOST_MEMORY


def test_pods_that_failed_long_ago_are_not_spoken_of() -> None:
    old = evicted(1)
    old["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    for item in old["status"].get("conditions", ()):
        item["lastTransitionTime"] = "2026-01-01T00:00:00Z"
    assert judge(facts(old, pod(CR))).message == "Pod reports-1 loads the model."


@pytest.mark.parametrize(
    ("waiting", "reason"),
    [
        ("ImageInspectError", Reason.IMAGE_PULL_FAILED),
        ("SignatureValidationFailed", Reason.IMAGE_PULL_FAILED),
        ("RegistryUnavailable", Reason.IMAGE_PULL_FAILED),
        ("PostStartHookError", Reason.CONTAINER_REFUSED),
        ("CreateContainerError", Reason.CONTAINER_REFUSED),
    ],
)
def test_whatever_the_kubelet_refuses_a_container_for_is_told(waiting: str, reason: Reason) -> None:
    verdict = judge(facts(pod(CR, waiting=waiting)))
    assert (verdict.reason, verdict.stalled) == (reason, True)
    assert "because" in verdict.message


def initialised_by(state: Manifest, **status: Any) -> Manifest:
    waiting = pod(CR, waiting="PodInitializing")
    waiting["status"]["initContainerStatuses"] = [
        {"name": "done", "state": {"terminated": {"exitCode": 0}}},
        {"name": "sidecar", "started": True, "state": {"running": {"startedAt": STARTED}}},
        {"name": "istio-init", "state": state, **status},
    ]
    return waiting


def test_an_init_container_that_holds_the_runtime_up_is_named() -> None:
    loops = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}
    ended = {"terminated": {"exitCode": 1, "reason": "Error", "message": "iptables: no permission"}}
    unpulled = {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}
    cases = (
        (initialised_by({"running": {"startedAt": STARTED}}), Reason.STARTING_CONTAINER, False, "."),
        (initialised_by(loops, restartCount=1, lastState=ended), Reason.CONTAINER_REFUSED, False, "iptables"),
        (initialised_by(loops, restartCount=4, lastState=ended), Reason.CONTAINER_REFUSED, True, "iptables"),
        (initialised_by(unpulled), Reason.IMAGE_PULL_FAILED, True, "ErrImagePull: no such image"),
    )
    for waiting, reason, stalled, words in cases:
        verdict = judge(facts(waiting))
        assert (verdict.reason, verdict.stalled) == (reason, stalled)
        assert "Pod reports-1 waits for its init container istio-init" in verdict.message
        assert words in verdict.message


UNPLACED = {
    "0/2 nodes: 1 Insufficient nvidia.com/gpu, 1 node(s) had volume node affinity conflict.": Reason.WAITING_FOR_GPU,
    "0/2 nodes: 2 node(s) didn't match Pod's node affinity/selector.": Reason.WAITING_FOR_GPU,
    "0/2 nodes: 2 node(s) had untolerated taint(s).": Reason.WAITING_FOR_GPU,
    "0/2 nodes: 1 Insufficient memory, 1 node(s) had untolerated taint {gpu: yes}.": Reason.UNSCHEDULABLE,
    "0/2 nodes: pod has unbound immediate PersistentVolumeClaims.": Reason.VOLUME_UNAVAILABLE,
    "0/2 nodes: 2 node(s) unavailable due to pvc(s) bound to non-existent pv(s).": Reason.VOLUME_UNAVAILABLE,
    'running PreBind plugin "VolumeBinding": binding volumes: provisioning failed': Reason.VOLUME_UNAVAILABLE,
    'storageclass.storage.k8s.io "fast" not found': Reason.VOLUME_UNAVAILABLE,
    "0/2 nodes: 2 node(s) did not have enough free storage.": Reason.VOLUME_UNAVAILABLE,
}


@pytest.mark.parametrize("words", UNPLACED)
def test_what_the_scheduler_lacks_is_told_by_its_kind(words: str) -> None:
    verdict = judge(replace(facts(pod(CR, scheduled=False, unscheduled=words)), offers="No node offers it."))
    assert verdict.reason is UNPLACED[words]
    assert ("It asks for 1 nvidia.com/gpu. No node" in verdict.message) == (verdict.reason is Reason.WAITING_FOR_GPU)


def test_a_container_that_never_ran_is_refused_and_not_crashed() -> None:
    words = 'exec: "/nothing": no such file'
    verdict = judge(
        facts(pod(CR, waiting="CrashLoopBackOff", exit_code=128, exit_reason="StartError", last_words=words))
    )
    assert (verdict.reason, verdict.stalled) == (Reason.CONTAINER_REFUSED, True)
    assert words in verdict.message


def test_who_named_no_image_hears_how_to_get_another() -> None:
    message = judge(facts(pod(CR, waiting="ErrImagePull"))).message
    assert "set spec.runtime.image" in message
    assert message.endswith(f"delete the ConfigMap reports-{CR.revision}.")
    named = {"runtime": {"image": "registry.local/runtime:1"}}
    message = judge(facts(pod(custom_resource(**named), waiting="ErrImagePull"), spec=named)).message
    assert "default" not in message


def test_what_keeps_a_pod_from_a_node_is_told_whatever_else_is_wrong() -> None:
    pods = (pod(CR, "a", scheduled=False), pod(CR, "b", waiting="ImagePullBackOff"))
    scheduled = find_condition(derive_status(facts(*pods, spec={"replicas": 2}), None), "Scheduled")
    assert (scheduled["status"], scheduled["reason"]) == ("False", Reason.WAITING_FOR_GPU)
    assert "Pod a fits no node" in scheduled["message"]
    assert "1 Insufficient nvidia.com/gpu. It asks for 1 nvidia.com/gpu." in scheduled["message"]
    wrong = Verdict(Reason.INVALID_SPEC, "wrong", stalled=True)
    scheduled = find_condition(derive_problem_status(observed(cr_manifest(), *pods), CR.key, wrong, NOW), "Scheduled")
    assert (scheduled["status"], scheduled["reason"]) == ("False", Reason.UNSCHEDULABLE)
    assert scheduled["message"].endswith("1 Insufficient nvidia.com/gpu.")


def gated(reason: str, message: str) -> Manifest:
    waiting = pod(CR, scheduled=False)
    waiting["status"]["conditions"][0].update(reason=reason, message=message)
    return waiting


def test_a_pod_that_the_scheduler_has_not_tried_is_not_called_scheduled() -> None:
    verdict = judge(facts(gated("SchedulingGated", "Scheduling is blocked due to non-empty scheduling gates")))
    assert verdict.reason is Reason.UNSCHEDULABLE
    assert verdict.message == (
        "Pod reports-1 has no node: SchedulingGated: Scheduling is blocked due to non-empty scheduling gates"
    )
    unseen = pod(CR, scheduled=False)
    del unseen["status"]["conditions"][0]
    verdict = judge(facts(unseen))
    assert verdict.reason is Reason.STARTING_CONTAINER, "every pod begins like this, and is told of it if it lasts"
    assert verdict.message == (
        "Pod reports-1 has no node: the scheduler has not looked at it yet, or waits for a volume to be made."
    )


def held_back(**ready: str) -> Manifest:
    warm = pod(CR, started=True, ready=True, gate=True)
    warm["status"]["conditions"][-1] = {"type": "Ready", "status": "False", **ready}
    return warm


def test_a_warm_pod_that_somebody_else_holds_back_is_told_with_the_kubelets_word() -> None:
    sidecar = held_back(reason="ContainersNotReady", message="containers with unready status: [istio-proxy]")
    ungated = held_back(reason="ReadinessGatesNotReady", message='readiness gate "lb.example/attached" is not True')
    del ungated["spec"]["readinessGates"]
    for held, word in ((sidecar, "ContainersNotReady: containers"), (ungated, 'NotReady: readiness gate "lb.example')):
        verdict = judge(facts(held, unreadable={"reports-1": "refused"}))
        assert (verdict.reason, verdict.stalled) == (Reason.WAITING_FOR_GATE, False)
        assert word in verdict.message
    old_news = held_back(reason="ReadinessGatesNotReady", message='gate "qwenvl.io/warmed-up" does not exist')
    assert judge(facts(old_news)).message == "Pod reports-1 is warm, and gets no traffic yet."


def test_the_image_is_the_runtimes_and_not_that_of_a_container_before_it() -> None:
    injected = pod(CR, waiting="ErrImagePull")
    injected["spec"]["containers"].insert(0, {"name": "istio-proxy", "image": "registry.local/proxy:1"})
    assert "cannot pull registry.local/runtime:1: because" in judge(facts(injected)).message


def test_who_waits_for_a_gpu_hears_what_is_asked_for_and_what_there_is() -> None:
    spec = {"hardware": {"accelerator": {"count": 4}}}
    state = facts(pod(custom_resource(**spec), scheduled=False), spec=spec)
    message = judge(replace(state, offers="In all, free or not, there are 2 on node a.")).message
    assert "It asks for 4 nvidia.com/gpu. In all, free or not, there are 2 on node a." in message


def test_the_worst_pod_is_spoken_of() -> None:
    state = facts(pod(CR, "a"), pod(CR, "b", waiting="ErrImagePull"), spec={"replicas": 2})
    assert judge(state).reason is Reason.IMAGE_PULL_FAILED


def test_a_bad_rollout_is_stalled_and_still_available() -> None:
    old = pod(CR, "old", revision="old", ready=True)
    old["status"]["conditions"].append({"type": "Ready", "status": "True"})
    status = derive_status(facts(old, pod(CR, "new", waiting="ImagePullBackOff")), None)
    assert find_condition(status, "Stalled")["status"] == "True"
    assert find_condition(status, "Available")["status"] == "True"


def test_slow_first_answers_are_warned_about_and_do_not_block() -> None:
    slow = report(CR, shots=({"name": "proof", "first_seconds": 2.0, "steady_seconds": 0.2},))
    status = derive_status(facts(pod(CR, ready=True, gate=True), **COMPLETE), slow)
    assert find_condition(status, "WarmedUp")["reason"] == Reason.FIRST_ANSWER_SLOW
    assert find_condition(status, "Ready")["status"] == "True"
    assert status["warmup"] == {"firstSeconds": "2.000", "steadySeconds": "0.200"}


def test_slow_eager_mode_is_warned_about() -> None:
    spec = {"engine": {"cudaGraphs": False}}
    state = facts(pod(custom_resource(**spec), ready=True, gate=True), spec=spec, **COMPLETE)
    assert "9 to 15 times slower" in judge(state).message


def test_the_time_of_a_condition_changes_with_its_status_alone() -> None:
    first = derive_status(facts(pod(CR)), None)
    snapshot = observed({**cr_manifest(), "status": first}, pod(CR, started=True), children=live_children(CR))
    second = derive_status(Facts(CR, snapshot, NOW + 60), None)
    before, after = find_condition(first, "Ready"), find_condition(second, "Ready")
    assert (before["reason"], after["reason"]) == (Reason.LOADING_MODEL, Reason.WARMING_UP)
    assert before["lastTransitionTime"] == after["lastTransitionTime"]


def test_a_problem_keeps_what_the_pods_do() -> None:
    snapshot = observed(cr_manifest(), pod(CR, ready=True, gate=True))
    verdict = Verdict(Reason.INVALID_SPEC, "spec.engine: wrong", stalled=True)
    status = derive_problem_status(snapshot, CR.key, verdict, NOW)
    assert status["readyReplicas"] == 1
    assert find_condition(status, "Available")["status"] == "True"
    assert find_condition(status, "Stalled")["message"] == "spec.engine: wrong"


def test_a_problem_leaves_out_no_condition() -> None:
    pinned = {"model": {"source": cr_manifest()["spec"]["model"]["source"], "manifestDigest": "sha256:" + "a" * 64}}
    before = derive_status(facts(pod(custom_resource(**pinned)), spec=pinned), None)
    snapshot = observed({**cr_manifest(), "status": before}, pod(CR))
    status = derive_problem_status(snapshot, CR.key, Verdict(Reason.INVALID_SPEC, "wrong", stalled=True), NOW)
    kinds = [item["type"] for item in status["conditions"]]
    assert kinds == [item["type"] for item in before["conditions"]]
    assert find_condition(status, "SnapshotVerified") == find_condition(before, "SnapshotVerified")
    assert find_condition(status, "WarmedUp")["status"] == "False"
    at_first = derive_problem_status(observed(cr_manifest()), CR.key, Verdict(Reason.INVALID_SPEC, "wrong"), NOW)
    assert (
        find_condition(at_first, "Scheduled")["status"] == find_condition(at_first, "WarmedUp")["status"] == "Unknown"
    )


def test_a_status_as_the_api_server_stores_it_is_the_same() -> None:
    status = derive_status(facts(pod(CR)), None)
    assert is_same({**status}, status)
    assert not is_same({**status, "replicas": 9}, status)
    assert not is_same({"observedGeneration": -1}, status)
