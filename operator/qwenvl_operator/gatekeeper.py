"""Reads the warm-up reports of a CR's pods and writes their readiness gates."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from qwenvl_operator import gate
from qwenvl_operator.cluster import Cluster
from qwenvl_operator.errors import ApiError
from qwenvl_operator.objects import Key, Manifest
from qwenvl_operator.observed import Store
from qwenvl_operator.pods import changed_at, container, has_gate, timestamp
from qwenvl_operator.reports import Reports, ReportUnreadable
from qwenvl_runtime.config import WarmupReport

RETRY = 2.0
# Each try may take a worker of the queue for seconds. A pod that could not be read for long is asked again after this
# part of the time for which it has been ready: where a policy keeps the operator out it does so for many pods.
TIME_PART = 0.1
SLOWEST_RETRY = 30.0
# Nobody waits for the report where no gate is closed; it may be that no network policy lets us read it, ever.
RETRY_WITHOUT_GATE = 60.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Warmups:
    """What the warm-up reports said in one pass."""

    reports: tuple[WarmupReport, ...]
    unreadable: dict[str, str]
    """By pod name, why."""
    again: float | None
    """Seconds after which to try again what could not be read or written."""
    refusal: ApiError | None
    """Why a gate could not be written: most likely for want of a permission, or a webhook fails."""

    def newest(self, revision: str) -> WarmupReport | None:
        """The newest report of a revision; pods of another one may have reported in the same pass."""
        of_it = (report for report in self.reports if report.revision == revision)
        return max(of_it, key=lambda report: report.started_at, default=None)


class Gatekeeper:
    """Opens the gate of each container that has reported, closes it for each that is gone."""

    def __init__(self, store: Store, cluster: Cluster, reports: Reports, now: Callable[[], float]) -> None:
        self._store = store
        self._cluster = cluster
        self._reports = reports
        self._now = now
        self._heard: dict[Key, set[str]] = {}
        """The containers without a gate whose report was read: nothing else remembers those."""

    async def tend(self, key: Key, pods: tuple[Manifest, ...], *, untold: str = "") -> Warmups:
        """`untold`: the revision of whose warm-up status says nothing. Whoever read the reports of its open gates died,
        or failed, before it told of them."""
        heard = self._heard.get(key, set())
        asked = [pod for pod in pods if gate.wants_report(pod, heard, untold=untold)]
        answers = await asyncio.gather(*(self._read(pod) for pod in asked))
        reports = {
            _name(pod): answer for pod, answer in zip(asked, answers, strict=True) if not isinstance(answer, str)
        }
        unreadable = {_name(pod): answer for pod, answer in zip(asked, answers, strict=True) if isinstance(answer, str)}
        refusal: ApiError | None = None
        for pod in pods:
            decision = gate.decide(pod, reports.get(_name(pod)))
            if decision is not None:
                refusal = await self._write(pod, decision) or refusal
        self._remember(key, pods, reports)
        pauses = [_pause(pod, self._now()) for pod in asked if _name(pod) in unreadable]
        again = min([*pauses, RETRY] if refusal else pauses, default=None)
        return Warmups(tuple(reports.values()), unreadable, again, refusal)

    async def _read(self, pod: Manifest) -> WarmupReport | str:
        """The report of the pod's very container, or why there is none."""
        try:
            report = await self._reports.read(pod)
        except ReportUnreadable as error:
            return str(error)
        if gate.speaks_for(report, pod):
            return report
        return f"it is of another container, or not complete: {report.reason}"

    async def _write(self, pod: Manifest, decision: gate.GateDecision) -> ApiError | None:
        """Returns the error that has to be told: the next pod, and the children, may fare better."""
        logger.info("%s: gate of pod %s: %s", pod["metadata"]["namespace"], _name(pod), decision.message)
        try:
            self._store.put(await self._cluster.apply_status(decision.manifest(pod, timestamp(self._now()))))
        except ApiError as error:
            if error.is_refusal or error.is_fault:
                return error
            # The pod has gone in the meantime, or another of its name has come.
            if error.status not in (404, 409):
                raise
        return None

    def _remember(self, key: Key, pods: tuple[Manifest, ...], reports: dict[str, WarmupReport]) -> None:
        before = self._heard.pop(key, set())
        heard = {
            container(pod).id
            for pod in pods
            if not has_gate(pod) and (_name(pod) in reports or container(pod).id in before)
        }
        if heard:
            self._heard[key] = heard


def _pause(pod: Manifest, now: float) -> float:
    """Seconds until a pod that is ready and could not be read is asked again."""
    if not has_gate(pod) or gate.is_open(pod):
        return RETRY_WITHOUT_GATE
    since = changed_at(pod, "ContainersReady") or now
    return min(max(TIME_PART * (now - since), RETRY), SLOWEST_RETRY)


def _name(pod: Manifest) -> str:
    return str(pod["metadata"]["name"])
