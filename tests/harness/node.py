"""A real node: starting one, waiting until it takes pods, and what tests do to it."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness import components, containerd, leftovers, pause_image, preflight, supervisor, tools
from harness.cache import REPOSITORY, cache_folder, locked
from harness.certificates import Authority
from harness.cluster import Cluster
from harness.commands import CommandError, run
from harness.errors import HarnessError
from harness.instance import Instance
from harness.pid_one import Component, Plan, answers
from harness.progress import say, step

_START_S = 120.0
_NODE_TOOLS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)
# The private copies of the host's folders in which the node's programs keep things under fixed names.
_OVERLAID = ("/var/lib", "/var/log")


class NodeError(HarnessError):
    """The node did not start; the message carries the last lines of its logs."""


@dataclass(frozen=True)
class Node(Cluster):
    """A running instance. Pod and Service addresses are reachable from this machine as they are."""

    instance: Instance

    @classmethod
    def of(cls, instance: Instance) -> "Node":
        return cls(instance.kubeconfig, tools.tool("kubectl"), instance.state / "audit.log", instance)

    @property
    def name(self) -> str:
        return self.instance.node_name

    @property
    def host_address(self) -> str:
        """Where pods reach a server that listens on this machine."""
        return self.instance.host_address

    def set_gpus(self, count: int, resource: str = "nvidia.com/gpu") -> None:
        """Have the node offer GPUs that it does not have."""
        status = {"capacity": {resource: str(count)}, "allocatable": {resource: str(count)}}
        patch = json.dumps({"status": status})
        self.kubectl("patch", "node", self.name, "--subresource=status", "--type=merge", f"--patch={patch}")

    def enter(self) -> tuple[str, ...]:
        """What to put before a command to run it inside the node's namespaces."""
        return "nsenter", f"--target={pid_one(self.instance)}", "--mount", "--net", "--pid", "--"

    def run_inside(self, *argv: str | Path, input: str | None = None) -> str:  # noqa: A002
        return run(*self.enter(), *argv, input=input)

    def end_component(self, name: str) -> None:
        """Kill one of the node's programs (`kube-apiserver`, `kubelet`, ...); it is started again at once."""
        self.run_inside("pkill", "-KILL", "-x", name[:15])

    @contextmanager
    def silent(self) -> Iterator[None]:
        """The kubelet is frozen for as long as the block runs; its pods go on."""
        self.run_inside("pkill", "-STOP", "-x", "kubelet")
        try:
            yield
        finally:
            self.run_inside("pkill", "-CONT", "-x", "kubelet")

    def import_image(self, layout: Path, tag: str, name: str) -> None:
        """Bring an image of an OCI layout to the node, less the layers that it has."""
        containerd.import_to_node(self.enter(), self.instance.state / "containerd", layout, tag, name)


def pid_one(instance: Instance) -> int:
    """The node's process 1, by the host's count."""
    for pid in leftovers.processes(leftovers.PID_ONE, instance):
        if leftovers.is_process_one(pid):
            return pid
    raise NodeError(
        f"The node {instance.name} does not run; start it with `python -m harness up --name {instance.name}`"
    )


def is_running(instance: Instance) -> bool:
    return bool(leftovers.processes(leftovers.SUPERVISOR, instance)) and bool(
        leftovers.processes(leftovers.PID_ONE, instance)
    )


def up(instance: Instance) -> Node:
    """Start an instance that goes on after this process, or find it running. Interrupted, it leaves nothing."""
    with locked(lock_file(instance)):
        if is_running(instance):
            say(f"Instance {instance.name} runs already")
            return Node.of(instance)
        with _started(instance) as (process, node):
            _tell(process, supervisor.KEEP)
            return node


def down(instance: Instance) -> None:
    with locked(lock_file(instance)):
        leftovers.remove(instance)


