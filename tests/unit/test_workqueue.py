"""The work queue: merging, one at a time per key, backoff, Retry-After, an orderly end."""

from __future__ import annotations

import asyncio
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenvl_operator.errors import ApiError
from qwenvl_operator.metrics import Metrics
from qwenvl_operator.objects import Key
from qwenvl_operator.workqueue import Schedule, Work, WorkQueue

A, B, C = Key("ai", "a"), Key("ai", "b"), Key("ai", "c")


def refusal(retry_after: float | None = None) -> ApiError:
    return ApiError(503, "ServiceUnavailable", "busy", call="patch deployments ai/a", retry_after=retry_after)


def test_wake_ups_merge_into_the_earliest() -> None:
    schedule = Schedule()
    schedule.add(A, 5.0)
    schedule.add(A, 2.0)
    schedule.add(A, 9.0)
    assert schedule.take(1.9, 10) == []
    assert schedule.next_due() == 2.0
    assert schedule.take(2.0, 10) == [A]
    schedule.done(A, 3.0, None)
    assert schedule.take(100.0, 10) == []


def test_the_longest_waiting_key_comes_first_and_only_as_many_as_there_is_room_for() -> None:
    schedule = Schedule()
    for key, at in ((A, 3.0), (B, 1.0), (C, 2.0)):
        schedule.add(key, at)
    assert schedule.take(5.0, 2) == [B, C]
    assert schedule.take(5.0, 0) == []
    assert schedule.depth(5.0) == 1
    assert schedule.take(5.0, 2) == [A]


def test_a_key_woken_while_it_runs_runs_once_more_afterwards() -> None:
    schedule = Schedule()
    schedule.add(A, 0.0)
    assert schedule.take(0.0, 1) == [A]
    schedule.add(A, 0.1)
    schedule.add(A, 0.2)
    assert schedule.take(1.0, 1) == []
    assert schedule.next_due() is None
    schedule.done(A, 1.0, 60.0)
    assert schedule.take(1.0, 1) == [A]
    schedule.done(A, 2.0, None)
    assert schedule.next_due() is None


def test_the_work_is_called_again_when_it_asked_to_be() -> None:
    schedule = Schedule()
    schedule.add(A, 0.0)
    schedule.take(0.0, 1)
    schedule.done(A, 10.0, 2.5)
    assert schedule.next_due() == 12.5


def test_failures_back_off_up_to_the_cap_and_success_forgives() -> None:
    schedule = Schedule(base=1.0, cap=60.0)
    backoffs = []
    now = 0.0
    for _ in range(9):
        schedule.add(A, now)
        now = max(now, schedule.next_due() or 0.0)
        assert schedule.take(now, 1) == [A]
        backoffs.append(schedule.failed(A, now, None, 0.0))
        now += backoffs[-1]
    assert backoffs == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert schedule.take(now, 1) == [A]
    schedule.done(A, now, None)
    schedule.add(A, now)
    assert schedule.take(now, 1) == [A]
    assert schedule.failed(A, now, None, 0.0) == 1.0


@given(failures=st.integers(1, 5000), jitter=st.floats(0, 1))
def test_backoff_stays_within_its_bounds(failures: int, jitter: float) -> None:
    schedule = Schedule(base=1.0, cap=60.0)
    schedule._failures[A] = failures - 1
    assert 0.5 <= schedule.failed(A, 0.0, None, jitter) <= 60.0


def test_a_wake_up_cuts_a_backoff_short_but_not_to_a_tight_loop() -> None:
    schedule = Schedule(base=1.0, cap=60.0)
    for now in (0.0, 100.0, 200.0, 300.0):
        schedule.add(A, now)
        schedule.take(now, 1)
        schedule.failed(A, now, None, 0.0)
    assert schedule.next_due() == 308.0
    schedule.add(A, 300.1)
    assert schedule.next_due() == 301.0


def test_nothing_undercuts_what_the_server_asked_for() -> None:
    schedule = Schedule()
    schedule.add(A, 0.0)
    schedule.take(0.0, 1)
    schedule.add(A, 0.5)
    assert schedule.failed(A, 1.0, 30.0, 0.25) == 30.25
    schedule.add(A, 2.0)
    assert schedule.next_due() == 31.0
    assert schedule.take(30.9, 1) == []
    assert schedule.take(31.0, 1) == [A]


