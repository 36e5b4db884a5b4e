"""What happens around a resource that serves: rollouts, good and bad, a scale-down, a lost GPU, a lost node."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from harness.installed import Installed, Object, chat, condition_of, container_of, load, streaming, wait_until
from qwenvl_runtime.ending import ExitCode

pytestmark = pytest.mark.timeout(300)
NAME = "busy"
LONE = "lone"
BROKEN = "broken"
FROZEN = "frozen"
LOST_GPU = "torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered"
SECONDS = 0.3
"""Between two events of a stream."""
LENGTHS = (1, 2, 5, 9, 14, 19, 23, 23)
"""Events of each client's streams: from nothing to 7 s."""
LONGEST = 55
"""Of a stream that goes on when a pod has closed its port, 10 s after it was told to end, and that the drain grants."""


def engine(max_num_seqs: int = 8, **faults: object) -> Object:
    """Streams as long as they are asked for, and whatever else is wrong with the engine."""
    given = json.dumps({"all_tokens": True, "event_seconds": SECONDS, **faults})
    return {"maxModelLen": 8192, "maxNumSeqs": max_num_seqs, "extraArgs": [f"--faults={given}"]}


@pytest.fixture(scope="module")
def served(installed: Installed) -> Iterator[Installed]:
    """Two replicas that get traffic."""
    installed.apply(NAME, replicas=2, engine=engine(), drain={"longestRequest": "12s"})
    installed.wait_ready(NAME)
    yield installed
    installed.remove(NAME)


@pytest.fixture
def lone(installed: Installed) -> Iterator[Installed]:
    """One replica with the only GPU."""
    installed.node.set_gpus(1)
    installed.apply(LONE, hardware={"accelerator": {"resource": "nvidia.com/gpu"}})
    installed.wait_ready(LONE)
    yield installed
    installed.remove(LONE)


@pytest.fixture
def frozen(installed: Installed) -> Iterator[Installed]:
    """One replica, whose next container has a sound engine whatever becomes of the first one's."""
    installed.apply(FROZEN, engine=engine())
    installed.wait_ready(FROZEN)
    yield installed
    installed.remove(FROZEN)


@pytest.fixture
def broken(installed: Installed) -> Iterator[Installed]:
    """One replica with a GPU that does not work."""
    installed.apply(BROKEN, engine=engine(start_failure=LOST_GPU))
    yield installed
    installed.remove(BROKEN)


def test_a_revision_that_crashes_is_tried_once_beside_the_old_one(served: Installed) -> None:
    before = {pod["metadata"]["name"]: container_of(pod)["containerID"] for pod in served.pods(NAME)}
    with load(served.url(NAME), NAME) as answers:
        served.patch(NAME, engine=engine(start_failure="ValueError: no such layer"))
        wait_until(
            lambda: served.condition(NAME, "Stalled").get("status") == "True",
            60,
            lambda: served.kubectl("describe", "qvl", NAME),
        )
    stalled = served.condition(NAME, "Stalled")
    assert stalled["reason"] == "EngineCrashed"
    assert "ValueError: no such layer" in stalled["message"]
    assert served.condition(NAME, "Available")["status"] == "True"
    after = {pod["metadata"]["name"]: container_of(pod)["containerID"] for pod in served.pods(NAME)}
    assert before.items() <= after.items()
    assert len(after) == 3
    assert answers.errors == []
    assert {status for status, _ in answers.responses} == {200}
    served.patch(NAME, engine=engine())
    served.wait_ready(NAME)
    assert {pod["metadata"]["name"] for pod in served.pods(NAME)} == set(before)


def test_a_rollout_cuts_no_stream(served: Installed) -> None:
    with streaming(served.url(NAME), NAME, LENGTHS) as streams:
        wait_until(lambda: set(LENGTHS[:4]) <= set(streams.whole), 30)
        served.patch(NAME, engine=engine(max_num_seqs=9))
        served.wait_ready(NAME)
    assert streams.faults == []
    assert set(LENGTHS) == set(streams.whole)


def test_a_scale_down_cuts_no_stream(served: Installed) -> None:
    with streaming(served.url(NAME), NAME, LENGTHS) as streams:
        wait_until(lambda: set(LENGTHS[:4]) <= set(streams.whole), 30)
        served.node.kubectl("scale", f"qvl/{NAME}", "--replicas=1")
        wait_until(lambda: len(served.pods(NAME)) == 1, 60)
    assert streams.faults == []
    assert set(LENGTHS) == set(streams.whole)


