"""The node itself: real pods and Services on it, and nothing of it left whenever and however it ends."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from harness import leftovers, node
from harness.cache import REPOSITORY
from harness.commands import CommandError
from harness.images import OPERATOR
from harness.instance import Instance
from harness.node import Node

pytestmark = pytest.mark.timeout(240)

OTHER = Instance("other")
SERVE = "import http.server as h; h.test(h.SimpleHTTPRequestHandler, port=8000)"


def eventually(condition: Callable[[], object], timeout: float = 30) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s"
        time.sleep(0.1)


def server_pod(name: str, **container: Any) -> dict[str, Any]:
    """A pod as the `restricted` Pod Security Standard wants it."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": name}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "server",
                    "image": OPERATOR.name,
                    "command": ["python3", "-c", SERVE, name],
                    "workingDir": "/etc",
                    "readinessProbe": {"httpGet": {"path": "/hostname", "port": 8000}, "periodSeconds": 1},
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    **container,
                }
            ],
        },
    }


@pytest.fixture(scope="module")
def shop(node: Node) -> Iterator[Node]:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    node.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": labels}})
    yield node
    node.kubectl("delete", "namespace", "shop")


def test_this_machine_reaches_a_pod_by_its_service(shop: Node) -> None:
    ports = [{"port": 80, "targetPort": 8000}]
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"}}
    shop.apply(server_pod("web"), {**service, "spec": {"selector": {"app": "web"}, "ports": ports}})
    shop.kubectl("wait", "--namespace=shop", "pod/web", "--for=condition=Ready", "--timeout=60s")
    address = shop.get("service", "web", "--namespace=shop")["spec"]["clusterIP"]

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"http://{address}/hostname", timeout=2) as response:
                return bool(response.read() == b"web\n")
        except OSError:
            return False

    eventually(answers)
    read = "import urllib.request as u; print(u.urlopen('http://%s/hostname', timeout=5).read())"
    said = shop.kubectl("exec", "--namespace=shop", "web", "--", "python3", "-c", read % address)
    assert "web" in said, "a pod reaches a Service, its own too"
    assert "GET /hostname" in shop.kubectl("logs", "--namespace=shop", "web")


def test_a_killed_container_is_back_within_seconds_every_time(shop: Node) -> None:
    shop.apply(server_pod("phoenix"))
    for count in range(4):
        shop.kubectl("wait", "--namespace=shop", "pod/phoenix", "--for=condition=Ready", "--timeout=60s")
        status = shop.get("pod", "phoenix", "--namespace=shop")["status"]["containerStatuses"][0]
        assert status["restartCount"] == count
        shop.run_inside("pkill", "-KILL", "-f", " phoenix$")
        restarts = f"jsonpath={{.status.containerStatuses[0].restartCount}}={count + 1}"
        shop.kubectl("wait", "--namespace=shop", "pod/phoenix", f"--for={restarts}", "--timeout=15s")


def test_simulated_gpus_are_given_out_and_run_out(shop: Node) -> None:
    shop.set_gpus(1)
    one = {"limits": {"nvidia.com/gpu": "1"}}
    shop.apply(server_pod("first", resources=one))
    shop.kubectl("wait", "--namespace=shop", "pod/first", "--for=condition=Ready", "--timeout=60s")
    shop.apply(server_pod("second", resources=one))
    shop.kubectl("wait", "--namespace=shop", "pod/second", "--for=condition=PodScheduled=False", "--timeout=30s")
    shop.kubectl("delete", "pod", "first", "--namespace=shop")
    shop.kubectl("wait", "--namespace=shop", "pod/second", "--for=condition=Ready", "--timeout=60s")


def test_pod_security_is_enforced(shop: Node) -> None:
    with pytest.raises(CommandError, match="violates PodSecurity"):
        shop.apply(server_pod("root", securityContext={"privileged": True}))


