"""Many resources at once: what the operator writes and asks for each, what it keeps of it, and what a restart costs.

etcd, kube-apiserver, controllers and scheduler are real; the nodes and their pods are KWOK's. The operator is the real
process with the chart's rights, and reads each pod's warm-up report at the pod's address.
"""

from __future__ import annotations

import json
import signal
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from bench import kwok
from bench.report import Goal, Part, render_table
from cluster.operator_process import OperatorProcess, eventually, operator_process, rest
from harness import control_plane
from harness.cluster import Cluster
from harness.manifests import NAMESPACE as HOME
from harness.manifests import PLAIN_FILE
from harness.progress import step
from qwenvl_operator.feed import LISTED
from qwenvl_operator.objects import CHILD_KINDS, Kind

RESOURCES = 1000
_NAMESPACE = "scale"
_ACCOUNT = "qwenvl-operator"
_USER = f"system:serviceaccount:{HOME}:{_ACCOUNT}"
_BATCH = 50
_READY_S = 1800.0
_POLL_S = 5.0
_GLANCE_S = 0.3
_REST_S = 10.0
_RESYNC_S = 20.0
_RESYNCS = 2
_MIB = 1 << 20
_REQUESTS = "qwenvl_operator_api_requests_total"
_RESYNCED = "qwenvl_operator_last_resync_timestamp_seconds"

Requests = Counter[tuple[str, str]]
"""How many, by verb and resource with its subresource."""


@dataclass(frozen=True)
class Started:
    """From the first `kubectl apply` until all were Ready and nothing more was written."""

    seconds: float
    cpu_seconds: float
    empty_bytes: float
    full_bytes: float
    requests: Requests


@dataclass(frozen=True)
class Restarted:
    """After the operator was killed and started again."""

    seconds: float
    """Until it watched every kind, knew all resources and had looked at each."""
    requests: Requests
    full_bytes: float
    resync_cpu_seconds: float


def run_scale(count: int = RESOURCES) -> Part:
    with (
        tempfile.TemporaryDirectory() as name,
        control_plane.running(makes_pods=True, audited=_USER) as cluster,
        kwok.nodes(cluster, Path(name), count),
    ):
        kubeconfig = install(cluster, Path(name))
        with operator_process(kubeconfig, Path(name), identity="operator", lease_namespace=HOME) as process:
            process.wait_until_leading()
            with step(f"Bringing up {count:,} resources", "5 min"):
                started = bring_up(cluster, process, count)
            process.send(signal.SIGKILL)
            process.wait()
        with step("Starting the operator again", "1 min"):
            restarted = restart(cluster, kubeconfig, Path(name), count)
    return describe(count, started, restarted)


def install(cluster: Cluster, folder: Path) -> Path:
    """The chart less what would run in a pod; returns the operator's kubeconfig."""
    manifests = yaml.safe_load_all(PLAIN_FILE.read_text())
    cluster.apply(*(manifest for manifest in manifests if manifest["kind"] not in ("Service", "Deployment")))
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
    cluster.kubectl("create", "namespace", _NAMESPACE)
    token = cluster.kubectl("create", "token", _ACCOUNT, f"--namespace={HOME}", "--duration=24h").strip()
    config = json.loads(cluster.kubeconfig.read_text())
    config["users"] = [{"name": config["users"][0]["name"], "user": {"token": token}}]
    path = folder / "operator.kubeconfig"
    path.write_text(json.dumps(config))
    return path


def bring_up(cluster: Cluster, process: OperatorProcess, count: int) -> Started:
    empty, cpu, before = memory(process), cpu_seconds(process), len(cluster.audit_events())
    began = time.monotonic()
    for first in range(0, count, _BATCH):
        cluster.apply(*(build_resource(number) for number in range(first, min(first + _BATCH, count))))
    eventually(lambda: count_ready(cluster) == count, f"{count} resources are Ready", _READY_S)
    seconds = time.monotonic() - began
    rest(lambda: asked(process), "the operator", _REST_S)
    return Started(
        seconds=seconds,
        cpu_seconds=cpu_seconds(process) - cpu,
        empty_bytes=empty,
        full_bytes=memory(process),
        requests=count_requests(cluster, before),
    )


def restart(cluster: Cluster, kubeconfig: Path, folder: Path, count: int) -> Restarted:
    before, began = len(cluster.audit_events()), time.time()
    settings = {"identity": "operator", "lease_namespace": HOME, "resync_seconds": str(_RESYNC_S)}
    with operator_process(kubeconfig, folder, **settings) as process:
        eventually(lambda: has_looked_at(process, count), "the operator has looked at all of them", 300)
        looked_at = time.time()
        rest(lambda: asked(process), "the operator", _RESYNC_S / 4)
        seconds = max(looked_at, when_watched(cluster, before)) - began
        cpu = cpu_seconds(process)
        for _ in range(_RESYNCS):
            wait_for_resync(process)
        rest(lambda: asked(process), "the operator", _RESYNC_S / 4)
        spent = (cpu_seconds(process) - cpu) / _RESYNCS
        return Restarted(seconds, count_requests(cluster, before), memory(process), spent)


