"""The operator's process at a real kube-apiserver: what it sees, what it may do, how it starts, ends and survives."""

from __future__ import annotations

import base64
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.installation import Installed
from cluster.operator_process import OperatorProcess, eventually, operator_process, rest
from cluster.resources import custom_resource, find, is_seen, make_namespace
from harness.cluster import Cluster

pytestmark = pytest.mark.cluster

NEVER = 3600
Start = Callable[..., OperatorProcess]


@pytest.fixture(name="namespace")
def _namespace(cluster: Cluster) -> str:
    return make_namespace(cluster)


@pytest.fixture(name="start")
def _start(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[Start]:
    """Starts operators of the test's own namespace, with all rights; ends them after the test."""
    running: list[Any] = []

    def start(kubeconfig: Path = cluster.kubeconfig, **settings: str) -> OperatorProcess:
        settings = {"namespaces": namespace, "lease_namespace": namespace, **settings}
        context = operator_process(kubeconfig, tmp_path, **settings)
        running.append(context)
        return context.__enter__()

    yield start
    for context in reversed(running):
        context.__exit__(None, None, None)


def holder(cluster: Cluster, namespace: str) -> str | None:
    lease = find(cluster, namespace, "lease/qwenvl-operator")
    return lease["spec"].get("holderIdentity") if lease else None


# With the chart's least rights, in namespaced mode.


@pytest.fixture(name="installed", scope="module")
def _installed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    folder = tmp_path_factory.mktemp("installed")
    installed = Installed(cluster, folder)
    with operator_process(installed.kubeconfig, folder, **installed.settings, resync_seconds=str(NEVER)) as process:
        process.wait_until_leading()
        yield installed


def test_a_resource_gets_its_children_and_a_status(installed: Installed) -> None:
    cluster, namespace = installed.cluster, installed.watched
    other = make_namespace(cluster)
    cluster.apply(custom_resource(namespace), custom_resource(other))
    eventually(lambda: is_seen(cluster, namespace), "the resource has a status")
    assert find(cluster, namespace, "deployment/reports")
    # A namespace that is not watched is left alone.
    unseen = cluster.get("qvl/reports", f"--namespace={other}")
    assert unseen["status"]["observedGeneration"] == -1


def test_an_event_tells_what_went_wrong(installed: Installed) -> None:
    cluster, namespace = installed.cluster, installed.watched
    cluster.kubectl("create", "serviceaccount", "taken", f"--namespace={namespace}")
    cluster.apply(custom_resource(namespace, name="taken"))
    events = ("events", "--for=qwenvldeployment/taken", f"--namespace={namespace}", "--types=Warning")
    eventually(lambda: "ServiceAccount taken exists" in cluster.kubectl(*events), "an Event tells of it")


def test_a_deleted_child_comes_back_by_its_own_event(installed: Installed) -> None:
    cluster, namespace = installed.cluster, installed.watched
    cluster.apply(custom_resource(namespace))
    before = eventually(lambda: find(cluster, namespace, "service/reports"), "the Service exists")
    cluster.kubectl("delete", "service", "reports", f"--namespace={namespace}", "--wait=false")

    def is_back() -> bool:
        live = find(cluster, namespace, "service/reports")
        return live is not None and live["metadata"]["uid"] != before["metadata"]["uid"]

    eventually(is_back, "the Service is back")


def test_the_watches_leave_no_trace_on_the_resource_and_rest_when_nothing_happens(installed: Installed) -> None:
    cluster, namespace = installed.cluster, installed.watched
    cluster.apply(custom_resource(namespace))
    eventually(lambda: is_seen(cluster, namespace), "the resource has a status")
    rest(lambda: len(installed.requests()), "the operator")
    cr = cluster.get("qvl/reports", f"--namespace={namespace}")
    assert "finalizers" not in cr["metadata"]
    assert not [name for name in cr["metadata"]["annotations"] if not name.startswith("kubectl.")]
    # Somebody's label wakes the operator, which then sees that nothing is to be done.
    cluster.kubectl("label", "qvl", "reports", f"--namespace={namespace}", "team=a", "--overwrite")
    labelled = cluster.get("qvl/reports", f"--namespace={namespace}")
    rest(lambda: len(installed.requests()), "the operator")
    after = cluster.get("qvl/reports", f"--namespace={namespace}")
    assert after["metadata"]["resourceVersion"] == labelled["metadata"]["resourceVersion"]


def test_its_rights_are_enough_and_none_is_asked_for_in_vain(installed: Installed) -> None:
    eventually(installed.requests, "the operator has asked for something")
    refused = [event for event in installed.requests() if event["responseStatus"]["code"] == 403]
    assert refused == []
    resources = {event["objectRef"]["resource"] for event in installed.requests() if "objectRef" in event}
    assert not resources & {"secrets", "nodes", "namespaces", "customresourcedefinitions"}
    namespaces = {event["objectRef"].get("namespace") for event in installed.requests() if "objectRef" in event}
    assert namespaces == {installed.watched}


# How it starts, ends and survives, with all rights.


def test_told_to_stop_it_gives_the_lease_away_and_ends_well(cluster: Cluster, namespace: str, start: Start) -> None:
    first = start(identity="first")
    first.wait_until_leading()
    eventually(first.is_healthy, "the first operator is healthy")
    second = start(identity="second")
    eventually(second.is_healthy, "the second operator is healthy while it waits")
    assert not second.leads()
    assert holder(cluster, namespace) == "first"
    assert first.stop() == 0
    second.wait_until_leading(timeout=8)
    assert holder(cluster, namespace) == "second"
    assert second.stop() == 0
    assert holder(cluster, namespace) in (None, "")
    assert [line for line in first.logs() if line["level"] in ("error", "critical")] == []


def test_killed_and_started_again_it_goes_on(cluster: Cluster, namespace: str, start: Start) -> None:
    first = start(identity="pod-a")
    first.wait_until_leading()
    cluster.apply(custom_resource(namespace))
    eventually(lambda: is_seen(cluster, namespace), "the resource has a status")
    first.send(signal.SIGKILL)
    first.wait()
    cluster.kubectl("delete", "deployment,service,configmap", "--selector=qwenvl.io/name=reports", f"-n={namespace}")
    cluster.apply(custom_resource(namespace, name="later"))
    start(identity="pod-a").wait_until_leading(timeout=10)
    eventually(lambda: is_seen(cluster, namespace, "later"), "the later resource has a status")
    eventually(lambda: find(cluster, namespace, "deployment/reports"), "the deleted child is back")


def test_a_lost_lease_ends_the_process(cluster: Cluster, namespace: str, start: Start) -> None:
    process = start(identity="pod-a")
    process.wait_until_leading()
    patch = json.dumps({"spec": {"holderIdentity": "other"}})
    cluster.kubectl("patch", "lease", "qwenvl-operator", f"--namespace={namespace}", "--type=merge", f"--patch={patch}")
    assert process.wait(timeout=15) == 1
    assert holder(cluster, namespace) == "other"


def test_a_process_frozen_beyond_its_lease_ends_when_it_wakes(cluster: Cluster, namespace: str, start: Start) -> None:
    first, second = start(identity="first"), None
    first.wait_until_leading()
    first.send(signal.SIGSTOP)
    second = start(identity="second")
    second.wait_until_leading(timeout=40)
    first.send(signal.SIGCONT)
    assert first.wait(timeout=15) == 1
    assert holder(cluster, namespace) == "second"
    assert second.leads()


def test_wrong_settings_are_named(start: Start) -> None:
    process = start(resync_seconds="often")
    assert process.wait() == 2
    [line] = process.logs()
    assert line["message"].startswith("environment variable QWENVL_RESYNC_SECONDS: ")


def test_credentials_are_never_logged(installed: Installed, namespace: str, start: Start) -> None:
    token = json.loads(installed.kubeconfig.read_text())["users"][0]["user"]["token"]
    process = start(installed.kubeconfig)
    eventually(lambda: any("403" in line["message"] for line in process.logs()), "the operator is refused")
    process.stop()
    text = process.log_file.read_text()
    assert token not in text
    assert base64.b64encode(token.encode()).decode() not in text


@pytest.mark.timeout(120)
def test_a_deleted_resource_takes_its_children_along(installed: Installed) -> None:
    cluster, namespace = installed.cluster, installed.watched
    cluster.apply(custom_resource(namespace, name="passing"))
    eventually(lambda: is_seen(cluster, namespace, "passing"), "the resource has a status")
    selector = "--selector=qwenvl.io/name=passing"
    children = ("deployment,service,serviceaccount,configmap,poddisruptionbudget", f"--namespace={namespace}", selector)
    assert cluster.get(*children)["items"]
    cluster.kubectl("delete", "qvl", "passing", f"--namespace={namespace}", "--timeout=20s")
    # The garbage collector looks for new kinds, such as that of the owner, every 30 s: hence the last place.
    eventually(lambda: not cluster.get(*children)["items"], "the children are gone", timeout=90)