def down_all() -> None:
    """End every instance that has left something in the cache folder."""
    for lock in (cache_folder() / "nodes").glob("*.lock"):
        down(Instance(lock.stem))


@contextmanager
def running(instance: Instance) -> Iterator[Node]:
    """An instance for as long as the block runs; it ends with this process, however that ends."""
    with locked(lock_file(instance)), _started(instance) as (process, node):
        try:
            yield node
        finally:
            _stop(process)


def lock_file(instance: Instance) -> Path:
    return cache_folder() / "nodes" / f"{instance.name}.lock"


@contextmanager
def _started(instance: Instance) -> Iterator[tuple[subprocess.Popen[bytes], Node]]:
    preflight.check(preflight.NODE, instance)
    programs = prepare_machine()
    with step(f"Starting the node {instance.name}", "10 s"):
        leftovers.remove(instance)
        instance.logs.mkdir(parents=True)
        # Before anything else is written: whatever happens to us, it cleans up.
        process = launch(instance)
        try:
            write_files(instance, programs)
            _tell(process, supervisor.START)
            node = Node.of(instance)
            wait_ready(node, process)
        except BaseException as error:
            logs = last_lines(instance)
            _stop(process)
            if isinstance(error, NodeError | CommandError):
                raise NodeError(f"{error}\n{logs}") from error
            raise
    yield process, node


def launch(instance: Instance) -> subprocess.Popen[bytes]:
    """Start the supervisor, in a session of its own: Ctrl-C reaches it through us, in order."""
    with (instance.logs / "supervisor.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", leftovers.SUPERVISOR, instance.name],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=REPOSITORY / "tests",
            start_new_session=True,
        )


