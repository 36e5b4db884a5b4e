"""The leader: nothing is worked on without the lease, and nothing after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from memory_cluster import Fault, MemoryCluster
from waiting import until

from qwenvl_operator.errors import ApiError
from qwenvl_operator.feed import LISTED, Feed
from qwenvl_operator.leader import Leader
from qwenvl_operator.lease import Lease, LeaseLost, Timing
from qwenvl_operator.metrics import Metrics
from qwenvl_operator.objects import Key, Kind, Manifest, Ref
from qwenvl_operator.observed import Store
from qwenvl_operator.permissions import Denials
from qwenvl_operator.workqueue import WorkQueue

KEY = Key("ai", "reports")
LEASE = Ref(Kind.LEASE, "system", "qwenvl-operator")
FAST = Timing(duration=1.0, renew_deadline=0.5, retry=0.001)
CR: Manifest = {
    "apiVersion": "qwenvl.io/v1alpha1",
    "kind": "QwenVLDeployment",
    "metadata": {"name": KEY.name, "namespace": KEY.namespace},
    "spec": {},
}


class Candidate:
    """One operator on a shared cluster, whose work waits to be let go."""

    def __init__(self, cluster: MemoryCluster, identity: str) -> None:
        self.worked: list[Key] = []
        self.finished: list[Key] = []
        self.at_work = asyncio.Event()
        self.let_go = asyncio.Event()
        self.metrics = Metrics()
        self.lease = Lease(cluster, namespace="system", name="qwenvl-operator", identity=identity, timing=FAST)
        self.queue = WorkQueue(self._work, self.metrics)
        feed = Feed(Store(), cluster, self.queue, self.metrics, Denials(), interval=3600.0)
        cluster.watch(feed.watched)
        self.leader = Leader(self.lease, feed, self.queue, self.metrics, grace=1.0)
        self.running = asyncio.create_task(self.leader.run())

    async def _work(self, key: Key) -> float | None:
        self.worked.append(key)
        self.at_work.set()
        await self.let_go.wait()
        self.finished.append(key)
        return None

    def leads(self) -> bool:
        return self.metrics.registry.get_sample_value("qwenvl_operator_leader") == 1.0


@pytest.fixture
def cluster() -> MemoryCluster:
    return MemoryCluster()


@pytest.fixture
async def first(cluster: MemoryCluster) -> AsyncIterator[Candidate]:
    cluster.write(CR)
    candidate = Candidate(cluster, "first")
    await asyncio.wait_for(candidate.at_work.wait(), 1)
    yield candidate
    candidate.let_go.set()
    await candidate.leader.stop(candidate.running)


async def test_work_begins_after_a_list_of_every_kind(cluster: MemoryCluster, first: Candidate) -> None:
    assert first.leads()
    assert first.worked == [KEY]
    lists = [call.ref.kind for call in cluster.calls if call.verb == "list"]
    assert lists == list(LISTED)


async def test_the_second_does_nothing_until_the_first_has_stopped(cluster: MemoryCluster, first: Candidate) -> None:
    second = Candidate(cluster, "second")
    stopping = asyncio.create_task(first.leader.stop(first.running))
    renewals = len(cluster.writes())
    await until(lambda: len(cluster.writes()) >= renewals + 3)
    # The first still writes what it was about to write, and holds the lease meanwhile.
    assert not stopping.done()
    assert not second.leads()
    assert second.worked == []
    first.let_go.set()
    await stopping
    assert first.finished == [KEY]
    assert not first.leads()
    await asyncio.wait_for(second.at_work.wait(), 1)
    assert second.leads()
    second.let_go.set()
    await second.leader.stop(second.running)
    assert cluster.read(LEASE)["spec"]["holderIdentity"] == ""


async def test_a_lost_lease_ends_the_work_at_once(cluster: MemoryCluster, first: Candidate) -> None:
    cluster.edit(LEASE, lambda live: live["spec"].update(holderIdentity="other"))
    with pytest.raises(LeaseLost):
        await asyncio.wait_for(asyncio.shield(first.running), 1)
    assert first.finished == []
    assert not first.leads()
    await first.leader.stop(first.running)
    assert cluster.read(LEASE)["spec"]["holderIdentity"] == "other"


async def test_an_api_server_that_is_away_for_longer_ends_it_too(cluster: MemoryCluster, first: Candidate) -> None:
    away = ApiError(0, "ClientConnectorError", "refused", call="update leases")
    start = len(cluster.calls)
    cluster.faults = {number: Fault(away) for number in range(start + 1, start + 100_000)}
    with pytest.raises(LeaseLost):
        await asyncio.wait_for(asyncio.shield(first.running), 3)


async def test_stopped_while_it_waits_it_ends_at_once(cluster: MemoryCluster, first: Candidate) -> None:
    second = Candidate(cluster, "second")
    await asyncio.sleep(0)
    async with asyncio.timeout(0.5):
        await second.leader.stop(second.running)
    assert cluster.read(LEASE)["spec"]["holderIdentity"] == "first"
    assert first.leads()
