"""The product as installed on the test node: its chart, its images, and what a platform engineer does to it."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx

from harness import tools
from harness.cache import REPOSITORY
from harness.cluster import Cluster
from harness.commands import run
from harness.node import Node
from qwenvl_operator.naming import GATE

NAMESPACE = "qwenvl-system"
OPERATOR = "qwenvl-operator"
Object = dict[str, Any]
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For clients that need none: httpx would read all certificate authorities for each, 20 ms of a core."""


def install(cluster: Cluster, operator_image: str, runtime_image: str) -> None:
    """Install the chart, or upgrade what is installed, and wait until the operator is ready."""
    run(
        tools.tool("helm"), f"--kubeconfig={cluster.kubeconfig}",
        "upgrade", "--install", OPERATOR, REPOSITORY / "charts" / "qwenvl-operator",
        f"--namespace={NAMESPACE}", "--create-namespace", "--wait", "--timeout=2m",
        f"--set=image.reference={operator_image}", f"--set=runtimeImage={runtime_image}",
    )  # fmt: skip


@dataclass(frozen=True)
class Installed:
    """The operator on a node, and the namespace in which resources live."""

    node: Node
    namespace: str = "default"

    def kubectl(self, verb: str, *arguments: str, **options: Any) -> str:
        return self.node.kubectl(verb, f"--namespace={self.namespace}", *arguments, **options)

    def apply(self, name: str, **spec: Any) -> None:
        manifest = {
            "apiVersion": "qwenvl.io/v1alpha1",
            "kind": "QwenVLDeployment",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {**trial(), **spec},
        }
        self.node.apply(manifest)

    def patch(self, name: str, **spec: Any) -> None:
        self.kubectl("patch", "qvl", name, "--type=merge", f"--patch={json.dumps({'spec': spec})}")

    def get(self, name: str) -> Object:
        return self._read("qvl", name)

    def condition(self, name: str, kind: str) -> Object:
        conditions = self.get(name)["status"].get("conditions", ())
        return next((item for item in conditions if item["type"] == kind), {})

    def pods(self, name: str = "") -> list[Object]:
        """Those of a resource, or of the whole namespace."""
        selector = [f"--selector=qwenvl.io/name={name}"] if name else []
        found: list[Object] = self._read("pods", *selector)["items"]
        return found

    def url(self, name: str) -> str:
        return f"http://{self._read('service', name)['spec']['clusterIP']}:8000"

    def wait_ready(self, name: str, timeout: float = 120) -> None:
        """Until the newest spec is served by all replicas."""

        def is_ready() -> bool:
            cr = self.get(name)
            conditions = {item["type"]: item["status"] for item in cr["status"].get("conditions", ())}
            current = cr["status"]["observedGeneration"] == cr["metadata"]["generation"]
            return current and conditions.get("Ready") == "True"

        wait_until(is_ready, timeout, lambda: self.kubectl("describe", "qvl,pods"))

    def wait_reason(self, name: str, reason: str, timeout: float = 60) -> None:
        """Until Ready says so."""
        wait_until(
            lambda: self.condition(name, "Ready").get("reason") == reason,
            timeout,
            lambda: json.dumps(self.get(name)["status"], indent=1),
        )

    def remove(self, *names: str) -> None:
        """Delete resources and wait until their pods have gone, without the time that their drains would take."""
        self.kubectl("delete", "qvl", *names, "--ignore-not-found", "--wait")
        for name in names:
            selector = f"--selector=qwenvl.io/name={name}"
            wait_until(partial(self._has_no_deployment, selector), 60)
            self.kubectl("delete", "pods", selector, "--grace-period=0", "--force", "--ignore-not-found")

    def _has_no_deployment(self, selector: str) -> bool:
        return not self._read("deployments", selector)["items"]

    def _read(self, *arguments: str) -> Object:
        return self.node.get(*arguments, f"--namespace={self.namespace}")

    def kill_container(self, pod: Object) -> None:
        """End the runtime container as the kernel would for want of memory: SIGKILL to its process 1."""
        self._signal(pod, "SIGKILL")

    def freeze_container(self, pod: Object) -> None:
        """Have process 1 of a container hang, and nothing say so."""
        self._signal(pod, "SIGSTOP")

    def is_warm_again(self, killed: Object) -> bool:
        """Whether another container than the killed one runs in its pod, and the gate is open for it."""
        pod = self._read("pod", killed["metadata"]["name"])
        now = container_of(pod)
        return (
            now["containerID"] != container_of(killed)["containerID"]
            and condition_of(pod, "Ready")["status"] == "True"
            and now["containerID"] in condition_of(pod, GATE)["message"]
        )

    def answers(self, name: str) -> bool:
        """Whether the Service answers; it refuses for a moment after its pod has become ready."""
        try:
            return chat(self.url(name), name).status_code == 200
        except httpx.ConnectError:
            return False

    def count_closed(self, containers: Iterable[str]) -> int:
        """For how many of these containers the operator has closed a gate that stood open for their predecessors."""
        log = self.node.kubectl("logs", f"--namespace={NAMESPACE}", f"deployment/{OPERATOR}", "--tail=-1")
        return sum(f"Container {container} is not warmed up." in log for container in containers)

    def _signal(self, pod: Object, signal: str) -> None:
        container = container_of(pod)["containerID"].removeprefix("containerd://")
        self.node.run_inside("ctr", "--namespace=k8s.io", "tasks", "kill", f"--signal={signal}", container)

    def set_faults(self, pod: Object, **faults: Any) -> None:
        """Have the simulated engine of a pod misbehave from its next request on."""
        name = pod["metadata"]["name"]
        self.kubectl("exec", "--stdin", name, "--", "tee", "/tmp/faults.json", input=json.dumps(faults))

    def stop_operator(self) -> None:
        self.node.kubectl("scale", f"--namespace={NAMESPACE}", f"deployment/{OPERATOR}", "--replicas=0")
        wait_until(lambda: not self.node.get("pods", f"--namespace={NAMESPACE}")["items"], 60)

    def start_operator(self) -> None:
        self.node.kubectl("scale", f"--namespace={NAMESPACE}", f"deployment/{OPERATOR}", "--replicas=1")
        self.node.kubectl("rollout", "status", f"--namespace={NAMESPACE}", f"deployment/{OPERATOR}", "--timeout=60s")


