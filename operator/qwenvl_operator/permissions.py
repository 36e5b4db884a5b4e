"""Rights that the operator needs and lacks: what refusals say of them, and which are lacking now."""

from __future__ import annotations

import re
from typing import NamedTuple

from qwenvl_operator.errors import ApiError

# The API server's words for a refusal by RBAC; admission refuses with the same status in other words.
_REFUSAL = re.compile(
    r'cannot (?P<verb>\w+) resource "(?P<resource>[^"]+)" in API group "(?P<group>[^"]*)"'
    r'(?: in the namespace "(?P<namespace>[^"]+)")?'
)
_PATH = re.compile(
    r"/apis?/(?:(?P<group>[^/]+)/)?v\d\w*(?:/namespaces/(?P<namespace>[^/]+))?/(?P<resource>[^/]+)", flags=re.ASCII
)


class Permission(NamedTuple):
    """A right as RBAC has it."""

    verb: str
    group: str
    """Empty for the core group."""
    resource: str
    """In the plural, with its subresource: `pods/status`."""
    namespace: str
    """Empty for all of them."""

    @classmethod
    def refused_by(cls, error: ApiError) -> Permission | None:
        """The right that a refused call lacked; None if it was refused for another reason."""
        found = _REFUSAL.search(error.message) if error.status == 403 else None
        return cls(found["verb"], found["group"], found["resource"], found["namespace"] or "") if found else None

    @classmethod
    def to_read(cls, path: str, *, watch: bool) -> Permission | None:
        """The right that a GET of a whole kind needs, by its URL's path; None for anything else."""
        found = _PATH.fullmatch(path)
        verb = "watch" if watch else "list"
        return cls(verb, found["group"] or "", found["resource"], found["namespace"] or "") if found else None

    def explain(self) -> str:
        """What is lacking, and what to do."""
        group = f" of API group {self.group}" if self.group else ""
        where = f"in namespace {self.namespace}" if self.namespace else "in all namespaces"
        return (
            f"The operator may not {self.verb} {self.resource}{group} {where}: give its ServiceAccount that right "
            "again. `helm upgrade` of its chart does, with the namespace among watchNamespaces if that is set. "
            "It is tried again by itself."
        )


class Denials:
    """The rights to read that are lacking. A right to write is missed by the one reconcile that needs it; without
    these the operator does not hear of what happens to anybody."""

    def __init__(self) -> None:
        self._denied: set[Permission] = set()

    def __bool__(self) -> bool:
        return bool(self._denied)

    def note(self, right: Permission, *, granted: bool) -> bool:
        """Take in how a read was answered; says whether that is news."""
        if granted is (right not in self._denied):
            return False
        (self._denied.remove if granted else self._denied.add)(right)
        return True

    def about(self, namespace: str) -> Permission | None:
        """A right without which resources of this namespace are not seen as they are; None if there is none."""
        return min((right for right in self._denied if right.namespace in ("", namespace)), default=None)
