"""`qwenvl doctor` at a real kube-apiserver: it names what is wrong there, and what that server says agrees."""

from __future__ import annotations

import io
import json
import time
import uuid
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cluster import Cluster
from harness.commands import CommandError
from harness.manifests import render
from qwenvl_operator import cli
from qwenvl_operator.custom_resource import CustomResource
from qwenvl_operator.desired import render as render_pod
from qwenvl_operator.pods import timestamp

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
CRD = ROOT / "crds/qwenvl.io_qwenvldeployments.yaml"
DEFINITION = "crd/qwenvldeployments.qwenvl.io"
RESOURCE = "ai.example/gpu"
"""Of this test alone: nodes are everybody's."""
Object = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What one call said."""

    code: int
    findings: list[Object]
    error: str

    def wrong(self) -> list[str]:
        return self._lines("FAIL", "warn")

    def skipped(self) -> list[str]:
        return self._lines("skipped")

    def of(self, about: str) -> str:
        [said] = [finding["said"] for finding in self.findings if finding["about"] == about]
        return str(said)

    def _lines(self, *levels: str) -> list[str]:
        return [f"{one['about']}: {one['said']}" for one in self.findings if one["level"] in levels]


def ask(kubeconfig: Path, *arguments: str) -> Answer:
    output, error = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(error):
        patch.setenv("KUBECONFIG", str(kubeconfig))
        code = cli.main(["doctor", "--output=json", *arguments])
    return Answer(code, json.loads(output.getvalue() or "[]"), error.getvalue())


class Scene:
    """An operator that the chart installed for one namespace, as far as a cluster without controllers goes."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.home, self.watched = (self._make_namespace() for _ in range(2))
        cluster.kubectl("delete", DEFINITION, "--ignore-not-found", "--timeout=30s")
        self.before = self.ask()
        arguments = (f"--set=watchNamespaces={{{self.watched}}}", "--set=rbac.aggregateToDefaultRoles=false")
        manifests = yaml.safe_load_all(render(f"--namespace={self.home}", *arguments))
        self.apply(*(manifest for manifest in manifests if manifest))
        cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", DEFINITION)
        self.say("deployment/qwenvl-operator", self.home, conditions=[{"type": "Available", "status": "True"}])
        self.renew()

    def ask(self, *arguments: str, kubeconfig: Path | None = None) -> Answer:
        where = (f"--namespace={self.watched}", f"--operator-namespace={self.home}")
        return ask(kubeconfig or self.cluster.kubeconfig, *where, *arguments)

    def apply(self, *manifests: Object) -> None:
        self.cluster.kubectl(
            "apply", "--server-side", "--force-conflicts", "--filename=-", input=yaml.safe_dump_all(manifests)
        )

    def say(self, what: str, namespace: str, **status: Any) -> None:
        """Write a status, as a controller would."""
        patch = json.dumps({"status": status})
        where = f"--namespace={namespace}"
        self.cluster.kubectl("patch", what, where, "--subresource=status", "--type=merge", f"--patch={patch}")

    def renew(self, ago: float = 0.0) -> None:
        stamp = timestamp(time.time() - ago).replace("Z", ".000000Z")
        spec = {"holderIdentity": "pod-a", "leaseDurationSeconds": 15, "renewTime": stamp}
        self.apply(self._object("coordination.k8s.io/v1", "Lease", "qwenvl-operator", self.home, spec=spec))

    def add_resource(self, name: str = "reports", namespace: str = "", **spec: Any) -> CustomResource:
        source = {"persistentVolumeClaim": {"claimName": "weights"}}
        hardware = {"accelerator": {"resource": RESOURCE}}
        spec = {"model": {"source": source}, "hardware": hardware, **spec}
        where = namespace or self.watched
        self.apply(self._object("qwenvl.io/v1alpha1", "QwenVLDeployment", name, where, spec=spec))
        live = self.cluster.get(f"qvl/{name}", f"--namespace={where}")
        conditions = [
            {
                "type": kind,
                "status": str(kind == "Ready"),
                "reason": "AllReplicasReady",
                "message": "1 of 1 replicas are warm and get traffic.",
                "observedGeneration": live["metadata"]["generation"],
                "lastTransitionTime": timestamp(time.time() - 300),
            }
            for kind in ("Ready", "Reconciling", "Stalled")
        ]
        self.say(f"qvl/{name}", where, observedGeneration=live["metadata"]["generation"], conditions=conditions)
        return CustomResource.parse(live)

    def add_claim(self, name: str = "weights") -> None:
        spec = {"accessModes": ["ReadOnlyMany"], "resources": {"requests": {"storage": "1Gi"}}}
        self.apply(self._object("v1", "PersistentVolumeClaim", name, self.watched, spec=spec))
        self.say(f"pvc/{name}", self.watched, phase="Bound")

    def add_quota(self, name: str, hard: dict[str, str]) -> None:
        self.apply(self._object("v1", "ResourceQuota", name, self.watched, spec={"hard": hard}))
        self.say(f"quota/{name}", self.watched, hard=hard, used=dict.fromkeys(hard, "0"))

    def add_node(self, gpus: int) -> None:
        self.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.home}})
        # The API server taints a new node until a controller has seen it, and there is none.
        self.cluster.kubectl("patch", f"node/{self.home}", "--type=merge", '--patch={"spec": {"taints": null}}')
        amounts = {RESOURCE: str(gpus), "pods": "10"}
        self.say(f"node/{self.home}", "", allocatable=amounts, capacity=amounts)

    def refusal(self, cr: CustomResource) -> str:
        """What the API server says to a pod of the resource."""
        template = render_pod(cr, "registry.local/runtime:1").template
        account = ("serviceaccount", cr.key.name, f"--namespace={cr.key.namespace}")
        self.cluster.kubectl("create", *account)
        pod = self._object("v1", "Pod", f"{cr.key.name}-1", cr.key.namespace, spec=template["spec"])
        with pytest.raises(CommandError) as refusal:
            self.cluster.kubectl("create", "--filename=-", input=json.dumps(pod))
        self.cluster.kubectl("delete", *account)
        return refusal.value.output

    def account(self, name: str, namespace: str) -> Path:
        """The kubeconfig of a service account."""
        token = self.cluster.kubectl("create", "token", name, f"--namespace={namespace}").strip()
        config = json.loads(self.cluster.kubeconfig.read_text())
        users = [{"name": config["users"][0]["name"], "user": {"token": token}}]
        file = self.folder / f"{name}.kubeconfig"
        file.write_text(json.dumps({**config, "users": users}))
        return file

    def _make_namespace(self) -> str:
        name = f"doctor-{uuid.uuid4().hex[:8]}"
        self.cluster.kubectl("create", "namespace", name)
        return name

    def _object(self, version: str, kind: str, name: str, namespace: str, **content: Any) -> Object:
        return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": namespace}, **content}