def condition_of(pod: Object, kind: str) -> Object:
    return next((item for item in pod["status"].get("conditions", ()) if item["type"] == kind), {})


def container_of(pod: Object) -> Object:
    found: Object = pod["status"]["containerStatuses"][0]
    return found


def trial() -> Object:
    """A spec for a runtime whose engine is simulated: small limits, so that everything takes a moment."""
    return {
        "model": {"source": {"runtimeImage": {"path": "/opt/model"}}},
        "hardware": {"accelerator": {"resource": "cpu"}},
        "engine": {"maxModelLen": 8192, "maxNumSeqs": 8},
        "media": {"maxImages": 2, "maxPixels": 1048576},
        "warmup": {"budget": "1m"},
        "startup": {"budget": "2m"},
        "drain": {"longestRequest": "20s"},
    }


def wait_until(
    met: Callable[[], bool], timeout: float, explain: Callable[[], str] = lambda: "", pause: float = 0.25
) -> None:
    """Ask again and again; fails with what `explain` says then."""
    deadline = time.monotonic() + timeout
    while not met():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s\n{explain()}")
        time.sleep(pause)


def chat(url: str, model: str, text: str = "Hello", **fields: Any) -> httpx.Response:
    """One question on a connection of its own."""
    with _client() as client:
        return _ask(client, url, model, text, **fields)


def _client(kept_alive: int = 0) -> httpx.Client:
    limits = httpx.Limits(max_keepalive_connections=kept_alive)
    return httpx.Client(timeout=30, trust_env=False, verify=NO_TLS, limits=limits)


def _ask(client: httpx.Client, url: str, model: str, text: str, **fields: Any) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 8, **fields}
    return client.post(f"{url}/v1/chat/completions", json=body)


def stream(url: str, model: str, tokens: int) -> str:
    """Ask for a stream of so many events on a connection of its own; returns what was wrong with it."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": tokens, "stream": True}
    address, events, last = f"{url}/v1/chat/completions", 0, ""
    try:
        with httpx.stream("POST", address, json=body, timeout=30, trust_env=False, verify=NO_TLS) as response:
            if response.status_code != 200:
                return f"status {response.status_code}"
            for line in filter(None, response.iter_lines()):
                events, last = events + 1, line
    except httpx.HTTPError as error:
        return f"{type(error).__name__} after {events} of {tokens} events: {error}"
    return "" if (last, events) == ("data: [DONE]", tokens + 1) else f"{events} lines for {tokens} events, last {last}"


@dataclass
class Streams:
    """What a load of streams got."""

    whole: list[int] = field(default_factory=list)
    """Events of each that came to its end."""
    faults: list[str] = field(default_factory=list)


@contextmanager
def streaming(url: str, model: str, lengths: tuple[int, ...]) -> Iterator[Streams]:
    """For each length a client that asks for such streams, one after the other, for as long as the block runs; all are
    read to their ends."""
    streams = Streams()

    def ask(tokens: int) -> None:
        if fault := stream(url, model, tokens):
            streams.faults.append(fault)
        else:
            streams.whole.append(tokens)

    with _repeated([partial(ask, tokens) for tokens in lengths]):
        yield streams


@dataclass
class Answers:
    """What a load got: the heads of the answers, since their bodies would fill the memory."""

    responses: list[tuple[int, httpx.Headers]] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    def served(self) -> list[httpx.Headers]:
        return [headers for status, headers in self.responses if status == 200]


@contextmanager
def load(url: str, model: str, clients: int = 4, *, keep_alive: bool = False) -> Iterator[Answers]:
    """Questions one after the other, each on a new connection unless they are kept alive, for as long as the block
    runs."""
    answers = Answers()

    def ask(client: httpx.Client) -> None:
        try:
            response = _ask(client, url, model, "Hello")
            answers.responses.append((response.status_code, response.headers))
        except httpx.HTTPError as error:
            answers.errors.append(error)

    with _client(clients if keep_alive else 0) as client, _repeated([partial(ask, client)] * clients):
        yield answers


@contextmanager
def _repeated(calls: Sequence[Callable[[], None]]) -> Iterator[None]:
    """Each in a thread of its own, again and again; the last ones are waited for."""
    stop = threading.Event()

    def repeat(call: Callable[[], None]) -> None:
        # Two cores carry the cluster as well: a pause between questions leaves it room.
        while not stop.wait(0.1):
            call()

    threads = [threading.Thread(target=repeat, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
