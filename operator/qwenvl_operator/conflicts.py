"""Children that somebody else keeps changing: how often each was repaired, and who does it. Pure."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from qwenvl_operator.naming import APPLIED_HASH, FIELD_MANAGER
from qwenvl_operator.objects import Key, Manifest, Ref, ref_of
from qwenvl_operator.plan import Path, differences

TOLERATED = 5
"""Repairs of the same content that may happen by chance..."""
WINDOW = 300.0
"""...within so many seconds."""
PAUSE = 30.0
"""Seconds between two repairs from then on, so that two controllers do not write as fast as they can."""
QUIET = 120.0
"""Seconds without a repair after which it is over. Longer than a pause: what is said does not come and go."""
MAX_FIELDS = 5


class Conflict(NamedTuple):
    """What is said about a CR while one of its children is fought about."""

    message: str
    again: float
    """Seconds after which to look again."""


@dataclass
class _Repairs:
    digest: str
    times: deque[float] = field(default_factory=lambda: deque(maxlen=TOLERATED + 1))
    message: str = ""
    """Empty while it may be chance."""


class Conflicts:
    """The repairs of late, by CR and child."""

    def __init__(self) -> None:
        self._repairs: dict[Key, dict[Ref, _Repairs]] = {}

    def may_repair(self, key: Key, manifest: Manifest, now: float) -> bool:
        """Whether a child that is not as desired may be written now."""
        known = self._known(key, manifest, now)
        return not known.message or now - known.times[-1] >= PAUSE

    def is_one_too_many(self, key: Key, manifest: Manifest, now: float) -> bool:
        """Whether a repair now can no longer be chance."""
        known = self._known(key, manifest, now)
        times = [*known.times, now][-TOLERATED - 1 :]
        return bool(known.message) or (len(times) > TOLERATED and times[-1] - times[0] <= WINDOW)

    def repaired(self, key: Key, manifest: Manifest, now: float, message: str = "") -> None:
        """Take note of a repair; `message` if it was one too many."""
        known = self._known(key, manifest, now)
        known.times.append(now)
        known.message = message or known.message
        self._repairs.setdefault(key, {})[ref_of(manifest)] = known

    def ongoing(self, key: Key, now: float) -> Conflict | None:
        """What is fought about now; None if nothing is."""
        children = {ref: known for ref, known in self._repairs.pop(key, {}).items() if now - known.times[-1] < QUIET}
        if children:
            self._repairs[key] = children
        fought = [known for known in children.values() if known.message]
        if not fought:
            return None
        waits = [known.times[-1] + span - now for known in fought for span in (PAUSE, QUIET)]
        return Conflict(" ".join(known.message for known in fought), min(wait for wait in waits if wait > 0))

    def forget(self, key: Key) -> None:
        self._repairs.pop(key, None)

    def _known(self, key: Key, manifest: Manifest, now: float) -> _Repairs:
        digest = manifest["metadata"]["annotations"][APPLIED_HASH]
        known = self._repairs.get(key, {}).get(ref_of(manifest))
        is_fresh = known is not None and known.digest == digest and now - known.times[-1] < QUIET
        return known if known is not None and is_fresh else _Repairs(digest)


def explain(manifest: Manifest, live: Manifest) -> str:
    """Who keeps changing what, from the child as it is, with metadata.managedFields."""
    paths = sorted((found.path for found in differences(live, manifest)), key=str)
    entries = live["metadata"].get("managedFields") or ()
    managers = {
        entry.get("manager", "") for entry in entries if any(_owns(entry.get("fieldsV1") or {}, path) for path in paths)
    }
    others = sorted(managers - {FIELD_MANAGER, ""})
    # What a webhook changes on our way in is ours by the API server's books; what is taken away is nobody's.
    who = " and ".join(others) or "a mutating webhook, or a client that the API server does not name,"
    fields = ", ".join(_name(path) for path in paths[:MAX_FIELDS]) + (", ..." if len(paths) > MAX_FIELDS else "")
    return (
        f"{who} keeps changing {fields or 'fields'} of {manifest['kind']} {manifest['metadata']['name']}, which "
        f"the operator sets back, now at most once in {PAUSE:.0f} s. Make it leave these fields alone, or set in spec "
        "what it wants."
    )


def _owns(fields: dict[str, Any], path: Path) -> bool:
    """Whether a field, or something that it is a part of, is among those of a fieldsV1."""
    for step in path:
        if fields == {}:
            return True
        if isinstance(step, str):
            found = fields.get(f"f:{step}")
        else:
            found = next((item for name, item in fields.items() if _is_item(name, step)), None)
        if found is None:
            return False
        fields = found
    return True


def _is_item(name: str, step: Iterable[Any]) -> bool:
    key, value = step
    return name.startswith("k:") and json.loads(name[2:]).get(key) == value


def _name(path: Path) -> str:
    steps = (f".{step}" if isinstance(step, str) else f"[{step[1]}]" for step in path)
    return "".join(steps).removeprefix(".")
