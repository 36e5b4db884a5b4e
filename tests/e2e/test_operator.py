"""What a platform engineer does to a QwenVLDeployment, on a real kubelet; the engine alone is simulated."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import httpx
import pytest

from harness import fake_engine
from harness.commands import CommandError
from harness.installed import NAMESPACE, OPERATOR, Installed, chat, condition_of, container_of, load, wait_until
from qwenvl_operator.naming import GATE
from qwenvl_runtime.manifest import FILE as MANIFEST
from qwenvl_runtime.manifest import digest_of

pytestmark = pytest.mark.timeout(600)
NAME = "reports"
CLI = ("python3", "-m", "qwenvl_operator.cli")
KILLS = int(os.environ.get("QWENVL_KILLS", "20"))


@pytest.fixture
def product(installed: Installed) -> Iterator[Installed]:
    yield installed
    installed.remove(NAME)


def test_apply_ask_and_delete(product: Installed) -> None:
    product.apply(NAME)
    product.wait_ready(NAME)
    answer = chat(product.url(NAME), NAME)
    assert answer.status_code == 200
    cr = product.get(NAME)
    assert answer.headers["X-QwenVL-Revision"] == cr["status"]["revision"]
    assert cr["status"]["endpoint"] == f"http://{NAME}.default.svc:8000/v1"
    (pod,) = product.pods(NAME)
    assert container_of(pod)["containerID"] in condition_of(pod, GATE)["message"]
    shown = product.node.kubectl("get", "qvl", NAME)
    assert "True" in shown
    story = product.node.kubectl("describe", "qvl", NAME)
    assert "AllReplicasReady" in story
    product.stop_operator()
    product.node.kubectl("delete", "qvl", NAME, "--wait", "--timeout=30s")
    wait_until(
        lambda: not product.node.get("deployments,services,configmaps", "--selector=qwenvl.io/name")["items"], 60
    )
    product.start_operator()


@pytest.mark.timeout(200 + 20 * KILLS)
def test_no_request_reaches_a_container_that_is_not_warm(product: Installed) -> None:
    product.apply(NAME, replicas=2)
    product.wait_ready(NAME)
    url = product.url(NAME)
    lives = {container_of(pod)["containerID"] for pod in product.pods(NAME)}
    with load(url, NAME) as answers:
        for kill in range(KILLS):
            victim = sorted(product.pods(NAME), key=lambda pod: pod["metadata"]["name"])[kill % 2]
            product.kill_container(victim)
            wait_until(partial(product.is_warm_again, victim), 60, lambda: product.node.kubectl("describe", "pods"))
            lives |= {container_of(pod)["containerID"] for pod in product.pods(NAME)}
    served = answers.served()
    assert len(lives) == 2 + KILLS
    # The kubelet may tell of a new container only when it is ready, and then there is nothing to close.
    assert product.count_closed(lives) > KILLS // 2
    assert len({headers["X-QwenVL-Boot-Id"] for headers in served}) > KILLS // 2
    # The simulated engine marks the first text and the first picture of its life.
    assert {headers["x-fake-first"] for headers in served} == {"false"}
    # That it is not ready yet, only a container that is not warm would say.
    assert {status for status, _ in answers.responses} == {200}
    assert [
        each for each in answers.errors if not isinstance(each, httpx.NetworkError | httpx.RemoteProtocolError)
    ] == []


def test_an_update_on_the_only_gpu_does_not_deadlock(product: Installed) -> None:
    product.node.set_gpus(1)
    gpu = {"accelerator": {"resource": "nvidia.com/gpu", "count": 1}}
    product.apply(NAME, hardware=gpu)
    product.wait_ready(NAME)
    before = product.get(NAME)["status"]["revision"]
    product.patch(NAME, engine={"maxNumSeqs": 4})
    product.wait_ready(NAME)
    assert product.get(NAME)["status"]["revision"] != before
    assert product.node.get("deployment", NAME)["spec"]["strategy"]["type"] == "Recreate"


@pytest.mark.parametrize(("replicas", "first"), [(1, "maxSurge"), (2, "maxUnavailable")])
def test_an_update_is_not_noticed_where_a_gpu_is_free_or_a_pod_can_give_way(
    product: Installed, replicas: int, first: str
) -> None:
    product.node.set_gpus(2)
    gpu = {"accelerator": {"resource": "nvidia.com/gpu", "count": 1}}
    product.apply(NAME, replicas=replicas, hardware=gpu, rollout={"strategy": "Auto"})
    product.wait_ready(NAME)
    with load(product.url(NAME), NAME) as answers:
        product.patch(NAME, engine={"maxNumSeqs": 4})
        product.wait_ready(NAME)
    chosen = product.node.get("deployment", NAME)["spec"]["strategy"]["rollingUpdate"]
    assert chosen == {"maxSurge": 0, "maxUnavailable": 0, first: 1}
    assert answers.errors == []
    assert {status for status, _ in answers.responses} == {200}
    assert len({headers["X-QwenVL-Revision"] for headers in answers.served()}) == 2


def test_a_pod_that_fits_nowhere_says_what_is_missing(product: Installed) -> None:
    product.node.set_gpus(1)
    product.apply(NAME, hardware={"accelerator": {"resource": "nvidia.com/gpu", "count": 2}})
    product.wait_reason(NAME, "WaitingForGPU")
    scheduled = product.condition(NAME, "Scheduled")
    assert scheduled["status"] == "False"
    assert "Insufficient nvidia.com/gpu" in scheduled["message"]
    product.node.set_gpus(2)
    product.wait_ready(NAME)


def test_the_doctor_runs_in_the_operators_pod_with_the_rights_that_it_has(product: Installed) -> None:
    product.apply(NAME, hardware={"accelerator": {"resource": "nvidia.com/gpu", "count": 8}})
    product.wait_reason(NAME, "WaitingForGPU")
    with pytest.raises(CommandError) as failed:
        product.node.kubectl(
            "exec", f"--namespace={NAMESPACE}", f"deployment/{OPERATOR}", "--", "qwenvl", "doctor", NAME
        )
    said = failed.value.output
    assert re.search(r"^ok +rights +the operator has all \d+ that it needs$", said, re.MULTILINE)
    assert re.search(rf"^warn +status +not Ready for .*: WaitingForGPU: Pod {NAME}-", said, re.MULTILINE)
    assert re.search(r"^FAIL +nodes +none of 1 that may take a pod has 8 nvidia.com/gpu", said, re.MULTILINE)
    assert re.search(r"^skipped +quota +needs: list resourcequotas default$", said, re.MULTILINE)


def test_a_snapshot_that_is_not_what_was_pinned_leaves_the_old_pods_serving(product: Installed) -> None:
    model = {"source": {"runtimeImage": {"path": "/opt/model"}}}
    digest = digest_of((fake_engine.MODEL / MANIFEST).read_bytes())
    product.apply(NAME, model={**model, "manifestDigest": digest}, rollout={"strategy": "Surge"})
    product.wait_ready(NAME)
    assert product.condition(NAME, "SnapshotVerified")["status"] == "True"
    assert product.get(NAME)["status"]["snapshot"]["digest"] == digest
    (old,) = product.pods(NAME)
    command = (*CLI, "manifest", "verify", "/opt/model")
    assert digest in product.node.kubectl("exec", old["metadata"]["name"], "--", *command)
    product.patch(NAME, model={"manifestDigest": "sha256:" + "0" * 64})
    product.wait_reason(NAME, "SnapshotInvalid")
    verified = product.condition(NAME, "SnapshotVerified")
    assert verified["status"] == "False"
    assert f"{MANIFEST} has the digest {digest}, not sha256:000" in verified["message"]
    assert container_of(old)["containerID"] in [container_of(pod)["containerID"] for pod in product.pods(NAME)]
    assert chat(product.url(NAME), NAME).status_code == 200
    product.patch(NAME, model={"manifestDigest": digest, "quantization": "fp8"})
    product.wait_reason(NAME, "QuantizationMismatch")
    assert "spec.model.quantization is fp8" in product.condition(NAME, "SnapshotVerified")["message"]
    assert chat(product.url(NAME), NAME).status_code == 200


def test_suspend_gives_the_pods_back_and_keeps_the_rest(product: Installed) -> None:
    product.apply(NAME)
    product.wait_ready(NAME)
    address = product.url(NAME)
    product.patch(NAME, suspend=True)
    product.wait_reason(NAME, "Suspended")
    assert product.pods(NAME) == []
    assert product.url(NAME) == address
    product.patch(NAME, suspend=False)
    product.wait_ready(NAME)


def test_scale_and_the_habits_of_rollout(product: Installed) -> None:
    product.apply(NAME)
    product.wait_ready(NAME)
    product.node.kubectl("scale", f"qvl/{NAME}", "--replicas=2")
    product.wait_ready(NAME)
    assert product.get(NAME)["status"]["readyReplicas"] == 2
    names = {pod["metadata"]["name"] for pod in product.pods(NAME)}
    product.node.kubectl("rollout", "restart", f"deployment/{NAME}")
    product.node.kubectl("rollout", "status", f"deployment/{NAME}", "--timeout=2m")
    product.wait_ready(NAME)
    # The old ones drain one after the other, while the new ones serve.
    wait_until(lambda: names.isdisjoint(pod["metadata"]["name"] for pod in product.pods(NAME)), 60)
    assert product.node.get("deployment", NAME)["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0


def test_a_node_drain_lets_running_requests_finish(product: Installed) -> None:
    product.apply(NAME)
    product.wait_ready(NAME)
    url = product.url(NAME)
    (pod,) = product.pods(NAME)
    product.set_faults(pod, events=24, event_seconds=0.5)
    body = {"model": NAME, "messages": [{"role": "user", "content": "Hello"}], "stream": True}
    drain = ("drain", product.node.name, f"--pod-selector=qwenvl.io/name={NAME}", "--delete-emptydir-data")
    lines = []
    with (
        ThreadPoolExecutor() as pool,
        httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60, trust_env=False) as response,
    ):
        stream = response.iter_lines()
        lines.append(next(stream))
        drained = pool.submit(product.node.kubectl, *drain)
        lines += list(stream)
        drained.result()
    assert sum(line.startswith("data: {") for line in lines) == 24
    assert "data: [DONE]" in lines
    product.wait_reason(NAME, "Unschedulable")
    product.node.kubectl("uncordon", product.node.name)
    product.wait_ready(NAME)


@pytest.mark.parametrize("policy", ["Strict", "Fallback"])
def test_a_container_or_a_pod_that_comes_while_the_operator_is_away(product: Installed, policy: str) -> None:
    product.apply(NAME, warmup={"budget": "1m", "gatePolicy": policy})
    product.wait_ready(NAME)
    with operator_away(product):
        (old,) = product.pods(NAME)
        product.kill_container(old)
        wait_until(lambda: is_ready_again(product, restarts=1), 60)
        wait_until(lambda: product.answers(NAME), 10)

        product.kubectl("delete", "pod", old["metadata"]["name"], "--grace-period=0", "--force")
        wait_until(lambda: is_ready_again(product, restarts=0), 60)
        if policy == "Fallback":
            wait_until(lambda: product.answers(NAME), 10)
        else:
            ready = condition_of(product.pods(NAME)[0], "Ready")
            assert (ready["status"], ready["reason"]) == ("False", "ReadinessGatesNotReady")
            assert not product.answers(NAME)
    product.wait_ready(NAME)
    wait_until(lambda: product.answers(NAME), 10)


@contextmanager
def operator_away(product: Installed) -> Iterator[None]:
    product.stop_operator()
    try:
        yield
    finally:
        product.start_operator()


def is_ready_again(product: Installed, restarts: int) -> bool:
    """Whether the container of the only pod is ready, and has been started again so many times."""
    pods = product.pods(NAME)
    states = [container_of(pod) for pod in pods if pod["status"].get("containerStatuses")]
    return [(state["ready"], state["restartCount"]) for state in states] == [(True, restarts)]


def test_an_operator_that_hangs_is_restarted_and_keeps_no_namespace_from_going(product: Installed) -> None:
    guest = replace(product, namespace="guest")
    product.node.kubectl("create", "namespace", guest.namespace)
    guest.apply(NAME)
    guest.wait_ready(NAME)
    operator = replace(product, namespace=NAMESPACE)
    (pod,) = operator.pods()
    operator.freeze_container(pod)
    product.node.kubectl("delete", "namespace", guest.namespace, "--timeout=60s")

    # Its liveness probe, three times, and then the time that it gets to end by itself.
    wait_until(lambda: container_of(operator.pods()[0])["restartCount"] == 1, 120)
    product.apply(NAME)
    product.wait_ready(NAME)


def test_an_operator_that_is_killed_in_a_rollout_is_followed_by_one_that_ends_it(product: Installed) -> None:
    product.apply(NAME)
    product.node.kubectl("delete", "pods", f"--namespace={NAMESPACE}", "--all", "--force", "--grace-period=0")
    product.wait_ready(NAME)
    product.patch(NAME, engine={"maxNumSeqs": 4})
    product.node.kubectl("delete", "pods", f"--namespace={NAMESPACE}", "--all", "--force", "--grace-period=0")
    product.wait_ready(NAME)


def test_at_rest_the_operator_writes_nothing(product: Installed) -> None:
    product.apply(NAME)
    product.wait_ready(NAME)
    since = len(product.node.audit_events())
    rest_ends = time.monotonic() + 20
    wait_until(lambda: time.monotonic() > rest_ends, 30)
    asked = [
        event
        for event in product.node.audit_events()[since:]
        if event["user"].get("username", "").startswith(f"system:serviceaccount:{NAMESPACE}:")
        and event["objectRef"]["resource"] != "leases"
        and event["verb"] != "watch"
    ]
    assert asked == []
