"""A bare vLLM on the CPU with the tiny model, on a unix socket and with the flags that the runtime gives it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from harness.runtime_process import build_config
from harness.tiny_model import snapshot
from qwenvl_runtime.engine import MODULE, build_arguments, build_environment

START_S = 300
CONFIG = build_config(
    engine={"model_path": str(snapshot.PATH), "max_num_seqs": 8, "max_model_len": 8192},
    media={"max_images": 4, "max_pixels": 1 << 20},
)


@dataclass(frozen=True)
class VllmServer:
    """Where it listens, and the name that it gives to the model."""

    socket: Path
    log: Path
    model: str = CONFIG.engine.served_name

    def connect(self) -> httpx.AsyncClient:
        """A client of this server alone, for the openai package as well; its host name means nothing."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket))
        return httpx.AsyncClient(transport=transport, base_url="http://vllm", timeout=120)


@contextmanager
def running(folder: Path, cache: Path) -> Iterator[VllmServer]:
    """A server that answers; every process of it is gone at the end. `folder` is its own, `cache` may be shared."""
    server = VllmServer(folder / "vllm.sock", folder / "vllm.log")
    with server.log.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", MODULE, *build_arguments(CONFIG, server.socket)],
            env=build_environment(CONFIG, os.environ, cache, folder),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_healthy(server, process)
        yield server
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_healthy(server: VllmServer, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        if _listens(server.socket):
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(server.socket)), timeout=START_S) as client:
                client.get("http://vllm/health").raise_for_status()
            return
        time.sleep(0.2)
    tail = "\n".join(server.log.read_text(errors="replace").splitlines()[-30:])
    state = "still runs" if process.poll() is None else f"ended with {process.returncode}"
    raise AssertionError(f"vLLM does not answer after {START_S} s at most and {state}. Its last words:\n{tail}")


def _listens(address: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as attempt:
        return attempt.connect_ex(str(address)) == 0