def test_a_killed_apiserver_comes_back(shop: Node) -> None:
    before = len(shop.audit_events())
    shop.end_component("kube-apiserver")

    def serves() -> bool:
        try:
            return bool(shop.get("namespace", "shop"))
        except CommandError:
            return False

    eventually(serves)
    assert len(shop.audit_events()) > before


def traces() -> dict[str, object]:
    """What a node could leave on this machine; other instances come and go by themselves."""
    of_others = re.compile(rf"\bqvl-(?!{OTHER.name}\b)")
    links = [path.name for path in Path("/sys/class/net").iterdir()]
    folders = ("/var/lib/kubelet", "/var/lib/cni", "/var/log/pods", "/run/containerd", "/usr/libexec/kubernetes")
    return {
        "mounts": [line.split(" ", 1)[1] for line in Path("/proc/self/mountinfo").read_text().splitlines()],
        "interfaces": sorted(name for name in links if not of_others.search(name)),
        "routes": [line for line in Path("/proc/net/route").read_text().splitlines() if not of_others.search(line)],
        "named namespaces": sorted(path.name for path in Path("/run/netns").glob("*")),
        "folders": [folder for folder in folders if Path(folder).exists()],
        "of the instance": leftovers.find(OTHER),
    }


def differences(before: dict[str, object]) -> dict[str, object]:
    now = traces()
    return {key: (before[key], now[key]) for key in before if now[key] != before[key]}


def in_namespace(namespace: str) -> list[str]:
    """The processes of a PID namespace; those that end meanwhile do not count."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(process / "ns" / "pid") == namespace:
                found.append((process / "comm").read_text().strip())
        except OSError:
            continue
    return found


def namespaces() -> set[str]:
    """The PID namespaces that belong to the other instance now."""
    found = set()
    for pid in leftovers.processes(leftovers.PID_ONE, OTHER):
        with suppress(OSError):
            found.add(os.readlink(f"/proc/{pid}/ns/pid"))
    return found - {os.readlink("/proc/self/ns/pid")}


def start_up() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "harness", "up", "--name", OTHER.name],
        cwd=REPOSITORY / "tests",
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job ignores Ctrl-C, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - the tests have no threads
    )


POINTS: dict[str, Callable[[], object]] = {
    "files are written": (OTHER.state / "pki").exists,
    "its supervisor runs": lambda: leftovers.processes(leftovers.SUPERVISOR, OTHER),
    "its network is there": (Path("/sys/class/net") / OTHER.interface).exists,
    "etcd starts": (OTHER.logs / "etcd.log").exists,
    "the kubelet starts": (OTHER.logs / "kubelet.log").exists,
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("point", POINTS)
def test_interrupted_while_it_starts_it_leaves_nothing(point: str, number: signal.Signals) -> None:
    before = traces()
    with start_up() as process:
        eventually(POINTS[point], timeout=60)
        inside = namespaces()
        process.send_signal(number)
        said = process.stderr.read() if process.stderr else ""
    if number == signal.SIGINT:
        assert "Interrupted" in said
        assert differences(before) == {}, "it is gone when the command ends"
    eventually(lambda: not differences(before))
    eventually(lambda: not [name for namespace in inside for name in in_namespace(namespace)])


@pytest.mark.parametrize("victim", [leftovers.SUPERVISOR, leftovers.PID_ONE])
def test_after_a_kill_of_any_part_down_leaves_nothing(victim: str) -> None:
    before = traces()
    with start_up() as process:
        process.communicate()
    started = Node.of(OTHER)
    started.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "pause"},
            "spec": {"containers": [{"name": "pause", "image": "localhost/pause:dev"}]},
        }
    )
    started.kubectl("wait", "pod/pause", "--for=condition=Ready", "--timeout=60s")
    namespace = os.readlink(f"/proc/{node.pid_one(OTHER)}/ns/pid")
    assert node.up(OTHER) == started, "`up` finds it"
    for pid in leftovers.processes(victim, OTHER):
        os.kill(pid, signal.SIGKILL)
    node.down(OTHER)
    assert differences(before) == {}
    eventually(lambda: not in_namespace(namespace))
