"""The whole loop over an API server in memory: what is written, what is said, and what a fault at any call changes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from memory_cluster import Fault, MemoryCluster
from samples import KEY, NOW, STARTED_AT, cr_manifest, report

from qwenvl_operator.conflicts import PAUSE, QUIET, TOLERATED
from qwenvl_operator.custom_resource import CustomResource
from qwenvl_operator.errors import ApiError
from qwenvl_operator.naming import GATE, REVISION_LABEL, labels
from qwenvl_operator.objects import CHILD_KINDS, Kind, Manifest, Ref, ref_of
from qwenvl_operator.observed import Store
from qwenvl_operator.patience import Patience
from qwenvl_operator.permissions import Denials, Permission
from qwenvl_operator.pods import condition, has_gate, revision_of, timestamp
from qwenvl_operator.reconcile import Reconciler
from qwenvl_operator.reports import ReportUnreadable
from qwenvl_operator.settings import Settings
from qwenvl_operator.status import find_condition
from qwenvl_runtime.config import EngineReport, SnapshotReport, WarmupReport, WarmupShot

CR = Ref(Kind.CR, *KEY)
DEPLOYMENT = Ref(Kind.DEPLOYMENT, *KEY)
POD = Ref(Kind.POD, KEY.namespace, "reports-1")
MODEL = {"source": {"persistentVolumeClaim": {"claimName": "weights"}}}
SETTINGS = Settings(runtime_image="registry.local/runtime:1", identity="operator-1")


class World:
    """A cluster, an operator, and what the controllers and the kubelet would do."""

    def __init__(
        self, cluster: MemoryCluster | None = None, settings: Settings = SETTINGS, *, patience: float = 0.0
    ) -> None:
        self.cluster = cluster or MemoryCluster()
        self.store = Store()
        self.reports: dict[str, WarmupReport] = {}
        self.denials = Denials()
        self.clock = NOW
        self.reconciler = Reconciler(
            self.store,
            self.cluster,
            settings,
            self,
            denials=self.denials,
            now=lambda: self.clock,
            patience=Patience(patience),
        )
        self.cluster.watch(self._see)

    async def read(self, pod: Manifest) -> WarmupReport:
        if pod["metadata"]["name"] not in self.reports:
            raise ReportUnreadable("nothing answers.")
        return self.reports[pod["metadata"]["name"]]

    async def reconcile(self) -> float | None:
        self.clock += 1
        return await self.reconciler(KEY)

    def apply(self, **spec: Any) -> None:
        existing = {ref.name: ref for ref in [CR]} if self.cluster.all(Kind.CR) else {}
        wanted = cr_manifest(**spec)
        if not existing:
            wanted["metadata"] = {"name": KEY.name, "namespace": KEY.namespace}
            self.cluster.write(wanted)
        else:
            self.cluster.edit(CR, lambda live: live.update(spec=wanted["spec"]))

    def roll_out(self, **pod_state: Any) -> None:
        """What the Deployment controller and the kubelet would do: one pod of the newest template, none of others."""
        deployment = self.cluster.read(DEPLOYMENT)
        for old in self.cluster.all(Kind.POD):
            self.cluster.remove(Ref(Kind.POD, KEY.namespace, old["metadata"]["name"]))
        if deployment["spec"]["replicas"]:
            self.cluster.write(kubelet_pod(deployment, **pod_state))
        replicas = deployment["spec"]["replicas"]
        status = {
            "observedGeneration": deployment["metadata"]["generation"],
            "replicas": replicas,
            "updatedReplicas": replicas,
        }
        self.cluster.edit(DEPLOYMENT, lambda live: live.update(status=status))

    def status(self) -> Manifest:
        found: Manifest = self.cluster.read(CR)["status"]
        return found

    def ready(self) -> tuple[str, str]:
        found = find_condition(self.status(), "Ready")
        return found["status"], found["reason"]

    def resource(self) -> CustomResource:
        return CustomResource.parse(self.cluster.read(CR))

    def _see(self, event: str, manifest: Manifest) -> None:
        if Kind.of(manifest) in (CR.kind, *CHILD_KINDS, Kind.POD):
            (self.store.remove if event == "DELETED" else self.store.put)(manifest)


def kubelet_pod(deployment: Manifest, *, container: str = "containerd://one", ready: bool = True) -> Manifest:
    template = deployment["spec"]["template"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": POD.name,
            "namespace": KEY.namespace,
            "labels": {**labels(KEY), REVISION_LABEL: template["metadata"]["labels"][REVISION_LABEL]},
        },
        "spec": {**copy.deepcopy(template["spec"]), "nodeName": "node-a"},
        "status": {
            "podIP": "10.0.0.9",
            "conditions": [
                {"type": "PodScheduled", "status": "True"},
                {"type": "ContainersReady", "status": str(ready), "lastTransitionTime": "2027-01-15T08:00:00Z"},
            ],
            "containerStatuses": [
                {
                    "name": "runtime",
                    "containerID": container,
                    "ready": ready,
                    "started": True,
                    "restartCount": 0,
                    "state": {"running": {"startedAt": "2027-01-15T07:59:00Z"}},
                }
            ],
        },
    }


def become_ready(world: World) -> None:
    """What the kubelet does when the gate is open, or there is none."""

    def change(pod: Manifest) -> None:
        opened = condition(pod, GATE).get("status", "False") if has_gate(pod) else "True"
        others = [item for item in pod["status"]["conditions"] if item["type"] != "Ready"]
        pod["status"]["conditions"] = [*others, {"type": "Ready", "status": opened}]

    world.cluster.edit(POD, change)


async def serve(world: World, **spec: Any) -> None:
    """From nothing to Ready."""
    world.apply(**spec)
    await world.reconcile()
    world.roll_out()
    world.reports[POD.name] = report(world.resource())
    await world.reconcile()
    become_ready(world)
    await world.reconcile()


async def test_from_nothing_to_ready() -> None:
    world = World()
    world.apply()
    await world.reconcile()
    assert [len(world.cluster.all(kind)) for kind in CHILD_KINDS] == [1] * len(CHILD_KINDS)
    assert world.ready() == ("False", "Applying")
    world.roll_out(ready=False)
    await world.reconcile()
    assert world.ready() == ("False", "WarmingUp")
    await serve(world)
    assert world.ready() == ("True", "AllReplicasReady")
    assert world.status()["warmup"] == {"firstSeconds": "0.300", "steadySeconds": "0.200"}
    assert world.status()["observedGeneration"] == world.cluster.read(CR)["metadata"]["generation"]


async def test_at_rest_nothing_is_asked_and_nothing_is_written() -> None:
    world = World()
    await serve(world)
    world.cluster.forget_calls()
    for _ in range(3):
        assert await world.reconcile() is None
    assert world.cluster.calls == []


async def test_a_report_that_cannot_be_read_is_asked_for_again() -> None:
    world = World()
    world.apply()
    await world.reconcile()
    world.roll_out()
    pauses = [await world.reconcile()]
    assert world.ready() == ("False", "WaitingForGate")
    for seconds in (100, 3600):
        world.clock = NOW + seconds
        pauses.append(await world.reconcile())
    assert pauses == pytest.approx([2.0, 10.0, 30.0], abs=0.2), "each try may take seconds, and there may be many"
    assert world.ready() == ("False", "WarmupReportUnreadable")
    assert condition(world.cluster.read(POD), GATE) == {}


async def test_the_gate_closes_at_once_when_the_container_is_another() -> None:
    world = World()
    await serve(world)

    def restart(pod: Manifest) -> None:
        pod["status"]["containerStatuses"][0].update(containerID="containerd://two", ready=False)

    world.cluster.edit(POD, restart)
    await world.reconcile()
    assert condition(world.cluster.read(POD), GATE)["status"] == "False"
    world.cluster.edit(POD, lambda pod: pod["status"]["containerStatuses"][0].update(ready=True))
    world.reports[POD.name] = report(world.resource(), started_at=STARTED_AT + 30)
    await world.reconcile()
    assert condition(world.cluster.read(POD), GATE)["status"] == "True"
    assert "containerd://two" in condition(world.cluster.read(POD), GATE)["message"]


async def test_an_upgrade_of_the_operator_restarts_nothing() -> None:
    world = World()
    await serve(world)
    before = world.cluster.read(DEPLOYMENT)["spec"]["template"]
    upgraded = World(world.cluster, SETTINGS.model_copy(update={"runtime_image": "registry.local/runtime:2"}))
    world.cluster.forget_calls()
    await upgraded.reconcile()
    assert world.cluster.writes() == []
    world.apply(engine={"maxNumSeqs": 8})
    await upgraded.reconcile()
    after = world.cluster.read(DEPLOYMENT)["spec"]["template"]
    assert before["spec"]["containers"][0]["image"] == "registry.local/runtime:1"
    assert after["spec"]["containers"][0]["image"] == "registry.local/runtime:2"


async def test_a_wrong_default_image_is_cured_as_its_message_says() -> None:
    world = World()
    await serve(world)
    corrected = World(world.cluster, SETTINGS.model_copy(update={"runtime_image": "registry.local/runtime:2"}))
    world.cluster.remove(Ref(Kind.CONFIG_MAP, KEY.namespace, f"{KEY.name}-{world.resource().revision}"))
    await corrected.reconcile()
    assert image(world) == "registry.local/runtime:2"


async def test_the_configuration_of_the_old_revision_goes_when_its_pods_have_gone() -> None:
    world = World()
    await serve(world)
    world.apply(engine={"maxNumSeqs": 8})
    await world.reconcile()
    assert len(world.cluster.all(Kind.CONFIG_MAP)) == 2
    world.roll_out()
    await world.reconcile()
    assert [item["metadata"]["name"] for item in world.cluster.all(Kind.CONFIG_MAP)] == [
        f"{KEY.name}-{world.resource().revision}"
    ]


async def test_a_pod_that_failed_holds_no_configuration_back() -> None:
    world = World()
    await serve(world)
    world.apply(engine={"maxNumSeqs": 8})
    await world.reconcile()
    old = world.cluster.read(POD)
    world.roll_out()
    evicted = {"phase": "Failed", "reason": "Evicted"}
    world.cluster.write({**old, "metadata": {**old["metadata"], "name": "evicted"}, "status": evicted})
    await world.reconcile()
    assert len(world.cluster.all(Kind.CONFIG_MAP)) == 1


async def test_suspend_takes_the_pods_away_and_keeps_the_rest() -> None:
    world = World()
    await serve(world)
    world.apply(suspend=True)
    await world.reconcile()
    assert world.cluster.read(DEPLOYMENT)["spec"]["replicas"] == 0
    world.roll_out()
    await world.reconcile()
    assert world.ready() == ("False", "Suspended")
    assert [len(world.cluster.all(kind)) for kind in CHILD_KINDS] == [1] * len(CHILD_KINDS)


@pytest.mark.parametrize("rest", [{"suspend": True}, {"replicas": 0}], ids=str)
@pytest.mark.parametrize(
    "wrong",
    [
        {"engine": {"extraArgs": ["--port=1"]}},
        {"hardware": {"accelerator": {"count": 2, "model": "RTX3090-24G"}}},
    ],
    ids=["InvalidSpec", "DoesNotFit"],
)
async def test_what_cannot_work_can_be_suspended(wrong: dict[str, Any], rest: dict[str, Any]) -> None:
    world = World()
    await serve(world)
    before = world.cluster.read(DEPLOYMENT)["spec"]
    world.apply(**wrong, **rest)
    await world.reconcile()
    after = world.cluster.read(DEPLOYMENT)["spec"]
    assert after == {**before, "replicas": 0}
    assert find_condition(world.status(), "Stalled")["status"] == "True"
    assert len(world.cluster.all(Kind.CONFIG_MAP)) == 1, "the revision is not let in"
    world.roll_out()
    world.cluster.forget_calls()
    await world.reconcile()
    assert [call for call in world.cluster.writes() if call.ref.kind is not Kind.CR] == []
    world.apply()
    await world.reconcile()
    assert world.cluster.read(DEPLOYMENT)["spec"] == before


async def test_what_the_api_server_refuses_can_be_suspended() -> None:
    world = World()
    await serve(world)
    world.apply(engine={"maxNumSeqs": 8}, suspend=True)
    world.cluster.forget_calls()
    world.cluster.faults[2] = Fault(ApiError(422, "Invalid", "data: too long", call="patch configmaps ai/reports"))
    with pytest.raises(ApiError):
        await world.reconcile()
    assert world.cluster.read(DEPLOYMENT)["spec"]["replicas"] == 0
    assert world.ready() == ("False", "ApplyRefused")


async def test_an_invalid_spec_is_said_and_the_pods_go_on() -> None:
    world = World()
    await serve(world)
    before = world.cluster.read(DEPLOYMENT)
    world.apply(engine={"extraArgs": ["--port=1"]})
    await world.reconcile()
    stalled = find_condition(world.status(), "Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "InvalidSpec")
    assert "--port" in stalled["message"]
    assert world.cluster.read(DEPLOYMENT) == before
    assert find_condition(world.status(), "Available")["status"] == "True"
    world.apply()
    await world.reconcile()
    assert world.ready() == ("True", "AllReplicasReady")


async def test_what_does_not_fit_is_said_and_the_pods_go_on() -> None:
    world = World()
    await serve(world)
    before = world.cluster.read(DEPLOYMENT)
    world.apply(hardware={"accelerator": {"count": 2, "model": "RTX3090-24G"}})
    await world.reconcile()
    assert world.ready() == ("False", "DoesNotFit")
    assert find_condition(world.status(), "Stalled")["status"] == "True"
    assert world.cluster.read(DEPLOYMENT) == before
    assert find_condition(world.status(), "Available")["status"] == "True"


async def test_a_revision_that_was_let_in_is_not_refused_later() -> None:
    """The name of the accelerator is not part of the revision: it changes no pod, and takes none away."""
    world = World()
    await serve(world)
    before = world.cluster.read(DEPLOYMENT)
    world.apply(hardware={"accelerator": {"model": "RTX3090-24G"}})
    await world.reconcile()
    assert world.cluster.read(DEPLOYMENT) == before
    assert "not supported" in world.status()["fit"]["summary"]


async def test_an_engine_without_graphs_is_said() -> None:
    world = World()
    world.apply(hardware={"accelerator": {"model": "H100-80G"}})
    await world.reconcile()
    world.roll_out()
    engine = EngineReport(kv_cache_tokens=450_000, attention_backend="FLASH_ATTN")
    world.reports[POD.name] = report(world.resource(), engine=engine)
    await world.reconcile()
    become_ready(world)
    await world.reconcile()
    assert world.ready() == ("True", "EngineSlow")
    assert world.status()["fit"]["engineKvCacheTokens"] == 450_000
    world.cluster.forget_calls()
    await world.reconcile()
    assert world.cluster.calls == []


async def test_somebody_elses_object_is_not_taken_over() -> None:
    world = World()
    theirs = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": KEY.name, "namespace": KEY.namespace}}
    world.cluster.write(theirs)
    world.apply()
    assert await world.reconcile() == pytest.approx(30.0)
    assert world.ready() == ("False", "NameTaken")
    assert "labels" not in world.cluster.read(Ref(Kind.SERVICE, *KEY))["metadata"]
    world.cluster.remove(Ref(Kind.SERVICE, *KEY))
    await world.reconcile()
    assert world.ready() == ("False", "Applying")


async def test_a_spec_that_was_replaced_unseen_is_not_followed() -> None:
    world = World()
    await serve(world)
    world.apply(replicas=2)
    world.cluster.holds_events = True
    world.apply(replicas=3)
    world.cluster.forget_calls()
    assert await world.reconcile() == pytest.approx(0.1)
    assert world.cluster.writes() == []
    await world.reconcile()
    assert world.cluster.read(DEPLOYMENT)["spec"]["replicas"] == 3


async def test_a_resource_that_went_unseen_gets_no_children() -> None:
    world = World()
    world.apply()
    world.cluster.holds_events = True
    world.cluster.remove(CR)
    await world.reconcile()
    assert await world.reconcile() is None
    assert world.cluster.writes() == []


def forbidden(verb: str, resource: str) -> ApiError:
    message = f'User "operator" cannot {verb} resource "{resource}" in API group "" in the namespace "ai"'
    return ApiError(403, "Forbidden", message, call=f"{verb} {resource} ai/reports")


def stalled(world: World) -> tuple[str, str, str]:
    found = find_condition(world.status(), "Stalled")
    return found["status"], found["reason"], found["message"]


async def reconcile_refused(world: World, number: int, verb: str, resource: str) -> None:
    """The API server forbids the call of this number, and status says which right is lacking."""
    world.cluster.faults[number] = Fault(forbidden(verb, resource))
    with pytest.raises(ApiError):
        await world.reconcile()
    status, reason, message = stalled(world)
    assert (status, reason) == ("True", "PermissionMissing")
    assert f"may not {verb} {resource} in namespace ai" in message
    world.cluster.faults.clear()


async def test_a_forbidden_write_is_said_with_the_right_that_is_lacking() -> None:
    world = World()
    world.apply()
    await reconcile_refused(world, 6, "patch", "services")
    await world.reconcile()
    assert world.ready() == ("False", "Applying")


async def test_a_refused_write_is_said_with_the_call() -> None:
    world = World()
    world.apply()
    world.cluster.faults[6] = Fault(ApiError(422, "Invalid", "spec.ports: no", call="patch services ai/reports"))
    with pytest.raises(ApiError):
        await world.reconcile()
    assert stalled(world) == ("True", "ApplyRefused", "patch services ai/reports: 422 Invalid: spec.ports: no")


async def test_a_status_that_cannot_be_written_is_told_by_one_event_until_it_can() -> None:
    class Webhook(MemoryCluster):
        refuses = True

        async def apply_status(self, manifest: Manifest) -> Manifest:
            if self.refuses:
                raise ApiError(403, "Forbidden", "denied by guard.example", call="patch qwenvldeployments/status")
            return await super().apply_status(manifest)

    cluster = Webhook()
    world = World(cluster)
    world.apply()

    async def refused(tries: int) -> list[tuple[str, str]]:
        for _ in range(tries):
            with pytest.raises(ApiError):
                await world.reconcile()
        return [(event["type"], event["reason"]) for event in cluster.all(Kind.EVENT)]

    assert await refused(2) == [], "it may be an accident"
    assert await refused(5) == [("Warning", "ApplyRefused")]
    assert "denied by guard.example" in cluster.all(Kind.EVENT)[0]["note"]
    cluster.refuses = False
    await world.reconcile()
    cluster.refuses = True
    world.apply(replicas=2)
    told = len(cluster.all(Kind.EVENT))
    assert len(await refused(2)) == told
    assert len(await refused(5)) == told + 1


class BrokenWebhook(MemoryCluster):
    """A webhook that does not answer, in the way of all but status; its port is another one each time."""

    works = False
    tries = 0

    async def apply(self, manifest: Manifest) -> Manifest:
        return await super().apply(self._admit(manifest))

    def _admit(self, manifest: Manifest) -> Manifest:
        if self.works:
            return manifest
        self.tries += 1
        message = f'failed calling webhook "guard.example": 10.0.0.1:{40_000 + self.tries}: connection refused'
        raise ApiError(500, "InternalError", message, call="patch services ai/reports")


async def test_a_webhook_that_fails_is_said_when_that_has_lasted() -> None:
    cluster = BrokenWebhook()
    world = World(cluster, patience=2)
    world.apply()
    for _ in range(5):
        with pytest.raises(ApiError):
            await world.reconcile()
    assert status_writes(world) == 0, "a hiccup"
    assert world.status() == {"observedGeneration": -1}
    world.clock += 10
    for _ in range(3):
        with pytest.raises(ApiError):
            await world.reconcile()
    assert status_writes(world) == 1
    assert world.status()["observedGeneration"] == 1
    assert world.ready() == ("False", "ApplyRefused")
    assert stalled(world)[0] == "False"
    reconciling = find_condition(world.status(), "Reconciling")
    assert reconciling["status"] == "True"
    assert 'failed calling webhook "guard.example"' in reconciling["message"]
    assert [event["type"] for event in world.cluster.all(Kind.EVENT)] == ["Warning"]
    cluster.works = True
    await serve(world)
    assert world.ready() == ("True", "AllReplicasReady")
    cluster.works = False
    world.apply(replicas=2)
    writes = status_writes(world)
    with pytest.raises(ApiError):
        await world.reconcile()
    assert status_writes(world) == writes, "the next one is a hiccup again"


async def test_a_gate_that_a_webhook_keeps_shut_is_said_and_the_rest_goes_on() -> None:
    class Webhook(MemoryCluster):
        async def apply_status(self, manifest: Manifest) -> Manifest:
            if manifest["kind"] == "Pod":
                raise ApiError(500, "InternalError", "failed calling webhook", call="patch pods/status ai/reports-1")
            return await super().apply_status(manifest)

    world = World(Webhook())
    world.apply()
    await world.reconcile()
    world.roll_out()
    world.reports[POD.name] = report(world.resource())
    world.apply(replicas=2)
    with pytest.raises(ApiError):
        await world.reconcile()
    assert world.cluster.read(DEPLOYMENT)["spec"]["replicas"] == 2
    world.clock += 10
    with pytest.raises(ApiError):
        await world.reconcile()
    assert world.ready() == ("False", "ApplyRefused")


async def test_a_leftover_that_does_not_go_is_said_when_that_has_lasted() -> None:
    world = World(patience=2)
    owner = {"apiVersion": "qwenvl.io/v1alpha1", "kind": "QwenVLDeployment", "uid": "earlier", "controller": True}
    metadata = {"name": KEY.name, "namespace": KEY.namespace, "ownerReferences": [{**owner, "name": KEY.name}]}
    world.cluster.write({"apiVersion": "v1", "kind": "Service", "metadata": metadata})
    world.apply()
    for _ in range(5):
        assert await world.reconcile() == pytest.approx(2.0)
    assert status_writes(world) == 0, "it may be gone in a moment"
    world.clock += 10
    await world.reconcile()
    world.clock += 2
    for _ in range(3):
        assert await world.reconcile() == pytest.approx(2.0)
    assert status_writes(world) == 1
    assert world.ready() == ("False", "Applying")
    assert stalled(world)[0] == "False"
    message = "Service reports of an earlier resource of this name is still being removed"
    assert message in find_condition(world.status(), "Reconciling")["message"]
    world.cluster.remove(Ref(Kind.SERVICE, *KEY))
    await world.reconcile()
    assert len(world.cluster.all(Kind.DEPLOYMENT)) == 1


async def test_a_kind_that_may_not_be_watched_is_said_and_the_children_go_on() -> None:
    world = World()
    await serve(world)
    world.denials.note(Permission("watch", "", "pods", "ai"), granted=False)
    world.apply(replicas=2)
    await world.reconcile()
    assert world.cluster.read(DEPLOYMENT)["spec"]["replicas"] == 2
    assert stalled(world)[:2] == ("True", "PermissionMissing")
    assert "may not watch pods in namespace ai" in stalled(world)[2]
    world.denials.note(Permission("watch", "", "pods", "ai"), granted=True)
    await world.reconcile()
    assert stalled(world)[0] == "False"


async def test_without_the_right_to_write_events_everything_else_goes_on() -> None:
    world = World()
    world.apply(engine={"extraArgs": ["--port=1"]})
    world.cluster.faults[2] = Fault(forbidden("create", "events"))
    assert await world.reconcile() is None
    assert world.cluster.calls[1].ref.kind is Kind.EVENT
    assert world.ready() == ("False", "InvalidSpec")


async def test_without_the_right_to_see_nodes_a_revision_is_replaced_as_if_there_were_no_room() -> None:
    world = World()
    await serve(world)
    world.apply(engine={"maxNumSeqs": 8})
    world.cluster.forget_calls()
    world.cluster.faults[1] = Fault(forbidden("list", "nodes"))
    await world.reconcile()
    assert world.cluster.calls[0].ref.kind is Kind.NODE
    assert world.cluster.read(DEPLOYMENT)["spec"]["strategy"]["type"] == "Recreate"
    assert revision_of(world.cluster.read(DEPLOYMENT)["spec"]["template"]) == world.resource().revision


async def test_a_pod_that_no_node_may_take_costs_no_pod_that_serves() -> None:
    world = World()
    await serve(world)
    world.apply(hardware={"nodeSelector": {"gpu": "misspelt"}})
    await world.reconcile()
    strategy = world.cluster.read(DEPLOYMENT)["spec"]["strategy"]
    assert strategy["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def take_over(live: Manifest) -> None:
    """Another controller's write."""
    live["spec"]["template"]["spec"]["containers"][0]["image"] = "theirs"
    fields = {"f:spec": {"f:template": {"f:spec": {"f:containers": {'k:{"name":"runtime"}': {"f:image": {}}}}}}}
    live["metadata"]["managedFields"] = [{"manager": "their-controller", "fieldsV1": fields}]


