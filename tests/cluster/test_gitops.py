"""Beside other controllers, other tools and other versions of itself: what the operator leaves alone, and what it takes
back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cluster.installation import Installed
from cluster.operator_process import OperatorProcess, eventually, operator_process, rest
from cluster.resources import custom_resource, find, is_seen, make_namespace
from cluster.stand_in import loading_pod, rolled_out, run_pods, stand_in_runtime, warm_pod, write_status
from harness.cluster import Cluster
from qwenvl_operator.conflicts import TOLERATED
from qwenvl_operator.custom_resource import CustomResource
from qwenvl_operator.status import find_condition

# `python -c`: a version of the operator that builds another pod from the same spec.
ANOTHER = """
import sys
from qwenvl_operator.desired import pod_template
from qwenvl_operator.__main__ import main
build = pod_template.build
def build_another(cr, runtime_image):
    template = build(cr, runtime_image)
    template["spec"]["containers"][0]["env"] = [{"name": "ANOTHER", "value": "1"}]
    return template
pod_template.build = build_another
sys.exit(main())
"""
VERSIONS = {"registry.local/runtime:1": ("-m", "qwenvl_operator"), "registry.local/runtime:2": ("-c", ANOTHER)}
CHILDREN = ("serviceaccount", "configmap", "service", "deployment", "poddisruptionbudget")
DEPLOYMENT = "deployment/reports"


@pytest.fixture(name="installed", scope="module")
def _installed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    folder = tmp_path_factory.mktemp("installed")
    installed = Installed(cluster, folder, namespaces=2)
    with operator_process(installed.kubeconfig, folder, **installed.settings, resync_seconds="5") as process:
        process.wait_until_leading()
        yield installed


@pytest.fixture(name="namespace")
def _namespace(installed: Installed) -> Iterator[str]:
    """With one resource that the operator has seen, and that is gone after the test."""
    namespace = installed.watched
    installed.cluster.apply(custom_resource(namespace))
    eventually(lambda: is_seen(installed.cluster, namespace), "the resource has a status")
    eventually(lambda: find(installed.cluster, namespace, "pdb/reports"), "the last child exists")
    yield namespace
    installed.cluster.kubectl("delete", "qvl,deployment,service,pdb,configmap,sa", "--all", f"--namespace={namespace}")


def said(cr: dict[str, Any], kind: str) -> dict[str, Any]:
    return find_condition(cr["status"], kind) or {"status": "", "reason": "", "message": ""}


def stalled(cluster: Cluster, namespace: str) -> tuple[str, str, str]:
    found = said(cluster.get("qvl/reports", f"--namespace={namespace}"), "Stalled")
    return found["status"], found["reason"], found["message"]


def patch(cluster: Cluster, namespace: str, what: str, change: Any, kind: str = "merge") -> None:
    cluster.kubectl("patch", what, f"--namespace={namespace}", f"--type={kind}", f"--patch={json.dumps(change)}")


def versions(cluster: Cluster, namespace: str) -> dict[str, str]:
    """The resourceVersion of every child: nobody has written while it stays."""
    items = cluster.get(",".join(CHILDREN), f"--namespace={namespace}", "--selector=qwenvl.io/name")["items"]
    return {f"{item['kind']}/{item['metadata']['name']}": item["metadata"]["resourceVersion"] for item in items}


def spec(cluster: Cluster, namespace: str) -> dict[str, Any]:
    found: dict[str, Any] = cluster.get(DEPLOYMENT, f"-n={namespace}")["spec"]
    return found


def container(cluster: Cluster, namespace: str) -> dict[str, Any]:
    found: dict[str, Any] = spec(cluster, namespace)["template"]["spec"]["containers"][0]
    return found


# Other tools.


def test_labels_and_annotations_of_tools_cause_no_write(installed: Installed, namespace: str) -> None:
    cluster = installed.cluster
    before, writes = versions(cluster, namespace), len(installed.writes())
    tracking = {"argocd.argoproj.io/tracking-id": f"app:qwenvl.io/QwenVLDeployment:{namespace}/reports"}
    metadata = {"labels": {"app.kubernetes.io/instance": "app"}, "annotations": tracking}
    patch(cluster, namespace, "qvl/reports", {"metadata": metadata})
    rest(lambda: len(installed.writes()), "the operator", span=2.0)
    assert len(installed.writes()) == writes
    assert versions(cluster, namespace) == before


def test_a_replaced_resource_without_its_annotations_changes_no_child(installed: Installed, namespace: str) -> None:
    cluster = installed.cluster
    before = versions(cluster, namespace)
    cr = cluster.get("qvl/reports", f"--namespace={namespace}")
    assert cr["metadata"]["annotations"]
    cluster.kubectl("replace", "--filename=-", input=json.dumps(custom_resource(namespace)))
    cr = cluster.get("qvl/reports", f"--namespace={namespace}")
    assert "annotations" not in cr["metadata"]
    rest(lambda: len(installed.writes()), "the operator", span=2.0)
    assert versions(cluster, namespace) == before
    after = cluster.get("qvl/reports", f"--namespace={namespace}")["metadata"]
    assert not {"annotations", "finalizers"} & after.keys()


def test_there_and_back_again_ends_as_it_began(installed: Installed, namespace: str) -> None:
    cluster = installed.cluster
    before = container(cluster, namespace), template_labels(cluster, namespace)
    for sequences in (9, 10, 9, 64):
        patch(cluster, namespace, "qvl/reports", {"spec": {"engine": {"maxNumSeqs": sequences}}})
    eventually(lambda: is_seen(cluster, namespace), "the last spec is seen")
    rest(lambda: len(installed.writes()), "the operator", span=1.0)
    assert (container(cluster, namespace), template_labels(cluster, namespace)) == before
    patch(cluster, namespace, "qvl/reports", {"spec": {"engine": {"extraArgs": ["--port=1"]}}})
    eventually(lambda: stalled(cluster, namespace)[:2] == ("True", "InvalidSpec"), "the bad spec is said")
    patch(cluster, namespace, "qvl/reports", {"spec": {"engine": {"extraArgs": []}}})
    eventually(lambda: stalled(cluster, namespace)[0] == "False", "the good spec is said")
    assert (container(cluster, namespace), template_labels(cluster, namespace)) == before


def template_labels(cluster: Cluster, namespace: str) -> dict[str, str]:
    found: dict[str, str] = cluster.get(DEPLOYMENT, f"-n={namespace}")["spec"]["template"]["metadata"]["labels"]
    return found


SLEEP = {"sleep": {"seconds": 9}}


def test_what_somebody_changes_in_a_child_is_taken_back_once(installed: Installed, namespace: str) -> None:
    cluster = installed.cluster
    before, writes = spec(cluster, namespace), len(writes_of_deployment(installed))
    changes = [
        {"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "theirs:1"},
        {"op": "replace", "path": "/spec/template/spec/containers/0/startupProbe/failureThreshold", "value": 1},
        {"op": "replace", "path": "/spec/template/spec/containers/0/livenessProbe/periodSeconds", "value": 1},
        {"op": "add", "path": "/spec/template/spec/containers/0/env", "value": [{"name": "LD_PRELOAD", "value": "/x"}]},
        {"op": "add", "path": "/spec/template/spec/containers/0/command", "value": ["sleep", "inf"]},
        {
            "op": "add",
            "path": "/spec/template/spec/containers/0/lifecycle",
            "value": {"preStop": {"sleep": {"seconds": 9}}},
        },
        {"op": "add", "path": "/spec/template/spec/hostNetwork", "value": True},
        {"op": "add", "path": "/spec/paused", "value": True},
        {"op": "replace", "path": "/spec/replicas", "value": 5},
    ]
    patch(cluster, namespace, DEPLOYMENT, changes, kind="json")
    eventually(lambda: spec(cluster, namespace) == before, "it is taken back")
    rest(lambda: len(installed.writes()), "the operator", span=2.0)
    assert len(writes_of_deployment(installed)) == writes + 2, "what is ours, and what others have entries in"
    assert stalled(cluster, namespace)[0] == "False"


# In CEL: each of our containers gets a variable.
PROXY = """Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{
  containers: [Object.spec.template.spec.containers{name: "runtime", env: [
    Object.spec.template.spec.containers.env{name: "HTTPS_PROXY", value: "http://proxy"}]}]}}}}"""


def test_what_a_policy_of_the_cluster_adds_is_left_alone(installed: Installed, namespace: str) -> None:
    cluster = installed.cluster
    with policy(cluster, namespace, PROXY):
        patch(cluster, namespace, "qvl/reports", {"spec": {"replicas": 2}})
        eventually(lambda: spec(cluster, namespace)["replicas"] == 2, "the change is written")
        assert container(cluster, namespace)["env"] == [{"name": "HTTPS_PROXY", "value": "http://proxy"}]
        rest(lambda: len(installed.writes()), "the operator", span=6.0)
        before = spec(cluster, namespace)
        patch(cluster, namespace, DEPLOYMENT, {"spec": {"paused": True}})
        eventually(lambda: spec(cluster, namespace) == before, "what a person adds is taken back all the same")
    assert stalled(cluster, namespace)[0] == "False"


@contextmanager
def policy(cluster: Cluster, namespace: str, expression: str) -> Iterator[None]:
    """Every write of a Deployment in the namespace gets what the expression makes merged in, as by a webhook."""
    group = {"apiVersion": "admissionregistration.k8s.io/v1beta1", "metadata": {"name": namespace}}
    deployments = {"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}
    changes = {
        "matchConstraints": {"resourceRules": [{**deployments, "operations": ["CREATE", "UPDATE"]}]},
        "failurePolicy": "Fail",
        "reinvocationPolicy": "Never",
        "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}],
    }
    selector = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    binding = {"policyName": namespace, "matchResources": {"namespaceSelector": selector}}
    cluster.apply(
        {**group, "kind": "MutatingAdmissionPolicy", "spec": changes},
        {**group, "kind": "MutatingAdmissionPolicyBinding", "spec": binding},
    )
    without = {"spec": {"template": {"spec": {"containers": [{"name": "runtime", "env": None}]}}}}
    tried = ("patch", DEPLOYMENT, f"-n={namespace}", "--dry-run=server", f"--patch={json.dumps(without)}", "-o=json")
    try:
        eventually(lambda: "HTTPS_PROXY" in cluster.kubectl(*tried), "the policy is at work")
        yield
    finally:
        cluster.kubectl("delete", "mutatingadmissionpolicy,mutatingadmissionpolicybinding", namespace)
        eventually(lambda: "HTTPS_PROXY" not in cluster.kubectl(*tried), "the policy is no longer at work")


def writes_of_deployment(installed: Installed) -> list[dict[str, Any]]:
    return [event for event in installed.writes() if event["objectRef"]["resource"] == "deployments"]


def test_who_keeps_changing_a_child_is_named_and_answered_slowly(installed: Installed, namespace: str) -> None:
    cluster = installed.cluster
    theirs = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "reports", "namespace": namespace},
        "spec": {"template": {"spec": {"containers": [{"name": "runtime", "image": "theirs:1"}]}}},
    }
    apply = ("apply", "--server-side", "--force-conflicts", "--field-manager=their-controller", "--filename=-")

    def insist() -> None:
        if container(cluster, namespace)["image"] != "theirs:1":
            cluster.kubectl(*apply, input=json.dumps(theirs))

    def is_said() -> bool:
        insist()
        return stalled(cluster, namespace)[:2] == ("True", "FieldManagerConflict")

    before = len(writes_of_deployment(installed))
    eventually(is_said, "the conflict is said")
    message = stalled(cluster, namespace)[2]
    assert "their-controller keeps changing spec.template.spec.containers[runtime].image of Deployment rep" in message
    assert len(writes_of_deployment(installed)) == before + TOLERATED + 1
    version = cluster.get("qvl/reports", f"--namespace={namespace}")["metadata"]["resourceVersion"]
    until = time.monotonic() + 10
    while time.monotonic() < until:
        insist()
        time.sleep(0.1)
    assert len(writes_of_deployment(installed)) == before + TOLERATED + 1, "at most one in 30 s"
    after = cluster.get("qvl/reports", f"--namespace={namespace}")["metadata"]["resourceVersion"]
    assert after == version, "what is said stays"


# Rights that somebody takes away.


def change_rights(installed: Installed, namespace: str, taken: dict[str, set[str]]) -> None:
    """The chart's Role in one namespace, less some verbs of some resources."""
    (role,) = [item for item in installed.rights if item["metadata"].get("namespace") == namespace and "rules" in item]
    rules = [
        {
            **rule,
            "resources": [resource],
            "verbs": [verb for verb in rule["verbs"] if verb not in taken.get(resource, ())],
        }
        for rule in role["rules"]
        for resource in rule["resources"]
    ]
    installed.cluster.apply({**role, "rules": [rule for rule in rules if rule["verbs"]]})


