"""What the doctor says: one finding per check."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from qwenvl_operator.doctor.readings import Unread

TROUBLESHOOTING = "docs/troubleshooting.md"


class Level(StrEnum):
    """How a check came out, as it is printed."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"
    SKIPPED = "skipped"
    """The caller may not read what the check needs, or there is nothing to check."""


class Heading(StrEnum):
    """Where the documents explain what no reason of a condition stands for."""

    API_SERVER = f"{TROUBLESHOOTING}#the-api-server"
    DEFINITION = f"{TROUBLESHOOTING}#the-crd"
    OPERATOR = f"{TROUBLESHOOTING}#the-operator"
    RIGHTS = f"{TROUBLESHOOTING}#the-operators-rights"
    ACCELERATORS = f"{TROUBLESHOOTING}#the-accelerators"
    RESOURCE = f"{TROUBLESHOOTING}#a-resource"


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    level: Level
    about: str
    """What was looked at, in a word or two."""
    said: str
    advice: str = ""
    """What to do next."""
    see: str = ""
    """Page and heading."""


def ok(about: str, said: str) -> Finding:
    return Finding(Level.OK, about, said)


def warn(about: str, said: str, advice: str, see: str) -> Finding:
    return Finding(Level.WARN, about, said, advice, place(see))


def fail(about: str, said: str, advice: str, see: str) -> Finding:
    return Finding(Level.FAIL, about, said, advice, place(see))


def skipped(about: str, why: Unread) -> Finding:
    return Finding(Level.SKIPPED, about, why.why)


def named(reason: str, message: str) -> str:
    """A reason and its message, as `kubectl describe` shows them side by side."""
    return f"{reason}: {message}"


def age(seconds: float) -> str:
    """A duration in its largest unit, such as `3 min`."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{int(seconds // unit)} {name}"
    return f"{max(0, int(seconds))} s"


def measure(amount: float) -> str:
    """An amount of a resource: of memory in GiB, of others as it is."""
    return f"{amount / 2**30:.4g}Gi" if amount >= 2**20 else f"{amount:g}"


def some(names: Iterable[str], shown: int = 5) -> str:
    """The first few of them."""
    listed = list(names)
    return ", ".join(listed[:shown]) + (f" and {len(listed) - shown} more" if len(listed) > shown else "")


def place(see: str) -> str:
    """Where a reason is explained; a heading stands for itself."""
    return str(see) if isinstance(see, Heading) else f"{TROUBLESHOOTING}#{see.lower()}"
