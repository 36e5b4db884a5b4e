"""The Helm chart: what it renders is accepted by a real kube-apiserver, and gives the operator just enough rights."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cluster import Cluster
from harness.commands import CommandError, run
from harness.manifests import CHART, NAMESPACE, PLAIN_FILE, plain_manifests, render
from harness.tools import tool
from qwenvl_operator.objects import CHILD_KINDS, WATCHED_KINDS, Kind
from qwenvl_operator.settings import PREFIX, Settings

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden/rbac.yaml"
RELEASE_NAMESPACE = "qwenvl-release"
NAMESPACED = "--set=watchNamespaces={team-a,team-b}"
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:qwenvl-operator"

Manifest = dict[str, Any]


def manifests(*arguments: str) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(render(*arguments)) if document]


def of_kind(kind: str, *arguments: str) -> list[Manifest]:
    return [manifest for manifest in manifests(*arguments) if manifest["kind"] == kind]


def set_json(**values: object) -> list[str]:
    return [f"--set-json={name}={json.dumps(value)}" for name, value in values.items()]


EVERYTHING = set_json(
    image={"reference": "registry.local:5000/ai/operator:1.2.3@sha256:" + "0" * 64, "pullPolicy": "Always"},
    imagePullSecrets=[{"name": "pull"}],
    runtimeImage="registry.local:5000/ai/runtime:1.2.3",
    resyncSeconds=60,
    serviceAccount={"name": "somebody", "annotations": {"a": "b"}},
    metrics={"service": {"annotations": {"prometheus.io/scrape": "true"}}},
    resources={"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "2Gi"}},
    podSecurityContext={"runAsUser": None, "runAsGroup": None},
    podAnnotations={"a": "b"},
    podLabels={"team": "ai"},
    priorityClassName="system-cluster-critical",
    nodeSelector={"pool": "system"},
    tolerations=[{"operator": "Exists"}],
    affinity={"nodeAffinity": {}},
    fullnameOverride="reader",
)
# Names that YAML would read as something else.
LIKE_NUMBERS = set_json(
    image={"reference": "123"},
    runtimeImage="1e3",
    watchNamespaces=["123"],
    serviceAccount={"name": "12"},
    priorityClassName="123",
    nameOverride="0",
    fullnameOverride="on",
)


@pytest.fixture(name="cluster", scope="module")
def _cluster(control_plane: Cluster) -> Iterator[Cluster]:
    """With the namespaces, and with the operator's rights as the chart gives them."""
    namespaces = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        for name, labels in (
            (NAMESPACE, {"pod-security.kubernetes.io/enforce": "restricted"}),
            ("team-a", {}),
            ("team-b", {}),
            ("123", {}),
        )
    ]
    rights = [
        manifest for manifest in manifests() if "Role" in manifest["kind"] or manifest["kind"] == "ServiceAccount"
    ]
    control_plane.apply(*namespaces, *rights)
    yield control_plane
    control_plane.kubectl("delete", "--filename=-", "--wait=false", input=yaml.safe_dump_all(rights))


def test_helm_finds_no_fault() -> None:
    run(tool("helm"), "lint", "--strict", CHART)


@pytest.mark.parametrize(
    "arguments",
    [[], [NAMESPACED], EVERYTHING, set_json(crds={"enabled": False}), LIKE_NUMBERS, set_json(nameOverride="n" * 70)],
    ids=["default", "namespaced", "everything", "no-crd", "like-numbers", "long-name"],
)
def test_the_api_server_accepts_every_object(cluster: Cluster, arguments: list[str]) -> None:
    cluster.kubectl(
        "apply", "--server-side", "--dry-run=server", "--force-conflicts", "--filename=-", input=render(*arguments)
    )


def test_the_plain_manifests_are_those_of_the_chart(cluster: Cluster) -> None:
    assert PLAIN_FILE.read_text() == plain_manifests(), "run `make generate`"
    cluster.kubectl("apply", "--server-side", "--dry-run=server", "--force-conflicts", f"--filename={PLAIN_FILE}")


def test_the_operators_pod_passes_the_restricted_standard(cluster: Cluster) -> None:
    (deployment,) = of_kind("Deployment")
    pod = {"apiVersion": "v1", "kind": "Pod", "spec": deployment["spec"]["template"]["spec"]}
    pod["metadata"] = {"name": "probe", "namespace": NAMESPACE}
    cluster.kubectl("create", "--dry-run=server", "--filename=-", input=json.dumps(pod))
    pod["spec"]["securityContext"]["runAsNonRoot"] = False
    with pytest.raises(CommandError, match="violates PodSecurity"):
        cluster.kubectl("create", "--dry-run=server", "--filename=-", input=json.dumps(pod))


