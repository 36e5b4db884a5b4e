"""What the doctor has read: everything that its checks, which are pure, go by."""

from __future__ import annotations

from dataclasses import dataclass

from qwenvl_operator.doctor.installation import Installation, Right
from qwenvl_operator.objects import Manifest


@dataclass(frozen=True)
class Unread:
    """In the place of something that could not be read."""

    why: str
    """`needs: list nodes` where the caller lacks that right, else what the API server said."""
    unknown: bool = False
    """Whether the API server knows no such kind."""


Found = Manifest | Unread | None
Listed = list[Manifest] | Unread


@dataclass(frozen=True)
class OperatorReadings:
    """An operator, and how it fares."""

    installation: Installation
    lease: Found
    lacks: list[Right] | Unread
    """Needed rights that it does not have."""


@dataclass(frozen=True)
class ClusterReadings:
    """What every resource stands on."""

    now: float
    version: str
    definition: Found
    operators: list[OperatorReadings] | Unread
    nodes: Listed
    pods: Listed
    """Of every namespace: they hold what the nodes have."""
    runtime_classes: Listed
    namespaces: Listed
    resources: Listed
    """The QwenVLDeployments that are asked about."""


@dataclass(frozen=True)
class ResourceReadings:
    """What there is of one QwenVLDeployment, and beside it in its namespace."""

    cr: Manifest
    children: Listed
    """What has the names of its children, whoever it belongs to."""
    pods: Listed
    claims: Listed
    quotas: Listed
    events: Listed
