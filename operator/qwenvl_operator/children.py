"""Writes the children of CRs, and slowly those that somebody else keeps changing."""

from __future__ import annotations

import logging
from collections.abc import Callable

from qwenvl_operator.cluster import Cluster
from qwenvl_operator.conflicts import Conflicts, explain
from qwenvl_operator.custom_resource import wants_no_pods
from qwenvl_operator.desired import emptied
from qwenvl_operator.objects import Key, Manifest, Ref, ref_of
from qwenvl_operator.observed import Store
from qwenvl_operator.plan import Injected, Path, build_emptying, differs, find_additions

logger = logging.getLogger(__name__)


class Children:
    """What is written is known at once, before a watch tells of it. Every call raises ApiError."""

    def __init__(self, store: Store, cluster: Cluster, now: Callable[[], float]) -> None:
        self._store = store
        self._cluster = cluster
        self._now = now
        self.conflicts = Conflicts()
        self._injected: dict[Key, dict[Ref, frozenset[Path]]] = {}

    def injected(self, key: Key) -> Injected:
        return self._injected.get(key, {})

    def forget(self, key: Key) -> None:
        self.conflicts.forget(key)
        self._injected.pop(key, None)

    async def apply(self, key: Key, manifest: Manifest) -> bool:
        """Returns whether the child is as desired then: a webhook may see to it that it is not."""
        _log(key, "apply", manifest)
        live, ref = await self._cluster.apply(manifest), ref_of(manifest)
        if added := find_additions(live, manifest):
            # An apply takes nothing out of what has entries of others; what comes back then is a webhook's to add.
            live = await self._cluster.empty(ref, build_emptying(added))
            added = find_additions(live, manifest)
        self._store.put(live)
        if added or ref in self.injected(key):
            self._injected.setdefault(key, {})[ref] = added
        return not differs(manifest, live, added)

    async def repair(self, key: Key, manifest: Manifest) -> bool:
        """Apply a child that is not as desired, unless it is fought about and was repaired just now."""
        now, conflict = self._now(), ""
        if not self.conflicts.may_repair(key, manifest, now):
            return True
        if self.conflicts.is_one_too_many(key, manifest, now):
            contested = await self._cluster.get(ref_of(manifest))
            conflict = explain(manifest, contested) if contested else ""
        has_stayed = await self.apply(key, manifest)
        self.conflicts.repaired(key, manifest, now, conflict)
        return has_stayed

    async def delete(self, key: Key, live: Manifest) -> None:
        _log(key, "delete", live)
        await self._cluster.delete(ref_of(live), live["metadata"]["uid"])
        self._store.remove(live)

    async def suspend(self, key: Key) -> None:
        """Take the pods away if the CR asks for none, although nothing else that it asks for can be done."""
        observed = self._store.observe(key)
        live = observed.deployment() if observed else None
        if observed and live and live["spec"].get("replicas") and wants_no_pods(observed.cr):
            _log(key, "empty", live)
            self._store.put(await self._cluster.apply(emptied(live)))


def _log(key: Key, verb: str, manifest: Manifest) -> None:
    logger.info("%s/%s: %s %s %s", *key, verb, manifest["kind"], manifest["metadata"]["name"])