async def test_a_child_that_somebody_keeps_changing_is_said_and_repaired_slowly_until_they_stop() -> None:
    world = World()
    await serve(world)
    for _ in range(TOLERATED):
        world.cluster.edit(DEPLOYMENT, take_over)
        await world.reconcile()
        assert image(world) == "registry.local/runtime:1"
        assert stalled(world)[0] == "False"
    world.cluster.edit(DEPLOYMENT, take_over)
    assert await world.reconcile() == PAUSE
    status, reason, message = stalled(world)
    assert (status, reason) == ("True", "FieldManagerConflict")
    assert "their-controller keeps changing spec.template.spec.containers[runtime].image of Deployment" in message
    assert find_condition(world.status(), "Available")["status"] == "True"
    # For ten minutes they write as fast as they can.
    world.cluster.forget_calls()
    for _ in range(600):
        world.cluster.edit(DEPLOYMENT, take_over)
        assert await world.reconcile() is not None
    repairs = [call for call in world.cluster.writes() if call.ref.kind is not Kind.CR]
    assert len(repairs) == 600 / PAUSE
    assert world.cluster.verbs()["patch/status"] == 0, "nothing new is said"
    world.clock += PAUSE
    assert await world.reconcile() == QUIET - PAUSE - 1
    world.clock += QUIET
    assert await world.reconcile() is None
    assert image(world) == "registry.local/runtime:1"
    assert stalled(world)[0] == "False"