def test_the_crd_stays_when_the_release_goes_unless_told_otherwise() -> None:
    (crd,) = of_kind("CustomResourceDefinition")
    assert crd["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    (crd,) = of_kind("CustomResourceDefinition", "--set=crds.keep=false")
    assert "annotations" not in crd["metadata"]
    assert not of_kind("CustomResourceDefinition", "--set=crds.enabled=false")


def test_uninstalling_keeps_the_resources(cluster: Cluster) -> None:
    def helm(*arguments: str | Path) -> None:
        run(tool("helm"), f"--kubeconfig={cluster.kubeconfig}", f"--namespace={RELEASE_NAMESPACE}", *arguments)

    # The CRD may be there already, from other tests.
    helm("install", "kept", CHART, "--create-namespace", "--take-ownership")
    try:
        cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd/qwenvldeployments.qwenvl.io")
        cluster.kubectl("apply", f"--filename={ROOT / 'docs/examples/tiny-cpu.yaml'}")
        cluster.kubectl("get", f"--namespace={RELEASE_NAMESPACE}", "deployment/kept-qwenvl-operator")
    finally:
        helm("uninstall", "kept")
    cluster.kubectl("delete", "--namespace=default", "qvl/tiny")
    with pytest.raises(CommandError, match="not found"):
        cluster.kubectl("get", f"--namespace={RELEASE_NAMESPACE}", "deployment/kept-qwenvl-operator")


def test_the_operator_understands_every_setting_that_it_is_given() -> None:
    (deployment,) = of_kind("Deployment", NAMESPACED, "--set=resyncSeconds=60", "--set=runtimeImage=here/runtime:1")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    environment = {item["name"]: item.get("value", "from-the-pod") for item in container["env"]}
    assert {name.removeprefix(PREFIX).lower() for name in environment} <= set(Settings.model_fields)
    settings = Settings.from_environment(environment)
    assert settings.runtime_image == "here/runtime:1"
    assert settings.namespaces == ("team-a", "team-b")
    assert settings.resync_seconds == 60
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"metrics": settings.metrics_port, "health": settings.health_port}


class Plain(yaml.SafeDumper):
    """Without references from one role to another."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def rules(*arguments: str) -> Manifest:
    """Everything that the operator may do, by role."""
    return {
        "/".join(filter(None, (role["kind"], role["metadata"].get("namespace"), role["metadata"]["name"]))): role[
            "rules"
        ]
        for role in manifests(*arguments)
        if role["kind"] in ("Role", "ClusterRole")
    }


def test_the_rights_are_the_ones_that_were_reviewed() -> None:
    granted = {"cluster": rules(), "namespaced": rules(NAMESPACED)}
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(yaml.dump(granted, Dumper=Plain, sort_keys=False, width=120, default_flow_style=None))
    assert granted == yaml.safe_load(GOLDEN.read_text())


@pytest.mark.parametrize("arguments", [[], [NAMESPACED]], ids=["cluster", "namespaced"])
def test_no_role_holds_a_wildcard_or_a_secret(arguments: list[str]) -> None:
    for role, granted in rules(*arguments).items():
        for rule in granted:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]], role
            assert not any(resource.startswith("secrets") for resource in rule["resources"]), role


def test_in_named_namespaces_the_operator_has_no_right_anywhere_else() -> None:
    accounts = {
        binding["metadata"]["namespace"]
        for binding in manifests(NAMESPACED)
        if binding["kind"] == "RoleBinding" and binding["subjects"][0]["kind"] == "ServiceAccount"
    }
    assert accounts == {"team-a", "team-b", NAMESPACE}
    assert not of_kind("ClusterRoleBinding", NAMESPACED)


def may(cluster: Cluster, verb: str, resource: str, namespace: str = "team-a", name: str = "") -> bool:
    """What the API server says of the operator's right, by a SubjectAccessReview."""
    plural, _, group = resource.partition(".")
    plural, _, subresource = plural.partition("/")
    attributes = {"verb": verb, "resource": plural, "subresource": subresource, "group": group, "namespace": namespace}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "metadata": {},
        "spec": {"user": ACCOUNT, "resourceAttributes": {**attributes, "name": name}},
    }
    answer = cluster.kubectl("create", "--output=json", "--filename=-", input=json.dumps(review))
    return bool(json.loads(answer)["status"]["allowed"])


def resource_of(kind: Kind) -> str:
    return f"{kind.value.plural}.{kind.value.group}".rstrip(".")


NEEDED = [
    *((verb, resource_of(kind)) for kind in (Kind.CR, *WATCHED_KINDS) for verb in ("list", "watch")),
    *((verb, resource_of(kind)) for kind in CHILD_KINDS for verb in ("get", "create", "patch", "delete")),
    ("patch", "qwenvldeployments/status.qwenvl.io"),
    ("update", "qwenvldeployments/finalizers.qwenvl.io"),
    ("delete", "pods"),
    ("patch", "pods/status"),
    ("create", "events.events.k8s.io"),
    ("list", "events.events.k8s.io"),
]
REFUSED = [
    *((verb, "secrets") for verb in ("get", "list", "watch", "create")),
    *((verb, "pods") for verb in ("create", "deletecollection", "patch", "update")),
    ("create", "pods/exec"),
    ("get", "pods/log"),
    ("get", "nodes/proxy"),
    ("update", "qwenvldeployments.qwenvl.io"),
    ("patch", "qwenvldeployments.qwenvl.io"),
    ("delete", "qwenvldeployments.qwenvl.io"),
    ("create", "rolebindings.rbac.authorization.k8s.io"),
    ("create", "serviceaccounts/token"),
    ("list", "customresourcedefinitions.apiextensions.k8s.io"),
    ("list", "namespaces"),
    ("get", "leases.coordination.k8s.io"),
]


