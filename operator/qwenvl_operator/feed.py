"""What keeps the store true: every event of the watches, and a list of each kind now and then."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Iterable
from contextlib import suppress

from qwenvl_operator.cluster import Cluster
from qwenvl_operator.errors import ApiError
from qwenvl_operator.metrics import Metrics
from qwenvl_operator.objects import WATCHED_KINDS, Key, Kind, Manifest, Ref
from qwenvl_operator.observed import Store
from qwenvl_operator.permissions import Denials, Permission
from qwenvl_operator.workqueue import WorkQueue

logger = logging.getLogger(__name__)

LISTED = (Kind.CR, *WATCHED_KINDS)
FIRST_RETRY = 1.0
SLOWEST_RETRY = 30.0
RELIST_DELAY = 5.0
DENIED_RETRY = 30.0


class Feed:
    """Puts what is seen into the store, and the CR that it belongs to into the queue."""

    def __init__(
        self,
        store: Store,
        cluster: Cluster,
        queue: WorkQueue,
        metrics: Metrics,
        denials: Denials,
        *,
        interval: float,
        namespaces: tuple[str, ...] = (),
    ) -> None:
        self._store = store
        self._cluster = cluster
        self._queue = queue
        self._metrics = metrics
        self._denials = denials
        self._namespaces = namespaces or ("",)
        self._interval = interval
        self._doubted = asyncio.Event()

    def listed(self, manifests: Iterable[Manifest]) -> None:
        """Take in a page of the list that a watch begins with."""
        for manifest in manifests:
            self._metrics.watched(Kind.of(manifest), "LISTED")
            # A list is confirmed soon, and every CR queued then: only news must not wait for that.
            if not self._store.knows(manifest):
                self._note(self._store.put(manifest))

    def watched(self, event: str, manifest: Manifest) -> None:
        """Take in an event of a watch: ADDED, MODIFIED or DELETED.

        One that tells of our own write counts too: what somebody else had changed just before may have come with the
        write's answer.
        """
        self._metrics.watched(Kind.of(manifest), event)
        self._note(self._store.remove(manifest) if event == "DELETED" else self._store.put(manifest))

    def answered(self, right: Permission, *, granted: bool) -> None:
        """A request of a watch was answered. A list means that it had to start over: it then says what exists, not
        what went away in the meantime, which is confirmed soon."""
        if granted and right.verb == "list":
            self._doubted.set()
        if self._denials.note(right, granted=granted):
            logger.warning("%s %s: %s", right.verb, right.resource, "granted again" if granted else right.explain())
            concerned = [key for key in self._store.keys() if right.namespace in ("", key.namespace)]  # noqa: SIM118
            for key in concerned:
                self._queue.add(key)

    def _note(self, key: Key | None) -> None:
        if key is not None:
            self._queue.add(key)

    async def confirm(self) -> None:
        """Make the store agree with one list per kind, for all CRs together, and queue every CR. Raises ApiError."""
        self._doubted.clear()  # before the lists: what a watch misses meanwhile they may still show
        for kind in LISTED:
            for namespace in self._namespaces:
                await self._confirm(kind, namespace)
        keys = self._store.keys()
        for key in keys:
            self._queue.add(key)
        self._metrics.resynced(time.time(), len(keys))
        logger.debug("caches confirmed: %d resources", len(keys))

    async def _confirm(self, kind: Kind, namespace: str) -> None:
        mark = self._store.mark()
        right = Permission("list", kind.value.group, kind.value.plural, namespace)
        listed: set[Ref] = set()
        try:
            async for page in self._cluster.pages(kind, managed=kind is not Kind.CR, namespace=namespace):
                listed |= self._store.take_in(page, mark)
        except ApiError as error:
            if error.status != 403:
                raise
            # A namespace that was deleted took our rights in it along. The others must not wait for it.
            logger.warning("not confirmed, the watch alone is relied on: %s", error)
            self._denials.note(right, granted=False)
            return
        self._denials.note(right, granted=True)
        self._store.drop_missing(kind, listed, mark, namespace)

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
        """Confirm at every interval, soon after a watch had to start over, and in between while a right is lacking."""
        while True:
            interval = min(self._interval, DENIED_RETRY) if self._denials else self._interval
            with suppress(TimeoutError):
                async with asyncio.timeout(interval * random.uniform(0.9, 1.1)):
                    await self._doubted.wait()
                    # The watches of the other kinds, cut by the same fault, start over in the same seconds.
                    await asyncio.sleep(RELIST_DELAY)
            await self.insist()
