"""An API server in memory, with as much of server-side apply as tests of the operator need.

What it holds is what a real one would hold: uid, resourceVersion and generation are its own, a field that its applier
no longer names vanishes, lists of named things are merged by their keys, status is written on its own. It counts its
calls, fails the one it is told to fail, and tells its listeners what a watch would.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

from qwenvl_operator.errors import ApiError
from qwenvl_operator.naming import FIELD_MANAGER, MANAGED_BY
from qwenvl_operator.objects import Kind, Manifest, Ref, ref_of

T = TypeVar("T")
Path = tuple[Any, ...]
Listener = Callable[[str, Manifest], None]

WITHOUT_GENERATION = (Kind.CONFIG_MAP, Kind.SERVICE, Kind.SERVICE_ACCOUNT, Kind.EVENT, Kind.LEASE)
READS = ("get", "list")
MERGE_KEYS: dict[str, tuple[str, ...]] = {
    "conditions": ("type",),
    "containers": ("name",),
    "initContainers": ("name",),
    "env": ("name",),
    "imagePullSecrets": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "ownerReferences": ("uid",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
}


class Call(NamedTuple):
    """One request: `verb` as RBAC names it, `/status` behind it for the subresource."""

    verb: str
    ref: Ref


@dataclass
class Fault:
    """What happens to a call. `applied`: the write is made all the same, only its answer is lost."""

    error: BaseException
    applied: bool = False


@dataclass
class _Stored:
    manifest: Manifest
    owned: dict[str, set[Path]] = field(default_factory=dict)
    """Fields that server-side apply has set, by subresource."""


class _Keyed(dict[Any, Any]):
    """A list of named things, by their keys."""


class MemoryCluster:
    """Implements the operator's Cluster protocol, and what others do to a cluster."""

    def __init__(self, now: Callable[[], float] = lambda: 1_800_000_000.0) -> None:
        self.calls: list[Call] = []
        self.faults: dict[int, Fault] = {}
        """By number of the call, counted from 1 since `forget_calls`."""
        self.holds_events = False
        """While set, changes are not told: a watch that lags."""
        self._now = now
        self._objects: dict[Ref, _Stored] = {}
        self._version = 100
        self._listeners: list[Listener] = []
        self._held: list[tuple[str, Manifest]] = []

    # What the operator calls.

    async def get(self, ref: Ref) -> Manifest | None:
        self._call("get", ref)
        stored = self._objects.get(ref)
        return copy.deepcopy(stored.manifest) if stored else None

    async def list(self, kind: Kind, *, managed: bool = True, namespace: str = "") -> list[Manifest]:
        self._call("list", Ref(kind, namespace, ""))
        found = [item for item in self.all(kind) if namespace in ("", item["metadata"]["namespace"])]
        return [manifest for manifest in found if not managed or _is_managed(manifest)]

    async def pages(
        self, kind: Kind, *, managed: bool = True, namespace: str = ""
    ) -> AsyncIterator[Sequence[Manifest]]:
        found = await self.list(kind, managed=managed, namespace=namespace)
        for start in range(0, len(found), 2):
            yield found[start : start + 2]

    async def apply(self, manifest: Manifest) -> Manifest:
        return self._write("patch", ref_of(manifest), lambda: self._apply(manifest, ""))

    async def empty(self, ref: Ref, patch: Manifest) -> Manifest:
        return self._write("patch", ref, lambda: self.edit(ref, lambda live: _empty(live, patch)))

    async def apply_status(self, manifest: Manifest) -> Manifest:
        return self._write("patch/status", ref_of(manifest), lambda: self._apply(manifest, "status"))

    async def delete(self, ref: Ref, uid: str) -> None:
        def delete() -> None:
            if ref in self._objects and self._objects[ref].manifest["metadata"]["uid"] == uid:
                self.remove(ref)

        self._write("delete", ref, delete)

    async def create_event(self, manifest: Manifest) -> None:
        await self.create(manifest)

    async def list_events(self, about: Manifest) -> Sequence[Manifest]:
        self._call("list", Ref(Kind.EVENT, about["metadata"]["namespace"], ""))
        return [event for event in self.all(Kind.EVENT) if event["regarding"]["uid"] == about["metadata"]["uid"]]

    async def create(self, manifest: Manifest) -> Manifest:
        def create() -> Manifest:
            if ref_of(manifest) in self._objects:
                raise self._refusal(409, "AlreadyExists", "create", ref_of(manifest))
            return self.write(manifest)

        return self._write("create", ref_of(manifest), create)

    async def replace(self, manifest: Manifest) -> Manifest:
        def replace() -> Manifest:
            ref = ref_of(manifest)
            if ref not in self._objects:
                raise self._refusal(404, "NotFound", "update", ref)
            live = self._objects[ref].manifest["metadata"]["resourceVersion"]
            if manifest["metadata"].get("resourceVersion", live) != live:
                raise self._refusal(409, "Conflict", "update", ref)
            return self.write(manifest)

        return self._write("update", ref_of(manifest), replace)

    # What tests ask.

    def all(self, kind: Kind) -> Sequence[Manifest]:
        """Every object of a kind, by name."""
        found = [stored.manifest for ref, stored in self._objects.items() if ref.kind is kind]
        return copy.deepcopy(sorted(found, key=lambda item: (item["metadata"]["namespace"], item["metadata"]["name"])))

    def read(self, ref: Ref) -> Manifest:
        """The object as it is; KeyError if there is none. Not counted as a call."""
        return copy.deepcopy(self._objects[ref].manifest)

    def verbs(self) -> Counter[str]:
        return Counter(call.verb for call in self.calls)

    def writes(self) -> Sequence[Call]:
        """The calls that were not reads."""
        return [call for call in self.calls if call.verb not in READS]

    def forget_calls(self) -> None:
        self.calls.clear()

    # What others do.

    def write(self, manifest: Manifest) -> Manifest:
        """Create or replace an object, status included if given, as a user, a controller or a kubelet would."""
        ref = ref_of(manifest)
        stored = self._objects.get(ref)
        wanted = copy.deepcopy(manifest)
        if stored is None:
            if ref.kind is Kind.CR:
                wanted.setdefault("status", {"observedGeneration": -1})
            return self._store(ref, _Stored({}), wanted)
        if "status" in stored.manifest:
            wanted.setdefault("status", copy.deepcopy(stored.manifest["status"]))
        before = _tree(stored.manifest)
        after = _tree(wanted)
        for paths in stored.owned.values():
            paths -= {path for path in paths if _at(before, path) != _at(after, path)}
        return self._store(ref, stored, wanted)

    def edit(self, ref: Ref, change: Callable[[Manifest], object]) -> Manifest:
        """Replace an object by what `change` makes of it in place."""
        manifest = self.read(ref)
        change(manifest)
        return self.write(manifest)

    def remove(self, ref: Ref) -> None:
        """Delete an object and, as the garbage collector would, what it owns."""
        gone = self._objects.pop(ref).manifest
        self._version += 1
        self._tell("DELETED", {**gone, "metadata": {**gone["metadata"], "resourceVersion": str(self._version)}})
        uid = gone["metadata"]["uid"]
        for other, stored in list(self._objects.items()):
            owners = stored.manifest["metadata"].get("ownerReferences", ())
            if other in self._objects and any(owner["uid"] == uid for owner in owners):
                self.remove(other)

    def watch(self, listener: Listener) -> None:
        """Tell a listener of everything that exists, and of every change from now on."""
        self._listeners.append(listener)
        for stored in self._objects.values():
            listener("ADDED", copy.deepcopy(stored.manifest))

    def deliver(self) -> None:
        """Tell what was held back, and hold back no more."""
        self.holds_events = False
        held, self._held = self._held, []
        for event, manifest in held:
            self._tell(event, manifest)

    # How it works.

    def _call(self, verb: str, ref: Ref) -> Fault | None:
        self.calls.append(Call(verb, ref))
        fault = self.faults.get(len(self.calls))
        if fault and not fault.applied:
            raise fault.error
        return fault

    def _write(self, verb: str, ref: Ref, effect: Callable[[], T]) -> T:
        fault = self._call(verb, ref)
        result = effect()
        if fault:
            raise fault.error
        return result

    def _apply(self, manifest: Manifest, subresource: str) -> Manifest:
        ref = ref_of(manifest)
        verb = "patch/status" if subresource else "patch"
        stored = self._objects.get(ref)
        if stored is None:
            if subresource:
                raise self._refusal(404, "NotFound", verb, ref)
            stored = _Stored({})
        metadata = stored.manifest.get("metadata", {})
        for name in ("uid", "resourceVersion"):
            if metadata and name in manifest["metadata"] and manifest["metadata"][name] != metadata[name]:
                raise self._refusal(409, "Conflict", verb, ref)
        applied = _tree(_applicable(manifest, subresource))
        merged = _tree(stored.manifest)
        paths = set(_paths(applied))
        for path in sorted(stored.owned.get(subresource, set()) - paths, key=len):
            _cut(merged, path)
        _merge(merged, applied)
        wanted = _plain(merged)
        if stored.manifest.get("immutable") and wanted.get("data") != stored.manifest.get("data"):
            raise self._refusal(422, "Invalid", verb, ref)
        stored.owned[subresource] = paths
        return self._store(ref, stored, wanted)

    def _store(self, ref: Ref, stored: _Stored, wanted: Manifest) -> Manifest:
        before = stored.manifest
        server_set = {
            key: before["metadata"][key]
            for key in ("uid", "resourceVersion", "creationTimestamp", "generation")
            if key in before.get("metadata", {})
        }
        wanted = {**wanted, "metadata": {**wanted["metadata"], **server_set}}
        if before and wanted == before:
            return copy.deepcopy(before)
        self._version += 1
        metadata = wanted["metadata"]
        metadata["resourceVersion"] = str(self._version)
        if not before:
            metadata.setdefault("namespace", "")
            metadata["uid"] = f"uid-{self._version}"
            metadata["creationTimestamp"] = datetime.fromtimestamp(self._now(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if ref.kind not in WITHOUT_GENERATION and (not before or _content(wanted) != _content(before)):
            metadata["generation"] = before.get("metadata", {}).get("generation", 0) + 1
        stored.manifest = wanted
        self._objects[ref] = stored
        self._tell("MODIFIED" if before else "ADDED", wanted)
        return copy.deepcopy(wanted)

    def _tell(self, event: str, manifest: Manifest) -> None:
        if self.holds_events:
            self._held.append((event, copy.deepcopy(manifest)))
            return
        for listener in self._listeners:
            listener(event, copy.deepcopy(manifest))

    def _refusal(self, status: int, reason: str, verb: str, ref: Ref) -> ApiError:
        call = f"{verb} {ref.kind.value.plural} {ref.namespace}/{ref.name}"
        return ApiError(status, reason, f"{ref.kind.value.plural} {ref.name!r}", call=call)


def _is_managed(manifest: Manifest) -> bool:
    labels = manifest["metadata"].get("labels") or {}
    return bool(labels.get(MANAGED_BY) == FIELD_MANAGER)


def _content(manifest: Manifest) -> Manifest:
    return {key: value for key, value in manifest.items() if key not in ("metadata", "status")}


def _applicable(manifest: Manifest, subresource: str) -> Manifest:
    """The fields that an apply may set: nothing but status by the subresource, all but status otherwise."""
    metadata = {key: value for key, value in manifest["metadata"].items() if key not in ("uid", "resourceVersion")}
    content = {**manifest, "metadata": metadata}
    if subresource:
        return {subresource: content.get(subresource, {})}
    content.pop("status", None)
    return content


def _merge_key(name: str, items: list[Any]) -> tuple[str, ...] | None:
    if name == "ports":
        return ("containerPort", "protocol") if any("containerPort" in item for item in items) else ("port", "protocol")
    return MERGE_KEYS.get(name)


def _tree(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _tree(item, key) for key, item in value.items()}
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        keys = _merge_key(name, value)
        if keys is not None:
            return _Keyed({tuple(item.get(key, "TCP") for key in keys): _tree(item) for item in value})
    return copy.deepcopy(value)


def _plain(tree: Any) -> Any:
    if isinstance(tree, _Keyed):
        return [_plain(item) for item in tree.values()]
    if isinstance(tree, dict):
        return {key: _plain(item) for key, item in tree.items()}
    return tree


def _paths(tree: Any, path: Path = ()) -> Iterator[Path]:
    """Every leaf, and every item of a keyed list."""
    if isinstance(tree, dict) and tree:
        for key, item in tree.items():
            if isinstance(tree, _Keyed):
                yield (*path, key)
            yield from _paths(item, (*path, key))
    else:
        yield path


def _at(tree: Any, path: Path) -> Any:
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _cut(tree: dict[Any, Any], path: Path) -> None:
    """Remove what is at a path, and the parents that are empty without it."""
    *parents, last = path
    if not parents:
        tree.pop(last, None)
        return
    child = tree.get(parents[0])
    if isinstance(child, dict):
        _cut(child, path[1:])
        if not child:
            del tree[parents[0]]


def _empty(live: Any, patch: Any) -> None:
    for name, value in patch.items():
        if value is None:
            live.pop(name, None)
        elif isinstance(value, dict):
            _empty(live.get(name, {}), value)
        else:
            for item in value:
                keyed = {key: wanted for key, wanted in item.items() if key in ("name", "containerPort", "port")}
                there = next((it for it in live[name] if keyed.items() <= it.items()), {})
                _empty(there, {key: wanted for key, wanted in item.items() if key not in keyed})


def _merge(live: dict[Any, Any], applied: dict[Any, Any]) -> None:
    for key, value in applied.items():
        there = live.get(key)
        if isinstance(value, dict) and isinstance(there, dict) and type(value) is type(there):
            _merge(there, value)
        else:
            live[key] = copy.deepcopy(value)