async def test_what_a_webhook_undoes_is_tried_again_until_it_is_said() -> None:
    class Webhook(MemoryCluster):
        async def apply(self, manifest: Manifest) -> Manifest:
            live = await super().apply(manifest)
            return self.edit(ref_of(live), take_over) if live["kind"] == "Deployment" else live

    world = World(Webhook())
    world.apply()
    for _ in range(TOLERATED + 1):
        assert await world.reconcile() == pytest.approx(5.0)
    await world.reconcile()
    assert world.ready() == ("False", "FieldManagerConflict")


def image(world: World) -> str:
    return str(world.cluster.read(DEPLOYMENT)["spec"]["template"]["spec"]["containers"][0]["image"])


async def test_a_gate_that_may_not_be_written_is_said_with_the_right_and_the_rest_goes_on() -> None:
    world = World()
    world.apply()
    await world.reconcile()
    world.roll_out()
    world.reports[POD.name] = report(world.resource())
    world.apply(replicas=2)
    world.cluster.forget_calls()
    await reconcile_refused(world, 1, "patch", "pods/status")
    assert world.cluster.read(DEPLOYMENT)["spec"]["replicas"] == 2
    await world.reconcile()
    assert condition(world.cluster.read(POD), GATE)["status"] == "True"
    assert find_condition(world.status(), "Stalled")["status"] == "False"


