"""What can go wrong between the operator and the API server, caused by a proxy between the two.

Whatever it was: the operator then does what it is asked to, and soon.
"""

from __future__ import annotations

import base64
import json
import signal
import ssl
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cluster.api_proxy import Call, Proxy, lose_answer, refuse, replay, running, say_nothing, to
from cluster.installation import Installed
from cluster.operator_process import KeptOperator, eventually, kept_operator, operator_process, rest
from cluster.resources import custom_resource, find, is_seen, make_namespace
from cluster.stand_in import StandInRuntime, rolled_out, run_pods, stand_in_runtime, warm_pod, write_status
from harness.cluster import Cluster
from qwenvl_operator.custom_resource import CustomResource
from qwenvl_operator.feed import LISTED
from qwenvl_operator.lease import Timing
from qwenvl_operator.objects import CHILD_KINDS
from qwenvl_operator.pods import revision_of
from qwenvl_operator.status import find_condition

NEVER = "36000"
STATUS = to(verb="patch", resource="qwenvldeployments/status")
ALIKE = {"model": {"servedName": "reports", "source": {"persistentVolumeClaim": {"claimName": "weights"}}}}
"""A spec of which nothing depends on the resource's name."""
WATCHED = {kind.value.plural for kind in LISTED}
CHILDREN = ",".join(kind.value.plural for kind in CHILD_KINDS)
KUBELET_PROBES = 3
"""Which in a row have to fail."""

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
signal.signal(signal.SIGUSR1, lambda *_: time.sleep(float(sys.argv[1])))
sys.exit(main())
"""
# In a pod, whose token is read again and whose watches end after fewer seconds than usual.
IN_POD = """
import os, sys
from datetime import timedelta
from kubernetes.aio.config import incluster_config
from qwenvl_operator import handlers
from qwenvl_operator.__main__ import main
_, folder, host, port, refresh = sys.argv
os.environ.update(KUBECONFIG="", KUBERNETES_SERVICE_HOST=host, KUBERNETES_SERVICE_PORT=port)
incluster_config.SERVICE_TOKEN_FILENAME, incluster_config.SERVICE_CERT_FILENAME = f"{folder}/token", f"{folder}/ca.crt"
build_loader, build_settings = incluster_config.InClusterConfigLoader.__init__, handlers.build_settings
def impatient_loader(self, *arguments, **options):
    build_loader(self, *arguments, **options)
    self._token_refresh_period = timedelta(seconds=float(refresh))
def impatient():
    settings = build_settings()
    settings.watching.server_timeout = 5
    return settings
