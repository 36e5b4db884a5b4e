"""The runtime as a process of its own, with a fake or a real engine: started, watched and ended by tests."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.fake_engine import PACKAGES
from qwenvl_runtime.client import Answer, fetch
from qwenvl_runtime.config import SCRATCH_DIRECTORY, RuntimeConfig, WarmupReport

MODEL = "model"
"""Folder of the snapshot, in the one that the process runs in."""
WEIGHTS = b"\x02" + bytes(7) + b"{}"
"""The shortest file of safetensors."""


def build_config(**parts: Any) -> RuntimeConfig:
    """A configuration for a tiny model on the CPU; `parts` override its sections' values."""
    base: dict[str, Any] = {
        "engine": {
            "model_path": MODEL, "served_name": "tiny", "device": "cpu", "gpu_count": 0,
            "max_model_len": 4096, "max_num_seqs": 4,
        },
        "media": {"max_images": 4, "max_videos": 0, "max_pixels": 262144, "max_request_bytes": 1 << 20},
        "warmup": {"budget": 20},
        "drain": {"propagation": 0.3, "longest_request": 5, "engine_stop": 5},
    }  # fmt: skip
    merged = {name: {**section, **parts.pop(name, {})} for name, section in base.items()}
    return RuntimeConfig.model_validate({"revision": "rev-1", "startup_budget": 20, **merged, **parts})


@dataclass
class RuntimeProcess:
    process: asyncio.subprocess.Process
    folder: Path
    lines: list[dict[str, Any]] = field(default_factory=list)
    port: int = 0
    management_port: int = 0
    boot_id: str = ""
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def text(self) -> str:
        return "\n".join(json.dumps(line, ensure_ascii=False) for line in self.lines)

    @property
    def last_words(self) -> str:
        """What the kubelet would show as the container's termination message."""
        return (self.folder / "termination-log").read_text()

    @property
    def journal(self) -> list[dict[str, Any]]:
        """What the fake engine wrote down."""
        file = self.folder / "journal"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def set_faults(self, **faults: Any) -> None:
        """What the fake engine does wrong from the next request on."""
        partial = self.folder / "faults.part"
        partial.write_text(json.dumps(faults))
        partial.rename(self.folder / "faults")

    async def get(self, path: str) -> Answer:
        port = self.port if path.startswith("/v1/") else self.management_port
        return await fetch(("127.0.0.1", port), "GET", path)

    async def chat(self, text: str = "hi", headers: Mapping[str, str] | None = None, **fields: Any) -> Answer:
        body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": text}], **fields}).encode()
        given = {"content-type": "application/json", **(headers or {})}
        return await fetch(("127.0.0.1", self.port), "POST", "/v1/chat/completions", given, body)

    async def read_report(self) -> WarmupReport:
        return WarmupReport.model_validate_json((await self.get("/warmup")).body)

    async def wait_line(self, **fields: Any) -> dict[str, Any]:
        """The first log line that has these fields; a callable is asked whether it likes the value."""

        def fits(line: dict[str, Any]) -> bool:
            return all(
                want(line.get(name)) if callable(want) else line.get(name) == want for name, want in fields.items()
            )

        while True:
            self._news.clear()
            for line in self.lines:
                if fits(line):
                    return line
            if self.process.stdout is not None and self.process.stdout.at_eof():
                raise AssertionError(f"no line with {fields}; the log was:\n{self.text}")
            await self._news.wait()

    async def wait_ready(self) -> None:
        await self.wait_line(source="runtime", message=starts("ready"))

    async def wait_until(self, holds: Callable[[], bool]) -> None:
        while True:
            if holds():
                return
            await asyncio.sleep(0.02)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def end(self) -> int:
        """The exit code, once the log is read to its end."""
        code = await self.process.wait()
        await self.wait_until(lambda: self.process.stdout is None or self.process.stdout.at_eof())
        return code

    async def read_log(self) -> None:
        assert self.process.stdout is not None
        async for raw in self.process.stdout:
            try:
                line = json.loads(raw)
            except ValueError:
                line = {"source": "stray", "message": raw.decode()}
            self.lines.append(line)
            self.port = line.get("port", self.port)
            self.management_port = line.get("management_port", self.management_port)
            self.boot_id = line.get("boot_id", self.boot_id)
            self._news.set()
        self._news.set()


def starts(beginning: str) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and value.startswith(beginning)


@asynccontextmanager
async def running(
    config: RuntimeConfig, folder: Path, fake: bool = True, cache: Path | None = None, **faults: Any
) -> AsyncIterator[RuntimeProcess]:
    (folder / "runtime.json").write_text(config.dump())
    (folder / "termination-log").touch()
    if config.engine.model_path == MODEL and not (folder / MODEL).exists():
        (folder / MODEL).mkdir()
        (folder / MODEL / "config.json").write_text("{}")
        (folder / MODEL / "model.safetensors").write_bytes(WEIGHTS)
    environment = dict(os.environ)
    if fake:
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(PACKAGES), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        )
    environment |= {"FAKE_ENGINE_FAULTS": str(folder / "faults"), "FAKE_ENGINE_JOURNAL": str(folder / "journal")}
    arguments = ["--config", "runtime.json", "--port", "0", "--management-port", "0"]
    arguments += ["--termination-log", str(folder / "termination-log")]
    if cache is not None:
        arguments += ["--cache", str(cache)]
    if faults:
        (folder / "faults").write_text(json.dumps(faults))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "qwenvl_runtime", *arguments,
        cwd=folder, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        limit=1 << 20,
    )  # fmt: skip
    runtime = RuntimeProcess(process, folder)
    reading = asyncio.create_task(runtime.read_log())
    try:
        await runtime.wait_line(port=bool)
        yield runtime
    finally:
        kill_tree(process.pid)
        await process.wait()
        await reading
        # A killed runtime has not cleaned up behind itself.
        shutil.rmtree(Path(SCRATCH_DIRECTORY, f"qwenvl-{runtime.boot_id[:8]}"), ignore_errors=True)


def kill_tree(pid: int) -> None:
    """SIGKILL for a process and all that it started, the engine's session of its own included."""
    for child in list_children(pid):
        kill_tree(child)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def list_children(pid: int) -> list[int]:
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
