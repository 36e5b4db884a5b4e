"""The lease: who may work when, by the local clock alone."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from qwenvl_operator.errors import ApiError
from qwenvl_operator.lease import Claim, Lease, LeaseLost, Timing, decide, renewed_record
from qwenvl_operator.objects import Manifest, Ref

TIMING = Timing(duration=15.0, renew_deadline=10.0, retry=2.0)
FAST = Timing(duration=15.0, renew_deadline=10.0, retry=0.0)
WHEN = datetime(2026, 11, 20, 12, 0, 0, 250, tzinfo=UTC)


def lease_of(holder: str, duration: int = 15, **record: Any) -> Manifest:
    return {
        "metadata": {"resourceVersion": "1"},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": duration, **record},
    }


@pytest.mark.parametrize(
    ("lease", "unchanged", "claim"),
    [
        (None, 0.0, Claim.CREATE),
        ({"metadata": {}}, 0.0, Claim.TAKE),
        (lease_of(""), 0.0, Claim.TAKE),
        (lease_of("me"), 0.0, Claim.RENEW),
        (lease_of("me"), 1000.0, Claim.RENEW),
        (lease_of("other"), 0.0, Claim.WAIT),
        (lease_of("other"), 15.0, Claim.WAIT),
        (lease_of("other"), 15.1, Claim.TAKE),
        # The holder's own duration counts, not ours.
        (lease_of("other", duration=60), 59.0, Claim.WAIT),
        # Times in the record are another machine's, and decide nothing.
        (lease_of("other", renewTime="1970-01-01T00:00:00.000000Z"), 1.0, Claim.WAIT),
        (lease_of("other", renewTime="2999-01-01T00:00:00.000000Z"), 16.0, Claim.TAKE),
    ],
)
def test_decision(lease: Manifest | None, unchanged: float, claim: Claim) -> None:
    assert decide(lease, identity="me", unchanged=unchanged, timing=TIMING) is claim


def test_the_record_of_a_new_holder_and_of_the_same_one() -> None:
    first = renewed_record({}, identity="me", now=WHEN, timing=TIMING)
    assert first == {
        "holderIdentity": "me",
        "leaseDurationSeconds": 15,
        "acquireTime": "2026-11-20T12:00:00.000250Z",
        "renewTime": "2026-11-20T12:00:00.000250Z",
        "leaseTransitions": 0,
    }
    later = WHEN.replace(second=2)
    renewed = renewed_record(first, identity="me", now=later, timing=TIMING)
    assert renewed == {**first, "renewTime": "2026-11-20T12:00:02.000250Z"}
    taken = renewed_record(renewed, identity="other", now=later, timing=TIMING)
    assert (taken["holderIdentity"], taken["leaseTransitions"]) == ("other", 1)
    assert taken["acquireTime"] == taken["renewTime"]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Server:
    """One lease, guarded by its resource version; `trouble` is called before each request."""

    def __init__(self) -> None:
        self.lease: Manifest | None = None
        self.version = 0
        self.requests: list[str] = []
        self.trouble: Callable[[], None] = lambda: None

    async def get(self, ref: Ref) -> Manifest | None:
        self.requests.append("get")
        self.trouble()
        return copy.deepcopy(self.lease)

    async def create(self, manifest: Manifest) -> Manifest:
        self.requests.append("create")
        self.trouble()
        if self.lease is not None:
            raise ApiError(409, "AlreadyExists", "there is one", call="create leases")
        return self._store(manifest)

    async def replace(self, manifest: Manifest) -> Manifest:
        self.requests.append("update")
        self.trouble()
        if self.lease is None:
            raise ApiError(404, "NotFound", "there is none", call="update leases")
        if manifest["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "it has changed", call="update leases")
        return self._store(manifest)

    def change(self, **record: Any) -> None:
        """Somebody else's write."""
        assert self.lease is not None
        self._store({**self.lease, "spec": {**self.lease["spec"], **record}})

    def _store(self, manifest: Manifest) -> Manifest:
        self.version += 1
        metadata = {**manifest["metadata"], "resourceVersion": str(self.version)}
        self.lease = {**copy.deepcopy(manifest), "metadata": metadata}
        return copy.deepcopy(self.lease)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def candidate(server: Server, clock: Clock, identity: str, timing: Timing = FAST) -> Lease:
    return Lease(server, namespace="system", name="qwenvl-operator", identity=identity, timing=timing, clock=clock)


async def test_the_first_candidate_gets_it_and_the_second_waits(server: Server, clock: Clock) -> None:
    first, second = candidate(server, clock, "first"), candidate(server, clock, "second")
    await first.acquire()
    assert first.is_held()
    waiting = asyncio.create_task(second.acquire())
    for _ in range(50):
        clock.now += 1.0
        assert await first._try()
        await asyncio.sleep(0.0)
    assert first.is_held()
    assert not second.is_held()
    waiting.cancel()