@pytest.mark.timeout(120)
def test_a_right_that_is_taken_away_is_named_where_it_is_missing_until_it_is_back(
    installed: Installed, namespace: str
) -> None:
    cluster, other = installed.cluster, installed.namespaces[1]
    cluster.apply(custom_resource(other))
    eventually(lambda: is_seen(cluster, other), "the other resource has a status")

    def is_missing(verb: str, resource: str) -> Callable[[], bool]:
        words = f"may not {verb} {resource}"

        def is_said() -> bool:
            status, reason, message = stalled(cluster, namespace)
            assert stalled(cluster, other)[0] == "False"
            return (status, reason) == ("True", "PermissionMissing") and words in message and namespace in message

        return is_said

    # Nobody can be told by an Event either.
    change_rights(installed, namespace, {"deployments": {"patch"}, "events": {"create"}})
    for changed in (namespace, other):
        patch(cluster, changed, "qvl/reports", {"spec": {"replicas": 2}})
    eventually(is_missing("patch", "deployments of API group apps"), "the missing right is said", timeout=60)
    assert cluster.get(DEPLOYMENT, f"--namespace={other}")["spec"]["replicas"] == 2
    change_rights(installed, namespace, {"pods": {"list"}})
    eventually(is_missing("list", "pods"), "the refused list is said", timeout=60)
    assert cluster.get(DEPLOYMENT, f"--namespace={namespace}")["spec"]["replicas"] == 2
    change_rights(installed, namespace, {})
    eventually(lambda: stalled(cluster, namespace)[0] == "False", "the right is back", timeout=60)


