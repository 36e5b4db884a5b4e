"""etcd, kube-apiserver and the garbage collector on free loopback ports: a cluster without nodes, and without root."""

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from harness import components, tools
from harness.certificates import Authority
from harness.cluster import Cluster
from harness.errors import HarnessError
from harness.pid_one import answers
from harness.ports import free_port

_START_S = 60.0
_COMPONENTS = ("controller-manager", "scheduler")
# They end with the process that started them, however that ends.
_TIED = ("setpriv", "--pdeathsig", "KILL", "--")
# Nothing that acts on a Deployment: tests say themselves what became of it.
_CONTROLLERS = "garbage-collector-controller,namespace-controller,serviceaccount-controller"
# With nodes that somebody plays: what makes pods of Deployments, and keeps the nodes and the budgets.
_POD_CONTROLLERS = "deployment-controller,replicaset-controller,disruption-controller,node-lifecycle-controller"
# Their own brakes would be what is measured.
_UNBRAKED = ("--kube-api-qps=1000", "--kube-api-burst=1000")


class ControlPlaneError(HarnessError):
    """The control plane did not start; the message carries the end of its log."""


@contextmanager
def running(*, makes_pods: bool = False, audited: str = "") -> Iterator[Cluster]:
    """`makes_pods`: Deployments get pods, which are placed where there are nodes; `audited`: the only user whose
    requests are recorded."""
    names = ["etcd", "kube-apiserver", "kube-controller-manager", "kubectl"]
    programs = tools.build([*names, "kube-scheduler"] if makes_pods else names)
    with ExitStack() as stack:
        # Not by TemporaryDirectory: a process that still writes while it is removed would make that fail.
        state = Path(tempfile.mkdtemp(prefix="qwenvl-"))
        stack.callback(shutil.rmtree, state, ignore_errors=True)
        plane = components.ControlPlane(state, "127.0.0.1", free_port(), "10.199.0.0/16", has_nodes=False)
        _write_files(plane, components.audit_policy(audited))
        _start(stack, plane, "etcd", components.etcd(plane, programs["etcd"]))
        server = _start(stack, plane, "apiserver", components.apiserver(plane, programs["kube-apiserver"]))
        _wait_ready(plane, server)
        manager = components.controller_manager(plane, programs["kube-controller-manager"])
        if makes_pods:
            controllers = f"--controllers={_CONTROLLERS},{_POD_CONTROLLERS}"
            _start(stack, plane, "controller-manager", [*manager, controllers, *_UNBRAKED])
            scheduler = components.scheduler(state, programs["kube-scheduler"])
            _start(stack, plane, "scheduler", [*scheduler, *_UNBRAKED])
        else:
            _start(stack, plane, "controller-manager", [*manager, f"--controllers={_CONTROLLERS}"])
        cluster = Cluster(state / "kubeconfig", programs["kubectl"], plane.audit_log)
        cluster.kubectl("wait", "--for=create", "serviceaccount/default", "--timeout=60s")
        yield cluster


def _write_files(plane: components.ControlPlane, policy: dict[str, Any]) -> None:
    authority = Authority.create(plane.pki)
    authority.issue("apiserver", "/CN=kube-apiserver", ("127.0.0.1",), ("localhost",))
    authority.issue("admin", "/O=system:masters/CN=admin")
    for name in _COMPONENTS:
        authority.issue(name, f"/CN=system:kube-{name}")
    authority.issue_key_pair("accounts")
    server = _server(plane)
    (plane.state / "kubeconfig").write_text(authority.kubeconfig("admin", server))
    for name in _COMPONENTS:
        (plane.state / f"{name}.kubeconfig").write_text(authority.kubeconfig(name, server))
    (plane.state / "audit-policy.json").write_text(json.dumps(policy))


def _server(plane: components.ControlPlane) -> str:
    return f"https://{plane.address}:{plane.port}"


def _start(stack: ExitStack, plane: components.ControlPlane, name: str, argv: list[str]) -> subprocess.Popen[bytes]:
    with (plane.state / f"{name}.log").open("wb") as log:
        process = subprocess.Popen([*_TIED, *argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0)
    stack.callback(_end, process)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _wait_ready(plane: components.ControlPlane, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_S
    while not answers(f"{_server(plane)}/readyz", str(plane.pki / "ca.crt")):
        if server.poll() is not None or time.monotonic() > deadline:
            logs = [(plane.state / f"{name}.log").read_text().splitlines()[-5:] for name in ("etcd", "apiserver")]
            raise ControlPlaneError("\n".join(["The apiserver is not ready:", *(line for log in logs for line in log)]))
        time.sleep(0.1)
