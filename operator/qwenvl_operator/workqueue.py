"""The work queue: which CR is due when, one reconcile per CR at a time, and a backoff for each that fails."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from qwenvl_operator.errors import ApiError
from qwenvl_operator.metrics import Metrics
from qwenvl_operator.objects import Key

logger = logging.getLogger(__name__)

Work = Callable[[Key], Awaitable[float | None]]
"""Does the work of a key; says after how many seconds it wants to be called again."""


class Schedule:
    """When each key is due: pure. A key that is worked on is not due again before it is done."""

    def __init__(self, *, base: float = 1.0, cap: float = 60.0) -> None:
        self._base = base
        self._cap = cap
        self._due: dict[Key, float] = {}
        self._not_before: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}
        self.running: set[Key] = set()

    def add(self, key: Key, at: float) -> None:
        """Make a key due, merged with what is due already. A wake-up does not undercut what the server asked for."""
        at = max(at, self._not_before.get(key, at))
        self._due[key] = min(at, self._due.get(key, at))

    def take(self, now: float, most: int) -> list[Key]:
        """Start on the keys that are due, longest waiting first."""
        taken = sorted(self._ready(now), key=lambda key: self._due[key])[: max(most, 0)]
        for key in taken:
            del self._due[key]
            self._not_before.pop(key, None)
            self.running.add(key)
        return taken

    def done(self, key: Key, now: float, again: float | None) -> None:
        """The work of a key succeeded, and wants to be done again after so many seconds."""
        self.running.discard(key)
        self._failures.pop(key, None)
        if again is not None:
            self.add(key, now + again)

    def failed(self, key: Key, now: float, retry_after: float | None, jitter: float) -> float:
        """The work of a key failed: due again after a backoff, which is returned. `jitter` is between 0 and 1.

        A wake-up in the meantime, which may bring the cure, is heard after `base` seconds: a reconcile that fails
        after a write would else wake itself in a tight loop.
        """
        self.running.discard(key)
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        backoff: float = min(self._cap, self._base * 2.0 ** min(failures - 1, 30)) * (1 - jitter / 2)
        if retry_after is not None:
            backoff = retry_after + jitter
        self._not_before[key] = now + (min(backoff, self._base) if retry_after is None else retry_after)
        pending = self._due.pop(key, None)
        self.add(key, now + backoff if pending is None else min(pending, now + backoff))
        return backoff

    def depth(self, now: float) -> int:
        """How many keys are due and not worked on."""
        return len(self._ready(now))

    def next_due(self) -> float | None:
        """When the next key that is not worked on is due."""
        return min((at for key, at in self._due.items() if key not in self.running), default=None)

    def _ready(self, now: float) -> list[Key]:
        return [key for key, at in self._due.items() if at <= now and key not in self.running]


class WorkQueue:
    """Runs the work of due keys, a bounded number at a time. `add` may be called before `run`."""

    def __init__(
        self,
        work: Work,
        metrics: Metrics,
        *,
        workers: int = 8,
        deadline: float = 300.0,
        schedule: Schedule | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._work = work
        self._metrics = metrics
        self._workers = workers
        self._deadline = deadline
        self._schedule = schedule or Schedule()
        self._now = now
        self._changed = asyncio.Event()
        self._stopping = False

    def add(self, key: Key) -> None:
        """Reconcile this CR soon; once more if it is being reconciled right now."""
        self.add_after(key, 0.0)

    def add_after(self, key: Key, seconds: float) -> None:
        self._schedule.add(key, self._now() + seconds)
        self._changed.set()

    def stop(self) -> None:
        """Start no more work; `run` returns when the running work has ended."""
        self._stopping = True
        self._changed.set()

    def is_busy(self) -> bool:
        """Whether any work is running."""
        return bool(self._schedule.running)

    async def run(self) -> None:
        """Work until stopped. Cancelled, it cancels what runs."""
        async with asyncio.TaskGroup() as group:
            while not self._stopping:
                self._changed.clear()
                free = self._workers - len(self._schedule.running)
                for key in self._schedule.take(self._now(), free):
                    group.create_task(self._run(key), name=f"reconcile {key.namespace}/{key.name}")
                self._metrics.waiting(self._schedule.depth(self._now()))
                await self._pause()

    async def _pause(self) -> None:
        """Until something changed or the next key is due; with no worker free, until one is."""
        due = self._schedule.next_due()
        has_room = len(self._schedule.running) < self._workers
        delay = max(due - self._now(), 0.0) if due is not None and has_room else None
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._changed.wait()

    async def _run(self, key: Key) -> None:
        started = self._now()
        failure: Exception | None = None
        again: float | None = None
        try:
            async with asyncio.timeout(self._deadline):
                again = await self._work(key)
        except Exception as error:  # the outermost loop of a reconcile: nothing that one CR does may stop the others
            failure = error
        now = self._now()
        self._metrics.reconciled(now - started, failed=failure is not None)
        if failure is None:
            self._schedule.done(key, now, again)
        else:
            retry_after = failure.retry_after if isinstance(failure, ApiError) else None
            backoff = self._schedule.failed(key, now, retry_after, random.random())
            _log_failure(key, failure, backoff)
        self._changed.set()


def _log_failure(key: Key, failure: Exception, backoff: float) -> None:
    about = {"object": f"{key.namespace}/{key.name}"}
    if isinstance(failure, ApiError):
        logger.warning("reconcile failed, next try in %.1f s: %s", backoff, failure, extra=about)
    else:
        logger.error("reconcile failed, next try in %.1f s", backoff, exc_info=failure, extra=about)