async def test_a_dead_holder_is_replaced_after_the_duration_and_not_before(server: Server, clock: Clock) -> None:
    first, second = candidate(server, clock, "first"), candidate(server, clock, "second")
    await first.acquire()
    assert not await second._try()
    clock.now += 15.0
    assert not await second._try()
    # The old holder has stopped to trust the lease long before.
    assert not first.is_held()
    clock.now += 0.1
    assert await second._try()
    assert second.is_held()
    assert server.lease is not None
    assert server.lease["spec"]["leaseTransitions"] == 1


async def test_a_candidate_starts_counting_when_it_first_looks(server: Server, clock: Clock) -> None:
    await candidate(server, clock, "first").acquire()
    clock.now += 1000.0
    second = candidate(server, clock, "second")
    assert not await second._try()
    clock.now += 14.0
    assert not await second._try()


async def test_a_label_on_the_lease_is_no_sign_of_life(server: Server, clock: Clock) -> None:
    await candidate(server, clock, "first").acquire()
    second = candidate(server, clock, "second")
    assert not await second._try()
    clock.now += 10.0
    server.change()
    assert not await second._try()
    clock.now += 5.1
    assert await second._try()


async def test_of_two_that_take_it_at_once_one_gets_it(server: Server, clock: Clock) -> None:
    first, second = candidate(server, clock, "first"), candidate(server, clock, "second")
    results = await asyncio.gather(first._try(), second._try())
    assert sorted(results) == [False, True]


async def test_the_holder_of_the_same_name_goes_on_after_a_restart(server: Server, clock: Clock) -> None:
    await candidate(server, clock, "pod-a").acquire()
    assert await candidate(server, clock, "pod-a")._try()


async def test_renewal_outlives_failures_shorter_than_the_deadline(server: Server, clock: Clock) -> None:
    lease = candidate(server, clock, "me")
    await lease.acquire()

    def trouble() -> None:
        clock.now += 3.0
        if clock.now < 1009.5:
            raise ApiError(503, "ServiceUnavailable", "restarting", call="update leases")

    server.trouble = trouble
    while clock.now < 1012.0:
        await lease._try()
    assert lease.is_held()


async def test_a_lease_that_cannot_be_renewed_is_lost_before_others_may_take_it(server: Server, clock: Clock) -> None:
    lease = candidate(server, clock, "me")
    await lease.acquire()

    def trouble() -> None:
        clock.now += 1.0
        raise ApiError(0, "ClientConnectorError", "refused", call="update leases")

    server.trouble = trouble
    with pytest.raises(LeaseLost):
        await lease.keep()
    assert clock.now - 1000.0 < TIMING.duration


class HangingServer(Server):
    """Takes the first request and answers no other."""

    async def replace(self, manifest: Manifest) -> Manifest:
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_request_that_hangs_does_not_hold_up_the_deadline() -> None:
    lease = Lease(
        HangingServer(), namespace="system", name="qwenvl-operator", identity="me", timing=Timing(0.2, 0.06, 0.01)
    )
    await lease.acquire()
    async with asyncio.timeout(1):
        with pytest.raises(LeaseLost):
            await lease.keep()


async def test_a_lease_that_another_process_took_is_lost_at_once(server: Server, clock: Clock) -> None:
    lease = candidate(server, clock, "me")
    await lease.acquire()
    server.change(holderIdentity="other")
    with pytest.raises(LeaseLost, match="last seen with other"):
        await lease.keep()
    assert clock.now == 1000.0


async def test_a_lease_that_somebody_deleted_is_lost_at_once(server: Server, clock: Clock) -> None:
    lease = candidate(server, clock, "me")
    await lease.acquire()
    server.lease = None
    with pytest.raises(LeaseLost):
        await lease.keep()


async def test_a_changed_version_with_the_same_holder_is_no_loss(server: Server, clock: Clock) -> None:
    lease = candidate(server, clock, "me")
    await lease.acquire()
    server.change()
    assert not await lease._try()
    assert lease.is_held()
    assert await lease._try()


async def test_at_rest_a_renewal_is_one_request(server: Server, clock: Clock) -> None:
    lease = candidate(server, clock, "me")
    await lease.acquire()
    server.requests.clear()
    for _ in range(5):
        clock.now += 2.0
        await lease._try()
    assert server.requests == ["update"] * 5


async def test_a_frozen_process_does_not_trust_its_lease_when_it_wakes(server: Server, clock: Clock) -> None:
    lease = candidate(server, clock, "me")
    await lease.acquire()
    clock.now += 60.0
    assert not lease.is_held()
    with pytest.raises(LeaseLost):
        await lease.keep()


async def test_a_released_lease_is_free_at_once(server: Server, clock: Clock) -> None:
    first, second = candidate(server, clock, "first"), candidate(server, clock, "second")
    await first.acquire()
    assert not await second._try()
    await first.release()
    assert not first.is_held()
    assert await second._try()


async def test_only_the_holder_releases(server: Server, clock: Clock) -> None:
    first, second = candidate(server, clock, "first"), candidate(server, clock, "second")
    await first.acquire()
    await second._try()
    await second.release()
    assert first.is_held()
    assert server.lease is not None
    assert server.lease["spec"]["holderIdentity"] == "first"
