"""What can go wrong between the operator and the API server, caused by a proxy between the two.

Whatever it was: the operator then does what it is asked to, and soon.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.api_proxy import Call, Proxy, lose_answer, refuse, replay, running, say_nothing, to
from cluster.operator_process import KeptOperator, eventually, kept_operator, operator_process, rest
from cluster.resources import custom_resource, find, is_seen, make_namespace
from cluster.stand_in import rolled_out, write_status
from harness.cluster import Cluster
from qwenvl_operator.custom_resource import CustomResource
from qwenvl_operator.feed import LISTED
from qwenvl_operator.naming import REVISION_LABEL, labels
from qwenvl_operator.objects import CHILD_KINDS, Key

NEVER = "36000"
STATUS = to(verb="patch", resource="qwenvldeployments/status")
ALIKE = {"model": {"servedName": "reports", "source": {"persistentVolumeClaim": {"claimName": "weights"}}}}
"""A spec of which nothing depends on the resource's name."""
WATCHED = {kind.value.plural for kind in LISTED}
CHILDREN = ",".join(kind.value.plural for kind in CHILD_KINDS)

# `python -c`: the operator with one thing changed that nobody would want to change outside of a test.
IMPATIENT = """
import sys
from qwenvl_operator import handlers
from qwenvl_operator.__main__ import main
build_settings = handlers.build_settings
def impatient():
    settings = build_settings()
    settings.watching.inactivity_timeout = 3.0
    return settings
handlers.build_settings = impatient
sys.exit(main())
"""
BLOCKABLE = """
import signal, sys, time
from qwenvl_operator.__main__ import main
signal.signal(signal.SIGUSR1, lambda *_: time.sleep(7))
sys.exit(main())
"""