async def test_without_a_gate_the_report_is_read_once_for_each_container() -> None:
    world = World()
    world.apply(warmup={"gatePolicy": "Fallback"})
    await world.reconcile()
    world.roll_out()
    assert await world.reconcile() == pytest.approx(60.0)
    assert "warmup" not in world.status()
    world.reports[POD.name] = report(world.resource())
    assert await world.reconcile() is None
    assert world.status()["warmup"] == {"firstSeconds": "0.300", "steadySeconds": "0.200"}
    assert condition(world.cluster.read(POD), GATE) == {}
    del world.reports[POD.name]
    assert await world.reconcile() is None
    world.cluster.edit(POD, lambda pod: pod["status"]["containerStatuses"][0].update(containerID="containerd://two"))
    assert await world.reconcile() == pytest.approx(60.0)


def load(pod: Manifest) -> None:
    """The pod's container runs and is not through its startup probe."""
    pod["status"]["containerStatuses"][0].update(started=False, ready=False)


async def test_a_pod_that_verifies_is_asked_how_far_it_is_until_it_has_loaded() -> None:
    digest = "sha256:" + "a" * 64
    world = World()
    world.apply(model=MODEL | {"manifestDigest": digest})
    await world.reconcile()
    world.roll_out()
    world.cluster.edit(POD, load)
    assert await world.reconcile() == pytest.approx(10.0), "nothing answers yet"
    progress = SnapshotReport(digest=digest, bytes_total=30 * 10**9)
    for done in (10, 20):
        progress = progress.model_copy(update={"bytes_done": done * 10**9})
        world.reports[POD.name] = report(world.resource(), complete=False, shots=(), snapshot=progress)
        assert await world.reconcile() == pytest.approx(10.0)
        verified = find_condition(world.status(), "SnapshotVerified")
        assert (verified["status"], verified["reason"]) == ("Unknown", "VerifyingSnapshot")
        assert f"{done}.0 of 30.0 GB" in verified["message"]
        assert condition(world.cluster.read(POD), GATE) == {}
    predecessor = report(world.resource(), complete=False, started_at=STARTED_AT - 60, snapshot=progress)
    world.reports[POD.name] = predecessor
    await world.reconcile()
    assert find_condition(world.status(), "SnapshotVerified")["message"] == "No pod has verified the snapshot yet."
    whole = SnapshotReport(digest=digest, bytes_total=1, bytes_done=1, verified_at=NOW)
    world.reports[POD.name] = report(world.resource(), complete=False, shots=(), snapshot=whole)
    await world.reconcile()
    assert find_condition(world.status(), "SnapshotVerified")["status"] == "True"
    assert world.status()["snapshot"]["digest"] == digest
    world.cluster.edit(POD, lambda pod: pod["status"]["containerStatuses"][0].update(started=True, ready=True))
    world.reports[POD.name] = report(world.resource(), snapshot=whole)
    await world.reconcile()
    become_ready(world)
    assert await world.reconcile() is None
    world.cluster.forget_calls()
    successor = World(world.cluster)
    assert await successor.reconcile() is None, "nobody is asked at rest"
    assert world.cluster.calls == []


