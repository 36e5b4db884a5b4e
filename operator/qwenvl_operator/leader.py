"""What a process does because it holds the lease, and that it stops when it no longer does."""

from __future__ import annotations

import asyncio

from qwenvl_operator.feed import Feed
from qwenvl_operator.lease import Lease
from qwenvl_operator.metrics import Metrics
from qwenvl_operator.workqueue import WorkQueue


class Leader:
    """Waits for the lease, has the caches confirmed, then works off the queue."""

    def __init__(self, lease: Lease, feed: Feed, queue: WorkQueue, metrics: Metrics, *, grace: float = 10.0) -> None:
        self._lease = lease
        self._feed = feed
        self._queue = queue
        self._metrics = metrics
        self._grace = grace

    async def run(self) -> None:
        """Returns when the queue was stopped; raises LeaseLost when the lease is lost."""
        await self._lease.acquire()
        self._metrics.leads(True)
        try:
            async with asyncio.TaskGroup() as group:
                keeping = [group.create_task(self._lease.keep(), name="lease keeper")]
                await self._feed.insist()
                keeping.append(group.create_task(self._feed.run(), name="resync"))
                await self._queue.run()
                for task in keeping:
                    task.cancel()
        except ExceptionGroup as failures:
            # The first one cancelled the rest.
            raise failures.exceptions[0] from None
        finally:
            self._metrics.leads(False)

    async def stop(self, running: asyncio.Task[None]) -> None:
        """End the task of `run` in order: let running reconciles finish, then give the lease away."""
        self._queue.stop()
        if self._queue.is_busy():
            await asyncio.wait([running], timeout=self._grace)
        running.cancel()
        await asyncio.wait([running])
        await self._lease.release()
