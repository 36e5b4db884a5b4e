"""The operator's process at a real kube-apiserver: what it sees, what it may do, how it starts, ends and survives."""

from __future__ import annotations

import base64
import json
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from cluster.operator_process import Link, OperatorProcess, eventually, operator_process, rest
from harness.cluster import Cluster
from harness.commands import CommandError
from harness.manifests import render

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
CRD = ROOT / "crds/qwenvl.io_qwenvldeployments.yaml"
NEVER = 3600
Start = Callable[..., OperatorProcess]


@pytest.fixture(name="cluster", scope="module")
def _cluster(control_plane: Cluster) -> Cluster:
    control_plane.kubectl("apply", "--server-side", "--filename", CRD)
    control_plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "--filename", CRD)
    return control_plane


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


def make_namespace(cluster: Cluster) -> str:
    name = f"wiring-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    return name


def custom_resource(namespace: str, name: str = "reports", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "qwenvl.io/v1alpha1",
        "kind": "QwenVLDeployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"model": {"source": {"persistentVolumeClaim": {"claimName": "weights"}}}, **spec},
    }


def find(cluster: Cluster, namespace: str, what: str) -> dict[str, Any] | None:
    try:
        return cluster.get(what, f"--namespace={namespace}")
    except CommandError as error:
        if "NotFound" in error.output:
            return None
        raise


def is_seen(cluster: Cluster, namespace: str, name: str = "reports") -> bool:
    """Whether the operator has said something about the CR's present generation."""
    cr = find(cluster, namespace, f"qvl/{name}")
    return cr is not None and cr["status"]["observedGeneration"] == cr["metadata"]["generation"]


def holder(cluster: Cluster, namespace: str) -> str | None:
    lease = find(cluster, namespace, "lease/qwenvl-operator")
    return lease["spec"].get("holderIdentity") if lease else None


def of_operator(event: dict[str, Any], user: str) -> bool:
    return bool(event["user"]["username"] == user)


# With the chart's least rights, in namespaced mode.


class Installed:
    """The operator as the chart installs it, for one namespace, as its service account."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.home, self.watched, self.other = (make_namespace(cluster) for _ in range(3))
        arguments = (f"--set=watchNamespaces={{{self.watched}}}", "--set=rbac.aggregateToDefaultRoles=false")
        text = render(*arguments).replace("namespace: qwenvl-system", f"namespace: {self.home}")
        kinds = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
        manifests = [manifest for manifest in yaml.safe_load_all(text) if manifest and manifest["kind"] in kinds]
        assert not any(manifest["kind"].startswith("Cluster") for manifest in manifests)
        cluster.apply(*manifests)
        account = next(manifest["metadata"]["name"] for manifest in manifests if manifest["kind"] == "ServiceAccount")
        self.user = f"system:serviceaccount:{self.home}:{account}"
        self.kubeconfig = folder / "account.kubeconfig"
        token = cluster.kubectl("create", "token", account, f"--namespace={self.home}").strip()
        self.kubeconfig.write_text(json.dumps(kubeconfig_with(cluster, {"token": token})))

    def requests(self) -> list[dict[str, Any]]:
        """What the operator has asked, its lease left out."""
        return [
            event
            for event in self.cluster.audit_events()
            if of_operator(event, self.user) and event.get("objectRef", {}).get("resource") != "leases"
        ]


def kubeconfig_with(cluster: Cluster, user: dict[str, str]) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(cluster.kubeconfig.read_text())
    return {**config, "users": [{"name": config["users"][0]["name"], "user": user}]}


@pytest.fixture(name="installed", scope="module")
def _installed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    folder = tmp_path_factory.mktemp("installed")
    installed = Installed(cluster, folder)
    settings = {
        "namespaces": installed.watched,
        "lease_namespace": installed.home,
        "identity": "pod-a",
        "resync_seconds": str(NEVER),
    }
    with operator_process(installed.kubeconfig, folder, **settings) as process:
        process.wait_until_leading()
        yield installed


def test_a_resource_gets_its_children_and_a_status(installed: Installed) -> None:
    cluster, namespace = installed.cluster, installed.watched
    cluster.apply(custom_resource(namespace), custom_resource(installed.other))
    eventually(lambda: is_seen(cluster, namespace), "the resource has a status")
    assert find(cluster, namespace, "deployment/reports")
    # A namespace that is not watched is left alone.
    unseen = cluster.get("qvl/reports", f"--namespace={installed.other}")
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


def test_the_watches_survive_an_api_server_that_goes_away(
    cluster: Cluster, namespace: str, start: Start, tmp_path: Path
) -> None:
    server = urlsplit(json.loads(cluster.kubeconfig.read_text())["clusters"][0]["cluster"]["server"])
    link = Link(server.hostname or "", server.port or 0)
    try:
        config = json.loads(cluster.kubeconfig.read_text())
        config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{link.port}"
        kubeconfig = tmp_path / "link.kubeconfig"
        kubeconfig.write_text(json.dumps(config))
        process = start(kubeconfig, identity="pod-a")
        process.wait_until_leading()
        cluster.apply(custom_resource(namespace))
        eventually(lambda: is_seen(cluster, namespace), "the resource has a status")
        link.cut()
        eventually(lambda: process.metric("qwenvl_operator_api_requests_total", code="0"), "it is noticed")
        cluster.kubectl("delete", "service", "reports", f"--namespace={namespace}")
        cluster.apply(custom_resource(namespace, name="later"))
        link.join()
        eventually(lambda: is_seen(cluster, namespace, "later"), "what came meanwhile is seen")
        eventually(lambda: find(cluster, namespace, "service/reports"), "what went meanwhile is missed")
        assert process.is_running()
        assert process.is_healthy()
    finally:
        link.close()


def test_wrong_settings_are_named(start: Start) -> None:
    process = start(resync_seconds="often")
    assert process.wait() == 2
    [line] = process.logs()
    assert line["message"].startswith("environment variable QWENVL_RESYNC_SECONDS: ")


def test_credentials_are_never_logged(installed: Installed, start: Start) -> None:
    token = json.loads(installed.kubeconfig.read_text())["users"][0]["user"]["token"]
    process = start(installed.kubeconfig, namespaces=installed.other, lease_namespace=installed.other)
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