def test_a_watch_that_is_refused_is_said_until_it_is_not(
    installed: Installed, tmp_path: Path, cluster: Cluster
) -> None:
    namespace = installed.namespaces[1]
    cluster.apply(custom_resource(namespace))
    change_rights(installed, namespace, {"pods": {"watch"}})
    home = make_namespace(cluster)
    leases = ("--verb=get,create,update", "--resource=leases.coordination.k8s.io")
    cluster.kubectl("create", "role", "lease", f"--namespace={home}", *leases)
    binding = ("--role=lease", f"--user={installed.user}")
    cluster.kubectl("create", "rolebinding", "lease", f"--namespace={home}", *binding)
    settings = {**installed.settings, "namespaces": namespace, "lease_namespace": home}
    with operator_process(installed.kubeconfig, tmp_path, **settings) as process:
        process.wait_until_leading()

        def is_said() -> bool:
            status, reason, message = stalled(cluster, namespace)
            return (status, reason) == ("True", "PermissionMissing") and "may not watch pods" in message

        eventually(is_said, "the refused watch is said")
        change_rights(installed, namespace, {})
        eventually(lambda: stalled(cluster, namespace)[0] == "False", "the right is back", timeout=60)


# Other versions of the operator, and none.


@pytest.mark.timeout(120)
def test_another_version_and_back_changes_no_pod_and_ends_what_the_first_began(
    cluster: Cluster, tmp_path: Path
) -> None:
    namespace = make_namespace(cluster)
    settings = {"namespaces": namespace, "lease_namespace": namespace, "identity": "pod-a", "resync_seconds": "3600"}
    this, another = VERSIONS
    names = ("warm", "loading", "failing")
    cluster.apply(*(custom_resource(namespace, name) for name in names))

    @contextmanager
    def version(image: str) -> Iterator[OperatorProcess]:
        program = VERSIONS[image]
        with operator_process(
            cluster.kubeconfig, tmp_path, **settings, program=program, runtime_image=image
        ) as process:
            process.wait_until_leading()
            yield process
            assert process.stop() == 0

    def wait_for_reconciles(process: OperatorProcess, number: int) -> None:
        done = partial(process.metric, "qwenvl_operator_reconciles_total", result="success")
        eventually(lambda: (done() or 0) >= number, "all are reconciled")

    with version(this):
        eventually(lambda: all(find(cluster, namespace, f"pdb/{name}") for name in names), "the children exist")
        crs = {name: CustomResource.parse(cluster.get(f"qvl/{name}", f"-n={namespace}")) for name in names}
        ended = {"exitCode": 10, "reason": "Error", "message": "ENGINE_DIED: gone", "startedAt": None}
        failing = {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": ended}}
        pods = [
            warm_pod(crs["warm"]),
            loading_pod(crs["loading"]),
            loading_pod(crs["failing"], restartCount=5, **failing),
        ]
        run_pods(cluster, pods)
        write_status(cluster, map(rolled_out, cluster.get("deployment", f"-n={namespace}")["items"]))
        eventually(lambda: reasons(cluster, namespace) == EXPECTED, "each is what it is")
    before, seen = versions(cluster, namespace), resource_versions(cluster, namespace)
    with version(another) as process, stand_in_runtime() as runtime:
        wait_for_reconciles(process, len(names))
        assert (versions(cluster, namespace), resource_versions(cluster, namespace)) == (before, seen)
        write_status(cluster, [runtime.warm(crs["loading"])])
        eventually(lambda: reasons(cluster, namespace) == AT_LAST, "what was loading is warm")
        assert versions(cluster, namespace) == before
        cluster.apply(custom_resource(namespace, "new"))
        new = eventually(lambda: find(cluster, namespace, "deployment/new"), "the new one has a Deployment")
        assert new["spec"]["template"]["spec"]["containers"][0]["env"], "this version would have built another pod"
        eventually(lambda: is_seen(cluster, namespace, "new"), "the new one has a status")
    assert before.items() <= (after := versions(cluster, namespace)).items()
    seen = resource_versions(cluster, namespace)
    with version(this) as process:
        wait_for_reconciles(process, len(names) + 1)
    assert (versions(cluster, namespace), resource_versions(cluster, namespace)) == (after, seen)


EXPECTED = {"warm": "AllReplicasReady", "loading": "LoadingModel", "failing": "EngineCrashed"}
AT_LAST = {**EXPECTED, "loading": "AllReplicasReady"}


def reasons(cluster: Cluster, namespace: str) -> dict[str, str]:
    items = cluster.get("qvl", f"--namespace={namespace}")["items"]
    return {item["metadata"]["name"]: said(item, "Ready")["reason"] for item in items}


def resource_versions(cluster: Cluster, namespace: str) -> list[str]:
    items = cluster.get("qvl,pods", f"--namespace={namespace}")["items"]
    return [item["metadata"]["resourceVersion"] for item in items]


@pytest.mark.timeout(120)
def test_without_an_operator_a_namespace_can_be_deleted(cluster: Cluster, tmp_path: Path) -> None:
    namespace = make_namespace(cluster)
    cluster.apply(custom_resource(namespace))
    settings = {"namespaces": namespace, "lease_namespace": namespace, "identity": "pod-a"}
    with operator_process(cluster.kubeconfig, tmp_path, **settings):
        eventually(lambda: is_seen(cluster, namespace), "the resource has a status")
    cluster.kubectl("delete", "namespace", namespace, "--timeout=60s")
