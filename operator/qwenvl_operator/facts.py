"""What is known of a CR, and the verdict that is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from qwenvl_operator.api.v1alpha1 import FitStatus
from qwenvl_operator.custom_resource import CustomResource
from qwenvl_operator.observed import Observed
from qwenvl_operator.obstacles import Obstacles
from qwenvl_operator.reasons import Reason
from qwenvl_operator.snapshots import Progress


@dataclass(frozen=True)
class Verdict:
    """The summary of a CR's state."""

    reason: Reason
    message: str
    ready: bool = False
    stalled: bool = False
    """Nothing will change before a person has acted."""
    at_rest: bool = False
    """Nothing is going on although the CR is not ready: it is meant to have no pods."""


@dataclass(frozen=True)
class Facts:
    """Everything a verdict is made of."""

    cr: CustomResource
    observed: Observed
    now: float
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """By pod name: why its warm-up report could not be read just now."""
    progress: Progress = field(default_factory=dict)
    """How far the pods that load are with the verification of the snapshot."""
    obstacles: Obstacles = field(default_factory=dict)
    """What keeps nodes from making the containers of pods."""
    offers: str = ""
    """How many GPUs there are on which nodes, in a sentence; empty where nobody waits for one."""
    fit: FitStatus = field(default_factory=FitStatus)