async def test_what_a_node_says_of_a_pod_without_a_container_is_read_from_its_events() -> None:
    world = World()
    world.apply()
    await world.reconcile()
    world.roll_out(ready=False)
    since = {"type": "PodScheduled", "status": "True", "lastTransitionTime": timestamp(NOW)}
    world.cluster.edit(POD, lambda pod: pod["status"].update(containerStatuses=[], conditions=[since]))
    said = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": "said", "namespace": KEY.namespace},
        "type": "Warning",
        "reason": "FailedMount",
        "reportingController": "kubelet",
        "note": "hostPath type check failed: /nowhere is not a directory",
        "regarding": {"uid": world.cluster.read(POD)["metadata"]["uid"]},
        "eventTime": timestamp(NOW),
    }
    world.cluster.write(said)
    world.cluster.forget_calls()
    assert await world.reconcile() == pytest.approx(10.0)
    assert world.cluster.verbs()["list"] == 0, "a node has a moment"
    assert world.ready() == ("False", "StartingContainer")
    world.clock += 20
    assert await world.reconcile() == pytest.approx(10.0)
    assert world.ready() == ("False", "VolumeUnavailable")
    assert "Node node-a cannot start pod reports-1: hostPath type" in find_condition(world.status(), "Ready")["message"]
    assert [event["type"] for event in world.cluster.all(Kind.EVENT) if event["reason"] == "VolumeUnavailable"] == [
        "Warning"
    ]
    world.cluster.forget_calls()
    world.cluster.faults[1] = Fault(ApiError(403, "Forbidden", "cannot list events", call="list events ai"))
    await world.reconcile()
    assert world.ready() == ("False", "StartingContainer"), "without the right to read Events less is said"


