"""How one revision follows another when GPUs are scarce: pure decisions about the Deployment's strategy."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from qwenvl_operator.api.v1alpha1 import RolloutStrategy
from qwenvl_operator.custom_resource import CustomResource
from qwenvl_operator.naming import REVISION_LABEL
from qwenvl_operator.objects import Manifest
from qwenvl_operator.observed import Observed
from qwenvl_operator.pods import (
    condition,
    is_ending,
    is_left_behind,
    is_scheduled,
    lacks_room,
    revision_of,
    template_of,
)
from qwenvl_operator.room import Room


class Strategy(Enum):
    """A Deployment's strategy, by what happens first."""

    SURGE = "surge"
    """The new pod is ready before an old one ends."""
    IN_PLACE = "in-place"
    """One old pod ends before its successor starts; the others go on serving."""
    RECREATE = "recreate"
    """All old pods end before the first new one starts."""

    def manifest(self) -> Manifest:
        if self is Strategy.RECREATE:
            # An explicit null: the API server refuses a rollingUpdate that an earlier strategy left behind.
            return {"type": "Recreate", "rollingUpdate": None}
        surge, unavailable = (1, 0) if self is Strategy.SURGE else (0, 1)
        return {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}

    @classmethod
    def of(cls, deployment: Manifest) -> Strategy:
        """The strategy that a live Deployment has."""
        strategy = deployment["spec"].get("strategy", {})
        if strategy.get("type") == "Recreate":
            return cls.RECREATE
        return cls.IN_PLACE if str(strategy.get("rollingUpdate", {}).get("maxSurge")) == "0" else cls.SURGE


def needs_room(cr: CustomResource, live: Manifest | None, pods: Iterable[Manifest]) -> bool:
    """Whether the strategy depends on free GPUs: under Auto, at the moment at which a running revision is replaced, and
    while a surge waits for room."""
    if cr.spec.rollout.strategy is not RolloutStrategy.AUTO or live is None or not live["spec"].get("replicas"):
        return False
    return _revision(live) != cr.revision or (Strategy.of(live) is Strategy.SURGE and _is_stuck(cr, pods))


def choose_strategy(
    cr: CustomResource, live: Manifest | None, pods: Iterable[Manifest], *, room: Room | None
) -> Strategy:
    """The strategy to apply.

    `room` is None where the operator cannot see the nodes. Under Auto the choice is made when a revision is replaced
    and kept until the next one, so that a GPU that comes and goes causes no write; only a surge that turns out not to
    fit is taken back, or it would wait for ever for a GPU that the old pod holds. Nothing is given up for a pod that
    would have no room even then.
    """
    wanted = cr.spec.rollout.strategy
    if wanted is RolloutStrategy.SURGE:
        return Strategy.SURGE
    if wanted is RolloutStrategy.RECREATE:
        return Strategy.RECREATE
    replaced = Strategy.RECREATE if cr.replicas <= 1 else Strategy.IN_PLACE
    if live is None:
        return replaced
    if needs_room(cr, live, pods):
        # Where a surge waits for room the scheduler has the last word on what is free.
        is_free = room is not None and room.free and _revision(live) != cr.revision
        return replaced if room is None or (room.vacated and not is_free) else Strategy.SURGE
    chosen = Strategy.of(live)
    # What was chosen for a single replica is not kept for several: they can give way one after the other.
    return replaced if chosen is Strategy.RECREATE else chosen


def is_rolled_out(observed: Observed, revision: str) -> bool:
    """Whether the Deployment has brought every pod to the revision, and the old ones are gone."""
    deployment = observed.deployment()
    if deployment is None:
        return False
    spec, status = deployment["spec"], deployment.get("status", {})
    wanted = spec.get("replicas", 1)
    return (
        _revision(deployment) == revision
        and is_seen(deployment)
        and status.get("updatedReplicas", 0) == wanted
        and status.get("replicas", 0) == wanted
        and not awaited_ends(observed, revision)
    )


def awaited_ends(observed: Observed, revision: str) -> list[Manifest]:
    """The pods of other revisions that have yet to end."""
    return [pod for pod in observed.pods if revision_of(pod) != revision and not is_left_behind(pod)]


def has_missed_deadline(observed: Observed) -> bool:
    """Whether the Deployment controller says so of the present template, and not of the one before it."""
    deployment = observed.deployment()
    if deployment is None or not is_seen(deployment) or _is_emptying(deployment):
        return False
    progressing = condition(deployment, "Progressing")
    return progressing.get("status") == "False" and progressing.get("reason") == "ProgressDeadlineExceeded"


def is_seen(deployment: Manifest) -> bool:
    """Whether what the Deployment's status says is of its present spec."""
    return bool(deployment.get("status", {}).get("observedGeneration") == deployment["metadata"]["generation"])


def _is_stuck(cr: CustomResource, pods: Iterable[Manifest]) -> bool:
    """Whether a pod waits for room that a pod of another template holds, be it of an older revision or, after `kubectl
    rollout restart`, of the same one. What else a pod may wait for, the end of another does not bring."""
    living = [pod for pod in pods if not is_ending(pod)]
    waiting = {template_of(pod) for pod in living if lacks_room(pod) and revision_of(pod) == cr.revision}
    return any(is_scheduled(pod) and template_of(pod) not in waiting for pod in living) if waiting else False


def _is_emptying(deployment: Manifest) -> bool:
    """Whether a Recreate still counts old pods: as long as it does, it keeps the conditions of the revision before."""
    status = deployment.get("status", {})
    return Strategy.of(deployment) is Strategy.RECREATE and status.get("replicas", 0) > status.get("updatedReplicas", 0)


def _revision(deployment: Manifest) -> str:
    labels = deployment["spec"]["template"]["metadata"].get("labels", {})
    return str(labels.get(REVISION_LABEL, ""))
