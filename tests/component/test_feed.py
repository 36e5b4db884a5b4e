"""The feed: watch events and lists end in the store and in the queue."""

from __future__ import annotations

import asyncio

import pytest
from memory_cluster import Fault, MemoryCluster
from waiting import until

from qwenvl_operator import feed as module
from qwenvl_operator.errors import ApiError
from qwenvl_operator.feed import LISTED, Feed
from qwenvl_operator.metrics import Metrics
from qwenvl_operator.naming import labels
from qwenvl_operator.objects import Key, Kind, Manifest, Ref
from qwenvl_operator.observed import Store
from qwenvl_operator.permissions import Denials, Permission
from qwenvl_operator.workqueue import WorkQueue

KEY = Key("ai", "reports")
CR = Ref(Kind.CR, *KEY)
POD = Ref(Kind.POD, "ai", "reports-1")
BUSY = ApiError(503, "ServiceUnavailable", "busy", call="list pods", retry_after=0.0)
FORBIDDEN = ApiError(403, "Forbidden", "not in this namespace", call="list pods gone")


class Remembering(WorkQueue):
    """Works on nothing."""

    def __init__(self) -> None:
        super().__init__(self._never, Metrics())
        self.woken: list[Key] = []

    def add(self, key: Key) -> None:
        self.woken.append(key)

    async def _never(self, _: Key) -> float | None:
        raise AssertionError


class Rig:
    """A feed between a cluster in memory and a queue that only remembers."""

    def __init__(self, interval: float = 3600.0, namespaces: tuple[str, ...] = ()) -> None:
        self.cluster = MemoryCluster()
        self.store = Store()
        self.metrics = Metrics()
        self.queue = Remembering()
        self.woken = self.queue.woken
        self.denials = Denials()
        self.feed = Feed(
            self.store,
            self.cluster,
            self.queue,
            self.metrics,
            self.denials,
            interval=interval,
            namespaces=namespaces,
        )

    def pods(self) -> list[str]:
        observed = self.store.observe(KEY)
        return [pod["metadata"]["name"] for pod in observed.pods] if observed else []

    def lists(self) -> list[Kind]:
        return [call.ref.kind for call in self.cluster.calls if call.verb == "list"]


def custom_resource(name: str = "reports") -> Manifest:
    return {
        "apiVersion": "qwenvl.io/v1alpha1",
        "kind": "QwenVLDeployment",
        "metadata": {"name": name, "namespace": "ai"},
        "spec": {},
    }


def pod(name: str = "reports-1", key: Key = KEY) -> Manifest:
    metadata = {"name": name, "namespace": key.namespace, "labels": labels(key)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {}}


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_list_that_brings_nothing_new_wakes_nobody(rig: Rig) -> None:
    rig.cluster.write(pod())
    (live,) = rig.cluster.all(Kind.POD)
    rig.feed.listed([live])
    assert rig.woken == [KEY]
    rig.feed.listed([live])
    assert rig.woken == [KEY]
    rig.feed.watched("MODIFIED", live)
    assert rig.woken == [KEY, KEY], "it may tell of our own write, whose answer brought what somebody else had changed"


def test_an_event_of_a_child_wakes_its_owner(rig: Rig) -> None:
    rig.cluster.watch(rig.feed.watched)
    rig.cluster.write(custom_resource())
    rig.cluster.write(pod())
    assert rig.woken == [KEY, KEY]
    assert rig.pods() == ["reports-1"]
    rig.cluster.remove(POD)
    assert rig.woken == [KEY, KEY, KEY]
    assert rig.pods() == []


def test_an_event_of_nobodys_object_wakes_nobody(rig: Rig) -> None:
    stranger = pod()
    stranger["metadata"]["labels"] = {"app.kubernetes.io/managed-by": "Helm", "qwenvl.io/name": "reports"}
    stranger["metadata"] |= {"uid": "u", "resourceVersion": "1", "creationTimestamp": "2026-11-20T12:00:00Z"}
    rig.feed.watched("ADDED", stranger)
    assert rig.woken == []


def test_events_are_counted_by_kind(rig: Rig) -> None:
    rig.cluster.watch(rig.feed.watched)
    rig.cluster.write(pod())
    sample = {"resource": "pods", "type": "ADDED"}
    assert rig.metrics.registry.get_sample_value("qwenvl_operator_watch_events_total", sample) == 1


async def test_lists_bring_back_what_the_watches_missed(rig: Rig) -> None:
    rig.cluster.watch(rig.feed.watched)
    rig.cluster.write(custom_resource())
    rig.cluster.write(pod())
    rig.cluster.holds_events = True
    rig.cluster.remove(POD)
    rig.cluster.write(pod("reports-2"))
    rig.cluster.write(custom_resource("later"))
    rig.woken.clear()
    await rig.feed.confirm()
    assert rig.pods() == ["reports-2"]
    assert set(rig.woken) == {KEY, Key("ai", "later")}
    assert rig.lists() == list(LISTED)
    assert rig.metrics.registry.get_sample_value("qwenvl_operator_resources") == 2