class Rig:
    """An operator that is started again whenever it ends, behind a proxy, in a namespace of its own.

    Nothing is confirmed by lists unless there is a reason to: what heals, heals by itself.
    """

    def __init__(self, cluster: Cluster, namespace: str, proxy: Proxy, operator: KeptOperator) -> None:
        self.cluster, self.namespace, self.proxy, self.operator = cluster, namespace, proxy, operator

    def apply(self, name: str, **spec: Any) -> None:
        self.cluster.apply(custom_resource(self.namespace, name, **spec))

    def wait_until_seen(self, name: str, timeout: float = 30.0) -> None:
        eventually(lambda: is_seen(self.cluster, self.namespace, name), f"{name} has a status", timeout)

    def wait_until_watching(self) -> None:
        eventually(lambda: self.operator.leads() and self.proxy.watched() == WATCHED, "the operator watches and leads")

    def replicas(self, name: str) -> Any:
        return self.cluster.get(f"qvl/{name}", f"--namespace={self.namespace}")["status"].get("replicas")

    def conditions(self, name: str) -> dict[str, Any]:
        """What is said of it now, by the type of the condition."""
        status = self.cluster.get(f"qvl/{name}", f"--namespace={self.namespace}")["status"]
        return {item["type"]: (item["status"], item["reason"]) for item in status["conditions"]}

    def deployment(self, name: str) -> dict[str, Any]:
        return self.cluster.get(f"deployment/{name}", f"--namespace={self.namespace}")

    def config_maps(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.cluster.get(
            "configmap", f"--namespace={self.namespace}", f"--selector=qwenvl.io/name={name}"
        )["items"]
        return found

    def rolls_out(self, name: str, spec: dict[str, Any]) -> bool:
        cr = CustomResource.parse(self.cluster.get(f"qvl/{name}", f"--namespace={self.namespace}"))
        template = self.deployment(name)["spec"]["template"]["metadata"]["labels"]
        return cr.spec.engine.max_model_len == spec["engine"]["maxModelLen"] and template[REVISION_LABEL] == cr.revision

    def finish_rollout(self, name: str) -> None:
        """As the Deployment controller tells of it, where it has brought up every pod."""
        write_status(self.cluster, [rolled_out(self.deployment(name))])

    def children(self, name: str) -> dict[str, Any]:
        """Every child by kind and name, less what the API server draws."""
        found = self.cluster.get(CHILDREN, f"--namespace={self.namespace}", f"--selector=qwenvl.io/name={name}")
        text = json.dumps([outline(item) for item in found["items"]]).replace(name, "NAME")
        items = json.loads(text)
        assert len({(item["kind"], item["name"]) for item in items}) == len(items)
        return {f"{item['kind']} {item['name']}": item for item in items}


def outline(child: dict[str, Any]) -> dict[str, Any]:
    metadata = child["metadata"]
    spec = {key: value for key, value in child.get("spec", {}).items() if key not in ("clusterIP", "clusterIPs")}
    return {
        "kind": child["kind"],
        "name": metadata["name"],
        "labels": metadata["labels"],
        "owners": [owner["kind"] for owner in metadata["ownerReferences"]],
        "spec": spec,
        "data": child.get("data"),
    }


def is_of_reconcile(call: Call) -> bool:
    return call.verb not in ("list", "watch") and call.resource != "leases"


def is_write(call: Call) -> bool:
    return is_of_reconcile(call) and call.verb != "get"


@pytest.fixture(name="shared", scope="module")
def _shared(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder, namespace = tmp_path_factory.mktemp("faults"), make_namespace(cluster)
    settings = {"namespaces": namespace, "lease_namespace": namespace, "resync_seconds": NEVER}
    with (
        running(cluster.kubeconfig) as proxy,
        kept_operator(proxy.kubeconfig(folder), folder, **settings) as operator,
    ):
        yield Rig(cluster, namespace, proxy, operator)


@pytest.fixture(name="rig")
def _rig(shared: Rig) -> Iterator[Rig]:
    shared.wait_until_watching()
    yield shared
    shared.proxy.heal()


@pytest.mark.parametrize("status", [400, 409, 422])
def test_a_status_that_is_refused_once_is_written_a_little_later(rig: Rig, status: int) -> None:
    failed = rig.operator.process.metric("qwenvl_operator_reconciles_total", result="error") or 0
    starts = rig.operator.starts
    rig.proxy.break_calls(refuse(status), STATUS, times=1)
    rig.apply(f"refused-{status}")
    rig.wait_until_seen(f"refused-{status}")
    assert rig.operator.process.metric("qwenvl_operator_reconciles_total", result="error") == failed + 1
    assert rig.operator.starts == starts


@pytest.mark.parametrize("code", [418, 429, 500, 504])
def test_a_watch_that_ends_with_an_error_is_opened_anew(rig: Rig, code: int) -> None:
    starts = rig.operator.starts
    rig.proxy.end_watches("qwenvldeployments", code)
    rig.apply(f"after-{code}")
    rig.wait_until_seen(f"after-{code}", timeout=10)
    assert rig.operator.starts <= starts + 1


def test_the_watches_survive_an_api_server_that_goes_away(rig: Rig) -> None:
    starts = rig.operator.starts
    rig.apply("before")
    rig.wait_until_seen("before")
    rig.proxy.go_away()
    eventually(lambda: rig.operator.process.metric("qwenvl_operator_api_requests_total", code="0"), "it is noticed")
    rig.cluster.kubectl("delete", "service", "before", f"--namespace={rig.namespace}")
    rig.apply("during")
    rig.proxy.come_back()
    rig.wait_until_seen("during")
    eventually(lambda: find(rig.cluster, rig.namespace, "service/before"), "what went meanwhile is missed")
    assert rig.operator.process.is_healthy()
    assert rig.operator.starts == starts


def test_an_outage_longer_than_the_lease_costs_one_start_and_then_the_work_goes_on(rig: Rig) -> None:
    starts = rig.operator.starts
    rig.proxy.break_calls(refuse(503))
    rig.proxy.cut_watches()
    rig.operator.wait_for_start(starts + 1)
    asked = len(rig.proxy.calls(to(verb="get", resource="leases")))
    eventually(lambda: len(rig.proxy.calls(to(verb="get", resource="leases"))) > asked + 1, "the next one waits")
    rig.apply("meanwhile")
    rig.proxy.heal()
    rig.wait_until_seen("meanwhile")
    rest(lambda: len(rig.proxy.calls(is_of_reconcile)), "the operator")
    assert rig.operator.starts == starts + 1


@pytest.mark.parametrize("resource", ["deployments", "qwenvldeployments/status"])
def test_a_write_that_fails_for_a_while_is_made_later_although_nothing_happens(rig: Rig, resource: str) -> None:
    name = f"late-{resource[0]}"
    rig.proxy.break_calls(refuse(503), to(verb="patch", resource=resource, name=name), times=2)
    rig.apply(name)
    rig.wait_until_seen(name)
    assert find(rig.cluster, rig.namespace, f"deployment/{name}")
    assert len(rig.proxy.calls(to(verb="patch", resource=resource, name=name))) == 3


@pytest.mark.timeout(120)
def test_killed_at_any_call_it_ends_the_work_when_it_is_started_again(rig: Rig) -> None:
    before = len(rig.proxy.calls(is_of_reconcile))
    rig.apply("clean", **ALIKE)
    rig.wait_until_seen("clean")
    calls, expected = rig.proxy.calls(is_of_reconcile)[before:], rig.children("clean")
    assert len(calls) > 2 * len(CHILD_KINDS)
    for k, call in enumerate(calls):
        starts = rig.operator.starts
        rig.proxy.break_calls(lose_answer(rig.operator.kill), is_of_reconcile, skip=k, times=1)
        rig.apply(f"kill-{k:02}", **ALIKE)
        rig.operator.wait_for_start(starts + 1)
        rig.wait_until_seen(f"kill-{k:02}")
        rig.wait_until_watching()
        assert rig.children(f"kill-{k:02}") == expected, f"killed at call {k}: {call}"
        rig.proxy.heal()


CHANGED = {**ALIKE, "engine": {"maxModelLen": 8192}}


@pytest.mark.timeout(400)
def test_killed_at_any_call_of_an_update_it_ends_at_the_same_state(rig: Rig) -> None:
    def update(name: str) -> None:
        rig.apply(name, **ALIKE)
        rig.wait_until_seen(name)
        rig.finish_rollout(name)
        rig.apply(name, **CHANGED)

    def end_of(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        eventually(lambda: rig.rolls_out(name, CHANGED), f"{name} rolls out what was changed")
        rig.finish_rollout(name)
        eventually(lambda: len(rig.config_maps(name)) == 1, f"{name} has the ConfigMap of one revision")
        rig.wait_until_seen(name)
        return rig.children(name), rig.conditions(name)

    update("clean-update")
    expected = end_of("clean-update")
    before = len(rig.proxy.calls(is_of_reconcile))
    update("counted")
    end_of("counted")
    calls = rig.proxy.calls(is_of_reconcile)[before:]
    first = next(k for k, call in enumerate(calls) if call.verb == "patch" and k > 2 * len(CHILD_KINDS))
    assert [call.resource for call in calls if call.verb == "delete"] == ["configmaps"]
    for k in range(first, len(calls)):
        name, starts = f"update-{k:02}", rig.operator.starts
        rig.proxy.break_calls(lose_answer(rig.operator.kill), is_of_reconcile, skip=k, times=1)
        update(name)
        assert end_of(name) == expected, f"killed at call {k}: {calls[k]}"
        rig.operator.wait_for_start(starts + 1)
        rig.proxy.heal()
        rig.wait_until_watching()


def test_a_watch_that_falls_silent_is_given_up(cluster: Cluster, tmp_path: Path) -> None:
    namespace = make_namespace(cluster)
    settings = {"namespaces": namespace, "lease_namespace": namespace, "resync_seconds": NEVER}
    with (
        running(cluster.kubeconfig) as proxy,
        operator_process(proxy.kubeconfig(tmp_path), tmp_path, program=("-c", IMPATIENT), **settings) as process,
    ):
        process.wait_until_leading()
        eventually(lambda: proxy.watched() == WATCHED, "everything is watched")
        proxy.freeze_watches()
        cluster.apply(custom_resource(namespace))
        eventually(lambda: is_seen(cluster, namespace), "the resource has a status")
        assert process.is_running()


def test_a_pod_whose_end_was_missed_is_not_counted(rig: Rig) -> None:
    rig.apply("ghost")
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "ghost-1", "namespace": rig.namespace, "labels": labels(Key(rig.namespace, "ghost"))},
        "spec": {"containers": [{"name": "runtime", "image": "registry.local/runtime:1"}]},
    }
    rig.cluster.apply(pod)
    eventually(lambda: rig.replicas("ghost") == 1, "the pod is counted")
    rig.proxy.hide(lambda call, _: call.resource == "pods")
    rig.cluster.kubectl("delete", "pod", "ghost-1", f"--namespace={rig.namespace}")
    rig.proxy.end_watches("pods", 410)
    eventually(lambda: rig.replicas("ghost") == 0, "it is not counted any more")


def test_credentials_that_are_refused_for_a_while_cost_starts_alone(rig: Rig) -> None:
    starts = rig.operator.starts
    rig.proxy.break_calls(refuse(401))
    rig.proxy.cut_watches()
    rig.operator.wait_for_start(starts + 2)
    rig.apply("unauthorized")
    rig.proxy.heal()
    rig.wait_until_seen("unauthorized")


def test_a_blocked_event_loop_fails_the_probe_for_as_long_as_it_is_blocked(cluster: Cluster, tmp_path: Path) -> None:
    namespace = make_namespace(cluster)
    settings = {"namespaces": namespace, "lease_namespace": namespace}
    with operator_process(cluster.kubeconfig, tmp_path, program=("-c", BLOCKABLE), **settings) as process:
        process.wait_until_leading()
        eventually(process.is_healthy, "the operator is healthy")
        process.send(signal.SIGUSR1)
        eventually(lambda: not process.is_healthy(), "the probe fails", timeout=6)
        assert process.leads(), "metrics are answered all the same"
        eventually(process.is_healthy, "the operator is healthy again")
        eventually(lambda: (process.metric("qwenvl_operator_loop_lag_seconds_sum") or 0) > 5, "the lag is told")


def test_a_list_of_the_past_takes_nothing_back(rig: Rig) -> None:
    rig.apply("aged", replicas=1)
    rig.apply("gone")
    rig.wait_until_seen("aged")
    rig.wait_until_seen("gone")
    past = rig.cluster.kubectl("get", "--raw", f"/apis/qwenvl.io/v1alpha1/namespaces/{rig.namespace}/qwenvldeployments")
    rig.apply("aged", replicas=3)
    rig.cluster.kubectl("delete", "qvl,deployment", "gone", f"--namespace={rig.namespace}")
    rig.wait_until_seen("aged")
    rig.proxy.break_calls(replay(past), to(verb="list", resource="qwenvldeployments"))
    rig.proxy.break_calls(say_nothing, to(verb="watch"))
    before = len(rig.proxy.calls())
    starts = rig.operator.starts
    rig.operator.kill()
    rig.operator.wait_for_start(starts + 1)
    eventually(lambda: (rig.operator.process.metric("qwenvl_operator_resources") or 0) > 0, "it has lists")
    eventually(lambda: rig.operator.process.metric("qwenvl_operator_queue_depth") == 0, "it has worked them off")
    rest(lambda: len(rig.proxy.calls(is_of_reconcile)), "the operator", span=2)
    assert [call for call in rig.proxy.calls()[before:] if is_write(call)] == []
    assert find(rig.cluster, rig.namespace, "deployment/gone") is None
    rig.operator.kill()


def test_a_server_that_asks_for_patience_gets_it(rig: Rig) -> None:
    seconds, patch = 5, to(verb="patch", resource="deployments", name="patient")
    watch = to(verb="watch", resource="pods")
    watches = len(rig.proxy.calls(watch))
    for matches in (patch, watch):
        rig.proxy.break_calls(refuse(429, retry_after=seconds), matches, times=1)
    rig.proxy.cut_watches()
    rig.apply("patient")
    eventually(lambda: rig.proxy.calls(patch), "the write was tried")
    rig.cluster.kubectl("label", "qvl", "patient", "team=a", f"--namespace={rig.namespace}")
    rig.wait_until_seen("patient")
    rig.wait_until_watching()
    for first, second, *_ in (rig.proxy.calls(patch), rig.proxy.calls(watch)[watches:]):
        assert second.at - first.at >= seconds
