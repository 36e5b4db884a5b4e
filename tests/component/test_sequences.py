"""Whatever happens in whatever order, and however late it is heard of: the same end, and then silence."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Coroutine
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from memory_cluster import Call, Fault, MemoryCluster
from samples import KEY, NOW, confirm, cr_manifest, pod, report

from qwenvl_operator.conflicts import QUIET
from qwenvl_operator.custom_resource import CustomResource
from qwenvl_operator.errors import ApiError
from qwenvl_operator.naming import GATE, REVISION_LABEL
from qwenvl_operator.objects import CHILD_KINDS, WATCHED_KINDS, Kind, Manifest, Ref, owner_uid, ref_of
from qwenvl_operator.observed import Store
from qwenvl_operator.permissions import Denials
from qwenvl_operator.pods import condition, container
from qwenvl_operator.reconcile import Reconciler
from qwenvl_operator.reports import ReportUnreadable
from qwenvl_operator.settings import Settings
from qwenvl_operator.status import find_condition
from qwenvl_runtime.config import WarmupReport

CR = Ref(Kind.CR, *KEY)
DEPLOYMENT = Ref(Kind.DEPLOYMENT, *KEY)
SETTINGS = Settings(runtime_image="registry.local/runtime:1", identity="operator-1", namespaces=("ai",))
SPECS = st.fixed_dictionaries(
    {"replicas": st.integers(0, 2), "suspend": st.booleans()},
    optional={"engine": st.sampled_from([{"maxNumSeqs": 9}, {"maxNumSeqs": 10}])},
)
Event = tuple[str, Manifest]
KINDS = st.sampled_from(CHILD_KINDS)
FAULTS = st.builds(
    Fault,
    st.builds(ApiError, st.sampled_from([0, 409, 429, 500, 503]), st.just("Broken"), st.just("x"), call=st.just("x")),
    applied=st.booleans(),
)


class Sequences(RuleBasedStateMachine):
    """A cluster, an operator, and everything between them that may be late, doubled, missed or refused."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.cluster = MemoryCluster()
        self.history: list[Event] = []
        self.pending: dict[Ref, list[Event]] = {}
        self.seen: list[Event] = []
        self.has_missed = False
        self.pods = 0
        self.seconds = itertools.count()
        self.restart()
        self.cluster.watch(self.happen)
        self.cluster.write(cr_of({}))

    # What users, controllers and kubelets do.

    @rule(spec=SPECS)
    def change_the_spec(self, spec: dict[str, Any]) -> None:
        self.cluster.edit(CR, lambda live: live.update(spec=cr_of(spec)["spec"]))

    @rule(spec=SPECS)
    def delete_and_create_anew(self, spec: dict[str, Any]) -> None:
        self.cluster.remove(CR)
        self.cluster.write(cr_of(spec))

    @rule(kind=KINDS)
    def delete_a_child(self, kind: Kind) -> None:
        for child in self.cluster.all(kind)[:1]:
            self.cluster.remove(Ref(kind, KEY.namespace, child["metadata"]["name"]))

    @rule()
    def edit_a_child(self) -> None:
        if self.cluster.all(Kind.DEPLOYMENT):
            self.cluster.edit(DEPLOYMENT, lambda live: live["spec"].update(replicas=7))

    @rule()
    def roll_out(self) -> None:
        """The Deployment controller in one step, the old pods gone and the new ones running."""
        if not self.cluster.all(Kind.DEPLOYMENT):
            return
        live = self.cluster.read(DEPLOYMENT)
        revision, replicas = live["spec"]["template"]["metadata"]["labels"][REVISION_LABEL], live["spec"]["replicas"]
        kept = [item for item in self.cluster.all(Kind.POD) if item["metadata"]["labels"][REVISION_LABEL] == revision]
        for old in [item for item in self.cluster.all(Kind.POD) if item not in kept] + kept[replicas:]:
            self.cluster.remove(Ref(Kind.POD, KEY.namespace, old["metadata"]["name"]))
        for _ in range(replicas - len(kept)):
            self.pods += 1
            new = pod(self.resource(), f"reports-{self.pods}", revision=revision, started=True, ready=True)
            self.cluster.write(new)
        status = {"observedGeneration": live["metadata"]["generation"], "replicas": replicas}
        self.cluster.edit(DEPLOYMENT, lambda live: live.update(status={**status, "updatedReplicas": replicas}))

    @rule()
    def restart_a_container(self) -> None:
        for item in self.cluster.all(Kind.POD)[:1]:
            name = item["metadata"]["name"]
            self.cluster.edit(Ref(Kind.POD, KEY.namespace, name), restarted)

    @rule()
    def heed_the_gates(self) -> None:
        for item in self.cluster.all(Kind.POD):
            self.cluster.edit(Ref(Kind.POD, KEY.namespace, item["metadata"]["name"]), heeded)

    # What becomes of the events.

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), coalesced=st.booleans())
    def deliver(self, data: st.DataObject, coalesced: bool) -> None:
        """Of objects in any order, of one object too: one of its events, or the last alone of all."""
        ref = data.draw(st.sampled_from(list(self.pending)), label="of")
        events = self.pending.pop(ref)
        event = events.pop(-1 if coalesced else data.draw(st.integers(0, len(events) - 1), label="which"))
        if events and not coalesced:
            self.pending[ref] = events
        self.see(*event)

    @precondition(lambda self: self.seen)
    @rule(data=st.data())
    def hear_again(self, data: st.DataObject) -> None:
        """The late answer to a write, or an event that comes twice."""
        self.see(*data.draw(st.sampled_from(self.seen), label="what"))

    @precondition(lambda self: self.pending)
    @rule()
    def miss_all(self) -> None:
        """A watch that starts over: lists will tell."""
        self.pending.clear()
        self.has_missed = True

    # What the operator does.

    @rule()
    def reconcile(self) -> None:
        self.try_to_reconcile()

    @rule(k=st.integers(1, 14), fault=FAULTS)
    def reconcile_with_a_fault(self, k: int, fault: Fault) -> None:
        self.cluster.faults = {k: fault}
        self.try_to_reconcile()
        self.cluster.faults = {}

    @rule()
    def restart(self) -> None:
        self.start()
        self.confirm()

    @rule(data=st.data())
    def restart_in_the_past(self, data: st.DataObject) -> None:
        """From lists out of an API server's old cache; the watches then tell what came since."""
        self.start()
        self.pending.clear()
        self.has_missed = False
        for kind in (Kind.CR, *WATCHED_KINDS):
            events = [event for event in self.history if Kind.of(event[1]) is kind]
            then = data.draw(st.integers(0, len(events)), label=kind.value.plural)
            last = {ref_of(manifest): (event, manifest) for event, manifest in events[:then]}
            listed = [manifest for event, manifest in last.values() if event != "DELETED"]
            confirm(self.store, kind, listed, self.store.mark())
            for event, manifest in events[then:]:
                self.pending.setdefault(ref_of(manifest), []).append((event, manifest))

    # What has to hold.

    def teardown(self) -> None:
        try:
            self.settle()
            self.check()
        finally:
            self.loop.close()

    def settle(self) -> None:
        # Whoever fought about a child has stopped.
        self.seconds = itertools.count(next(self.seconds) + round(QUIET))
        if self.has_missed:
            self.confirm()
        for _ in range(12):
            while self.pending:
                for event in self.pending.popitem()[1]:
                    self.see(*event)
            self.cluster.forget_calls()
            self.run(self.reconciler(KEY))
            was_silent = not self.cluster.calls
            self.collect_garbage()
            self.roll_out()
            self.heed_the_gates()
            if was_silent and not self.pending:
                return
        raise AssertionError(f"no rest: {self.cluster.calls}")

    def check(self) -> None:
        status = self.cluster.read(CR)["status"]
        replicas = self.resource().replicas
        assert status["observedGeneration"] == self.cluster.read(CR)["metadata"]["generation"]
        assert status["readyReplicas"] == replicas
        assert (find_condition(status, "Ready")["status"] == "True") == bool(replicas)
        assert find_condition(status, "Stalled")["status"] == "False"
        assert [len(self.cluster.all(kind)) for kind in CHILD_KINDS] == [1] * len(CHILD_KINDS)
        clean = MemoryCluster()
        store = Store()
        cr = self.cluster.read(CR)
        clean.watch(lambda _, manifest: store.put(manifest) and None)
        clean.write({**cr_of({}), "spec": cr["spec"]})
        self.run(Reconciler(store, clean, SETTINGS, self, denials=Denials(), now=self.now)(KEY))
        for kind in CHILD_KINDS:
            assert outline(self.cluster.all(kind)) == outline(clean.all(kind))

    # How it is done.

    def now(self) -> float:
        return NOW + next(self.seconds)

    async def read(self, manifest: Manifest) -> WarmupReport:
        """The warm-up report: the container is the one that the cluster has now, whatever the operator believes."""
        name = manifest["metadata"]["name"]
        live = next((item for item in self.cluster.all(Kind.POD) if item["metadata"]["name"] == name), None)
        if live is None:
            raise ReportUnreadable("gone")
        revision = live["metadata"]["labels"][REVISION_LABEL]
        return report(self.resource(), pod=name, revision=revision, started_at=container(live).running_since)

    def collect_garbage(self) -> None:
        """Children of a resource that is there no more: made by an operator that had not heard of its end."""
        uid = self.cluster.read(CR)["metadata"]["uid"]
        for kind in CHILD_KINDS:
            for item in self.cluster.all(kind):
                if owner_uid(item) != uid:
                    self.cluster.remove(ref_of(item))

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def start(self) -> None:
        self.store = Store()
        self.seen = []
        self.reconciler = Reconciler(self.store, self.cluster, SETTINGS, self, denials=Denials(), now=self.now)

    def try_to_reconcile(self) -> None:
        """An error is for the queue, which tries again. No Deployment goes back, whatever the operator has heard."""
        self.cluster.forget_calls()
        try:
            self.run(self.reconciler(KEY))
        except ApiError:
            return
        if Call("patch", DEPLOYMENT) in self.cluster.calls and self.cluster.all(Kind.DEPLOYMENT):
            assert self.cluster.read(DEPLOYMENT)["spec"]["replicas"] == self.resource().replicas

    def happen(self, event: str, manifest: Manifest) -> None:
        self.history.append((event, manifest))
        self.pending.setdefault(ref_of(manifest), []).append((event, manifest))

    def see(self, event: str, manifest: Manifest) -> None:
        if Kind.of(manifest) in (Kind.CR, *WATCHED_KINDS):
            self.seen.append((event, manifest))
            (self.store.remove if event == "DELETED" else self.store.put)(manifest)

    def confirm(self) -> None:
        for kind in (Kind.CR, *WATCHED_KINDS):
            confirm(self.store, kind, self.cluster.all(kind), self.store.mark())
        self.has_missed = False

    def resource(self) -> CustomResource:
        return CustomResource.parse(self.cluster.read(CR))