def _tell(process: subprocess.Popen[bytes], word: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(word)
    process.stdin.flush()


def _stop(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


def wait_ready(node: Node, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_S
    authority = str(node.instance.state / "pki" / "ca.crt")
    while not answers(f"{node.instance.server}/readyz", authority):
        if process.poll() is not None:
            raise NodeError("The node ended while it started.")
        if time.monotonic() > deadline:
            raise NodeError(f"The apiserver was not ready within {_START_S:.0f} s.")
        time.sleep(0.1)
    for condition in ("create", "condition=Ready"):
        node.kubectl("wait", f"--for={condition}", f"node/{node.name}", "--timeout=60s")
    # Pods are refused until their namespace has this.
    node.kubectl("wait", "--for=create", "serviceaccount/default", "--timeout=60s")


def last_lines(instance: Instance, count: int = 5) -> str:
    logs = sorted(instance.logs.glob("*.log")) if instance.logs.exists() else []
    tails = ["\n".join([f"--- {log.name}", *log.read_text(errors="replace").splitlines()[-count:]]) for log in logs]
    return "\n".join(tails)


def prepare_machine() -> dict[str, Path]:
    """Have every program and image that a node takes, whatever its name; returns where the programs are."""
    tools.install_packages()
    programs = tools.build(_NODE_TOOLS)
    pause_image.ensure()
    return programs


def write_files(instance: Instance, programs: dict[str, Path]) -> None:
    """Everything that the instance's programs read."""
    state = instance.state
    plane = control_plane(instance)
    for folder in ("kubelet", "cni", *(f"over{path}/{part}" for path in _OVERLAID for part in ("upper", "work"))):
        (state / folder).mkdir(parents=True)
    containerd.clone_store(state / "containerd")
    write_credentials(instance)
    (state / "resolv.conf").write_text("")
    (state / "audit-policy.json").write_text(json.dumps(components.audit_policy()))
    (state / "kubelet.json").write_text(json.dumps(components.kubelet_configuration(instance)))
    (state / "proxy.json").write_text(json.dumps(components.proxy_configuration(instance)))
    (state / "cni" / "pods.conflist").write_text(json.dumps(containerd.pod_network(instance)))
    (state / "containerd.toml").write_text(containerd.configuration(state / "containerd", state / "cni", pods=True))
    (state / "plan.json").write_text(plan(instance, plane, programs).written())


def control_plane(instance: Instance) -> components.ControlPlane:
    return components.ControlPlane(
        state=instance.state,
        address=instance.node_address,
        port=6443,
        service_network=instance.service_network,
        has_nodes=True,
    )


def write_credentials(instance: Instance) -> None:
    authority = Authority.create(instance.state / "pki")
    addresses = (instance.node_address, instance.kubernetes_service, "127.0.0.1")
    authority.issue("apiserver", "/CN=kube-apiserver", addresses, ("kubernetes.default.svc", "localhost"))
    authority.issue_key_pair("accounts")
    users = {
        "admin": "/O=system:masters/CN=admin",
        "controller-manager": "/CN=system:kube-controller-manager",
        "scheduler": "/CN=system:kube-scheduler",
        "proxy": "/CN=system:kube-proxy",
        "kubelet": f"/O=system:nodes/CN=system:node:{instance.node_name}",
    }
    for user, subject in users.items():
        authority.issue(user, subject)
        path = instance.kubeconfig if user == "admin" else instance.state / f"{user}.kubeconfig"
        path.write_text(authority.kubeconfig(user, instance.server))


def plan(instance: Instance, plane: components.ControlPlane, programs: dict[str, Path]) -> Plan:
    state = instance.state
    containerd_program = tools.find_system("containerd") or "containerd"
    settings = f"--config={state / 'containerd.toml'}"
    return Plan(
        setup=setup(instance),
        components=[
            Component("containerd", [containerd_program, settings], components.CONTAINERD_SOCKET),
            Component("etcd", components.etcd(plane, programs["etcd"]), str(plane.etcd_socket)),
            Component(
                "kube-apiserver", components.apiserver(plane, programs["kube-apiserver"]), f"{instance.server}/readyz"
            ),
            Component(
                "kube-controller-manager", components.controller_manager(plane, programs["kube-controller-manager"])
            ),
            Component("kubelet", components.kubelet(instance, programs["kubelet"])),
            Component("kube-scheduler", components.scheduler(state, programs["kube-scheduler"])),
            Component("kube-proxy", components.proxy(state, programs["kube-proxy"])),
        ],
        logs=str(instance.logs),
        authority=str(plane.pki / "ca.crt"),
    )


def setup(instance: Instance) -> list[list[str]]:
    """What process 1 runs first: mounts of its own, and a link to the host's network, which is its standard input."""
    host_network = "/proc/1/fd/0"
    on_host = ["nsenter", f"--net={host_network}", "--"]
    mounts = [
        # Among themselves the node's processes share what they mount, as kubelet wants it; the host sees none of it.
        ["mount", "--make-rshared", "/"],
        ["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"],
    ]
    for path in _OVERLAID:
        over = instance.state / f"over{path}"
        options = f"lowerdir={path},upperdir={over / 'upper'},workdir={over / 'work'}"
        mounts.append(["mount", "-t", "overlay", "-o", options, "overlay", path])
    network = [
        ["ip", "link", "set", "lo", "up"],
        ["ip", "link", "add", "host", "type", "veth", "peer", "name", instance.interface, "netns", host_network],
        ["ip", "address", "add", f"{instance.node_address}/30", "dev", "host"],
        ["ip", "link", "set", "host", "up"],
        ["ip", "route", "add", "default", "via", instance.host_address],
        ["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"],
        # A Service without endpoints refuses by ICMP, of which the kernel sends a client one a second.
        ["sh", "-c", "echo 0 > /proc/sys/net/ipv4/icmp_ratelimit"],
        [*on_host, "ip", "address", "add", f"{instance.host_address}/30", "dev", instance.interface],
        [*on_host, "ip", "link", "set", instance.interface, "up"],
        [*on_host, "ip", "route", "add", instance.network, "via", instance.node_address],
    ]
    return [*mounts, *network]
