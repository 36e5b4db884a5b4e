"""What is worth a write of status: neither a step of a start that is over before anybody could read of it, nor a call
that fails once or twice."""

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
LASTING = 10.0
"""Seconds for which passes over a CR may end before their time without a word."""


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


@dataclass(frozen=True)
class Hiccup:
    """What keeps passes over a CR from their end."""

    cause: str
    message: str
    since: float


class Hiccups:
    """Since when no pass over a CR has come to its end, for reasons that most often pass by themselves."""

    def __init__(self) -> None:
        self._known: dict[Key, Hiccup] = {}

    def lasting(self, key: Key, cause: str, message: str, now: float) -> str | None:
        """What is to be told of one more; None as long as it may pass.

        Of one cause the first message stands: a port or a time in it would else be a write at each try.
        """
        known = self._known.get(key)
        since = known.since if known else now
        if known is None or known.cause != cause:
            known = self._known[key] = Hiccup(cause, message, since)
        return known.message if now - since >= LASTING else None

    def over(self, key: Key) -> None:
        self._known.pop(key, None)


def _reason(status: Status) -> str | None:
    reason: str | None = find_condition(status, "Ready").get("reason")
    return reason


def _status(told: Status, kind: str) -> str | None:
    status: str | None = find_condition(told, kind).get("status")
    return status
