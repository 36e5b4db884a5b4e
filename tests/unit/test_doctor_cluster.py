"""What the doctor says of a cluster: each thing that is wrong by its name, and nothing where all is well."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml
from doctor_samples import (
    FORBIDDEN,
    MANIFESTS,
    cluster,
    definition,
    deployment,
    failures,
    holder,
    lease,
    named,
    node,
    operator,
    resource,
)
from samples import NOW, STARTED

from qwenvl_operator.doctor.cluster_checks import check_cluster
from qwenvl_operator.doctor.findings import Level, age
from qwenvl_operator.doctor.foundation_checks import OLDEST, is_reconciled
from qwenvl_operator.doctor.installation import Installation, Right
from qwenvl_operator.doctor.readings import ClusterReadings, Unread
from qwenvl_operator.objects import Manifest

ROOT = MANIFESTS.parents[2]


def without_field(*path: str) -> Manifest:
    """The CRD of a release that did not know a field yet."""
    older = copy.deepcopy(definition())
    schema = older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for name in path[:-1]:
        schema = schema["properties"][name]
    del schema["properties"][path[-1]]
    return older


def with_field(name: str) -> Manifest:
    newer = copy.deepcopy(definition())
    newer["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"][name] = {}
    return newer


def unserved() -> Manifest:
    other = copy.deepcopy(definition())
    other["spec"]["versions"][0]["served"] = False
    return other


def taken() -> Manifest:
    conditions = [
        {"type": "Established", "status": "False"},
        {"type": "NamesAccepted", "status": "False", "message": '"qvl" is already in use'},
    ]
    return definition(status={"conditions": conditions})


def operator_pod(**state: Any) -> Manifest:
    labels = deployment()["spec"]["selector"]["matchLabels"]
    status = {"containerStatuses": [{"name": "operator", "state": state}]}
    return {
        "metadata": {"name": "operator-1", "namespace": "qwenvl-system", "labels": labels},
        "spec": {"containers": []},
        "status": status,
    }


def of_release(release: str) -> Manifest:
    found = deployment()
    return {**found, "metadata": {**found["metadata"], "labels": {"app.kubernetes.io/version": release}}}


def named_namespaces(*namespaces: str) -> Installation:
    found = copy.deepcopy(deployment())
    found["spec"]["template"]["spec"]["containers"][0]["env"] += [
        {"name": "QWENVL_NAMESPACES", "value": ",".join(namespaces)}
    ]
    return Installation(found)


PULLING = operator_pod(waiting={"reason": "ImagePullBackOff", "message": "no such image"})
ENDED = operator_pod(terminated={"reason": "Error", "exitCode": 2, "message": "no kubeconfig"})
HOST_PATH = {"model": {"source": {"hostPath": {"path": "/data"}}}}
RESTRICTED = {"metadata": {"name": "ai", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
UNHEALTHY = node("node-b", gpus=0, capacity={"nvidia.com/gpu": "8"})

WRONG = {
    "version": (cluster(version="v1.29.9-gke.1"), ["API server: is v1.29.9-gke.1, older than 1.30"]),
    "no CRD": (
        cluster(definition=None, resources=Unread("404", unknown=True)),
        ["CRD: qwenvldeployments.qwenvl.io is not installed"],
    ),
    "names taken": (cluster(definition=taken()), ['CRD: is not established: "qvl" is already in use']),
    "not served": (cluster(definition=unserved()), ["CRD: does not serve v1alpha1"]),
    "older CRD": (
        cluster(definition=without_field("spec", "queue")),
        ["CRD: is of an older release, and drops spec.queue"],
    ),
    "older CRD, an inner field": (
        cluster(definition=without_field("spec", "media", "maxSourcePixels")),
        ["CRD: is of an older release, and drops spec.media.maxSourcePixels"],
    ),
    "newer CRD": (
        cluster(definition=with_field("magic")),
        ["CRD: is of a newer release than this qwenvl, with spec.magic"],
    ),
    "no operator": (
        cluster(operators=[]),
        [
            "operator: there is no Deployment of the operator",
            "ai/reports: nobody reconciles; Ready for 5 min: AllReplicasReady: because",
        ],
    ),
    "scaled to 0": (
        cluster(operators=[operator(installation=Installation(deployment(replicas=0)))]),
        ["operator: qwenvl-system/qwenvl-operator is scaled to 0"],
    ),
    "image": (
        cluster(operators=[operator(installation=Installation(deployment("False")))], pods=[PULLING]),
        ["operator: qwenvl-system/qwenvl-operator is not available: ImagePullBackOff: no such image"],
    ),
    "crash": (
        cluster(operators=[operator(installation=Installation(deployment("False")))], pods=[ENDED]),
        ["operator: qwenvl-system/qwenvl-operator is not available: Error, exit code 2: no kubeconfig"],
    ),
    "another release": (
        cluster(operators=[operator(installation=Installation(of_release("9.9.9")))]),
        ["operator: qwenvl-system/qwenvl-operator is of release 9.9.9, this qwenvl of 0.1.0"],
    ),
    "two operators": (
        cluster(operators=[operator(), operator(installation=named_namespaces("ai"))]),
        ["operator: qwenvl-system/qwenvl-operator and qwenvl-system/qwenvl-operator watch the same namespaces"],
    ),
    "stale lease": (
        cluster(operators=[operator(lease=lease(renewed=NOW - 7200))]),
        [
            "lease: pod-a renewed it last 2 h ago, so nobody reconciles",
            "ai/reports: nobody reconciles; Ready for 5 min: AllReplicasReady: because",
        ],
    ),
    "lease run out": (
        cluster(operators=[operator(lease=lease(renewed=NOW - 40))]),
        ["lease: pod-a renewed it last 40 s ago, and it lasts 15 s"],
    ),
    "lease without a duration": (
        cluster(operators=[operator(lease=lease(renewed=NOW - 40, without="leaseDurationSeconds"))]),
        ["lease: pod-a renewed it last 40 s ago, and it lasts 15 s"],
    ),
    "lease without a time": (
        cluster(operators=[operator(lease=lease(without="renewTime"))], resources=[]),
        ["lease: pod-a has never renewed it, so nobody reconciles"],
    ),
    "lease of the future": (
        cluster(operators=[operator(lease=lease(renewed=NOW + 600))]),
        ["lease: pod-a renewed it 10 min from now"],
    ),
    "no lease, and a change": (
        cluster(operators=[operator(lease=None)], resources=[resource(generation=2)]),
        [
            "lease: nobody holds it, so nobody reconciles",
            "ai/reports: nobody reconciles generation 3; Ready for 5 min: AllReplicasReady: because",
        ],
    ),
    "rights": (
        cluster(operators=[operator(lacks=[Right("patch", "", "pods/status"), Right("list", "", "nodes", "ai")])]),
        [
            "rights: system:serviceaccount:qwenvl-system:qwenvl-operator may not patch pods/status, list nodes in ai",
        ],
    ),
    "no GPU": (cluster(nodes=[node(gpus=0)]), ["nvidia.com/gpu: none of 1 node(s) offers any"]),
    "unhealthy GPUs": (
        cluster(nodes=[node(), UNHEALTHY]),
        ["nvidia.com/gpu: there are some on node-b, and none of them is healthy"],
    ),
    "RuntimeClass": (
        cluster(resources=[resource(hardware={"runtimeClassName": "nvidia"})], runtime_classes=[named("runc")]),
        ["RuntimeClass: there is no nvidia, so the API server refuses the pods; there is runc"],
    ),
    "Pod Security": (
        cluster(resources=[resource(**HOST_PATH)], namespaces=[RESTRICTED]),
        ["Pod Security: ai enforces restricted, which forbids the hostPath of reports"],
    ),
    "Stalled": (
        cluster(resources=[resource("QuotaExceeded", state="Stalled")]),
        ["ai/reports: not Ready for 5 min: QuotaExceeded: because"],
    ),
    "Reconciling": (
        cluster(resources=[resource("WaitingForGPU", state="Reconciling", since=NOW - 90000 * 2)]),
        ["ai/reports: not Ready for 2 d: WaitingForGPU: because"],
    ),
    "deleted": (
        cluster(resources=[{**resource(), "metadata": {**resource()["metadata"], "deletionTimestamp": STARTED}}]),
        ["ai/reports: is being deleted for 60 s, and waits for its children to go"],
    ),
    "slow": (
        cluster(resources=[resource("EngineSlow")]),
        ["ai/reports: Ready for 5 min: EngineSlow: because"],
    ),
}


@pytest.mark.parametrize(("readings", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named_and_nothing_else(readings: ClusterReadings, said: list[str]) -> None:
    findings = list(check_cluster(readings))
    assert failures(findings) == said
    assert all(finding.see.startswith("docs/troubleshooting.md#") for finding in findings if finding.advice)


RIGHT = {
    "all is well": cluster(),
    "nothing to serve yet": cluster(resources=[]),
    "at rest": cluster(resources=[resource("Suspended", state="rest")]),
    "on the CPU": cluster(resources=[resource(hardware={"accelerator": {"resource": "cpu"}})], nodes=[node(gpus=0)]),
    "a restricted namespace": cluster(namespaces=[RESTRICTED]),
    "two operators, each with a namespace": cluster(
        operators=[operator(installation=named_namespaces("ai")), operator(installation=named_namespaces("lab"))]
    ),
}


@pytest.mark.parametrize("readings", RIGHT.values(), ids=RIGHT)
def test_where_all_is_well_nothing_is_wrong(readings: ClusterReadings) -> None:
    assert failures(list(check_cluster(readings))) == []


def test_what_may_not_be_read_is_skipped_and_its_right_named() -> None:
    hidden = cluster(
        definition=FORBIDDEN,
        operators=FORBIDDEN,
        nodes=FORBIDDEN,
        pods=FORBIDDEN,
        runtime_classes=FORBIDDEN,
        namespaces=FORBIDDEN,
        resources=[resource(hardware={"runtimeClassName": "nvidia"})],
    )
    findings = {finding.about: finding for finding in check_cluster(hidden)}
    unseen = {about for about, finding in findings.items() if finding.level is Level.SKIPPED}
    assert unseen == {"CRD", "operator", "nvidia.com/gpu", "RuntimeClass", "Pod Security"}
    assert findings["CRD"].said == "needs: list somethings"
    assert findings["ai/reports"].level is Level.OK
    partly = cluster(operators=[operator(lease=FORBIDDEN, lacks=FORBIDDEN)], resources=FORBIDDEN)
    unseen = {finding.about for finding in check_cluster(partly) if finding.level is Level.SKIPPED}
    assert unseen == {"lease", "rights", "resources"}
    assert is_reconciled(partly, "ai") is None


def test_free_accelerators_are_counted_by_product() -> None:
    nodes = [node(), node("node-b"), node("node-c", labels={"nvidia.com/gpu.product": "NVIDIA-H200"})]
    findings = check_cluster(cluster(nodes=nodes, pods=[holder(2), holder(1, node="node-c")]))
    assert [finding.said for finding in findings if finding.about == "nvidia.com/gpu"] == [
        "2 on 1 node(s) (NVIDIA-H200), 1 free",
        "4 on 2 node(s) (NVIDIA-L40S), 2 free",
    ]


def test_an_operator_of_other_namespaces_does_not_reconcile_this_one() -> None:
    readings = cluster(operators=[operator(installation=named_namespaces("lab"))])
    assert is_reconciled(readings, "lab") is True
    assert is_reconciled(readings, "ai") is False


def granted(rules: Manifest) -> set[tuple[str, str, str]]:
    return {
        (verb, group, plural)
        for rule in rules
        for group in rule["apiGroups"]
        for plural in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.mark.parametrize("mode", ["cluster", "namespaced"])
def test_the_rights_that_are_asked_about_are_those_that_the_chart_grants(mode: str) -> None:
    roles = yaml.safe_load((ROOT / "tests/golden/rbac.yaml").read_text())[mode]
    of_operator = {name: rules for name, rules in roles.items() if not name.endswith(("-view", "-edit"))}
    installation = Installation(deployment()) if mode == "cluster" else named_namespaces("team-a", "team-b")
    asked = {right[:3] for right in installation.needed_rights}
    assert asked == set().union(*map(granted, of_operator.values()))
    assert {right.namespace for right in installation.needed_rights} == (
        {"", "qwenvl-system"} if mode == "cluster" else {"team-a", "team-b", "qwenvl-system"}
    )


def test_the_page_shows_how_many_rights_an_operator_of_the_whole_cluster_needs() -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text()
    [finding] = [finding for finding in check_cluster(cluster()) if finding.about == "rights"]
    assert f"ok      rights         {finding.said}\n" in page


def test_the_oldest_kubernetes_is_the_one_that_the_chart_asks_for() -> None:
    chart = yaml.safe_load((ROOT / "charts/qwenvl-operator/Chart.yaml").read_text())
    assert chart["kubeVersion"] == f">={'.'.join(map(str, OLDEST))}.0-0"


def test_the_operator_is_known_by_its_settings_whatever_its_names_are() -> None:
    other = {"metadata": {"name": "web", "namespace": "ai"}, "spec": {"template": {"spec": {"containers": [{}]}}}}
    [found] = Installation.find([other, deployment()])
    assert found.name == "qwenvl-system/qwenvl-operator"
    assert found.account == "system:serviceaccount:qwenvl-system:qwenvl-operator"


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0 s"), (119, "119 s"), (120, "2 min"), (7300, "2 h"), (2e5, "2 d")]
)
def test_an_age_has_the_unit_that_a_person_would_use(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_the_lease_is_that_of_the_release() -> None:
    found = copy.deepcopy(deployment())
    environment = found["spec"]["template"]["spec"]["containers"][0]["env"]
    lease_name = next(item for item in environment if item["name"] == "QWENVL_LEASE_NAME")
    lease_name["value"] = "second"
    installation = Installation(found)
    assert installation.lease.name == "second"
    assert {right.name for right in installation.needed_rights if right.resource == "leases"} == {"", "second"}
    environment.remove(lease_name)
    assert Installation(found).lease.name == "qwenvl-operator"