@pytest.mark.parametrize(("verb", "resource"), NEEDED, ids=" ".join)
def test_the_operator_may_do_its_work(cluster: Cluster, verb: str, resource: str) -> None:
    assert may(cluster, verb, resource)


@pytest.mark.parametrize(("verb", "resource"), REFUSED, ids=" ".join)
def test_the_operator_may_do_nothing_else(cluster: Cluster, verb: str, resource: str) -> None:
    assert not may(cluster, verb, resource)


def test_the_lease_is_the_only_one_that_the_operator_may_touch(cluster: Cluster) -> None:
    lease = "leases.coordination.k8s.io"
    assert may(cluster, "create", lease, NAMESPACE)
    assert all(may(cluster, verb, lease, NAMESPACE, "qwenvl-operator") for verb in ("get", "update"))
    assert not may(cluster, "update", lease, NAMESPACE, "somebody-elses")


@pytest.mark.parametrize(
    ("release", "service"),
    [
        ("a.b", "a-b-qwenvl-operator-metrics"),
        ("2nd", "qwenvl-2nd-qwenvl-operator-metrics"),
        ("2" * 53, "qwenvl-" + "2" * 48 + "-metrics"),
        ("n" * 53, "n" * 53 + "-q-metrics"),
    ],
)
def test_whatever_a_release_is_called_its_service_has_a_name_that_services_may_have(release: str, service: str) -> None:
    rendered = render("--show-only=templates/metrics-service.yaml", release=release)
    assert yaml.safe_load(rendered)["metadata"]["name"] == service


def test_a_long_name_is_cut_so_that_every_object_has_a_name_that_fits() -> None:
    (service,) = of_kind("Service", f"--set=fullnameOverride={'n' * 70}")
    assert service["metadata"]["name"] == "n" * 55 + "-metrics"


def test_names_that_look_like_numbers_stay_names() -> None:
    (deployment,) = of_kind("Deployment", *LIKE_NUMBERS)
    pod = deployment["spec"]["template"]["spec"]
    assert (pod["serviceAccountName"], pod["priorityClassName"]) == ("12", "123")
    environment = {item["name"]: item.get("value") for item in pod["containers"][0]["env"]}
    assert (environment["QWENVL_NAMESPACES"], environment["QWENVL_RUNTIME_IMAGE"]) == ("123", "1e3")
    labels = deployment["spec"]["selector"]["matchLabels"]
    assert labels["app.kubernetes.io/name"] == "0"
    assert {role["metadata"]["namespace"] for role in of_kind("Role", *LIKE_NUMBERS)} == {"123", NAMESPACE}


def test_two_releases_in_one_namespace_have_a_lease_each() -> None:
    (deployment,) = of_kind("Deployment", "--set=fullnameOverride=second")
    environment = {
        item["name"]: item.get("value") for item in deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    }
    (role,) = [
        role for role in of_kind("Role", "--set=fullnameOverride=second") if role["metadata"]["name"] == "second-lease"
    ]
    assert [environment["QWENVL_LEASE_NAME"]] == role["rules"][1]["resourceNames"] == ["second"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--set=images.reference=a", "additional properties 'images' not allowed"),
        ("--set=image.tag=1", "additional properties 'tag' not allowed"),
        ("--set=image.reference=two words", "/image/reference"),
        ("--set=image=operator:1", "got string, want object"),
        ("--set=image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("--set=watchNamespaces=team-a", "got string, want array"),
        ("--set=watchNamespaces={Team}", "/watchNamespaces/0"),
        ("--set=watchNamespaces={a,a}", "items at 0 and 1 are equal"),
        ("--set=nameOverride=a.b", "/nameOverride"),
        ("--set=fullnameOverride=a.b", "/fullnameOverride"),
        ("--set-string=fullnameOverride=1a", "/fullnameOverride"),
        ("--set=resyncSeconds=1", "/resyncSeconds"),
        ("--set=resyncSeconds=often", "got string, want integer"),
        ("--set=crds.enabled=maybe", "got string, want boolean"),
        ("--set=podLabels.team=1", "got number, want string"),
        ("--set=imagePullSecrets={pull}", "got string, want object"),
        ("--set=resources.memory=1Gi", "additional properties 'memory' not allowed"),
    ],
)
def test_a_wrong_value_is_refused_by_name(argument: str, message: str) -> None:
    with pytest.raises(CommandError) as refusal:
        render(argument)
    assert message in refusal.value.output
