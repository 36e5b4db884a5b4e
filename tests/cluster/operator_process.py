"""The operator as a process of its own beside the tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from harness.ports import free_port

RUNTIME_IMAGE = "registry.local/runtime:1"


def eventually(condition: Callable[[], Any], what: str, timeout: float = 30.0) -> Any:
    """Wait until the condition holds; returns what it returned."""
    deadline = time.monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < deadline, f"not within {timeout:.0f} s: {what}"
        time.sleep(0.1)


def rest(count: Callable[[], int], who: str, span: float = 3.0) -> None:
    """Wait until nothing is counted for a while: what does not happen can only be seen to not happen for some time."""
    last, since = count(), time.monotonic()

    def is_still() -> bool:
        nonlocal last, since
        before, last = last, count()
        if last != before:
            since = time.monotonic()
        return time.monotonic() - since > span

    eventually(is_still, f"{who} rests")


class OperatorProcess:
    """`python -m qwenvl_operator`, with its logs in a file."""

    def __init__(
        self, kubeconfig: Path, folder: Path, *, program: Sequence[str] = ("-m", "qwenvl_operator"), **settings: str
    ) -> None:
        self.health_port, self.metrics_port = free_port(), free_port()
        self.log_file = folder / f"operator-{self.health_port}.log"
        environment = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig),
            "QWENVL_RUNTIME_IMAGE": RUNTIME_IMAGE,
            "QWENVL_HEALTH_PORT": str(self.health_port),
            "QWENVL_METRICS_PORT": str(self.metrics_port),
            **{f"QWENVL_{name.upper()}": value for name, value in settings.items()},
        }
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen([sys.executable, *program], env=environment, stdout=log, stderr=log)

    def logs(self) -> list[dict[str, Any]]:
        """Every line is JSON: nobody looks at a file."""
        lines = self.log_file.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}/healthz", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def metric(self, name: str, **labels: str) -> float | None:
        """The sum of the samples that carry these labels; None if there is none."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5) as answer:
                page = answer.read().decode()
        except (urllib.error.URLError, OSError):
            return None
        samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
        values = [item.value for item in samples if item.name == name and labels.items() <= item.labels.items()]
        return sum(values) if values else None

    def leads(self) -> bool:
        return self.metric("qwenvl_operator_leader") == 1.0

    def wait_until_leading(self, timeout: float = 30.0) -> None:
        eventually(lambda: self.leads() or self._process.poll() is not None, "the operator leads", timeout)
        assert self._process.poll() is None, self.log_file.read_text()

    def is_running(self) -> bool:
        return self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, timeout: float = 30.0) -> int:
        """The exit code; killed and failed if it does not end in time."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise

    def stop(self) -> int:
        self.send(signal.SIGTERM)
        return self.wait()


class KeptOperator:
    """The operator as a kubelet keeps it: started again whenever it ends, with one identity, as a pod's name is."""

    def __init__(self, kubeconfig: Path, folder: Path, **settings: Any) -> None:
        self._start = partial(OperatorProcess, kubeconfig, folder, identity="pod-a", **settings)
        self.process = self._start()
        self.starts = 1
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="kubelet")
        self._thread.start()

    def leads(self) -> bool:
        return self.process.leads()

    def is_healthy(self) -> bool:
        return self.process.is_healthy()

    def kill(self) -> None:
        self.process.send(signal.SIGKILL)

    def wait_for_start(self, number: int) -> None:
        eventually(lambda: self.starts >= number, f"start {number} of the operator")

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        if self.process.is_running():
            self.process.send(signal.SIGKILL)
            self.process.wait()

    def _keep(self) -> None:
        while not self._ended.wait(0.05):
            if not self.process.is_running():
                self.process = self._start()
                self.starts += 1


@contextmanager
def kept_operator(kubeconfig: Path, folder: Path, **settings: Any) -> Iterator[KeptOperator]:
    kept = KeptOperator(kubeconfig, folder, **settings)
    try:
        yield kept
    finally:
        kept.close()


@contextmanager
def operator_process(kubeconfig: Path, folder: Path, **settings: Any) -> Iterator[OperatorProcess]:
    """The process for as long as the block runs; killed at the end if it still runs."""
    process = OperatorProcess(kubeconfig, folder, **settings)
    try:
        yield process
    finally:
        if process.is_running():
            process.send(signal.SIGKILL)
            process.wait()
