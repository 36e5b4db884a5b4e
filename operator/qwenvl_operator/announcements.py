"""Says what is: writes the statuses that have changed, and an Event where what is said of Ready changes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from qwenvl_operator.causes import CRASHES, explain_refusal
from qwenvl_operator.cluster import Cluster
from qwenvl_operator.errors import ApiError
from qwenvl_operator.events import build_event
from qwenvl_operator.objects import Key, Manifest
from qwenvl_operator.observed import Store
from qwenvl_operator.patience import Patience
from qwenvl_operator.reasons import Reason
from qwenvl_operator.status import Status, find_condition, is_same

# Worth a Warning although it may pass by itself.
TROUBLES = (
    *CRASHES,
    Reason.APPLY_REFUSED,
    Reason.CONTAINER_REFUSED,
    Reason.ENGINE_SLOW,
    Reason.NODE_LOST,
    Reason.READINESS_LOST,
    Reason.WAITING_FOR_GPU,
    Reason.UNSCHEDULABLE,
    Reason.VOLUME_UNAVAILABLE,
)
# After so many in a row status cannot be written: then an Event is all that can say it.
REFUSALS = 3

logger = logging.getLogger(__name__)


class Announcements:
    """What was said of each CR, and what is held back for a moment. What is written is known at once."""

    def __init__(
        self, store: Store, cluster: Cluster, identity: str, now: Callable[[], float], patience: Patience
    ) -> None:
        self._store = store
        self._cluster = cluster
        self._identity = identity
        self._now = now
        self._patience = patience
        self._refusals: Counter[Key] = Counter()

    def newest(self, key: Key, cr: Manifest) -> Status:
        """The status that was derived last, told or not."""
        return self._patience.newest(key, cr.get("status", {}))

    def forget(self, key: Key) -> None:
        self._patience.forget(key)
        del self._refusals[key]

    async def say(self, key: Key, cr: Manifest, status: Status) -> float | None:
        """Write the status if it changed. Returns the seconds after which to look again where that is held back, and
        raises ApiError."""
        previous = cr.get("status", {})
        has_changed = not is_same(previous, status)
        if has_changed and (wait := self._patience.hold(key, previous, status, self._now())):
            return wait
        if has_changed:
            await self._write(key, cr, status)
            await self._tell(key, cr, find_condition(previous, "Ready"), status)
        self._patience.forget(key)
        return None

    async def warn(self, key: Key, cr: Manifest, reason: Reason, message: str) -> None:
        """An Event about what is done now, whatever status says then."""
        logger.warning("%s/%s: %s: %s", *key, reason, message)
        await self._record(key, cr, "Warning", reason, message)

    async def _write(self, key: Key, cr: Manifest, status: Status) -> None:
        metadata = cr["metadata"]
        identity = {"name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"]}
        manifest = {"apiVersion": cr["apiVersion"], "kind": cr["kind"], "metadata": identity, "status": status}
        try:
            self._store.put(await self._cluster.apply_status(manifest))
        except ApiError as error:
            if error.is_refusal or error.is_fault:
                await self._tell_refusal(key, cr, error)
            raise
        del self._refusals[key]

    async def _tell_refusal(self, key: Key, cr: Manifest, error: ApiError) -> None:
        """Once, and not at the first: most pass by themselves."""
        self._refusals[key] += 1
        if self._refusals[key] == REFUSALS:
            await self.warn(key, cr, *explain_refusal(error))

    async def _tell(self, key: Key, cr: Manifest, before: Status, status: Status) -> None:
        after = find_condition(status, "Ready")
        # A change on its way to the Deployment controller is no news for a person.
        if after["reason"] == Reason.APPLYING or _said(before) == _said(after):
            return
        logger.info("%s/%s: %s: %s", *key, after["reason"], after["message"])
        troubled = find_condition(status, "Stalled")["status"] == "True" or after["reason"] in TROUBLES
        await self._record(key, cr, "Warning" if troubled else "Normal", after["reason"], after["message"])

    async def _record(self, key: Key, cr: Manifest, kind: str, reason: str, message: str) -> None:
        event = build_event(cr, kind, reason, message, now=self._now(), instance=self._identity)
        try:
            await self._cluster.create_event(event)
        except ApiError as error:
            # It is in the log, and of a change in status as well; nothing waits for an Event.
            logger.warning("%s/%s: no Event: %s", *key, error)


def _said(condition: Status) -> tuple[str | None, str | None]:
    return condition.get("status"), condition.get("reason")
