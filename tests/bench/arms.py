"""The relays that are compared, each as its users run it, with the same engine behind them."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from bench.clients import Address
from bench.engine import EngineAddress
from harness import tools
from harness.cache import cache_folder, locked
from harness.commands import run
from harness.errors import HarnessError
from harness.fake_engine import PACKAGES
from harness.ports import free_port
from harness.progress import step
from harness.runtime_process import build_config, kill_tree
from harness.tiny_model import snapshot
from qwenvl_runtime.config import SCRATCH_DIRECTORY, RuntimeConfig

DIRECT, HAPROXY, LITELLM, OURS = "direct", "HAProxy", "LiteLLM", "qwenvl"
MODEL = "m"
LITELLM_VERSION = "1.108.7"
_START_S = 300
_Begun = TypeVar("_Begun")


@dataclass(frozen=True)
class Arm:
    name: str
    address: Address


@contextmanager
def running(folder: Path, engine: EngineAddress) -> Iterator[list[Arm]]:
    """All of them, side by side; those that are not asked wait without cost."""
    with ExitStack() as stack:
        yield [
            Arm(DIRECT, ("127.0.0.1", engine.port)),
            Arm(HAPROXY, stack.enter_context(haproxy(folder, engine.path))),
            Arm(LITELLM, stack.enter_context(litellm(folder, engine.port))),
            Arm(OURS, stack.enter_context(qwenvl(folder, engine.path))),
        ]


@contextmanager
def haproxy(folder: Path, engine: Path) -> Iterator[Address]:
    """HTTP mode, connections kept on both sides, as ours on one thread and with the engine's unix socket behind it."""
    tools.install_packages({"haproxy": "haproxy"})
    port = free_port()
    file = folder / "haproxy.cfg"
    file.write_text(f"""global
    nbthread 1
    maxconn 8192
defaults
    mode http
    timeout connect 5s
    timeout client 120s
    timeout server 120s
    http-reuse always
    option http-no-delay
frontend front
    bind 127.0.0.1:{port}
    default_backend engine
backend engine
    server engine unix@{engine}
""")
    argv: list[str | Path] = [tools.find_system("haproxy") or "haproxy", "-db", "-f", file]
    with process(argv, folder / "haproxy.log", {}, lambda: listens(port)):
        yield "127.0.0.1", port


@contextmanager
def litellm(folder: Path, engine_port: int) -> Iterator[Address]:
    """Its proxy with one worker, without a database, a log or a key."""
    port = free_port()
    route = {"model": f"openai/{MODEL}", "api_base": f"http://127.0.0.1:{engine_port}/v1", "api_key": "unused"}
    file = folder / "litellm.yaml"
    file.write_text(json.dumps({"model_list": [{"model_name": MODEL, "litellm_params": route}]}))
    environment = {
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
    }
    argv: list[str | Path] = [
        install_litellm(),
        "--config",
        file,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--num_workers",
        "1",
    ]
    with process(argv, folder / "litellm.log", environment, lambda: listens(port)):
        yield "127.0.0.1", port


def install_litellm() -> Path:
    """In a virtual environment of its own, in the cache."""
    folder = cache_folder() / "bench" / f"litellm-{LITELLM_VERSION}"
    with locked(folder.with_suffix(".lock")):
        if not folder.exists():
            with step(f"Installing LiteLLM {LITELLM_VERSION}", "30 s"):
                unfinished = folder.with_suffix(".unfinished")
                uv = os.environ.get("UV", "uv")
                run(uv, "venv", "--clear", "--relocatable", "--python", sys.executable, unfinished)
                run(
                    uv,
                    "pip",
                    "install",
                    "--python",
                    unfinished / "bin" / "python",
                    f"litellm[proxy]=={LITELLM_VERSION}",
                )
                unfinished.rename(folder)
    return folder / "bin" / "litellm"


@contextmanager
def qwenvl(folder: Path, engine: Path) -> Iterator[Address]:
    """The runtime itself, warmed up by the tests' fake engine, whose place the bench's takes then."""
    faults = folder / "faults"
    faults.write_text('{"close_after_answer": true}')  # so that no connection to the fake stays in the pool
    environment = {"FAKE_ENGINE_FAULTS": str(faults), "PYTHONPATH": os.pathsep.join([str(PACKAGES), *sys.path])}
    config = build_config(
        engine={"model_path": str(snapshot.PATH), "served_name": MODEL, "max_num_seqs": 1024},
        media={"max_pixels": 1 << 20, "max_request_bytes": 8 << 20},
    )
    with runtime(config, folder, environment) as started:
        started.engine.unlink()
        started.engine.symlink_to(engine)
        yield started.address


@dataclass(frozen=True)
class Runtime:
    address: Address
    engine: Path
    """The socket between the front and the engine."""


@contextmanager
def runtime(config: RuntimeConfig, folder: Path, environment: Mapping[str, str]) -> Iterator[Runtime]:
    """Process 1 of a pod, ready; its log goes to a file."""
    log, file = folder / "runtime.log", folder / "runtime.json"
    file.write_text(config.dump())
    ports = ("--port", "0", "--management-port", "0")
    argv: list[str | Path] = [sys.executable, "-m", "qwenvl_runtime", "--config", file, *ports]
    with process(argv, log, environment, lambda: read_start(log)) as first:
        scratch = Path(SCRATCH_DIRECTORY, f"qwenvl-{first['boot_id'][:8]}")
        try:
            yield Runtime(("127.0.0.1", first["port"]), scratch / "engine.sock")
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def read_start(log: Path) -> dict[str, Any] | None:
    """The line that says where the runtime listens, once another says that it is ready."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    ready = any(str(line["message"]).startswith("ready") for line in lines)
    return next(line for line in lines if "port" in line) if ready else None


@contextmanager
def process(
    argv: Sequence[str | Path], log: Path, environment: Mapping[str, str], begun: Callable[[], _Begun | None]
) -> Iterator[_Begun]:
    """A program in the background, given when `begun` has an answer; it and all that it started end with the block."""
    with log.open("wb") as output:
        child = subprocess.Popen(argv, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + _START_S
        while (answer := begun()) is None:
            if child.poll() is not None or time.monotonic() > deadline:
                raise HarnessError(f"{argv[0]} did not start:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)
        yield answer
    finally:
        kill_tree(child.pid)
        child.wait()


def listens(port: int) -> Literal[True] | None:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0 or None