async def test_a_bad_snapshot_leaves_the_pods_of_the_old_revision_untouched() -> None:
    world = World()
    await serve(world, rollout={"strategy": "Surge"})
    before = world.cluster.read(POD)
    world.apply(model=MODEL | {"manifestDigest": "sha256:" + "b" * 64}, rollout={"strategy": "Surge"})
    await world.reconcile()
    new = kubelet_pod(world.cluster.read(DEPLOYMENT), container="containerd://new", ready=False)
    new["metadata"]["name"] = "reports-2"
    words = "SNAPSHOT_INVALID: /model is not what its manifest says; missing: model.safetensors"
    ended = {"terminated": {"exitCode": 13, "reason": "Error", "message": words}}
    new["status"]["containerStatuses"][0].update(state=ended, started=False, restartCount=1)
    world.cluster.write(new)
    world.cluster.edit(
        DEPLOYMENT,
        lambda live: live["status"].update(observedGeneration=live["metadata"]["generation"], replicas=2),
    )
    world.cluster.forget_calls()
    assert await world.reconcile() is None
    assert world.cluster.read(POD) == before
    assert world.cluster.verbs()["delete"] == 0
    assert world.ready() == ("False", "SnapshotInvalid")
    assert find_condition(world.status(), "Available")["status"] == "True"
    verified = find_condition(world.status(), "SnapshotVerified")
    assert (verified["status"], verified["reason"]) == ("False", "SnapshotInvalid")
    assert "model.safetensors" in verified["message"]
    (event,) = [event for event in world.cluster.all(Kind.EVENT) if event["reason"] == "SnapshotInvalid"]
    assert event["type"] == "Warning"


