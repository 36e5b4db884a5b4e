"""One operator at work at a time, by a coordination.k8s.io/Lease.

How long another holder may still be at work is judged by when this process saw its record change, on this process's
own clock: the times written in the record are another machine's and are read by people alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Protocol

from qwenvl_operator.errors import ApiError
from qwenvl_operator.objects import Kind, Manifest, Ref

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Timing:
    """Seconds. The holder gives up well before anybody else may take over."""

    duration: float = 15.0
    renew_deadline: float = 10.0
    retry: float = 2.0


class LeaseLost(Exception):  # noqa: N818 - what happened, not a fault
    """This process may not work any more: another one is at work, or may be."""


class LeaseCluster(Protocol):
    """What the lease asks of an API server."""

    async def get(self, ref: Ref) -> Manifest | None: ...

    async def create(self, manifest: Manifest) -> Manifest: ...

    async def replace(self, manifest: Manifest) -> Manifest: ...


class Claim(Enum):
    """What a candidate may do."""

    CREATE = "create"
    TAKE = "take"
    RENEW = "renew"
    WAIT = "wait"


def decide(lease: Manifest | None, *, identity: str, unchanged: float, timing: Timing) -> Claim:
    """What to do about a lease whose record this process has seen unchanged for so many seconds."""
    if lease is None:
        return Claim.CREATE
    record = lease.get("spec") or {}
    holder = record.get("holderIdentity") or ""
    if holder == identity:
        return Claim.RENEW
    if not holder or unchanged > record.get("leaseDurationSeconds", timing.duration):
        return Claim.TAKE
    return Claim.WAIT


def renewed_record(record: dict[str, Any], *, identity: str, now: datetime, timing: Timing) -> dict[str, Any]:
    """The record with us as its holder, from now on or still."""
    stamp = now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    taken = {
        "holderIdentity": identity,
        "leaseDurationSeconds": round(timing.duration) or 1,
        "acquireTime": stamp,
        "renewTime": stamp,
        "leaseTransitions": record.get("leaseTransitions", 0) + (1 if record else 0),
    }
    if record.get("holderIdentity") == identity:
        return {**record, "leaseDurationSeconds": taken["leaseDurationSeconds"], "renewTime": stamp}
    return taken


class Lease:
    """The lease as seen by one candidate, whose identity no other living process has."""

    def __init__(
        self,
        cluster: LeaseCluster,
        *,
        namespace: str,
        name: str,
        identity: str,
        timing: Timing | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._ref = Ref(Kind.LEASE, namespace, name)
        self._identity = identity
        self._timing = timing or Timing()
        self._clock = clock
        self._seen: Manifest | None = None
        self._seen_at = clock()
        self._renewed_at: float | None = None

    def is_held(self) -> bool:
        """Whether nobody else can be at work: false some seconds before the lease is up for others."""
        return self._renewed_at is not None and self._clock() - self._renewed_at < self._timing.renew_deadline

    async def acquire(self) -> None:
        """Wait until this process holds the lease."""
        holder = None
        while not (await self._try() and self.is_held()):
            if holder != (holder := self._holder()):
                logger.info("waiting for the lease, held by %s", holder or "nobody")
            await asyncio.sleep(self._timing.retry)
        logger.info("holding the lease as %s", self._identity)

    async def keep(self) -> None:
        """Renew for ever. Raises LeaseLost as soon as another process holds it or might."""
        while self.is_held():
            await asyncio.sleep(self._timing.retry)
            # One attempt may hang on a dead connection; the deadline leaves room for another.
            with suppress(TimeoutError):
                async with asyncio.timeout(self._timing.renew_deadline / 3):
                    await self._try()
        raise LeaseLost(f"the lease could not be renewed in time, last seen with {self._holder() or 'nobody'}")

    async def release(self) -> None:
        """Let another process start at once. Only after the last write."""
        if self._seen is None or not self.is_held():
            return
        self._renewed_at = None
        record = {**self._seen["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
        try:
            await self._cluster.replace({**self._seen, "spec": record})
            logger.info("released the lease")
        except ApiError as error:
            logger.warning("could not release the lease, it runs out by itself: %s", error)

    async def _try(self) -> bool:
        """One attempt to get or renew the lease; says whether it is held now."""
        started = self._clock()
        try:
            if not self.is_held():
                self._note(await self._cluster.get(self._ref))
            unchanged = self._clock() - self._seen_at
            claim = decide(self._seen, identity=self._identity, unchanged=unchanged, timing=self._timing)
            if claim is Claim.WAIT:
                return False
            self._note(await self._write(claim))
        except ApiError as error:
            logger.warning("lease: %s", error)
            if error.status in (404, 409) and self.is_held():
                await self._look_again()
            return False
        self._renewed_at = started
        return True

    async def _write(self, claim: Claim) -> Manifest:
        before = self._seen or {
            "apiVersion": Kind.LEASE.value.api_version,
            "kind": Kind.LEASE.value.kind,
            "metadata": {"name": self._ref.name, "namespace": self._ref.namespace},
        }
        record = renewed_record(
            before.get("spec") or {}, identity=self._identity, now=datetime.now(UTC), timing=self._timing
        )
        manifest = {**before, "spec": record}
        return await (self._cluster.create if claim is Claim.CREATE else self._cluster.replace)(manifest)

    async def _look_again(self) -> None:
        """Somebody changed the lease that we hold, or removed it: harmless only if we are still its holder."""
        with suppress(ApiError):
            self._note(await self._cluster.get(self._ref))
            if self._holder() != self._identity:
                self._renewed_at = None

    def _note(self, lease: Manifest | None) -> None:
        # Compared by the record alone: a label put on the lease is no sign of life of its holder.
        if (lease or {}).get("spec") != (self._seen or {}).get("spec"):
            self._seen_at = self._clock()
        self._seen = lease

    def _holder(self) -> str:
        return str(((self._seen or {}).get("spec") or {}).get("holderIdentity") or "")
