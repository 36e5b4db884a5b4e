"""The status of a CR, from the verdict about it and from what is observed: pure."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from qwenvl_operator.api.v1alpha1 import FitStatus, QwenVLDeploymentStatus, SnapshotStatus, WarmupStatus
from qwenvl_operator.causes import tell_unplaced
from qwenvl_operator.custom_resource import CustomResource
from qwenvl_operator.facts import Facts, Verdict
from qwenvl_operator.gate import is_open
from qwenvl_operator.naming import endpoint, selector
from qwenvl_operator.objects import Key
from qwenvl_operator.observed import Observed
from qwenvl_operator.pod_verdict import judge_unplaced
from qwenvl_operator.pods import container, has_gate, is_scheduled, is_unschedulable, revision_of, timestamp
from qwenvl_operator.reasons import Reason
from qwenvl_operator.snapshots import derive_snapshot, judge_snapshot
from qwenvl_operator.verdict import judge, living_pods, ready_pods
from qwenvl_runtime.config import WarmupReport

Status = dict[str, Any]
_Part = TypeVar("_Part", bound=BaseModel)


def derive_status(facts: Facts, report: WarmupReport | None) -> Status:
    """The whole status of a CR whose spec is valid.

    `report` is the revision's newest warm-up report that was read in this pass; without one its last figures stay.
    """
    observed, cr = facts.observed, facts.cr
    previous = observed.cr.get("status", {})
    warmup = _warmup(report) or (previous.get("warmup") if previous.get("revision") == cr.revision else None)
    reports = [*facts.progress.values(), *([report.snapshot] if report and report.snapshot else ())]
    snapshot = derive_snapshot(cr.spec.model.manifest_digest, reports, _known(SnapshotStatus, previous, "snapshot"))
    verified = judge_snapshot(cr, living_pods(observed), facts.progress, snapshot)
    verdict = judge(facts)
    said = {
        **_summary(verdict),
        "Available": _available(observed),
        "Scheduled": _scheduled(observed, facts),
        **({"SnapshotVerified": verified} if verified else {}),
        "WarmedUp": _warmed_up(observed, cr, warmup),
    }
    status: Status = {
        "observedGeneration": cr.generation,
        **_counts(observed, cr.key),
        "revision": cr.revision,
        "conditions": _conditions(said, previous, cr.generation, facts.now),
    }
    status["fit"] = facts.fit.model_dump(mode="json", by_alias=True, exclude_none=True)
    if snapshot:
        status["snapshot"] = snapshot.model_dump(by_alias=True)
    return {**status, "warmup": warmup} if warmup else status


def known_fit(previous: Status, revision: str) -> FitStatus | None:
    """What was said of the fit of this very revision."""
    return _known(FitStatus, previous, "fit") if previous.get("revision") == revision else None


def _known(part: type[_Part], previous: Status, name: str) -> _Part | None:
    """A part of the status that was written before, None if there is none that can be read."""
    try:
        return part.model_validate(previous[name])
    except (KeyError, ValidationError):
        return None


def derive_problem_status(observed: Observed, key: Key, verdict: Verdict, now: float) -> Status:
    """The status of a CR that cannot be acted on; the pods it has already go on as they are."""
    generation = observed.cr["metadata"]["generation"]
    previous = observed.cr.get("status", {})
    said = {
        **_summary(verdict),
        "Available": _available(observed),
        "Scheduled": _scheduled(observed),
        "WarmedUp": _warmed_up(observed),
    }
    conditions = _conditions(said, previous, generation, now)
    if verified := find_condition(previous, "SnapshotVerified"):
        # Said about an earlier generation, and in the place where it stands otherwise.
        conditions.insert(-1, verified)
    kept = {name: previous[name] for name in ("revision", "warmup", "fit", "snapshot") if name in previous}
    return {
        "observedGeneration": generation,
        **_counts(observed, key),
        **kept,
        "conditions": conditions,
    }


def is_same(live: Status, status: Status) -> bool:
    """Whether there is nothing to write; what the API server filled in by default does not count."""
    try:
        return QwenVLDeploymentStatus.model_validate(live) == QwenVLDeploymentStatus.model_validate(status)
    except ValidationError:
        return False


def find_condition(status: Status, kind: str) -> Status:
    """A condition of a status, empty if it has none of that type."""
    return next((item for item in status.get("conditions", ()) if item["type"] == kind), {})


Said = tuple[str, Reason, str]
"""Status, reason and message of one condition."""


def _summary(verdict: Verdict) -> dict[str, Said]:
    """The three conditions of kstatus."""
    reason, message = verdict.reason, verdict.message
    working = not (verdict.ready or verdict.stalled or verdict.at_rest)
    return {
        "Ready": (str(verdict.ready), reason, message),
        "Reconciling": (str(working), reason, message),
        "Stalled": (str(verdict.stalled), reason, message),
    }


def _available(observed: Observed) -> Said:
    ready = len(ready_pods(observed))
    if ready:
        return "True", Reason.REPLICAS_READY, f"{ready} replica(s) get traffic."
    return "False", Reason.NO_REPLICA_READY, "No replica gets traffic."


def _scheduled(observed: Observed, facts: Facts | None = None) -> Said:
    pods = living_pods(observed)
    if not pods:
        return "Unknown", Reason.NO_PODS, "There are no pods."
    unplaced = [pod for pod in pods if not is_scheduled(pod)]
    if not unplaced:
        return "True", Reason.PODS_SCHEDULED, f"{len(pods)} pod(s) have a node."
    # What the scheduler has said of any is more telling than its silence about another.
    first = next(filter(is_unschedulable, unplaced), unplaced[0])
    if facts is None or revision_of(first) != facts.cr.revision:
        return "False", Reason.UNSCHEDULABLE, tell_unplaced(first)
    verdict = judge_unplaced(first, facts)
    return "False", verdict.reason, verdict.message


def _warmed_up(observed: Observed, cr: CustomResource | None = None, warmup: Status | None = None) -> Said:
    pods = living_pods(observed)
    if not pods:
        return "Unknown", Reason.NO_PODS, "There are no pods."
    warm = sum(is_open(pod) if has_gate(pod) else container(pod).ready for pod in pods)
    if warm < len(pods):
        return "False", Reason.WARMING_UP, f"{warm} of {len(pods)} containers have answered the warm-up set."
    if cr and warmup:
        first, steady = float(warmup["firstSeconds"]), float(warmup["steadySeconds"])
        limit = cr.spec.warmup.max_first_to_steady
        if steady > 0 and first / steady > float(limit):
            message = (
                f"After the warm-up the first picture took {warmup['firstSeconds']} s and the next ones "
                f"{warmup['steadySeconds']} s: more than warmup.maxFirstToSteady, {limit} times."
            )
            return "True", Reason.FIRST_ANSWER_SLOW, message
    return "True", Reason.WARMED_UP, f"{warm} container(s) have answered the warm-up set."


def _counts(observed: Observed, key: Key) -> Status:
    return {
        "replicas": len(living_pods(observed)),
        "readyReplicas": len(ready_pods(observed)),
        "selector": ",".join(f"{name}={value}" for name, value in sorted(selector(key).items())),
        "endpoint": endpoint(key),
    }


def _warmup(report: WarmupReport | None) -> Status | None:
    proof = next((shot for shot in report.shots if shot.name == "proof"), None) if report else None
    if proof is None:
        return None
    figures = WarmupStatus(first_seconds=f"{proof.first_seconds:.3f}", steady_seconds=f"{proof.steady_seconds:.3f}")
    return figures.model_dump(by_alias=True)


def _conditions(said: dict[str, Said], previous: Status, generation: int, now: float) -> list[Status]:
    """In the order of `said`; a condition's time changes only with its status."""
    conditions = []
    for kind, (status, reason, message) in said.items():
        before = find_condition(previous, kind)
        kept = before.get("status") == status
        conditions.append(
            {
                "type": kind,
                "status": status,
                "reason": str(reason),
                "message": message,
                "observedGeneration": generation,
                "lastTransitionTime": before["lastTransitionTime"] if kept else timestamp(now),
            }
        )
    return conditions