async def test_events_tell_of_transitions_alone() -> None:
    world = World()
    await serve(world)
    await world.reconcile()
    reasons = [event["reason"] for event in world.cluster.all(Kind.EVENT)]
    assert sorted(reasons) == ["AllReplicasReady", "WaitingForGate"]


def status_writes(world: World) -> int:
    return sum(call.ref == CR for call in world.cluster.writes())


async def test_a_start_that_takes_no_time_is_told_by_its_end_alone() -> None:
    world = World(patience=60)
    await serve(world)
    assert world.ready() == ("True", "AllReplicasReady")
    assert status_writes(world) == 1
    assert world.status()["warmup"] == {"firstSeconds": "0.300", "steadySeconds": "0.200"}
    assert [event["reason"] for event in world.cluster.all(Kind.EVENT)] == ["AllReplicasReady"]


async def test_a_step_that_lasts_is_told_when_it_has_lasted() -> None:
    world = World(patience=60)
    world.apply()
    again = await world.reconcile()
    assert again == pytest.approx(60)
    assert status_writes(world) == 0
    world.clock += again
    assert await world.reconcile() is None
    assert world.ready() == ("False", "Applying")


async def test_what_a_report_said_outlives_the_process_that_read_it() -> None:
    world = World(patience=60)
    world.apply()
    await world.reconcile()
    world.roll_out()
    world.reports[POD.name] = report(world.resource())
    await world.reconcile()
    become_ready(world)
    assert condition(world.cluster.read(POD), GATE)["status"] == "True"
    assert status_writes(world) == 0
    successor = World(world.cluster)
    assert await successor.reconcile() == pytest.approx(60), "nothing answers yet"
    successor.reports = world.reports
    await successor.reconcile()
    assert successor.status()["warmup"] == {"firstSeconds": "0.300", "steadySeconds": "0.200"}


SLOW = {
    "engine": EngineReport(kv_cache_tokens=450_000, attention_backend="FLASH_ATTN"),
    "shots": (WarmupShot(name="proof", first_seconds=9.0, steady_seconds=0.2),),
}
H100 = {"accelerator": {"model": "H100-80G"}}


async def replace_by_a_slow_one(world: World, **warmup: Any) -> None:
    """A quick revision is Ready, the next one reports without CUDA graphs; its report has not been read yet."""
    world.apply(hardware=H100, warmup=warmup)
    await world.reconcile()
    world.roll_out()
    engine = EngineReport(kv_cache_tokens=450_000, attention_backend="FLASH_ATTN", cuda_graphs=True, compiled=True)
    world.reports[POD.name] = report(world.resource(), engine=engine)
    await world.reconcile()
    become_ready(world)
    await world.reconcile()
    assert world.ready() == ("True", "AllReplicasReady")
    world.apply(hardware=H100, warmup=warmup, engine={"maxNumSeqs": 8})
    await world.reconcile()
    world.roll_out()
    world.reports[POD.name] = report(world.resource(), **SLOW)
    world.cluster.forget_calls()


async def see_that_it_is_said(world: World) -> None:
    await world.reconcile()
    become_ready(world)
    await world.reconcile()
    assert world.ready() == ("True", "EngineSlow")
    assert find_condition(world.status(), "WarmedUp")["reason"] == "FirstAnswerSlow"
    world.reports.clear()
    world.cluster.forget_calls()
    assert await world.reconcile() is None, "nobody is asked at rest"
    assert world.cluster.calls == []


@pytest.mark.parametrize("policy", ["Strict", "Fallback"])
async def test_a_report_outlives_a_fault_between_its_reading_and_status(policy: str) -> None:
    world = World()
    await replace_by_a_slow_one(world, gatePolicy=policy)
    after_the_gate = 2 if policy == "Strict" else 1
    world.cluster.faults[after_the_gate] = Fault(ApiError(500, "InternalError", "hiccup", call="get"))
    with pytest.raises(ApiError):
        await world.reconcile()
    world.cluster.faults.clear()
    await see_that_it_is_said(world)


async def test_a_report_outlives_a_process_that_dies_between_gate_and_status() -> None:
    world = World()
    await replace_by_a_slow_one(world)
    world.cluster.faults[2] = Fault(ConnectionResetError("killed"))
    with pytest.raises(ConnectionResetError):
        await world.reconcile()
    world.cluster.faults.clear()
    assert condition(world.cluster.read(POD), GATE)["status"] == "True"
    successor = World(world.cluster)
    successor.reports = world.reports
    await see_that_it_is_said(successor)


async def test_a_report_outlives_a_pass_over_an_older_spec() -> None:
    world = World()
    await replace_by_a_slow_one(world)
    world.cluster.holds_events = True
    world.apply(hardware=H100, engine={"maxNumSeqs": 8}, warmup={"maxFirstToSteady": "2"})
    assert await world.reconcile() == pytest.approx(0.1)
    world.cluster.deliver()
    await see_that_it_is_said(world)


