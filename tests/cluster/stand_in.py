"""What the Deployment controller, the kubelet and the runtime would do, where there is none of them: status and the
warm-up report alone."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from samples import STARTED, report

from harness.cluster import Cluster
from qwenvl_operator.custom_resource import CustomResource
from qwenvl_operator.gate import decide
from qwenvl_operator.naming import CONTAINER, GATE, MANAGEMENT, REVISION_LABEL, labels
from qwenvl_operator.objects import Manifest
from qwenvl_runtime.config import MANAGEMENT_PORT, WarmupReport

PORTS = [{"name": MANAGEMENT, "containerPort": MANAGEMENT_PORT, "protocol": "TCP"}]


def complete(cluster: Cluster, namespace: str) -> None:
    """Make every Deployment of a namespace look rolled out, with one warm pod that gets traffic."""
    resources = [CustomResource.parse(item) for item in cluster.get("qvl", f"--namespace={namespace}")["items"]]
    run_pods(cluster, [warm_pod(cr) for cr in resources])
    deployments = cluster.get("deployment", f"--namespace={namespace}")["items"]
    write_status(cluster, [rolled_out(deployment) for deployment in deployments])


def rolled_out(deployment: Manifest) -> Manifest:
    counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), 1)
    return {**deployment, "status": {"observedGeneration": deployment["metadata"]["generation"], **counts}}


def run_pods(cluster: Cluster, pods: Iterable[Manifest]) -> None:
    """Create pods on a node that is not there, and write the status that they come with."""
    created = {item["metadata"]["name"]: item for item in pods}
    cluster.apply(*({**item, "status": {}} for item in created.values()))
    write_status(cluster, created.values())


def write_status(cluster: Cluster, manifests: Iterable[Manifest]) -> None:
    items = [
        {
            **{name: item[name] for name in ("apiVersion", "kind", "status")},
            "metadata": {name: item["metadata"][name] for name in ("name", "namespace")},
        }
        for item in manifests
    ]
    cluster.kubectl(
        *("apply", "--server-side", "--subresource=status", "--field-manager=stand-in", "--filename=-"),
        input=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}),
    )


def loading_pod(cr: CustomResource, **container: object) -> Manifest:
    """A pod whose container runs and is not through its startup probe."""
    state = {"running": {"startedAt": STARTED}}
    status = {
        "name": CONTAINER,
        "containerID": "containerd://one",
        "image": "registry.local/runtime:1",
        "imageID": "",
        "ready": False,
        "started": False,
        "restartCount": 0,
        "state": state,
        **container,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{cr.key.name}-1",
            "namespace": cr.key.namespace,
            "labels": {**labels(cr.key), REVISION_LABEL: cr.revision},
        },
        "spec": {
            "nodeName": "nowhere",
            "readinessGates": [{"conditionType": GATE}],
            "containers": [{"name": CONTAINER, "image": "registry.local/runtime:1", "ports": PORTS}],
        },
        "status": {"conditions": conditions(PodScheduled=True), "containerStatuses": [status]},
    }


def warm_pod(cr: CustomResource) -> Manifest:
    """A pod whose gate was opened for its very container."""
    pod = loading_pod(cr, ready=True, started=True)
    decision = decide(pod, report(cr, pod=pod["metadata"]["name"]))
    assert decision is not None
    opened = decision.manifest({**pod, "metadata": {**pod["metadata"], "uid": ""}}, STARTED)["status"]["conditions"]
    said = conditions(PodScheduled=True, ContainersReady=True, Ready=True)
    return {**pod, "status": {**pod["status"], "conditions": [*said, *opened]}}


def started_pod(cr: CustomResource, address: str) -> Manifest:
    """A pod that has warmed itself up and whose gate is still closed: the rest the kubelet says beforehand."""
    pod = loading_pod(cr, ready=True, started=True)
    said = conditions(PodScheduled=True, ContainersReady=True, Ready=True)
    return {**pod, "status": {**pod["status"], "podIP": address, "conditions": said}}


class StandInRuntime(ThreadingHTTPServer):
    """The front of the pod that was started last, at an address of its own on this machine."""

    report: WarmupReport | None = None

    def __init__(self) -> None:
        self.address = f"127.{random.randrange(1, 255)}.{random.randrange(1, 255)}.{random.randrange(1, 255)}"
        super().__init__((self.address, MANAGEMENT_PORT), _Front)

    def warm(self, cr: CustomResource) -> Manifest:
        """The pod, whose report can be read from now on."""
        pod = started_pod(cr, self.address)
        self.report = report(cr, pod=pod["metadata"]["name"])
        return pod


class _Front(BaseHTTPRequestHandler):
    server: StandInRuntime

    def do_GET(self) -> None:
        body = self.server.report.model_dump_json().encode() if self.server.report else b""
        self.send_response(200 if body else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def stand_in_runtime() -> Iterator[StandInRuntime]:
    """One that answers for as long as the block runs."""
    with StandInRuntime() as runtime:
        thread = threading.Thread(target=runtime.serve_forever, name="runtime")
        thread.start()
        try:
            yield runtime
        finally:
            runtime.shutdown()
            thread.join()


def conditions(**said: bool) -> list[Manifest]:
    return [{"type": kind, "status": str(value), "lastTransitionTime": STARTED} for kind, value in said.items()]