def test_a_node_drain_refuses_what_comes_and_cuts_nothing(served: Installed) -> None:
    served.node.kubectl("scale", f"qvl/{NAME}", "--replicas=1")
    served.wait_ready(NAME)
    url = served.url(NAME)
    drain = ("drain", served.node.name, f"--pod-selector=qwenvl.io/name={NAME}", "--delete-emptydir-data")
    lengths = (*LENGTHS, LONGEST)
    with load(url, NAME) as fresh, load(url, NAME, keep_alive=True) as kept, streaming(url, NAME, lengths) as streams:
        wait_until(lambda: set(LENGTHS[:4]) <= set(streams.whole), 30)
        served.node.kubectl(*drain)
    served.node.kubectl("uncordon", served.node.name)
    for answers in (fresh, kept):
        assert {status for status, _ in answers.responses} == {200}
        assert {type(error) for error in answers.errors} == {httpx.ConnectError}
    assert {fault.partition(" of")[0] for fault in streams.faults} == {"ConnectError after 0"}
    assert set(lengths) == set(streams.whole)
    served.wait_ready(NAME)


def test_a_frozen_engine_is_out_of_rotation_within_a_minute_and_then_restarted(frozen: Installed) -> None:
    (pod,) = frozen.pods(FROZEN)
    frozen.set_faults(pod, hang=True)

    def ready() -> Object:
        return condition_of(frozen.pods(FROZEN)[0], "Ready")

    wait_until(lambda: ready()["status"] == "False", 60)
    frozen.wait_reason(FROZEN, "ReadinessLost", 10)
    wait_until(lambda: frozen.is_warm_again(pod), 60)
    state = container_of(frozen.pods(FROZEN)[0])
    ended = state["lastState"]["terminated"]
    assert (state["restartCount"], ended["exitCode"]) == (1, ExitCode.ENGINE_FROZEN)
    assert ended["message"].startswith("ENGINE_FROZEN: ")
    frozen.wait_ready(FROZEN)
    told = frozen.kubectl("events", f"--for=qvl/{FROZEN}", "--types=Warning")
    assert "ReadinessLost" in told
    assert "EngineFrozen" in told
    assert chat(frozen.url(FROZEN), FROZEN).status_code == 200


def test_a_lost_gpu_is_missed_when_the_pod_needs_it_again(lone: Installed) -> None:
    lone.node.set_gpus(0)
    (pod,) = lone.pods(LONE)
    lone.kill_container(pod)
    wait_until(lambda: lone.is_warm_again(pod), 60)
    lone.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")
    lone.wait_reason(LONE, "WaitingForGPU")
    message = lone.condition(LONE, "Ready")["message"]
    assert "It asks for 1 nvidia.com/gpu" in message
    assert "No node that it may go to offers nvidia.com/gpu" in message
    assert lone.condition(LONE, "Available")["status"] == "False"
    lone.node.set_gpus(1)
    lone.wait_ready(LONE)


def test_a_pod_with_a_broken_gpu_gives_way_to_another(broken: Installed) -> None:
    broken.wait_reason(BROKEN, "GPULost")
    assert LOST_GPU in broken.condition(BROKEN, "Ready")["message"]

    def replaced() -> list[Object]:
        events = json.loads(broken.kubectl("get", "events.events.k8s.io", "--output=json"))["items"]
        return [event for event in events if " is replaced: " in event.get("note", "")]

    # The next one finds the same GPU, and gives way as the first one did.
    wait_until(lambda: len(replaced()) >= 2, 120)
    told = replaced()
    names = [event["note"].split()[1] for event in told]
    for event in told:
        assert (event["type"], event["reason"]) == ("Warning", "GPULost")
        assert "its container has ended 3 times" in event["note"]
        assert f"a GPU of node {broken.node.name} does not work" in event["note"]
    assert len(set(names)) == len(names) == 2
    started = broken.node.get("events", "--field-selector=reason=Started,involvedObject.kind=Pod")["items"]
    starts = {name: sum(each["count"] for each in started if each["involvedObject"]["name"] == name) for name in names}
    # The kubelet of tests waits for a second only, and may start one more before the pod is gone.
    assert set(starts.values()) <= {3, 4}
    # Healed, as by another GPU.
    broken.patch(BROKEN, engine=engine())
    broken.wait_ready(BROKEN)


def test_a_node_that_falls_silent_and_comes_back_holds_one_replica(lone: Installed) -> None:
    (old,) = lone.pods(LONE)
    with lone.node.silent():
        lone.wait_reason(LONE, "NodeLost")
        assert lone.node.name in lone.condition(LONE, "Ready")["message"]
        assert lone.condition(LONE, "Available")["status"] == "False"
        # What Kubernetes does after five minutes.
        lone.kubectl("delete", "pod", old["metadata"]["name"], "--wait=false", "--grace-period=1")
        wait_until(lambda: len(lone.pods(LONE)) == 2, 30)
        lone.wait_reason(LONE, "WaitingForGPU")
        assert "node.kubernetes.io/unreachable" in lone.condition(LONE, "Ready")["message"]
        assert lone.get(LONE)["status"]["replicas"] == 1
    lone.wait_ready(LONE)
    (new,) = lone.pods(LONE)
    assert new["metadata"]["name"] != old["metadata"]["name"]
    assert lone.get(LONE)["status"]["replicas"] == lone.get(LONE)["status"]["readyReplicas"] == 1
