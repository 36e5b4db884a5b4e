"""What keeps the store true: every event of the watches, and a list of each kind now and then."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from contextlib import suppress

from qwenvl_operator.cluster import Cluster
from qwenvl_operator.errors import ApiError
from qwenvl_operator.metrics import Metrics
from qwenvl_operator.objects import WATCHED_KINDS, Kind, Manifest
from qwenvl_operator.observed import Store
from qwenvl_operator.workqueue import WorkQueue

logger = logging.getLogger(__name__)

LISTED = (Kind.CR, *WATCHED_KINDS)
FIRST_RETRY = 1.0
SLOWEST_RETRY = 30.0
RELIST_DELAY = 5.0


class Feed:
    """Puts what is seen into the store, and the CR that it belongs to into the queue."""

    def __init__(self, store: Store, cluster: Cluster, queue: WorkQueue, metrics: Metrics, *, interval: float) -> None:
        self._store = store
        self._cluster = cluster
        self._queue = queue
        self._metrics = metrics
        self._interval = interval
        self._doubted = asyncio.Event()

    def watched(self, event: str | None, manifest: Manifest) -> None:
        """Take in an event of a watch: ADDED, MODIFIED, DELETED, or None for an item of its first list."""
        self._metrics.watched(Kind.of(manifest), event or "LISTED")
        key = self._store.remove(manifest) if event == "DELETED" else self._store.put(manifest)
        if key is not None:
            self._queue.add(key)

    def doubt(self) -> None:
        """Something may have gone away unseen: confirm soon."""
        self._doubted.set()

    async def confirm(self) -> None:
        """Make the store agree with one list per kind, for all CRs together, and queue every CR. Raises ApiError."""
        for kind in LISTED:
            await self._confirm(kind)
        keys = self._store.keys()
        for key in keys:
            self._queue.add(key)
        self._metrics.resynced(time.time(), len(keys))
        logger.debug("caches confirmed: %d resources", len(keys))

    async def _confirm(self, kind: Kind) -> None:
        mark = self._store.mark()
        try:
            manifests = await self._cluster.list(kind, managed=kind is not Kind.CR)
        except ApiError as error:
            if error.status != 403:
                raise
            # A namespace that was deleted took our rights in it along. The others must not wait for it.
            logger.warning("not confirmed, the watch alone is relied on: %s", error)
            return
        self._store.replace(kind, manifests, mark)

    async def insist(self) -> None:
        """Confirm, however long the API server takes to answer."""
        delay = FIRST_RETRY
        while True:
            try:
                return await self.confirm()
            except ApiError as error:
                wait = max(delay * random.uniform(0.5, 1.0), error.retry_after or 0.0)
                logger.warning("caches not confirmed, next try in %.1f s: %s", wait, error)
                await asyncio.sleep(wait)
                delay = min(delay * 2, SLOWEST_RETRY)

    async def run(self) -> None:
        """Confirm at every interval, and soon after a watch had to start over."""
        while True:
            self._doubted.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval * random.uniform(0.9, 1.1)):
                    await self._doubted.wait()
                    # The watches of the other kinds, cut by the same fault, start over in the same seconds.
                    await asyncio.sleep(RELIST_DELAY)
            await self.insist()
