"""The in-memory API server keeps the promises that tests of reconcile build on."""

from __future__ import annotations

from typing import Any

import pytest
from memory_cluster import Fault, MemoryCluster

from qwenvl_operator.cluster import Cluster
from qwenvl_operator.errors import ApiError
from qwenvl_operator.naming import FIELD_MANAGER, MANAGED_BY
from qwenvl_operator.objects import Kind, Manifest, Ref, ref_of

REF = Ref(Kind.DEPLOYMENT, "ai", "reports")


@pytest.fixture
def cluster() -> MemoryCluster:
    return MemoryCluster()


def deployment(*containers: Manifest, labels: dict[str, str] | None = None, **spec: Any) -> Manifest:
    template = {"spec": {"containers": list(containers) or [{"name": "runtime", "image": "a"}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "reports", "namespace": "ai", "labels": {MANAGED_BY: FIELD_MANAGER, **(labels or {})}},
        "spec": {"replicas": 1, "template": template, **spec},
    }


def custom_resource(**spec: Any) -> Manifest:
    return {
        "apiVersion": "qwenvl.io/v1alpha1",
        "kind": "QwenVLDeployment",
        "metadata": {"name": "reports", "namespace": "ai"},
        "spec": spec,
    }


def status(manifest: Manifest, **fields: Any) -> Manifest:
    identity = {key: manifest["metadata"][key] for key in ("name", "namespace", "uid")}
    return {"apiVersion": manifest["apiVersion"], "kind": manifest["kind"], "metadata": identity, "status": fields}


def test_it_is_a_cluster(cluster: MemoryCluster) -> None:
    used: Cluster = cluster
    assert used is cluster


async def test_apply_twice_changes_nothing(cluster: MemoryCluster) -> None:
    first = await cluster.apply(deployment())
    second = await cluster.apply(deployment())
    assert first == second
    assert first["metadata"]["generation"] == 1
    assert first["metadata"]["uid"]


async def test_generation_follows_the_spec_alone(cluster: MemoryCluster) -> None:
    first = await cluster.apply(deployment())
    labelled = await cluster.apply(deployment(labels={"team": "a"}))
    assert labelled["metadata"]["generation"] == 1
    assert int(labelled["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])
    scaled = await cluster.apply(deployment(replicas=2))
    assert scaled["metadata"]["generation"] == 2
    assert scaled["metadata"]["uid"] == first["metadata"]["uid"]


async def test_a_field_no_longer_applied_vanishes_and_a_foreign_one_stays(cluster: MemoryCluster) -> None:
    await cluster.apply(deployment(labels={"ours": "1"}, paused=True))
    cluster.edit(REF, lambda live: live["metadata"]["labels"].update(theirs="1"))
    after = await cluster.apply(deployment())
    assert after["metadata"]["labels"] == {MANAGED_BY: FIELD_MANAGER, "theirs": "1"}
    assert "paused" not in after["spec"]


async def test_lists_of_named_things_are_merged_by_name(cluster: MemoryCluster) -> None:
    await cluster.apply(
        deployment({"name": "runtime", "image": "a", "env": [{"name": "A", "value": "1"}, {"name": "B"}]})
    )
    cluster.edit(REF, lambda live: live["spec"]["template"]["spec"]["containers"].append({"name": "sidecar"}))
    after = await cluster.apply(deployment({"name": "runtime", "image": "b", "env": [{"name": "A", "value": "2"}]}))
    assert after["spec"]["template"]["spec"]["containers"] == [
        {"name": "runtime", "image": "b", "env": [{"name": "A", "value": "2"}]},
        {"name": "sidecar"},
    ]


async def test_a_named_thing_no_longer_applied_vanishes_whole(cluster: MemoryCluster) -> None:
    await cluster.apply(deployment({"name": "runtime"}, {"name": "extra", "image": "x"}))
    after = await cluster.apply(deployment({"name": "runtime"}))
    assert after["spec"]["template"]["spec"]["containers"] == [{"name": "runtime"}]


async def test_a_list_without_names_is_replaced(cluster: MemoryCluster) -> None:
    await cluster.apply(deployment({"name": "runtime", "args": ["a", "b"]}))
    after = await cluster.apply(deployment({"name": "runtime", "args": ["c"]}))
    assert after["spec"]["template"]["spec"]["containers"][0]["args"] == ["c"]


async def test_a_foreign_change_is_overwritten(cluster: MemoryCluster) -> None:
    await cluster.apply(deployment())
    cluster.edit(REF, lambda live: live["spec"].update(replicas=5))
    assert (await cluster.apply(deployment()))["spec"]["replicas"] == 1


async def test_status_is_written_on_its_own(cluster: MemoryCluster) -> None:
    cr = cluster.write(custom_resource(suspend=False))
    assert cr["status"] == {"observedGeneration": -1}
    assert cr["metadata"]["generation"] == 1
    written = await cluster.apply_status(
        status(cr, observedGeneration=1, conditions=[{"type": "Ready", "status": "True"}])
    )
    assert written["metadata"]["generation"] == 1
    assert written["spec"] == {"suspend": False}
    cluster.edit(ref_of(cr), lambda live: live["status"]["conditions"].append({"type": "Theirs", "status": "True"}))
    written = await cluster.apply_status(status(cr, observedGeneration=2))
    assert written["status"] == {"observedGeneration": 2, "conditions": [{"type": "Theirs", "status": "True"}]}


async def test_status_of_nothing_and_of_another_object_are_refused(cluster: MemoryCluster) -> None:
    cr = cluster.write(custom_resource())
    with pytest.raises(ApiError, match="409 Conflict"):
        await cluster.apply_status(status({**cr, "metadata": {**cr["metadata"], "uid": "other"}}, a=1))
    cluster.remove(ref_of(cr))
    with pytest.raises(ApiError, match="404 NotFound"):
        await cluster.apply_status(status(cr, a=1))


async def test_a_deleted_owner_takes_what_it_owns_with_it(cluster: MemoryCluster) -> None:
    cr = cluster.write(custom_resource())
    child = deployment()
    child["metadata"]["ownerReferences"] = [{"uid": cr["metadata"]["uid"], "controller": True}]
    await cluster.apply(child)
    seen: list[tuple[str, str]] = []
    cluster.watch(lambda event, manifest: seen.append((event, manifest["kind"])))
    cluster.remove(ref_of(cr))
    assert seen[-2:] == [("DELETED", "QwenVLDeployment"), ("DELETED", "Deployment")]
    assert await cluster.get(REF) is None


async def test_only_the_object_of_the_uid_is_deleted(cluster: MemoryCluster) -> None:
    live = await cluster.apply(deployment())
    await cluster.delete(REF, "other")
    assert await cluster.get(REF) == live
    await cluster.delete(REF, live["metadata"]["uid"])
    assert await cluster.get(REF) is None
    await cluster.delete(REF, live["metadata"]["uid"])


async def test_lists_hold_what_is_managed(cluster: MemoryCluster) -> None:
    await cluster.apply(deployment())
    foreign = deployment()
    foreign["metadata"] = {"name": "foreign", "namespace": "ai"}
    cluster.write(foreign)
    assert [item["metadata"]["name"] for item in await cluster.list(Kind.DEPLOYMENT)] == ["reports"]
    assert len(await cluster.list(Kind.DEPLOYMENT, managed=False)) == 2


async def test_calls_are_counted_and_fail_when_told(cluster: MemoryCluster) -> None:
    error = ApiError(503, "ServiceUnavailable", "busy", call="patch")
    cluster.faults = {1: Fault(error), 2: Fault(error, applied=True)}
    with pytest.raises(ApiError):
        await cluster.apply(deployment())
    assert cluster.all(Kind.DEPLOYMENT) == []
    with pytest.raises(ApiError):
        await cluster.apply(deployment())
    assert len(cluster.all(Kind.DEPLOYMENT)) == 1
    await cluster.get(REF)
    assert cluster.verbs() == {"patch": 2, "get": 1}
    assert [call.ref for call in cluster.writes()] == [REF, REF]


async def test_a_lagging_watch_tells_later_in_order(cluster: MemoryCluster) -> None:
    seen: list[tuple[str, int]] = []
    cluster.watch(lambda event, manifest: seen.append((event, manifest["spec"]["replicas"])))
    cluster.holds_events = True
    await cluster.apply(deployment())
    await cluster.apply(deployment(replicas=2))
    assert seen == []
    cluster.deliver()
    assert seen == [("ADDED", 1), ("MODIFIED", 2)]


async def test_an_immutable_config_map_keeps_its_data(cluster: MemoryCluster) -> None:
    manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "c", "namespace": "ai"},
        "immutable": True,
        "data": {"a": "1"},
    }
    await cluster.apply(manifest)
    with pytest.raises(ApiError, match="422 Invalid"):
        await cluster.apply({**manifest, "data": {"a": "2"}})
