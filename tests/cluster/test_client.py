"""The operator's client at a real kube-apiserver."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from harness.cluster import Cluster
from qwenvl_operator import cluster as module
from qwenvl_operator.cluster import KubernetesCluster, connection, open_client
from qwenvl_operator.errors import ApiError
from qwenvl_operator.events import build_event
from qwenvl_operator.lease import Lease, LeaseLost, Timing
from qwenvl_operator.metrics import Metrics
from qwenvl_operator.naming import FIELD_MANAGER, MANAGED_BY
from qwenvl_operator.objects import Kind, Manifest, Ref, ref_of

pytestmark = pytest.mark.cluster

Connect = Callable[..., KubernetesCluster]


@pytest.fixture(name="namespace")
def _namespace(control_plane: Cluster, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))
    name = f"client-{uuid.uuid4().hex[:8]}"
    control_plane.kubectl("create", "namespace", name)
    return name


@pytest.fixture(name="connect")
async def _connect(namespace: str) -> AsyncIterator[Connect]:
    del namespace
    async with open_client() as client:

        def connect(metrics: Metrics | None = None, **options: Any) -> KubernetesCluster:
            return KubernetesCluster(client, metrics or Metrics(), **options)

        yield connect


def config_map(namespace: str, name: str = "reports", managed: bool = True, **data: str) -> Manifest:
    labels = {MANAGED_BY: FIELD_MANAGER} if managed else {}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "data": data,
    }


async def test_apply_creates_changes_and_gives_up_fields(connect: Connect, namespace: str) -> None:
    cluster = connect()
    first = await cluster.apply(config_map(namespace, a="1", b="2"))
    assert first["metadata"]["uid"]
    assert "managedFields" not in first["metadata"]
    assert await cluster.apply(config_map(namespace, a="1", b="2")) == first
    second = await cluster.apply(config_map(namespace, a="3"))
    assert second["data"] == {"a": "3"}
    found = await cluster.get(ref_of(second)) or {}
    assert [entry["manager"] for entry in found["metadata"].pop("managedFields")] == [FIELD_MANAGER]
    assert found == second


async def test_apply_takes_over_what_others_set_and_leaves_the_rest(
    connect: Connect, namespace: str, control_plane: Cluster
) -> None:
    cluster = connect()
    await cluster.apply(config_map(namespace, a="1"))
    patch = '{"data": {"a": "edited", "theirs": "kept"}}'
    control_plane.kubectl("patch", "configmap", "reports", f"--namespace={namespace}", "--patch", patch)
    assert (await cluster.apply(config_map(namespace, a="1")))["data"] == {"a": "1", "theirs": "kept"}
    managers = control_plane.get("configmap", "reports", f"--namespace={namespace}", "--show-managed-fields")
    assert {(entry["manager"], entry["operation"]) for entry in managers["metadata"]["managedFields"]} >= {
        (FIELD_MANAGER, "Apply")
    }


async def test_a_condition_of_a_pod_is_applied_beside_those_of_others(
    connect: Connect, namespace: str, control_plane: Cluster
) -> None:
    control_plane.kubectl("create", "serviceaccount", "runtime", f"--namespace={namespace}")
    identity = {"name": "reports", "namespace": namespace}
    spec = {"serviceAccountName": "runtime", "containers": [{"name": "runtime", "image": "registry.local/runtime:1"}]}
    cluster = connect()
    pod = await cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": identity, "spec": spec})
    theirs = '{"status": {"conditions": [{"type": "Theirs", "status": "True"}]}}'
    control_plane.kubectl("patch", "pod", "reports", f"--namespace={namespace}", "--subresource=status", f"-p={theirs}")
    gate = {"type": "qwenvl.io/warmed-up", "status": "True", "lastTransitionTime": "2026-11-20T12:00:00Z"}
    identity = {**identity, "uid": pod["metadata"]["uid"]}
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": identity, "status": {"conditions": [gate]}}
    written = await cluster.apply_status(manifest)
    assert [item["type"] for item in written["status"]["conditions"]] == ["Theirs", "qwenvl.io/warmed-up"]
    assert written["spec"] == pod["spec"]
    with pytest.raises(ApiError) as refusal:
        await cluster.apply_status({**manifest, "metadata": {**identity, "uid": str(uuid.uuid4())}})
    assert refusal.value.status == 409


async def test_lists_come_in_chunks_from_the_watched_namespaces(
    connect: Connect, namespace: str, control_plane: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIST_CHUNK", 2)
    other = f"{namespace}-b"
    control_plane.kubectl("create", "namespace", other)
    cluster = connect()
    for number in range(5):
        await cluster.apply(config_map(namespace, name=f"ours-{number}"))
    await cluster.apply(config_map(other, name="ours-5"))
    await cluster.apply(config_map(namespace, name="foreign", managed=False))
    metrics = Metrics()
    found = await connect(metrics, namespaces=(namespace, other)).list(Kind.CONFIG_MAP)
    assert [item["metadata"]["name"] for item in found] == [f"ours-{number}" for number in range(6)]
    assert all((item["apiVersion"], item["kind"]) == ("v1", "ConfigMap") for item in found)
    assert not any("managedFields" in item["metadata"] for item in found)
    labels = {"verb": "list", "resource": "configmaps", "code": "200"}
    assert metrics.registry.get_sample_value("qwenvl_operator_api_requests_total", labels) == 4
    everything = await connect(namespaces=(namespace,)).list(Kind.CONFIG_MAP, managed=False)
    assert "foreign" in {item["metadata"]["name"] for item in everything}
    whole_cluster = await connect().list(Kind.CONFIG_MAP)
    assert {namespace, other} <= {item["metadata"]["namespace"] for item in whole_cluster}
    assert await connect(namespaces=(namespace,)).list(Kind.NODE, managed=False) == []


async def test_delete_takes_exactly_the_object_of_the_uid(connect: Connect, namespace: str) -> None:
    cluster = connect()
    live = await cluster.apply(config_map(namespace))
    ref, uid = ref_of(live), live["metadata"]["uid"]
    await cluster.delete(ref, str(uuid.uuid4()))
    found = await cluster.get(ref) or {}
    assert found["metadata"]["uid"] == uid
    await cluster.delete(ref, uid)
    assert await cluster.get(ref) is None
    await cluster.delete(ref, uid)


async def test_a_refusal_says_what_was_asked_and_why(connect: Connect, namespace: str) -> None:
    wrong = config_map(namespace)
    wrong["metadata"]["labels"]["a label"] = "x"
    with pytest.raises(ApiError) as refusal:
        await connect().apply(wrong)
    assert (refusal.value.status, refusal.value.reason) == (422, "Invalid")
    assert refusal.value.call == f"patch configmaps {namespace}/reports"
    assert "a label" in refusal.value.message


async def test_nothing_is_written_while_it_may_not_be(connect: Connect, namespace: str) -> None:
    cluster = connect(may_write=lambda: False)
    for write in (
        cluster.apply(config_map(namespace)),
        cluster.apply_status(config_map(namespace)),
        cluster.delete(Ref(Kind.CONFIG_MAP, namespace, "reports"), "u"),
        cluster.create(config_map(namespace)),
        cluster.replace(config_map(namespace)),
    ):
        with pytest.raises(ApiError, match="LeaseLost"):
            await write
    assert await cluster.list(Kind.CONFIG_MAP) is not None


async def test_no_answer_is_an_error_like_any_other(namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_client() as client:
        client.configuration.host = "https://127.0.0.1:1"
        metrics = Metrics()
        with pytest.raises(ApiError) as refusal:
            await KubernetesCluster(client, metrics).list(Kind.POD)
    assert (refusal.value.status, refusal.value.call) == (0, "list pods")
    labels = {"verb": "list", "resource": "pods", "code": "0"}
    assert metrics.registry.get_sample_value("qwenvl_operator_api_requests_total", labels) == 1


async def test_an_event_is_accepted_and_shown(connect: Connect, namespace: str, control_plane: Cluster) -> None:
    live = await connect().apply(config_map(namespace))
    event = build_event(live, "Warning", "Tested", "ß" * 2000, now=1_800_000_000.5, instance="pod-a")
    await connect().create_event(event)
    with pytest.raises(ApiError) as refusal:
        await connect().create_event(event)
    assert refusal.value.status == 409
    about = {"metadata": {"namespace": namespace, "uid": live["metadata"]["uid"]}}
    assert [found["reason"] for found in await connect().list_events(about)] == ["Tested"]
    about["metadata"]["uid"] = "another"
    assert await connect().list_events(about) == []
    assert "Tested" in control_plane.kubectl("events", "--for=configmap/reports", f"--namespace={namespace}")


async def test_the_client_names_itself(connect: Connect, namespace: str, control_plane: Cluster) -> None:
    await connect().list(Kind.POD)
    agents = {event["userAgent"] for event in control_plane.audit_events() if "userAgent" in event}
    assert any(agent.startswith("qwenvl-operator/") for agent in agents)


async def test_the_credentials_are_those_of_the_kubeconfig(control_plane: Cluster, namespace: str) -> None:
    found = await connection()
    assert found.server == json.loads(control_plane.kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
    assert found.verify
    assert found.certificate_path
    assert found.token == ""


async def test_of_two_operators_one_works_and_the_other_takes_over(connect: Connect, namespace: str) -> None:
    timing = Timing(duration=2.0, renew_deadline=1.0, retry=0.1)
    first, second = (
        Lease(connect(), namespace=namespace, name="qwenvl-operator", identity=identity, timing=timing)
        for identity in ("first", "second")
    )
    await first.acquire()
    keeping = asyncio.create_task(first.keep())
    waiting = asyncio.create_task(second.acquire())
    done, _ = await asyncio.wait([waiting], timeout=3.0)
    assert not done
    assert first.is_held()
    keeping.cancel()
    await waiting
    assert second.is_held()
    assert not first.is_held()
    with pytest.raises(LeaseLost):
        await first.keep()
    await second.release()
    third = Lease(connect(), namespace=namespace, name="qwenvl-operator", identity="third", timing=timing)
    await asyncio.wait_for(third.acquire(), timeout=1.0)
    record = (await connect().get(Ref(Kind.LEASE, namespace, "qwenvl-operator")) or {})["spec"]
    assert (record["holderIdentity"], record["leaseTransitions"]) == ("third", 2)