def build_resource(number: int) -> dict[str, Any]:
    """As in docs/examples/h100.yaml, less the volumes, which nobody provides here."""
    return {
        "apiVersion": "qwenvl.io/v1alpha1",
        "kind": "QwenVLDeployment",
        "metadata": {"name": f"reports-{number}", "namespace": _NAMESPACE},
        "spec": {
            "model": {
                "preset": "qwen3-vl-30b-a3b-instruct",
                "quantization": "fp8",
                "servedName": "qwen3-vl-30b-a3b",
                "source": {"runtimeImage": {"path": "/models/Qwen3-VL-30B-A3B-Instruct-FP8"}},
            },
            "hardware": {
                "accelerator": {"resource": "nvidia.com/gpu", "count": 1, "model": "H100-80G"},
                "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            },
            "engine": {"maxModelLen": 131072, "maxNumSeqs": 64},
            "runtime": {"resources": {"requests": {"cpu": 8, "memory": "32Gi"}, "limits": {"memory": "64Gi"}}},
        },
    }


def count_ready(cluster: Cluster) -> int:
    path = '{range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\\n"}{end}'
    time.sleep(_POLL_S)  # the question costs as much as what is measured
    return cluster.kubectl("get", "qvl", f"--namespace={_NAMESPACE}", f"--output=jsonpath={path}").split().count("True")


def has_looked_at(process: OperatorProcess, count: int) -> bool:
    time.sleep(_GLANCE_S)  # the page of metrics is made by the process that is measured
    return (
        process.metric("qwenvl_operator_resources") == count
        and (process.metric("qwenvl_operator_reconciles_total", result="success") or 0) >= count
        and process.metric("qwenvl_operator_queue_depth") == 0
    )


def when_watched(cluster: Cluster, since: int) -> float:
    """When the API server began to answer the last of the watches that were asked for from that event on."""
    begun: dict[str, float] = {}
    for event in cluster.audit_events()[since:]:
        if (event["verb"], event["stage"]) == ("watch", "ResponseStarted"):
            begun.setdefault(
                event["objectRef"]["resource"], datetime.fromisoformat(event["stageTimestamp"]).timestamp()
            )
    return max(begun[kind.value.plural] for kind in LISTED)


def wait_for_resync(process: OperatorProcess) -> None:
    last = process.metric(_RESYNCED)
    eventually(lambda: process.metric(_RESYNCED) != last, "the operator has looked at all of them again", 300)


def asked(process: OperatorProcess) -> int:
    """How many requests it has made, its lease left out."""
    leases = process.metric(_REQUESTS, resource=Kind.LEASE.value.plural)
    return int((process.metric(_REQUESTS) or 0) - (leases or 0))


def memory(process: OperatorProcess) -> float:
    return process.metric("process_resident_memory_bytes") or 0.0


def cpu_seconds(process: OperatorProcess) -> float:
    return process.metric("process_cpu_seconds_total") or 0.0


def count_requests(cluster: Cluster, since: int) -> Requests:
    """What the operator has asked from the event of that number on, its lease left out."""
    refs = [(event["verb"], event.get("objectRef", {})) for event in cluster.audit_events()[since:]]
    return Counter(
        (verb, "/".join(filter(None, (ref["resource"], ref.get("subresource")))))
        for verb, ref in refs
        if ref.get("resource") not in (None, Kind.LEASE.value.plural)
    )


def describe(count: int, started: Started, restarted: Restarted) -> Part:
    children = {kind.value.plural for kind in CHILD_KINDS}
    status = f"{Kind.CR.value.plural}/status"
    applies = sum(number for (verb, what), number in started.requests.items() if verb == "patch" and what in children)
    again = sum(number for (verb, _), number in restarted.requests.items() if verb not in ("get", "list", "watch"))
    most = max(started.full_bytes, restarted.full_bytes)
    goals = [
        Goal("writes of children for each resource", len(children), applies / count, ""),
        Goal("writes of status for each resource", 2, started.requests["patch", status] / count, ""),
        Goal(f"memory with {count:,} resources", 100 + 30 * count / 1024, most / _MIB, "MiB"),
        Goal("writes after a restart", 0, again, ""),
        Goal("a restart, until all resources are watched and have been looked at", 10, restarted.seconds, "s"),
    ]
    # Lists and watches are shared by all.
    own = {call: number / count for call, number in started.requests.items() if call[0] not in ("list", "watch")}
    rows = [[verb, what, f"{each:.2f}"] for (verb, what), each in sorted(own.items())]
    requests = render_table("Requests for each resource, from `kubectl apply` to Ready", ["verb", "what", "each"], rows)
    growth = (started.full_bytes - started.empty_bytes) / count / 1024
    costs = [
        [f"all {count:,} Ready after", f"{started.seconds:,.0f} s"],
        ["CPU of the operator until then, for each", f"{1000 * started.cpu_seconds / count:.0f} ms"],
        ["memory of the operator with none", f"{started.empty_bytes / _MIB:.0f} MiB"],
        ["more with all of them, for each", f"{growth:.0f} KiB"],
        ["the same after a restart", f"{(restarted.full_bytes - started.empty_bytes) / count / 1024:.0f} KiB"],
        ["CPU of one resync of all", f"{restarted.resync_cpu_seconds:.1f} s"],
    ]
    return Part("scale", goals, [requests, render_table("Costs", ["", ""], costs)])