async def test_the_lists_are_tried_until_they_succeed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_RETRY", 0.001)
    rig.cluster.write(custom_resource())
    rig.cluster.faults = {1: Fault(BUSY), 5: Fault(BUSY)}
    await rig.feed.insist()
    assert rig.woken == [KEY]
    assert len(rig.lists()) == 1 + 4 + len(LISTED)


async def test_a_kind_that_may_not_be_listed_is_left_to_its_watch(rig: Rig) -> None:
    rig.cluster.watch(rig.feed.watched)
    rig.cluster.write(custom_resource())
    rig.cluster.write(pod())
    rig.cluster.faults = {LISTED.index(Kind.POD) + 1: Fault(FORBIDDEN)}
    await rig.feed.insist()
    assert rig.pods() == ["reports-1"]
    assert rig.lists() == list(LISTED)
    assert rig.denials.about("ai") == Permission("list", "", "pods", "")
    rig.cluster.faults.clear()
    await rig.feed.insist()
    assert rig.denials.about("ai") is None


async def test_a_namespace_that_may_not_be_listed_keeps_no_other_from_being_confirmed() -> None:
    rig = Rig(namespaces=("gone", "ai"))
    rig.cluster.watch(rig.feed.watched)
    rig.cluster.write(custom_resource())
    rig.cluster.write(pod())
    rig.cluster.holds_events = True
    rig.cluster.remove(POD)
    number = 2 * LISTED.index(Kind.POD) + 1
    rig.cluster.faults = {number: Fault(FORBIDDEN)}
    await rig.feed.insist()
    assert rig.cluster.calls[number - 1].ref == Ref(Kind.POD, "gone", "")
    assert rig.pods() == []
    assert rig.denials.about("gone") == Permission("list", "", "pods", "gone")
    assert rig.denials.about("ai") is None


async def test_a_watch_that_is_refused_wakes_the_resources_that_it_concerns(rig: Rig) -> None:
    rig.cluster.watch(rig.feed.watched)
    for namespace in ("ai", "lab"):
        manifest = custom_resource()
        rig.cluster.write({**manifest, "metadata": {**manifest["metadata"], "namespace": namespace}})
    right = Permission("watch", "", "pods", "lab")
    for granted in (False, True):
        rig.woken.clear()
        rig.feed.answered(right, granted=granted)
        rig.feed.answered(right, granted=granted)
        assert rig.woken == [Key("lab", "reports")]
    rig.woken.clear()
    rig.feed.answered(Permission("watch", "", "pods", ""), granted=False)
    assert set(rig.woken) == {KEY, Key("lab", "reports")}


async def test_while_a_right_is_lacking_it_is_looked_for_between_the_intervals(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DENIED_RETRY", 0.001)
    rig.cluster.faults = {1: Fault(FORBIDDEN)}
    await rig.feed.insist()
    assert rig.denials
    rig.cluster.forget_calls()
    rig.cluster.faults.clear()
    running = asyncio.create_task(rig.feed.run())
    await until(lambda: rig.lists() == list(LISTED))
    assert not rig.denials
    running.cancel()


async def test_a_watch_that_starts_over_is_followed_by_lists(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RELIST_DELAY", 0.0)
    rig.cluster.watch(rig.feed.watched)
    rig.cluster.write(custom_resource())
    live = rig.cluster.write(pod())
    running = asyncio.create_task(rig.feed.run())
    await asyncio.sleep(0)
    assert rig.lists() == []
    rig.cluster.holds_events = True
    rig.cluster.remove(POD)
    survivor = rig.cluster.write(pod("reports-2"))
    rig.feed.listed([survivor])
    rig.feed.answered(Permission("list", "", "pods", ""), granted=True)
    await until(lambda: rig.pods() == ["reports-2"])
    assert live["metadata"]["name"] not in rig.pods()
    running.cancel()


async def test_a_watch_that_starts_over_while_lists_are_read_is_followed_by_lists_too(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RELIST_DELAY", 0.0)
    read = rig.cluster.list

    async def interrupted(kind: Kind, *, managed: bool = True, namespace: str = "") -> list[Manifest]:
        if rig.lists() == list(LISTED[:2]):
            rig.feed.answered(Permission("list", "", "pods", ""), granted=True)
        return await read(kind, managed=managed, namespace=namespace)

    monkeypatch.setattr(rig.cluster, "list", interrupted)
    await rig.feed.confirm()
    running = asyncio.create_task(rig.feed.run())
    await until(lambda: rig.lists() == [*LISTED, *LISTED])
    running.cancel()


async def test_the_lists_come_again_at_every_interval() -> None:
    rig = Rig(interval=0.001)
    running = asyncio.create_task(rig.feed.run())
    await until(lambda: len(rig.lists()) >= 3 * len(LISTED))
    running.cancel()
