"""KWOK: nodes that are played, whose pods start at once, and what answers at the pods' addresses."""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import arms
from harness.cache import cache_folder, locked
from harness.cluster import Cluster
from harness.commands import run
from harness.progress import step
from harness.tools import find_go
from qwenvl_operator.naming import CONTAINER, GATE, MANAGED_SELECTOR, REVISION_LABEL
from qwenvl_runtime.config import MANAGEMENT_PORT, EngineReport, WarmupReport, WarmupShot

VERSION = "v0.7.0"
GPUS_PER_NODE = 128
# Loopback: every address of it is this machine's, and no packet leaves.
_NETWORK = "127.64"
_PATIENCE_S = 3.0
_PLAYED = {"kwok.x-k8s.io/node": "fake"}
_NOW = "{{ Now | Quote }}"
_ADDRESS = "{{ PodIPWith .spec.nodeName false .metadata.uid .metadata.name .metadata.namespace | Quote }}"


def install_kwok() -> Path:
    """Built by itself: its modules are of other versions than those of the node's programs."""
    folder = cache_folder() / "bench" / f"kwok-{VERSION}"
    with locked(folder.with_suffix(".lock")):
        if not folder.exists():
            with step(f"Building KWOK {VERSION}", "1 min, the first time 3 min"):
                unfinished = folder.with_suffix(".unfinished")
                environment = {"CGO_ENABLED": "0", "GOBIN": str(unfinished), "GOFLAGS": "-buildvcs=false"}
                package = f"sigs.k8s.io/kwok/cmd/kwok@{VERSION}"
                run(find_go(), "install", "-trimpath", "-ldflags", "-s -w", package, env=environment, cwd=folder.parent)
                unfinished.rename(folder)
    return folder / "kwok"


@contextmanager
def nodes(cluster: Cluster, folder: Path, pods: int) -> Iterator[None]:
    """Nodes with a GPU for each of so many pods, and the pods' warm-up reports, for as long as the block runs."""
    stages = folder / "stages.yaml"
    stages.write_text("\n---\n".join(json.dumps(stage) for stage in (starts(), becomes_ready(), ends())))
    argv: list[str | Path] = [
        install_kwok(), f"--kubeconfig={cluster.kubeconfig}", f"--config={stages}", f"--cidr={_NETWORK}.0.1/16",
        "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake", "--node-ip=127.0.0.1",
        "--node-lease-duration-seconds=40",
    ]  # fmt: skip
    cluster.apply(*(node(number) for number in range(pods // GPUS_PER_NODE + 1)))
    with arms.process(argv, folder / "kwok.log", {}, lambda: True), reports(cluster, pods):
        cluster.kubectl("wait", "node", "--all", "--for=condition=Ready", "--timeout=60s")
        yield


def node(number: int) -> dict[str, Any]:
    room = {"cpu": "4k", "memory": "64Ti", "pods": "1k", "nvidia.com/gpu": str(GPUS_PER_NODE)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"played-{number}", "annotations": _PLAYED},
        "status": {"allocatable": room, "capacity": room},
    }


def starts() -> dict[str, Any]:
    """A pod that has a node runs, and its container is ready."""
    conditions = {"Initialized": "True", "ContainersReady": "True", "Ready": "False"}
    container = {
        "name": CONTAINER,
        "image": "{{ (index .spec.containers 0).image }}",
        "containerID": "containerd://{{ .metadata.uid }}",
        "ready": True,
        "started": True,
        "restartCount": 0,
    }
    lines = [
        *_conditions(conditions),
        "containerStatuses:",
        f'- {json.dumps(container)[:-1]}, "state": {{"running": {{"startedAt": {_NOW}}} }} }}',
        f"podIP: {_ADDRESS}",
        f"startTime: {_NOW}",
        "phase: Running",
    ]
    return _stage("starts", [(".metadata.deletionTimestamp", False), (".status.podIP", False)], "\n".join(lines))


def becomes_ready() -> dict[str, Any]:
    """What the kubelet does when the gate is opened."""
    gate = f'.status.conditions.[] | select( .type == "{GATE}" ) | .status'
    ready = '.status.conditions.[] | select( .type == "Ready" ) | .status'
    template = "\n".join(_conditions({"Ready": "True"}))
    return _stage("becomes-ready", [(".metadata.deletionTimestamp", False), (gate, "True"), (ready, "False")], template)


def ends() -> dict[str, Any]:
    stage = _stage("ends", [(".metadata.deletionTimestamp", True)], "")
    return {**stage, "spec": {**stage["spec"], "next": {"delete": True}}}


def _conditions(conditions: dict[str, str]) -> list[str]:
    # As the kubelet does: a condition that is False without a reason is of a node that no longer reports.
    reasons = {"True": "", "False": ", reason: ReadinessGatesNotReady"}
    rows = [
        f'- {{type: {kind}, status: "{status}"{reasons[status]}, lastTransitionTime: {_NOW}}}'
        for kind, status in conditions.items()
    ]
    return ["conditions:", *rows]


def _stage(name: str, wanted: list[tuple[str, bool | str]], template: str) -> dict[str, Any]:
    """`wanted`: for each path whether it exists, or what it is."""
    expressions = [
        {"key": key, "operator": "In", "values": [value]}
        if isinstance(value, str)
        else {"key": key, "operator": "Exists" if value else "DoesNotExist"}
        for key, value in wanted
    ]
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": "Pod"},
            "selector": {"matchExpressions": expressions},
            "next": {"statusTemplate": template},
        },
    }


