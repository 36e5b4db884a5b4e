"""The CRD at a real kube-apiserver: what is accepted, what is refused and with which words, what kubectl shows."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from harness.cluster import Cluster
from harness.commands import CommandError

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
CRD = ROOT / "crds/qwenvl.io_qwenvldeployments.yaml"
SMALLEST: dict[str, Any] = {
    "apiVersion": "qwenvl.io/v1alpha1",
    "kind": "QwenVLDeployment",
    "metadata": {"name": "reports", "namespace": "default"},
    "spec": {"model": {"source": {"persistentVolumeClaim": {"claimName": "weights"}}}},
}
ABSENT = object()
CLAIM = "spec.model.source.persistentVolumeClaim"
RESOURCES = "spec.runtime.resources"


def with_fields(fields: dict[str, object]) -> dict[str, Any]:
    """The smallest resource with fields set, or taken away, by their dotted paths."""
    result = copy.deepcopy(SMALLEST)
    for path, value in fields.items():
        *parents, last = path.split(".")
        node = result
        for parent in parents:
            node = node.setdefault(parent, {})
        if value is ABSENT:
            del node[last]
        else:
            node[last] = value
    return result


def create(cluster: Cluster, fields: dict[str, object]) -> dict[str, Any]:
    """What the API server would store, as `kubectl create` shows it."""
    text = json.dumps(with_fields(fields))
    stored: dict[str, Any] = json.loads(
        cluster.kubectl("create", "--dry-run=server", "--output=json", "--filename=-", input=text)
    )
    return stored


def patch_status(cluster: Cluster, name: str, patch: dict[str, Any]) -> None:
    cluster.kubectl("patch", "qvl", name, "--subresource=status", "--type=merge", f"--patch={json.dumps(patch)}")


REFUSED: list[tuple[dict[str, object], str]] = [
    # the whole object
    ({"spec": ABSENT}, "spec: Required value"),
    ({"metadata.name": "a" * 53}, "metadata.name must have at most 52 characters"),
    ({"metadata.name": "9lives"}, "metadata.name is also the name of a Service: it must start with a letter"),
    ({"metadata.name": "two.parts"}, "metadata.name is also the name of a Service"),
    # the model
    ({"spec.model": ABSENT}, "spec.model: Required value"),
    ({"spec.model.source": ABSENT}, "spec.model.source: Required value"),
    ({CLAIM: ABSENT}, "set exactly one of persistentVolumeClaim, hostPath and runtimeImage"),
    ({"spec.model.source.hostPath": {"path": "/data"}}, "set exactly one of persistentVolumeClaim, hostPath"),
    ({"spec.model.source.runtimeImage": {"path": "/models"}}, "set exactly one of persistentVolumeClaim, hostPath"),
    ({f"{CLAIM}.claimName": ""}, "should be at least 1 chars long"),
    ({f"{CLAIM}.claimName": "Weights"}, f"{CLAIM}.claimName in body should match"),
    ({f"{CLAIM}.claimName": "a..b"}, f"{CLAIM}.claimName in body should match"),
    ({f"{CLAIM}.path": "/absolute"}, f"{CLAIM}.path in body should match"),
    ({f"{CLAIM}.path": "models/../../secrets"}, "must not contain '..'"),
    ({CLAIM: ABSENT, "spec.model.source.hostPath": {"path": "data"}}, "hostPath.path in body should match"),
    ({CLAIM: ABSENT, "spec.model.source.hostPath": {"path": "/"}}, "hostPath.path in body should match"),
    ({CLAIM: ABSENT, "spec.model.source.hostPath": {"path": "/a/.."}}, "must not contain '..'"),
    ({CLAIM: ABSENT, "spec.model.source.runtimeImage": {"path": "../m"}}, "runtimeImage.path in body should match"),
    ({"spec.model.servedName": "two words"}, "spec.model.servedName in body should match"),
    ({"spec.model.servedName": "a" * 129}, "spec.model.servedName: Too long"),
    ({"spec.model.manifestDigest": "a" * 64}, "spec.model.manifestDigest in body should match"),
    ({"spec.model.manifestDigest": "sha256:" + "A" * 64}, "spec.model.manifestDigest in body should match"),
    ({"spec.model.verification": "Always"}, "verification: Always needs a manifestDigest to verify by"),
    ({"spec.model.verification": "Never"}, 'supported values: "Cached", "Always"'),
    # the hardware
    ({"spec.hardware.accelerator.count": 3}, 'Unsupported value: 3: supported values: "1", "2", "4", "8"'),
    ({"spec.hardware.accelerator.count": 0}, "Unsupported value: 0"),
    ({"spec.hardware.accelerator.count": 16}, "Unsupported value: 16"),
    ({"spec.hardware.accelerator": {"resource": "cpu", "count": 2}}, "count must be 1 when resource is cpu"),
    ({"spec.hardware.accelerator.resource": "gpu"}, "accelerator.resource in body should match"),
    ({"spec.hardware.nodeSelector": {"pool": "not a label"}}, "nodeSelector.pool in body should match"),
    ({"spec.hardware.nodeSelector": {"pool": True}}, "must be of type string"),
    ({"spec.hardware.tolerations": [{"operator": "Exists", "value": "x"}]}, "value must be empty when operator is Ex"),
    ({"spec.hardware.tolerations": [{"value": "x"}]}, "operator must be Exists when key is empty"),
    ({"spec.hardware.tolerations": [{"key": "k", "operator": "In"}]}, 'supported values: "Exists", "Equal"'),
    ({"spec.hardware.tolerations": [{"key": "k", "tolerationSeconds": 9}]}, "effect must be NoExecute"),
    ({"spec.hardware.tolerations": [{"key": "k", "effect": "Never"}]}, 'Unsupported value: "Never"'),
    ({"spec.hardware.runtimeClassName": "NVIDIA"}, "runtimeClassName in body should match"),
    # the engine
    ({"spec.engine.maxModelLen": 255}, "should be greater than or equal to 256"),
    ({"spec.engine.maxModelLen": 262145}, "should be less than or equal to 262144"),
    ({"spec.engine.maxNumSeqs": 0}, "should be greater than or equal to 1"),
    ({"spec.engine.gpuMemoryUtilization": "0"}, "gpuMemoryUtilization in body should match"),
    ({"spec.engine.gpuMemoryUtilization": "1.1"}, "gpuMemoryUtilization in body should match"),
    ({"spec.engine.gpuMemoryUtilization": "90%"}, "gpuMemoryUtilization in body should match"),
    ({"spec.engine.gpuMemoryUtilization": 0.9}, 'gpuMemoryUtilization in body must be of type string: "number"'),
    ({"spec.engine.cudaGraphs": "yes"}, "must be of type boolean"),
    ({"spec.engine.extraArgs": ["--x"] * 65}, "must have at most 64 items"),
    ({"spec.engine.maxModelLen": 4096}, "lower media.maxPixels or raise engine.maxModelLen"),
    ({"spec.engine.maxModelLen": 1215, "spec.media.maxPixels": 1048576}, "lower media.maxPixels or raise engine.max"),
    # the media
    ({"spec.media.maxImages": -1}, "should be greater than or equal to 0"),
    ({"spec.media.maxPixels": 65535}, "should be greater than or equal to 65536"),
    ({"spec.media.maxPixels": 16777217}, "should be less than or equal to 16777216"),
    ({"spec.media.maxSourcePixels": 1048576}, "maxSourcePixels must not be below maxPixels"),
    ({"spec.media.allowedURLHosts": ["https://a.example"]}, "allowedURLHosts[0] in body should match"),
    ({"spec.media.allowedURLHosts": ["a.example/path"]}, "allowedURLHosts[0] in body should match"),
    ({"spec.queue.maxRequests": 0}, "should be greater than or equal to 1"),
    ({"spec.queue.maxTokens": 1023}, "should be greater than or equal to 1024"),
    ({"spec.media.maxRequestBytes": "20m"}, "must be from 64Ki to 1Gi"),
    ({"spec.media.maxRequestBytes": 65535}, "must be from 64Ki to 1Gi"),
    ({"spec.media.maxRequestBytes": "1025Mi"}, "must be from 64Ki to 1Gi"),
    ({"spec.media.maxRequestBytes": "20 MB"}, "maxRequestBytes in body should match"),
    ({"spec.media.maxRequestBytes": 1.5}, "must be of type integer,string"),
    ({"spec.media.maxRequestBytes": 262143}, "raise maxRequestBytes to maxPixels / 16 or more, or lower maxPixels"),
    # the times
    ({"spec.startup.budget": "0s"}, 'spec.startup.budget: Invalid value: "string": must be from 1s to 24h'),
    ({"spec.startup.budget": "24h1s"}, 'spec.startup.budget: Invalid value: "string": must be from 1s to 24h'),
    ({"spec.startup.budget": "30 minutes"}, "spec.startup.budget in body should match"),
    ({"spec.startup.budget": 1800}, "must be of type string"),
    ({"spec.warmup.budget": "999ms"}, 'spec.warmup.budget: Invalid value: "string": must be from 1s to 24h'),
    ({"spec.drain.longestRequest": "1d"}, "spec.drain.longestRequest in body should match"),
    ({"spec.warmup.maxFirstToSteady": "0.5"}, "maxFirstToSteady in body should match"),
    ({"spec.warmup.gatePolicy": "Lax"}, 'supported values: "Strict", "Fallback"'),
    # the pods
    ({"spec.replicas": -1}, "should be greater than or equal to 0"),
    ({"spec.replicas": 1001}, "should be less than or equal to 1000"),
    ({"spec.rollout.strategy": "RollingUpdate"}, 'supported values: "Auto", "Surge", "Recreate"'),
    ({"spec.runtime.image": "two words"}, "spec.runtime.image in body should match"),
    ({"spec.runtime.imagePullSecrets": [{}]}, "spec.runtime.imagePullSecrets[0].name: Required value"),
    ({"spec.runtime.imagePullSecrets": [{"name": "a"}, {"name": "a"}]}, "imagePullSecrets[1]: Duplicate value"),
    ({f"{RESOURCES}.limits": {"memory": "8GB"}}, "limits.memory in body should match"),
    ({f"{RESOURCES}.limits": {"cpu": 0.5}}, "must be of type integer,string"),
    ({f"{RESOURCES}.limits": {"cpu": -1}}, "should be greater than or equal to 0"),
    (
        {f"{RESOURCES}": {"requests": {"memory": "8Gi"}, "limits": {"memory": "8G"}}},
        "a request must not be above the limit of the same resource",
    ),
    ({f"{RESOURCES}": {"requests": {"cpu": "2001m"}, "limits": {"cpu": 2}}}, "a request must not be above the limit"),
    (
        {f"{RESOURCES}.limits": {"nvidia.com/gpu": 1}},
        "ask for accelerators in hardware.accelerator, not in",
    ),
    ({f"{RESOURCES}.requests": {"nvidia.com/gpu": 1}}, "hardware.accelerator, not in runtime.resources.requests"),
    ({"spec.runtime.cache.persistentVolumeClaim": {}}, "persistentVolumeClaim.claimName: Required value"),
    ({"spec.suspend": "true"}, "must be of type boolean"),
    # what does not exist
    ({"spec.enginee": {"maxModelLen": 9}}, 'unknown field "spec.enginee"'),
    ({"spec.hardware.tolerations": [{"key": "k", "operater": "Exists"}]}, "unknown field"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED, ids=lambda value: value if isinstance(value, str) else None)
def test_what_cannot_work_is_refused_with_words_that_help(
    cluster: Cluster, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(CommandError) as refusal:
        create(cluster, fields)
    assert message in refusal.value.output


ACCEPTED: list[dict[str, object]] = [
    {},
    {"metadata.name": "a" * 52},
    {"metadata.name": "a"},
    {f"{CLAIM}.path": "models/qwen3-vl..fp8"},
    {CLAIM: ABSENT, "spec.model.source.hostPath": {"path": "/data/models/qwen3-vl"}},
    {CLAIM: ABSENT, "spec.model.source.runtimeImage": {"path": "/models/qwen3-vl"}},
    {"spec.model.servedName": "Qwen/Qwen3-VL-30B-A3B-Instruct"},
    {"spec.model.manifestDigest": "sha256:" + "0" * 64, "spec.model.verification": "Always"},
    {"spec.hardware.accelerator.count": 8},
    {"spec.hardware.accelerator.resource": "nvidia.com/mig-3g.40gb"},
    {"spec.hardware.accelerator.resource": "cpu", f"{RESOURCES}.limits": {"cpu": 2, "memory": "8Gi"}},
    {"spec.hardware.tolerations": [{"operator": "Exists"}, {"key": "gpu", "value": "a10", "effect": "NoSchedule"}]},
    {"spec.hardware.tolerations": [{"key": "k", "effect": "NoExecute", "tolerationSeconds": 300}]},
    {"spec.engine.maxModelLen": 262144, "spec.media.maxPixels": 16777216},
    {"spec.engine.maxModelLen": 1216, "spec.media.maxPixels": 1048576},
    {"spec.engine.maxModelLen": 256, "spec.media.maxImages": 0},
    {"spec.engine.gpuMemoryUtilization": "1.0"},
    {"spec.media.maxRequestBytes": "256Ki"},
    {"spec.media.maxRequestBytes": 65536, "spec.media.maxPixels": 1048576},
    {"spec.media.maxRequestBytes": 65536, "spec.media.maxImages": 0},
    {"spec.media.maxRequestBytes": "1Gi"},
    {"spec.media.maxRequestBytes": "2e7"},
    {"spec.startup.budget": "24h"},
    {"spec.startup.budget": "1.5h"},
    {"spec.drain.longestRequest": "1s"},
    {"spec.replicas": 0},
    {RESOURCES: {"requests": {"cpu": 2, "memory": "8192Mi"}, "limits": {"cpu": "2000m", "memory": "8Gi"}}},
    {f"{RESOURCES}.requests": {"ephemeral-storage": "1E"}},
    {"spec.runtime.image": "registry.local:5000/qwenvl/runtime@sha256:" + "0" * 64},
    {"spec.hardware": None},
]


@pytest.mark.parametrize("fields", ACCEPTED, ids=str)
def test_what_can_work_is_accepted(cluster: Cluster, fields: dict[str, object]) -> None:
    create(cluster, fields)


@pytest.fixture(name="name")
def _name(cluster: Cluster) -> Any:
    """The smallest resource, stored."""
    cluster.apply(SMALLEST)
    yield "reports"
    cluster.kubectl("delete", "qvl", "reports")


def test_defaults_are_stored_and_say_that_nobody_has_seen_the_resource(cluster: Cluster, name: str) -> None:
    stored = cluster.get("qwenvldeployment", name)
    assert stored["spec"]["engine"] == {
        "maxModelLen": 65536,
        "maxNumSeqs": 64,
        "gpuMemoryUtilization": "0.92",
        "cudaGraphs": True,
    }
    assert stored["spec"]["hardware"] == {"accelerator": {"resource": "nvidia.com/gpu", "count": 1}}
    assert stored["spec"]["replicas"] == 1
    assert stored["status"]["observedGeneration"] == -1


def test_a_default_fills_an_object_that_was_begun(cluster: Cluster) -> None:
    stored = create(cluster, {"spec.hardware.accelerator.resource": "amd.com/gpu", "spec.media.maxImages": 2})
    assert stored["spec"]["hardware"]["accelerator"] == {"resource": "amd.com/gpu", "count": 1}
    assert stored["spec"]["media"]["maxPixels"] == 4194304


def test_kubectl_scale_changes_replicas_and_checks_them(cluster: Cluster, name: str) -> None:
    cluster.kubectl("scale", "qvl", name, "--replicas=3")
    assert cluster.get("qvl", name)["spec"]["replicas"] == 3
    with pytest.raises(CommandError, match="should be less than or equal to 1000"):
        cluster.kubectl("scale", "qvl", name, "--replicas=1001")


def test_the_scale_subresource_tells_the_pods_and_their_selector(cluster: Cluster, name: str) -> None:
    status = {"replicas": 2, "readyReplicas": 1, "selector": "qwenvl.io/name=reports"}
    cluster.kubectl(
        "patch", "qvl", name, "--subresource=status", "--type=merge", f"--patch={json.dumps({'status': status})}"
    )
    scale = json.loads(cluster.kubectl("get", "qvl", name, "--subresource=scale", "--output=json"))
    assert scale["spec"] == {"replicas": 1}
    assert scale["status"] == {"replicas": 2, "selector": "qwenvl.io/name=reports"}


def test_a_spec_cannot_be_smuggled_in_with_the_status(cluster: Cluster, name: str) -> None:
    patch_status(cluster, name, {"spec": {"replicas": 7}, "status": {"replicas": 1}})
    assert cluster.get("qvl", name)["spec"]["replicas"] == 1


def test_kubectl_get_shows_what_is_wrong_at_a_glance(cluster: Cluster, name: str) -> None:
    condition = {
        "type": "Ready",
        "status": "False",
        "reason": "WaitingForGPU",
        "message": "Add a GPU.",
        "observedGeneration": 1,
        "lastTransitionTime": "2026-11-22T00:00:00Z",
    }
    status = {"conditions": [condition], "readyReplicas": 0, "revision": "0123456789", "endpoint": "http://here/v1"}
    cluster.kubectl(
        "patch", "qvl", name, "--subresource=status", "--type=merge", f"--patch={json.dumps({'status': status})}"
    )
    header, row = cluster.kubectl("get", "qvl", name).splitlines()
    assert header.split() == ["NAME", "READY", "REASON", "DESIRED", "SERVING", "REVISION", "AGE"]
    assert row.split()[:-1] == ["reports", "False", "WaitingForGPU", "1", "0", "0123456789"]
    header, row = cluster.kubectl("get", "qvl", name, "--output=wide").splitlines()
    assert header.split()[7:] == ["ACCELERATOR", "COUNT", "ENDPOINT", "MESSAGE"]
    assert row.split()[7:] == ["nvidia.com/gpu", "1", "http://here/v1", "Add", "a", "GPU."]
    assert "qwenvldeployment.qwenvl.io/reports" in cluster.kubectl("get", "all")


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("qvl", "Qwen3-VL-30B-A3B, served by vLLM"),
        ("qvl.spec.model.source", "exactly one member is set"),
        ("qvl.spec.hardware.tolerations", "Taint key that is tolerated"),
        ("qvl.status.conditions", "What a person can do about it"),
    ],
)
def test_kubectl_explain_tells_what_a_field_means(cluster: Cluster, field: str, words: str) -> None:
    assert words in " ".join(cluster.kubectl("explain", field).split())
