"""Which statuses are worth a write: the steps of a start that are over before anybody could read of them are not."""

from __future__ import annotations

from dataclasses import dataclass

from qwenvl_operator.objects import Key
from qwenvl_operator.reasons import Reason
from qwenvl_operator.status import Status, find_condition

STEPS = (
    Reason.APPLYING,
    Reason.ROLLING_OUT,
    Reason.STARTING_CONTAINER,
    Reason.VERIFYING_SNAPSHOT,
    Reason.LOADING_MODEL,
    Reason.WARMING_UP,
    Reason.WAITING_FOR_GATE,
)
"""What every start goes through."""


@dataclass(frozen=True)
class Held:
    """A status that is not told yet."""

    status: Status
    until: float


class Patience:
    """The statuses that are held back, by the CR that they are of; a step that lasts `seconds` is told."""

    def __init__(self, seconds: float = 2.0) -> None:
        self._seconds = seconds
        self._held: dict[Key, Held] = {}

    def newest(self, key: Key, told: Status) -> Status:
        """The status that was derived last, told or not. What it knows of warm-ups nothing else remembers."""
        held = self._held.get(key)
        return held.status if held else told

    def hold(self, key: Key, told: Status, status: Status, now: float) -> float | None:
        """After how many seconds this status is to be told; None if now.

        A Ready that holds no more, and a Stalled, are taken back at once.
        """
        step = _reason(status)
        if step not in STEPS or "True" in (_status(told, "Ready"), _status(told, "Stalled")):
            return None
        held = self._held.get(key)
        until = held.until if held and _reason(held.status) == step else now + self._seconds
        if now >= until:
            return None
        self._held[key] = Held(status, until)
        return until - now

    def forget(self, key: Key) -> None:
        self._held.pop(key, None)


def _reason(status: Status) -> str | None:
    reason: str | None = find_condition(status, "Ready").get("reason")
    return reason


def _status(told: Status, kind: str) -> str | None:
    status: str | None = find_condition(told, kind).get("status")
    return status