incluster_config.InClusterConfigLoader.__init__, handlers.build_settings = impatient_loader, impatient
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

    def status(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.cluster.get(f"qvl/{name}", f"--namespace={self.namespace}")["status"]
        return found

    def warm_pods(self, name: str) -> tuple[Any, str]:
        """How many get traffic, and what is said of their warm-up."""
        status = self.status(name)
        return status.get("readyReplicas"), find_condition(status, "WarmedUp").get("status", "")

    def children(self, name: str) -> dict[str, Any]:
        """Every child by kind and name, less what the API server draws."""
        found = self.cluster.get(CHILDREN, f"--namespace={self.namespace}", f"--selector=qwenvl.io/name={name}")
        text = json.dumps([outline(item) for item in found["items"]]).replace(name, "NAME")
        items = json.loads(text)
        assert len({(item["kind"], item["name"]) for item in items}) == len(items)
        return {f"{item['kind']} {item['name']}": item for item in items}


def undated(said: dict[str, Any]) -> dict[str, Any]:
    """A status less the times of its conditions."""
    conditions = [{**item, "lastTransitionTime": None} for item in said["conditions"]]
    return {**said, "conditions": sorted(conditions, key=lambda item: str(item["type"]))}


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


@pytest.mark.timeout(180)
@pytest.mark.parametrize("tries", [1, 10], ids=["of_the_lease", "of_half_a_minute"])
def test_an_outage_longer_than_the_lease_costs_one_start_and_then_the_work_goes_on(rig: Rig, tries: int) -> None:
    starts, name = rig.operator.starts, f"meanwhile-{tries}"
    rig.proxy.break_calls(refuse(503))
    rig.proxy.cut_watches()
    rig.operator.wait_for_start(starts + 1)
    asked = len(rig.proxy.calls(to(verb="get", resource="leases")))
    eventually(lambda: len(rig.proxy.calls(to(verb="get", resource="leases"))) > asked + tries, "the next one waits")
    rig.apply(name)
    rig.proxy.heal()
    rig.wait_until_seen(name, timeout=60)
    rig.wait_until_watching()
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


@pytest.mark.timeout(180)
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


@pytest.mark.timeout(180)
def test_killed_at_any_call_of_a_rollout_it_ends_the_rollout_when_it_is_started_again(rig: Rig) -> None:
    """From the new revision's ConfigMap over the gate of its pod to the end of the old revision's ConfigMap."""
    with stand_in_runtime() as runtime:
        create(rig, "roll-clean")
        before = len(rig.proxy.calls(is_of_reconcile))
        roll_out(rig, runtime, "roll-clean")
        calls, expected = rig.proxy.calls(is_of_reconcile)[before:], outcome(rig, "roll-clean")
        made = {(call.verb, call.resource) for call in calls}
        assert made > {("patch", "pods/status"), ("delete", "configmaps"), ("patch", "qwenvldeployments/status")}
        names = [f"roll-{k:02}" for k in range(len(calls))]
        create(rig, *names)
        reached = 0
        for k, name in enumerate(names):
            starts = rig.operator.starts
            rig.proxy.break_calls(lose_answer(rig.operator.kill), is_of_reconcile, skip=k, times=1)
            roll_out(rig, runtime, name)
            rig.proxy.heal()
            rig.wait_until_watching()
            reached += rig.operator.starts - starts
            assert outcome(rig, name) == expected, f"killed at call {k}: {calls[k]}"
        # What is merged with what is a matter of moments: now and then a rollout takes fewer calls.
        assert reached >= len(calls) - 2


def create(rig: Rig, *names: str) -> None:
    rig.cluster.apply(*(custom_resource(rig.namespace, name, **ALIKE) for name in names))
    for name in names:
        rig.wait_until_seen(name)
    rest(lambda: len(rig.proxy.calls(is_of_reconcile)), "the operator", span=1)


def roll_out(rig: Rig, runtime: StandInRuntime, name: str) -> None:
    """Change the spec, do what others do in a rollout, and wait for what the operator says at last."""
    cluster, where = rig.cluster, f"--namespace={rig.namespace}"
    rig.apply(name, **ALIKE, engine={"maxNumSeqs": 9})
    cr = CustomResource.parse(cluster.get(f"qvl/{name}", where))

    def deployment() -> Any:
        found = cluster.get(f"deployment/{name}", where)
        return found if revision_of(found["spec"]["template"]) == cr.revision else None

    updated = eventually(deployment, "the Deployment has the new revision")
    pod = runtime.warm(cr)
    cluster.apply({**pod, "status": {}})
    write_status(cluster, [pod, rolled_out(updated)])

    def is_over() -> bool:
        maps = cluster.get("configmap", where, f"--selector=qwenvl.io/name={name}")["items"]
        status = rig.status(name)
        return len(maps) == 1 and "warmup" in status and find_condition(status, "Ready")["status"] == "True"

    eventually(is_over, "the rollout is over")
    rest(lambda: len(rig.proxy.calls(is_of_reconcile)), "the operator", span=0.5)


def outcome(rig: Rig, name: str) -> dict[str, Any]:
    """All that a rollout leaves behind, less times."""
    pod = rig.cluster.get(f"pod/{name}-1", f"--namespace={rig.namespace}")["status"]
    found = {"children": rig.children(name), "status": undated(rig.status(name)), "pod": undated(pod)["conditions"]}
    result: dict[str, Any] = json.loads(json.dumps(found).replace(name, "NAME"))
    return result


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
    rig.wait_until_seen("ghost")
    run_pods(rig.cluster, [warm_pod(CustomResource.parse(rig.cluster.get("qvl/ghost", f"-n={rig.namespace}")))])
    eventually(lambda: rig.warm_pods("ghost") == (1, "True"), "the pod is counted")
    rig.proxy.hide(lambda call, _: call.resource == "pods")
    rig.cluster.kubectl("delete", "pod", "ghost-1", f"--namespace={rig.namespace}", "--force", "--grace-period=0")
    rig.proxy.end_watches("pods", 410)
    eventually(lambda: rig.warm_pods("ghost") == (0, "Unknown"), "it is not counted any more")


def test_credentials_that_are_refused_for_a_while_cost_starts_alone(rig: Rig) -> None:
    starts = rig.operator.starts
    rig.proxy.break_calls(refuse(401))
    rig.proxy.cut_watches()
    rig.operator.wait_for_start(starts + 2)
    rig.apply("unauthorized")
    rig.proxy.heal()
    rig.wait_until_seen("unauthorized")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("reread", [1, 60], ids=["when_it_was_read_again", "at_once"])
def test_a_token_that_was_replaced_and_is_refused_costs_one_start_at_most(
    cluster: Cluster, tmp_path: Path, reread: int
) -> None:
    """It is read again once a minute; the watches go on with the old one until it is refused."""
    installed = Installed(cluster, tmp_path)
    namespace, account = installed.watched, ServiceAccountFolder(installed, tmp_path)
    account.replace("old")
    with kept_operator(
        cluster.kubeconfig,
        tmp_path,
        program=("-c", IN_POD, str(tmp_path), account.host, account.port, str(reread)),
        namespaces=namespace,
        lease_namespace=installed.home,
        resync_seconds=NEVER,
    ) as operator:
        eventually(operator.leads, "the operator leads")
        cluster.apply(custom_resource(namespace))
        eventually(lambda: is_seen(cluster, namespace), "the resource has a status")
        account.replace("new")
        account.revoke("old")
        cluster.apply(custom_resource(namespace, "later"))
        eventually(lambda: is_seen(cluster, namespace, "later"), "the later resource has a status", timeout=60)
        rest(lambda: operator.starts, "the kubelet")
        assert operator.starts <= 2


class ServiceAccountFolder:
    """What a pod of the chart's service account has mounted: `token` and `ca.crt`."""

    def __init__(self, installed: Installed, folder: Path) -> None:
        config = json.loads(installed.cluster.kubeconfig.read_text())["clusters"][0]["cluster"]
        self.server = config["server"]
        self.host, self.port = self.server.removeprefix("https://").split(":")
        self._installed, self._token, self._authority = installed, folder / "token", folder / "ca.crt"
        self._authority.write_bytes(base64.b64decode(config["certificate-authority-data"]))
        self._tokens: dict[str, str] = {}

    def replace(self, name: str) -> None:
        """Put another token in place, good for as long as a Secret of this name exists."""
        cluster, home = self._installed.cluster, f"--namespace={self._installed.home}"
        cluster.kubectl("create", "secret", "generic", name, home)
        account, bound = self._installed.user.rpartition(":")[2], ("--bound-object-kind=Secret", "--bound-object-name")
        self._tokens[name] = cluster.kubectl("create", "token", account, home, *bound, name).strip()
        self._token.write_text(self._tokens[name])

    def revoke(self, name: str) -> None:
        """Have the API server refuse a token, which it does some seconds later."""
        self._installed.cluster.kubectl("delete", "secret", name, f"--namespace={self._installed.home}")
        eventually(lambda: self._is_refused(self._tokens[name]), "the token is refused")

    def _is_refused(self, token: str) -> bool:
        request = urllib.request.Request(f"{self.server}/version", headers={"Authorization": f"Bearer {token}"})
        try:
            with urllib.request.urlopen(request, context=ssl.create_default_context(cafile=self._authority)):
                return False
        except urllib.error.HTTPError as error:
            return error.code == 401


@contextmanager
def blockable(cluster: Cluster, folder: Path, seconds: int) -> Iterator[Rig]:
    """An operator whose event loop a signal blocks for so long, with one resource that it has seen."""
    namespace = make_namespace(cluster)
    settings = {"namespaces": namespace, "lease_namespace": namespace, "resync_seconds": NEVER}
    program = ("-c", BLOCKABLE, str(seconds))
    with (
        running(cluster.kubeconfig) as proxy,
        kept_operator(proxy.kubeconfig(folder), folder, program=program, **settings) as operator,
    ):
        rig = Rig(cluster, namespace, proxy, operator)
        rig.wait_until_watching()
        rig.apply("reports")
        rig.wait_until_seen("reports")
        eventually(operator.process.is_healthy, "the operator is healthy")
        yield rig


@pytest.mark.timeout(120)
def test_an_event_loop_blocked_beyond_the_lease_costs_the_time_and_no_write_twice(
    cluster: Cluster, tmp_path: Path
) -> None:
    seconds = 15
    assert seconds > Timing().renew_deadline
    with blockable(cluster, tmp_path, seconds) as rig:
        process, before = rig.operator.process, len(rig.proxy.calls(is_write))
        process.send(signal.SIGUSR1)
        eventually(lambda: not process.is_healthy(), "the probe fails", timeout=6)
        assert process.leads(), "metrics are answered all the same"
        rig.apply("reports", replicas=2)
        eventually(rig.operator.is_healthy, "the operator is healthy again")
        rig.wait_until_seen("reports")
        rest(lambda: len(rig.proxy.calls(is_of_reconcile)), "the operator")
        written = Counter(call[:3] for call in rig.proxy.calls(is_write)[before:] if call.name)
        assert rig.cluster.get("deployment/reports", f"--namespace={rig.namespace}")["spec"]["replicas"] == 2
        # Blocked in the middle of a renewal it cannot know who holds the lease, and ends.
        went_on = rig.operator.starts == 1
        assert not went_on or (process.metric("qwenvl_operator_loop_lag_seconds_sum") or 0) > seconds - 2
    assert set(written.values()) == {1}


@pytest.mark.timeout(120)
def test_an_event_loop_blocked_for_good_fails_every_probe_until_somebody_ends_it(
    cluster: Cluster, tmp_path: Path
) -> None:
    with blockable(cluster, tmp_path, seconds=3600) as rig:
        process = rig.operator.process
        process.send(signal.SIGUSR1)
        eventually(lambda: not process.is_healthy(), "the probe fails")
        assert not any(process.is_healthy() for _ in range(KUBELET_PROBES)), "so the kubelet ends it"
        assert process.is_running()
        rig.apply("meanwhile")
        rig.operator.kill()
        rig.operator.wait_for_start(2)
        rig.wait_until_seen("meanwhile")
        eventually(rig.operator.is_healthy, "the next one is healthy")


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


@pytest.mark.timeout(120)
def test_a_server_that_refuses_everybody_is_not_asked_oftener_than_it_says(rig: Rig) -> None:
    """Nothing but the lease, which is renewed in time or given up."""
    seconds, starts = 5, rig.operator.starts
    before = len(rig.proxy.calls())
    rig.proxy.break_calls(refuse(429, retry_after=seconds))
    rig.apply("overload")
    eventually(lambda: rig.proxy.calls(is_of_reconcile)[-1].name == "overload", "the resource is worked on")
    rig.proxy.cut_watches()
    rig.operator.wait_for_start(starts + 1)
    asked = len(rig.proxy.calls(to(verb="get", resource="leases")))
    eventually(lambda: len(rig.proxy.calls(to(verb="get", resource="leases"))) > asked + 2, "the next one waits")
    calls = rig.proxy.calls()[before:]
    rig.proxy.heal()
    asked_at: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for call in calls:
        asked_at[call[:3]].append(call.at)
    for kind, times in asked_at.items():
        pause = Timing().retry if kind[1] == "leases" else seconds
        # The start in between asks for what it needs.
        assert sum(after - at < pause for at, after in pairwise(times)) <= 1, kind
    rig.wait_until_seen("overload", timeout=60)
    rig.wait_until_watching()
    assert rig.operator.starts <= starts + 1
