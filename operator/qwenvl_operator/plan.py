"""What has to be written so that the children are as desired: pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from qwenvl_operator.api.quantity import parse_quantity
from qwenvl_operator.errors import InvalidSpec, Waiting
from qwenvl_operator.naming import APPLIED_HASH
from qwenvl_operator.objects import Kind, Manifest, Ref, owner_uid, ref_of
from qwenvl_operator.observed import Observed
from qwenvl_operator.reasons import Reason
from qwenvl_operator.rollout import is_rolled_out

# The keys by which the API server merges lists of objects, in the order in which they are tried.
MERGE_KEYS = ("name", "containerPort", "port", "mountPath", "uid", "conditionType")
LEFTOVER_RETRY = 2.0
FOREIGN_RETRY = 30.0


@dataclass(frozen=True)
class Plan:
    """Writes to make; empty at rest."""

    apply: tuple[Manifest, ...]
    prune: tuple[Manifest, ...]


Path = tuple[str | tuple[str, Any], ...]
"""Where a field is: names, and for an item of a list that is merged, its key and the value of that."""
Injected = Mapping[Ref, frozenset[Path]]
"""By child, the fields that we want empty and that were filled on our own write: by a webhook, whose right that is."""


class Difference(NamedTuple):
    """A field that is not as wanted."""

    path: Path
    is_addition: bool
    """Whether it is wanted empty."""


def make_plan(
    desired: Iterable[Manifest], observed: Observed, revision: str, injected: Injected = MappingProxyType({})
) -> Plan:
    """Apply what is missing, was changed in what we want, or was applied from other content; prune the rest.

    ConfigMaps of other revisions stay until no pod could need them any more.
    """
    wanted = {ref_of(manifest): manifest for manifest in desired}
    superseded = is_rolled_out(observed, revision)
    return Plan(
        apply=tuple(
            manifest
            for ref, manifest in wanted.items()
            if ref not in observed.children or differs(manifest, observed.children[ref], injected.get(ref, frozenset()))
        ),
        prune=tuple(
            child
            for ref, child in observed.children.items()
            if ref not in wanted and (ref.kind is not Kind.CONFIG_MAP or superseded)
        ),
    )


def refuse_foreign(ref: Ref, live: Manifest | None, uid: str) -> None:
    """Raises InvalidSpec or Waiting where an object of a child's name is not of the CR with this UID: it must not be
    taken over, nor deleted with the CR."""
    if live is None or owner_uid(live) == uid:
        return
    what = f"{ref.kind.value.kind} {ref.name}"
    if owner_uid(live):
        raise Waiting(
            LEFTOVER_RETRY,
            f"{what} of an earlier resource of this name is still being removed: if it stays, see its finalizers.",
        )
    raise InvalidSpec(
        Reason.NAME_TAKEN,
        f"{what} exists and is not this resource's: rename one of the two, or delete it.",
        after=FOREIGN_RETRY,
    )


def covers(live: Any, wanted: Any) -> bool:
    """Whether everything wanted is there; what others added, and what the API server defaulted, does not matter."""
    return next(differences(live, wanted), None) is None


def differences(live: Any, wanted: Any, path: Path = ()) -> Iterator[Difference]:
    """The fields that are not as wanted."""
    if live == wanted:
        return  # most of what is compared, and told without a walk through it
    if wanted is None or wanted == "":
        same = not live
    elif isinstance(wanted, dict) and isinstance(live, dict):
        for name, value in wanted.items():
            yield from differences(live.get(name), value, (*path, name))
        return
    elif isinstance(wanted, list) and isinstance(live, list) and (key := _merge_key(wanted)):
        by_key = {item.get(key): item for item in live if isinstance(item, dict)}
        for item in wanted:
            yield from differences(by_key.get(item[key]), item, (*path, (key, item[key])))
        return
    elif isinstance(wanted, list) and isinstance(live, list):
        same = len(live) == len(wanted) and all(covers(a, b) for a, b in zip(live, wanted, strict=True))
    else:
        same = _same_quantity(live, wanted)
    if not same:
        yield Difference(path, is_addition=wanted is None)


def build_emptying(paths: Iterable[Path]) -> Manifest:
    """A strategic merge patch that empties these fields."""
    patch: Manifest = {}
    for path in paths:
        _empty(patch, path)
    return patch


def _empty(patch: Manifest, path: Path) -> None:
    name, *rest = path
    if not rest:
        patch[str(name)] = None
    elif isinstance(rest[0], str):
        _empty(patch.setdefault(str(name), {}), tuple(rest))
    else:
        key, value = rest[0]
        items = patch.setdefault(str(name), [])
        if not any(item[key] == value for item in items):
            items.append({key: value})
        _empty(next(item for item in items if item[key] == value), tuple(rest[1:]))


def _merge_key(wanted: list[Any]) -> str | None:
    return next((key for key in MERGE_KEYS if wanted and all(isinstance(x, dict) and key in x for x in wanted)), None)


def _same_quantity(live: Any, wanted: Any) -> bool:
    # The API server writes 1000m as 1.
    if not (isinstance(live, str) and isinstance(wanted, str)):
        return False
    try:
        return parse_quantity(live) == parse_quantity(wanted)
    except ValueError:
        return False


def find_additions(live: Manifest, desired: Manifest) -> frozenset[Path]:
    """The fields that are to be empty and are not."""
    return frozenset(found.path for found in differences(live, desired) if found.is_addition)


def differs(desired: Manifest, live: Manifest, injected: Set[Path] = frozenset()) -> bool:
    """Whether a child is to be applied: it lacks something that we want, or has what we do not."""
    annotations = live["metadata"].get("annotations") or {}
    if annotations.get(APPLIED_HASH) != desired["metadata"]["annotations"][APPLIED_HASH]:
        return True
    return any(not found.is_addition or found.path not in injected for found in differences(live, desired))