@pytest.fixture(name="scene", scope="module")
def _scene(control_plane: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    scene = Scene(control_plane, tmp_path_factory.mktemp("doctor"))
    yield scene
    control_plane.kubectl("delete", "node", scene.home, "--ignore-not-found")


@pytest.fixture(name="well")
def _well(scene: Scene) -> Iterator[Scene]:
    """With a resource that has all that it needs."""
    scene.renew()
    scene.add_node(2)
    scene.add_claim()
    scene.add_resource()
    yield scene
    for what in ("qvl", "resourcequota"):
        scene.cluster.kubectl("delete", what, "--all", f"--namespace={scene.watched}")


def test_before_the_install_it_says_what_is_to_be_installed(scene: Scene) -> None:
    assert scene.before.code == 1
    assert scene.before.wrong()[:2] == [
        "CRD: qwenvldeployments.qwenvl.io is not installed",
        "operator: there is no Deployment of the operator",
    ]


def test_where_all_is_well_nothing_is_wrong(well: Scene) -> None:
    cluster, resource = well.ask(), well.ask("reports")
    assert [*cluster.wrong(), *cluster.skipped(), *resource.wrong()] == []
    assert cluster.code == resource.code == 0
    assert cluster.of("rights") == "the operator has all 45 that it needs"
    assert cluster.of(RESOURCE) == "2 on 1 node(s) (unlabelled), 2 free"
    assert resource.of("nodes").endswith("may take its pods, with room for 2 more")
    assert resource.of("claim weights") == "is Bound, ReadOnlyMany"


def test_a_lease_that_nobody_renews_means_that_nobody_reconciles(well: Scene) -> None:
    well.renew(ago=7200)
    cluster, resource = well.ask(), well.ask("reports")
    assert cluster.code == resource.code == 1
    assert "lease: pod-a renewed it last 2 h ago, so nobody reconciles" in cluster.wrong()
    assert resource.of("status").startswith("nobody reconciles; Ready for 5 min: AllReplicasReady")
    assert resource.of("now") == "Applying: Creating the children."


def test_a_missing_verb_is_named(well: Scene) -> None:
    role = well.cluster.get("role/qwenvl-operator", f"--namespace={well.watched}")
    rules = [rule for rule in role["rules"] if rule["resources"] != ["pods/status"]]
    where = ("role/qwenvl-operator", f"--namespace={well.watched}", "--type=merge")
    well.cluster.kubectl("patch", *where, f"--patch={json.dumps({'rules': rules})}")
    account = f"system:serviceaccount:{well.home}:qwenvl-operator"
    try:
        assert well.ask().wrong() == [f"rights: {account} may not patch pods/status in {well.watched}"]
    finally:
        well.cluster.kubectl("patch", *where, f"--patch={json.dumps({'rules': role['rules']})}")


def test_a_claim_that_is_missing_is_named(well: Scene) -> None:
    source = {"persistentVolumeClaim": {"claimName": "elsewhere"}}
    well.add_resource(model={"source": source})
    assert well.ask("reports").wrong() == [f"claim elsewhere: does not exist in the namespace {well.watched}"]


def test_a_resource_that_no_node_offers_is_named(well: Scene) -> None:
    well.add_node(0)
    nodes = len(well.cluster.get("nodes")["items"])
    assert well.ask().wrong() == [f"{RESOURCE}: none of {nodes} node(s) offers any"]
    [said] = well.ask("reports").wrong()
    assert f"has 1 {RESOURCE}: none offers any" in said


def test_a_quota_that_is_full_is_named_where_the_api_server_refuses_a_pod(well: Scene) -> None:
    well.add_quota("none", {"pods": "0"})
    cr = well.add_resource()
    assert well.ask("reports").wrong() == ["quota: none has 0 of 0 pods used, and a pod takes 1"]
    assert "exceeded quota: none" in well.refusal(cr)


def test_a_level_that_forbids_the_pods_is_named_where_the_api_server_refuses_one(well: Scene) -> None:
    label = "pod-security.kubernetes.io/enforce"
    well.cluster.kubectl("label", "namespace", well.watched, f"{label}=restricted")
    try:
        cr = well.add_resource("local", model={"source": {"hostPath": {"path": "/data"}}})
        said = f"Pod Security: {well.watched} enforces restricted, which forbids the hostPath of local"
        assert well.ask("local").wrong() == [said]
        assert said in well.ask().wrong()
        assert "violates PodSecurity" in well.refusal(cr)
    finally:
        well.cluster.kubectl("label", "namespace", well.watched, f"{label}-")


def test_a_crd_of_an_older_release_is_told_by_the_fields_that_it_drops(well: Scene) -> None:
    path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/queue"
    well.cluster.kubectl("patch", DEFINITION, "--type=json", f'--patch=[{{"op": "remove", "path": "{path}"}}]')
    try:
        assert well.ask().wrong() == ["CRD: is of an older release, and drops spec.queue"]
    finally:
        well.cluster.kubectl("apply", "--server-side", "--force-conflicts", "--filename", CRD)


def test_without_rights_every_check_is_skipped_and_says_what_it_needs(well: Scene) -> None:
    nobody = well.account("default", well.watched)
    cluster, resource = well.ask(kubeconfig=nobody), well.ask("reports", kubeconfig=nobody)
    assert cluster.code == resource.code == 2
    assert "nothing could be checked: needs: get customresourcedefinitions" in cluster.error
    assert "operator: needs: list deployments " + well.home in cluster.skipped()
    assert "resource: needs: get qwenvldeployments " + well.watched + "/reports" in resource.skipped()
    assert [*cluster.wrong(), *resource.wrong()] == []


def test_the_rights_that_the_documents_list_are_enough(well: Scene) -> None:
    page = (ROOT / "docs/operations.md").read_text()
    [role] = [text for text in page.split("```yaml\n")[1:] if "name: qwenvl-doctor" in text]
    well.cluster.kubectl("apply", "--filename=-", input=role.partition("```")[0])
    well.cluster.kubectl("create", "serviceaccount", "doctor", f"--namespace={well.home}")
    binding = ("clusterrolebinding", "qwenvl-doctor", "--clusterrole=qwenvl-doctor")
    well.cluster.kubectl("create", *binding, f"--serviceaccount={well.home}:doctor")
    try:
        doctor = well.account("doctor", well.home)
        for name in ((), ("reports",)):
            answer = well.ask(*name, kubeconfig=doctor)
            assert [line for line in answer.skipped() if "needs:" in line] == []
            assert answer.wrong() == []
    finally:
        well.cluster.kubectl("delete", "clusterrole,clusterrolebinding", "qwenvl-doctor")


def test_the_operator_may_ask_about_its_own_rights(well: Scene) -> None:
    where = f"--namespace={well.home}"
    well.cluster.kubectl("create", "role", "finder", "--verb=list", "--resource=deployments", where)
    account = f"--serviceaccount={well.home}:qwenvl-operator"
    well.cluster.kubectl("create", "rolebinding", "finder", "--role=finder", account, where)
    answer = well.ask("reports", kubeconfig=well.account("qwenvl-operator", well.home))
    assert answer.of("rights") == "the operator has all 45 that it needs"
    assert answer.of("lease").startswith("pod-a renewed it")
    assert "nodes: needs: list nodes" in answer.skipped()
    assert answer.wrong() == []


def test_an_api_server_that_cannot_be_asked_is_a_message(well: Scene, tmp_path: Path) -> None:
    nobody = tmp_path / "nobody.kubeconfig"
    config = json.loads(well.cluster.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": "made-up"}
    nobody.write_text(json.dumps(config))
    refused = ask(nobody)
    assert refused.code == 2
    assert refused.error.startswith("error: the API server cannot be asked: get /version: 401")
    missing = ask(tmp_path / "missing.kubeconfig")
    assert missing.code == 2
    assert "no kubeconfig at" in missing.error