@contextmanager
def reports(cluster: Cluster, pods: int) -> Iterator[None]:
    """Answers GET /warmup at each pod's own address with that pod's report."""
    known: dict[str, tuple[str, str]] = {}
    label = REVISION_LABEL.replace(".", "\\.")
    columns = f"IP:.status.podIP,NAME:.metadata.name,REVISION:.metadata.labels.{label}"
    argv: list[str | Path] = [
        cluster.kubectl_program, f"--kubeconfig={cluster.kubeconfig}", "get", "pods", "--all-namespaces", "--watch",
        "--no-headers", f"--selector={MANAGED_SELECTOR}", f"--output=custom-columns={columns}",
    ]  # fmt: skip
    watch = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    loop = asyncio.new_event_loop()
    threads = [
        threading.Thread(target=_follow, args=(watch, known), name="pods"),
        threading.Thread(target=_answer, args=(loop, known, pods), name="reports"),
    ]
    try:
        for thread in threads:
            thread.start()
        yield
    finally:
        watch.kill()
        loop.call_soon_threadsafe(loop.stop)
        for thread in threads:
            thread.join()
        watch.wait()


def _follow(watch: subprocess.Popen[str], known: dict[str, tuple[str, str]]) -> None:
    for line in watch.stdout or ():
        address, name, revision = line.split()
        known[address] = name, revision


def _answer(loop: asyncio.AbstractEventLoop, known: dict[str, tuple[str, str]], pods: int) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = writer.get_extra_info("sockname")[0]
        await reader.readuntil(b"\r\n\r\n")
        deadline = time.monotonic() + _PATIENCE_S
        while address not in known and time.monotonic() < deadline:  # noqa: ASYNC110 - a thread brings it
            await asyncio.sleep(0.01)
        body = build_report(*known[address]).model_dump_json().encode()
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    async def listen() -> None:
        # One more for each that KWOK leaves out or gives away twice.
        for number in range(1, pods + 256):
            await asyncio.start_server(answer, f"{_NETWORK}.{number // 256}.{number % 256}", MANAGEMENT_PORT)

    asyncio.set_event_loop(loop)
    loop.run_until_complete(listen())
    loop.run_forever()


def build_report(pod: str, revision: str) -> WarmupReport:
    engine = EngineReport(kv_cache_tokens=424_112, attention_backend="FLASH_ATTN", cuda_graphs=True, compiled=True)
    proof = WarmupShot(name="proof", first_seconds=0.3, steady_seconds=0.2)
    return WarmupReport(
        boot_id=pod, pod=pod, revision=revision, started_at=time.time(), complete=True, shots=(proof,), engine=engine
    )
