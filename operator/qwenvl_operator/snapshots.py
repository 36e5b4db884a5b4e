"""The verification of the snapshot: its progress, read from pods while they load, and what status says of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from qwenvl_operator.api.v1alpha1 import SnapshotStatus
from qwenvl_operator.causes import SNAPSHOT_FAULTS, crash_reason
from qwenvl_operator.custom_resource import CustomResource
from qwenvl_operator.gate import is_of
from qwenvl_operator.objects import Manifest
from qwenvl_operator.pods import container, is_ending, revision_of, timestamp
from qwenvl_operator.reasons import Reason
from qwenvl_operator.reports import Reports, ReportUnreadable
from qwenvl_runtime.config import SnapshotReport

Progress = Mapping[str, SnapshotReport]
"""By pod name, of pods that load."""


def loading_pods(cr: CustomResource, pods: Iterable[Manifest]) -> list[Manifest]:
    """The pods whose progress is worth a look: nobody is asked where nothing is pinned, or once it is loaded."""
    if not cr.spec.model.manifest_digest:
        return []
    return [pod for pod in pods if revision_of(pod) == cr.revision and not is_ending(pod) and container(pod).is_loading]


async def read_progress(reports: Reports, pods: list[Manifest]) -> Progress:
    """What the pods say; those that cannot be read are left out, for the warm-up's report will come."""

    async def read(pod: Manifest) -> SnapshotReport | None:
        try:
            report = await reports.read(pod)
        except ReportUnreadable:
            return None
        return report.snapshot if is_of(report, pod) else None

    answers = await asyncio.gather(*(read(pod) for pod in pods))
    return {pod["metadata"]["name"]: answer for pod, answer in zip(pods, answers, strict=True) if answer}


def derive_snapshot(
    digest: str, reports: Iterable[SnapshotReport], known: SnapshotStatus | None
) -> SnapshotStatus | None:
    """When a snapshot with the pinned digest was last found to be whole; None if it never was."""
    times = [report.verified_at for report in reports if report.digest == digest and report.verified_at is not None]
    found = [SnapshotStatus(digest=digest, verified_at=timestamp(time)) for time in times]
    if known is not None and known.digest == digest:
        found.append(known)
    return max(found, key=lambda status: status.verified_at, default=None)


def judge_snapshot(
    cr: CustomResource, pods: list[Manifest], progress: Progress, verified: SnapshotStatus | None
) -> tuple[str, Reason, str] | None:
    """Status, reason and message of SnapshotVerified; None where nothing is pinned and nothing was found wrong."""
    for pod in pods:
        if revision_of(pod) == cr.revision and (fault := _fault(pod, progress)):
            return "False", fault, f"Pod {pod['metadata']['name']}: {_words(pod)}"
    if not cr.spec.model.manifest_digest:
        return None
    if verified is not None:
        message = f"Every file matches the manifest {verified.digest}; hashed at {verified.verified_at}."
        return "True", Reason.SNAPSHOT_VERIFIED, message
    if not pods:
        return "Unknown", Reason.NO_PODS, "There are no pods."
    said = [f"Pod {name} {describe(report)}." for name, report in sorted(progress.items())]
    return "Unknown", Reason.VERIFYING_SNAPSHOT, " ".join(said) or "No pod has verified the snapshot yet."


def describe(report: SnapshotReport) -> str:
    """How far the verification is, to go on with behind the pod's name."""
    return f"has hashed {report.bytes_done / 1e9:.1f} of {report.bytes_total / 1e9:.1f} GB of the snapshot"


def _fault(pod: Manifest, progress: Progress) -> Reason | None:
    """What the last life of the container ended for, until the present one has found the snapshot to be whole."""
    state, report = container(pod), progress.get(pod["metadata"]["name"])
    if state.ready or not state.last_exit or (report is not None and report.verified_at is not None):
        return None
    reason = crash_reason(state)
    return reason if reason in SNAPSHOT_FAULTS else None


def _words(pod: Manifest) -> str:
    return " ".join(container(pod).last_words.partition(":")[2].split())