def cr_of(spec: dict[str, Any]) -> Manifest:
    return {**cr_manifest(**spec), "metadata": {"name": KEY.name, "namespace": KEY.namespace}}


def restarted(live: Manifest) -> None:
    status = live["status"]["containerStatuses"][0]
    status["restartCount"] += 1
    status["containerID"] = f"containerd://{status['restartCount']}"


def heeded(live: Manifest) -> None:
    """What the kubelet makes of the gate."""
    opened = condition(live, GATE).get("status", "False")
    others = [item for item in live["status"]["conditions"] if item["type"] != "Ready"]
    live["status"]["conditions"] = [*others, {"type": "Ready", "status": opened}]


def outline(manifests: Any) -> list[Any]:
    """Objects less what is counted, drawn, said by others, or a matter of how it came about."""
    found = []
    for item in manifests:
        metadata = {key: item["metadata"][key] for key in ("name", "labels")}
        spec = {key: value for key, value in item.get("spec", {}).items() if key != "strategy"}
        found.append({**item, "metadata": metadata, "spec": spec, "status": None})
    return found


# The same examples every time, unless more of them are asked for.
EXAMPLES = os.environ.get("QWENVL_EXAMPLES")
TestSequences = Sequences.TestCase
TestSequences.settings = settings(
    max_examples=int(EXAMPLES or 60),
    derandomize=not EXAMPLES,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
