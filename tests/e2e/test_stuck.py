"""Every cause for which a resource can be stuck, brought about on a real node: what is said, and that it can be acted
on. Some are always brought about at once, so that they are waited for side by side."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from harness import fake_engine, pause_image, tools
from harness.installed import Installed, Object, container_of, wait_until
from qwenvl_runtime.manifest import FILE as MANIFEST
from qwenvl_runtime.manifest import digest_of

pytestmark = pytest.mark.timeout(300)
QUOTA, GUARDED = "quota", "guarded"
NOTHING = "localhost/nothing:1"
SLOW = "slow"
AT_ONCE = 6
"""More pods that crash and start again would take the time of each other."""
DIGEST = digest_of((fake_engine.MODEL / MANIFEST).read_bytes())
OUT_OF_MEMORY = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."


@dataclass(frozen=True)
class Cause:
    reason: str
    names: tuple[str, ...]
    """What a person has to know: each is in the message."""
    spec: Object = field(default_factory=dict)
    stalled: bool = True
    namespace: str = "default"


def faults(*arguments: str, **given: Any) -> Object:
    """A spec whose simulated engine has faults from its start on."""
    return {
        "engine": {"maxModelLen": 8192, "maxNumSeqs": 8, "extraArgs": [f"--faults={json.dumps(given)}", *arguments]}
    }


def source(kind: str, **where: str) -> Object:
    return {"model": {"source": {kind: where}}}


GPUS = {"accelerator": {"resource": "nvidia.com/gpu", "count": 8}}
CAUSES = {
    "engine": Cause(
        "EngineCrashed",
        ("exit code 1 while loading: ValueError: no such layer", "kubectl logs --previous"),
        faults(start_failure="ValueError: no such layer"),
    ),
    "argument": Cause(
        "EngineCrashed", ("exit code 2 while loading", "unrecognized arguments: --nonsense"), faults("--nonsense")
    ),
    "gpu-memory": Cause(
        "OutOfGPUMemory", (OUT_OF_MEMORY, "spec.engine.maxModelLen"), faults(start_failure=OUT_OF_MEMORY)
    ),
    "host-memory": Cause(
        "OutOfHostMemory",
        ("OOMKilled", "spec.runtime.resources.limits.memory"),
        {**faults(start_bytes=1 << 30), "runtime": {"resources": {"limits": {"memory": "400Mi"}}}},
    ),
    "no-snapshot": Cause(
        "SnapshotInvalid", ("/opt/nowhere is missing", "spec.model.source"), source("runtimeImage", path="/opt/nowhere")
    ),
    "corrupt": Cause("SnapshotInvalid", ("is not what its manifest says", "config.json")),
    "quantization": Cause(
        "QuantizationMismatch",
        ("spec.model.quantization is fp8",),
        {"model": {"source": {"runtimeImage": {"path": "/opt/model"}}, "quantization": "fp8"}},
    ),
    "no-command": Cause("ContainerRefused", ("/nothing",), {"runtime": {"image": NOTHING}}),
    "budget": Cause(
        "StartupBudgetExceeded",
        ("within startup.budget (5 s)", "Raise spec.startup.budget"),
        {**faults(start_seconds=600), "startup": {"budget": "5s"}},
    ),
    "gpu": Cause(
        "WaitingForGPU",
        ("since 20", "1 Insufficient nvidia.com/gpu", "It asks for 8 nvidia.com/gpu", "there are 1 on node"),
        {"hardware": GPUS},
        stalled=False,
    ),
    "gpu-elsewhere": Cause(
        "WaitingForGPU",
        ("node affinity/selector", "has no label rack and spec.hardware.nodeSelector wants a"),
        {"hardware": {"accelerator": {"resource": "nvidia.com/gpu"}, "nodeSelector": {"rack": "a"}}},
        stalled=False,
    ),
    "cpus": Cause(
        "Unschedulable",
        ("since 20", "1 Insufficient cpu"),
        {"runtime": {"resources": {"requests": {"cpu": "500"}}}},
        stalled=False,
    ),
    "image": Cause("ImagePullFailed", ("localhost/nowhere:1",), {"runtime": {"image": "localhost/nowhere:1"}}),
    "claim-missing": Cause(
        "VolumeUnavailable",
        ('persistentvolumeclaim "nowhere" not found',),
        source("persistentVolumeClaim", claimName="nowhere"),
        stalled=False,
    ),
    "claim-broken": Cause(
        "VolumeUnavailable",
        ("cannot start pod", 'volume "broken"', "/nowhere is not a directory"),
        source("persistentVolumeClaim", claimName="broken"),
        stalled=False,
    ),
    "host-path": Cause(
        "VolumeUnavailable",
        ("cannot start pod", 'volume "model"', "/nowhere is not a directory"),
        source("hostPath", path="/nowhere"),
        stalled=False,
    ),
    "runtime-class": Cause(
        "ContainerRefused",
        ("cannot start pod", "no runtime for"),
        {"hardware": {"accelerator": {"resource": "cpu"}, "runtimeClassName": "nowhere"}},
        stalled=False,
    ),
    "quota": Cause("QuotaExceeded", ("exceeded quota: two", "limited: pods=0"), namespace=QUOTA),
    "guarded": Cause(
        "PodSecurityRefused",
        ('violates PodSecurity "restricted', "hostPath"),
        source("hostPath", path="/nowhere"),
        namespace=GUARDED,
    ),
    "taken": Cause("NameTaken", ("Service taken exists",)),
    "warmup-refused": Cause(
        "WarmupFailed",
        ("within warmup.budget (5 s)", "`text` was answered with status 500"),
        {**faults(status=500), "warmup": {"budget": "5s"}},
    ),
    "warmup-hangs": Cause(
        "WarmupFailed",
        ("within warmup.budget (5 s)", "the warm-up asks `text`"),
        {**faults(hang=True), "warmup": {"budget": "5s"}},
    ),
    "warmup-nonsense": Cause(
        "WarmupFailed",
        ("within warmup.budget (5 s)", "`text` was answered with something that is not a chat completion"),
        {**faults(nonsense=True), "warmup": {"budget": "5s"}},
    ),
    "warmup-blind": Cause(
        "WarmupFailed",
        ("within warmup.budget (10 s)", "prompt tokens, its picture alone has"),
        {**faults(picture_blind=True), "warmup": {"budget": "10s"}},
    ),
}
WARM_UPS = [name for name in CAUSES if name.startswith("warmup-")]


def surroundings() -> list[Object]:
    """What some of the causes need to be there."""
    volume = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadOnlyMany"],
        "storageClassName": "broken",
        "claimRef": {"namespace": "default", "name": "broken"},
        "hostPath": {"path": "/nowhere", "type": "Directory"},
    }
    claim = {
        "accessModes": ["ReadOnlyMany"],
        "storageClassName": "broken",
        "resources": {"requests": {"storage": "1Gi"}},
    }
    level = {"pod-security.kubernetes.io/enforce": "restricted"}
    in_default = {"name": "broken", "namespace": "default"}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": QUOTA}},
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": GUARDED, "labels": level}},
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "two", "namespace": QUOTA},
            "spec": {"hard": {"pods": "0"}},
        },
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "broken"}, "spec": volume},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": in_default, "spec": claim},
        {
            "apiVersion": "node.k8s.io/v1",
            "kind": "RuntimeClass",
            "metadata": {"name": "nowhere"},
            "handler": "nowhere",
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "taken", "namespace": "default"},
            "spec": {"ports": [{"port": 80}]},
        },
    ]


def damage_snapshot(folder: Path) -> Object:
    """A snapshot on the node of which one byte is another than its manifest says."""
    shutil.copytree(fake_engine.MODEL, folder)
    config = folder / "config.json"
    config.write_bytes(config.read_bytes()[:-1] + b"\t")
    folder.chmod(0o755)
    return {"model": {"source": {"hostPath": {"path": str(folder)}}, "manifestDigest": DIGEST}}


class Causes:
    """The resources of the causes, each applied a little before its turn."""

    def __init__(self, installed: Installed, specs: dict[str, Object]) -> None:
        self._installed = installed
        self._waiting = specs

    def of(self, name: str) -> Installed:
        """The product in the namespace of a cause, which is there, as some of the next ones are."""
        turn = list(CAUSES).index(name)
        for soon in list(CAUSES)[turn : turn + AT_ONCE]:
            if soon in self._waiting:
                self._in_namespace(soon).apply(soon, **self._waiting.pop(soon))
        return self._in_namespace(name)

    def _in_namespace(self, name: str) -> Installed:
        return replace(self._installed, namespace=CAUSES[name].namespace)


@pytest.fixture(scope="module")
def causes(stuck: Installed, tmp_path_factory: pytest.TempPathFactory) -> Causes:
    damaged = damage_snapshot(tmp_path_factory.mktemp("snapshot") / "model")
    specs = {name: damaged if name == "corrupt" else cause.spec for name, cause in CAUSES.items()}
    return Causes(stuck, specs)


@pytest.fixture(scope="module")
def stuck(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    layout = tmp_path_factory.mktemp("nothing")
    pause_image.write_layout(layout, tools.tool("pause"), entrypoint="/nothing")
    installed.node.import_image(layout, pause_image.TAG, NOTHING)
    installed.node.set_gpus(1)
    installed.node.apply(*surroundings())
    installed.apply(SLOW, **faults(start_seconds=40), startup={"budget": "90s"})
    yield installed
    installed.remove(SLOW)
    for namespace in ("default", QUOTA, GUARDED):
        names = [name for name, cause in CAUSES.items() if cause.namespace == namespace]
        replace(installed, namespace=namespace).remove(*names)
    for leftover in reversed(surroundings()):
        metadata = leftover["metadata"]
        where = [f"--namespace={metadata['namespace']}"] if "namespace" in metadata else []
        installed.node.kubectl("delete", leftover["kind"], metadata["name"], *where, "--wait=false")


@pytest.mark.parametrize("name", CAUSES)
def test_a_cause_is_named_with_what_to_act_on(causes: Causes, name: str) -> None:
    cause, product = CAUSES[name], causes.of(name)

    def is_said() -> bool:
        stalled = product.condition(name, "Stalled")
        return (
            stalled.get("reason") == cause.reason
            and stalled["status"] == str(cause.stalled)
            and all(words in stalled["message"] for words in cause.names)
        )

    wait_until(is_said, 180, lambda: product.kubectl("describe", "qvl", name))
    conditions = {item["type"]: item for item in product.get(name)["status"]["conditions"]}
    assert conditions["Ready"]["status"] == "False"
    assert conditions["Available"]["status"] == "False"
    assert conditions["Reconciling"]["status"] == str(not cause.stalled)
    events = product.kubectl("events", f"--for=qvl/{name}", "--types=Warning")
    assert cause.reason in events
    if name not in WARM_UPS:
        product.kubectl("delete", "qvl", name, "--wait=false")


@pytest.mark.parametrize("name", WARM_UPS)
def test_a_pod_whose_warm_up_fails_is_started_again_and_never_ready(causes: Causes, name: str) -> None:
    stuck = causes.of(name)
    wait_until(lambda: container_of(stuck.pods(name)[0])["restartCount"] >= 3, 120)
    about = f"--field-selector=involvedObject.kind=QwenVLDeployment,involvedObject.name={name}"
    found = stuck.node.get("events", "--namespace=default", about)["items"]
    told = {event["reason"] for event in found}
    assert "WarmupFailed" in told
    assert "AllReplicasReady" not in told
    stuck.kubectl("delete", "qvl", name, "--wait=false")


def test_a_load_that_takes_long_within_its_budget_is_let_be(stuck: Installed) -> None:
    stuck.wait_ready(SLOW)
    (pod,) = stuck.pods(SLOW)
    assert container_of(pod)["restartCount"] == 0
    found = stuck.node.get("events", "--namespace=default")["items"]
    told = [event["reason"] for event in found if event["involvedObject"]["name"] in (SLOW, pod["metadata"]["name"])]
    assert "LoadingModel" in told
    assert "Killing" not in told
    deployment = stuck.node.get("deployment", SLOW, "--namespace=default")
    progress = next(item for item in deployment["status"]["conditions"] if item["type"] == "Progressing")
    assert progress["reason"] == "NewReplicaSetAvailable"