class Recorder:
    """Work that says when it runs, and ends when it is let go."""

    def __init__(self) -> None:
        self.started: list[Key] = []
        self.running: set[Key] = set()
        self.most_at_once = 0
        self.gate = asyncio.Event()
        self.began = asyncio.Condition()

    async def __call__(self, key: Key) -> float | None:
        assert key not in self.running, "two reconciles of one key at a time"
        self.running.add(key)
        self.started.append(key)
        self.most_at_once = max(self.most_at_once, len(self.running))
        async with self.began:
            self.began.notify_all()
        try:
            await self.gate.wait()
        finally:
            self.running.discard(key)
        return None

    async def wait_for(self, count: int) -> None:
        async with self.began:
            await self.began.wait_for(lambda: len(self.started) >= count)


async def ended(queue: WorkQueue, running: asyncio.Task[None]) -> None:
    queue.stop()
    await running


def queue_of(work: Work, workers: int = 8, deadline: float = 5.0) -> WorkQueue:
    return WorkQueue(work, Metrics(), workers=workers, deadline=deadline, schedule=Schedule(base=0.001, cap=0.002))


async def test_work_added_before_the_start_is_done_and_a_wake_up_during_it_is_not_lost() -> None:
    work = Recorder()
    queue = queue_of(work)
    queue.add(A)
    queue.add(A)
    running = asyncio.create_task(queue.run())
    await work.wait_for(1)
    queue.add(A)
    work.gate.set()
    await work.wait_for(2)
    await ended(queue, running)
    assert work.started == [A, A]


async def test_keys_run_side_by_side_up_to_the_number_of_workers() -> None:
    work = Recorder()
    queue = queue_of(work, workers=2)
    for key in (A, B, C):
        queue.add(key)
    running = asyncio.create_task(queue.run())
    await work.wait_for(2)
    await asyncio.sleep(0)
    assert work.started == [A, B]
    work.gate.set()
    await work.wait_for(3)
    await ended(queue, running)
    assert work.most_at_once == 2


async def test_a_failing_key_is_tried_again_and_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[Key] = []
    done = asyncio.Event()

    async def work(key: Key) -> float | None:
        calls.append(key)
        if key == A and calls.count(A) == 1:
            raise refusal()
        if key == A and calls.count(A) == 2:
            raise ValueError("a bug")
        if calls.count(A) == 3 and calls.count(B) == 1:
            done.set()
        return None

    metrics = Metrics()
    queue = WorkQueue(work, metrics, schedule=Schedule(base=0.001, cap=0.002))
    queue.add(A)
    queue.add(B)
    running = asyncio.create_task(queue.run())
    with caplog.at_level(logging.WARNING):
        await done.wait()
        await ended(queue, running)
    first, second = caplog.records
    assert "patch deployments ai/a: 503 ServiceUnavailable: busy" in first.getMessage()
    assert first.exc_info is None
    assert second.exc_info is not None
    assert metrics.registry.get_sample_value("qwenvl_operator_reconciles_total", {"result": "error"}) == 2
    assert metrics.registry.get_sample_value("qwenvl_operator_reconciles_total", {"result": "success"}) == 2


async def test_work_that_hangs_is_given_up_at_its_deadline() -> None:
    calls = 0
    done = asyncio.Event()

    async def work(_: Key) -> float | None:
        nonlocal calls
        calls += 1
        if calls == 1:
            await asyncio.Event().wait()
        done.set()
        return None

    queue = queue_of(work, deadline=0.01)
    queue.add(A)
    running = asyncio.create_task(queue.run())
    await done.wait()
    await ended(queue, running)
    assert calls == 2


async def test_stopping_lets_running_work_finish_and_starts_no_more() -> None:
    work = Recorder()
    queue = queue_of(work, workers=1)
    queue.add(A)
    queue.add(B)
    running = asyncio.create_task(queue.run())
    await work.wait_for(1)
    assert queue.is_busy()
    queue.stop()
    work.gate.set()
    await running
    assert work.started == [A]
    assert not queue.is_busy()


async def test_cancelling_cancels_the_work() -> None:
    work = Recorder()
    queue = queue_of(work)
    queue.add(A)
    running = asyncio.create_task(queue.run())
    await work.wait_for(1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not work.running