async def test_a_report_outlives_a_problem() -> None:
    world = World()
    await replace_by_a_slow_one(world)
    world.denials.note(Permission("watch", "", "pods", "ai"), granted=False)
    await world.reconcile()
    assert world.ready() == ("False", "PermissionMissing")
    world.denials.note(Permission("watch", "", "pods", "ai"), granted=True)
    await see_that_it_is_said(world)


async def test_what_a_pod_of_an_earlier_revision_reports_is_not_said_of_the_next() -> None:
    world = World()
    world.apply(hardware=H100)
    await world.reconcile()
    world.roll_out()
    world.reports[POD.name] = report(world.resource(), **SLOW)
    world.apply(hardware=H100, engine={"maxNumSeqs": 8})
    await world.reconcile()
    assert condition(world.cluster.read(POD), GATE)["status"] == "True"
    assert "warmup" not in world.status()
    assert "cudaGraphs" not in world.status()["fit"]
    world.reports.clear()
    assert await world.reconcile() is None, "it is not asked again"


async def test_a_crash_is_told_as_a_warning() -> None:
    world = World()
    await serve(world)

    def crash(pod: Manifest) -> None:
        ended = {"terminated": {"exitCode": 10, "reason": "Error", "message": "ENGINE_DIED: the engine ended"}}
        pod["status"]["containerStatuses"][0].update(ready=False, state=ended, restartCount=1)
        pod["status"]["conditions"][-1] = {"type": "Ready", "status": "False"}

    world.cluster.edit(POD, crash)
    await world.reconcile()
    (event,) = [event for event in world.cluster.all(Kind.EVENT) if event["reason"] == "EngineCrashed"]
    assert event["type"] == "Warning"
    assert "ENGINE_DIED" in event["note"]


LOST_GPU = "ENGINE_DIED: exit code 1: torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered"


@pytest.mark.parametrize(
    ("words", "restarts", "running", "replaced"),
    [
        (LOST_GPU, 2, False, True),
        (LOST_GPU, 1, False, False),
        (LOST_GPU, 2, True, False),
        (
            "ENGINE_DIED: exit code 1: RuntimeError: CUDA error: an illegal memory access was encountered",
            9,
            False,
            False,
        ),
        ("ENGINE_DIED: torch.OutOfMemoryError: CUDA out of memory", 9, False, False),
    ],
)
async def test_a_pod_that_ends_again_and_again_for_its_gpu_is_replaced(
    words: str, restarts: int, running: bool, replaced: bool
) -> None:
    world = World()
    await serve(world)
    end = {"terminated": {"exitCode": 10, "reason": "Error", "message": words}}
    waits = {"waiting": {"reason": "CrashLoopBackOff"}}
    state = {"running": {"startedAt": "2027-01-15T08:00:00Z"}} if running else waits

    def crash(pod: Manifest) -> None:
        pod["status"]["containerStatuses"][0].update(ready=False, state=state, lastState=end, restartCount=restarts)
        pod["status"]["conditions"][-1] = {"type": "Ready", "status": "False"}

    world.cluster.edit(POD, crash)
    await world.reconcile()
    assert (await world.cluster.get(POD) is None) is replaced
    told = [event["note"] for event in world.cluster.all(Kind.EVENT) if "is replaced:" in event["note"]]
    assert [note for note in told if "node-a" in note and "ended 3 times" in note] == told
    assert bool(told) is replaced


async def test_a_deleted_resource_is_left_to_the_garbage_collector() -> None:
    world = World()
    await serve(world)
    world.cluster.edit(CR, lambda cr: cr["metadata"].update(deletionTimestamp="2027-01-15T08:00:00Z"))
    world.cluster.forget_calls()
    await world.reconcile()
    assert world.cluster.calls == []
    world.cluster.remove(CR)
    await world.reconcile()
    assert world.cluster.writes() == []
    assert [len(world.cluster.all(kind)) for kind in CHILD_KINDS] == [0] * len(CHILD_KINDS)


async def clean_run() -> World:
    world = World()
    world.apply()
    await world.reconcile()
    return world


def final_state(world: World) -> dict[Ref, Manifest]:
    """Every child, less what is counted or drawn."""
    state = {}
    for kind in CHILD_KINDS:
        for item in world.cluster.all(kind):
            metadata = {key: item["metadata"][key] for key in ("name", "labels", "annotations")}
            state[Ref(kind, KEY.namespace, item["metadata"]["name"])] = {**item, "metadata": metadata}
    return {ref: {**item, "metadata": {**item["metadata"], "annotations": {}}} for ref, item in state.items()}


@pytest.mark.parametrize("applied", [False, True], ids=["lost", "answer-lost"])
async def test_a_process_that_dies_at_any_call_is_followed_by_one_that_ends_the_work(applied: bool) -> None:
    clean = await clean_run()
    expected, calls = final_state(clean), list(clean.cluster.calls)
    deaths = [k for k, call in enumerate(calls, 1) if not applied or call in clean.cluster.writes()]
    assert len(deaths) > len(CHILD_KINDS)
    for k in deaths:
        world = World()
        world.apply()
        world.cluster.faults[k] = Fault(ConnectionResetError("killed"), applied=applied)
        with pytest.raises(ConnectionResetError):
            await world.reconcile()
        world.cluster.faults.clear()
        successor = World(world.cluster)
        await successor.reconcile()
        assert final_state(successor) == expected, f"killed at call {k}"
        world.cluster.forget_calls()
        await successor.reconcile()
        assert world.cluster.calls == [], f"killed at call {k}"
