"""The vLLM child process: its arguments and environment (pure), its start, its end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from qwenvl_runtime.config import RuntimeConfig

MODULE = "vllm.entrypoints.openai.api_server"
# `.invalid` never resolves (RFC 2606): every picture by URL is refused before anything is fetched.
_NO_MEDIA_DOMAIN = "media-by-url-is-off.invalid"
_CPU_CACHE_BYTES = 1 << 30
_CPU_THREADS = 4
_LINE_LIMIT = 1 << 16
_LAST_LINES_SECONDS = 1.0
_FOREVER = "86400"
# What the image says about the hardware. Every other VLLM_ variable is dropped: a Service called `vllm` alone would
# bring VLLM_PORT=tcp://..., and VLLM_API_KEY or VLLM_LOGGING_LEVEL would change what the front relies on.
_KEPT_VARIABLES = ("VLLM_ENABLE_CUDA_COMPATIBILITY", "VLLM_CUDA_COMPATIBILITY_PATH", "VLLM_TARGET_DEVICE")


def build_arguments(config: RuntimeConfig, socket: Path) -> list[str]:
    """What follows the module's name. `socket` is where the engine listens."""
    engine, media = config.engine, config.media
    arguments = ["--uds", str(socket), "--model", engine.model_path, "--served-model-name", engine.served_name]
    arguments += ["--max-model-len", str(engine.max_model_len), "--max-num-seqs", str(engine.max_num_seqs)]
    arguments += ["--limit-mm-per-prompt", json.dumps({"image": media.max_images, "video": media.max_videos})]
    arguments += ["--mm-processor-kwargs", json.dumps({"max_pixels": media.max_pixels})]
    arguments += ["--allowed-media-domains", _NO_MEDIA_DOMAIN]
    if engine.device == "cuda":
        arguments += ["--gpu-memory-utilization", str(engine.gpu_memory_utilization)]
        arguments += ["--tensor-parallel-size", str(engine.gpu_count)]
        if engine.gpu_count > 1:
            # Each GPU encodes whole pictures: costs a copy of the small vision tower, saves its all-reduces.
            arguments += ["--mm-encoder-tp-mode", "data"]
    else:
        arguments += ["--kv-cache-memory-bytes", str(_CPU_CACHE_BYTES)]
    if engine.device == "cpu" or not engine.cuda_graphs:
        arguments.append("--enforce-eager")
    # By the time the engine is stopped nothing runs; without this flag it would hang on what does (and exit 0).
    arguments += ["--shutdown-timeout", str(max(1, int(config.drain.engine_stop / 2)))]
    arguments += ["--fingerprint-mode", "none", "--disable-fastapi-docs"]
    arguments += ["--disable-uvicorn-access-log", "--uvicorn-log-level", "warning"]
    return [*arguments, *engine.extra_args]


def build_environment(
    config: RuntimeConfig, inherited: Mapping[str, str], cache: Path, scratch: Path
) -> dict[str, str]:
    """No network, no telemetry, no plugins; whatever the engine writes goes below `cache` or `scratch`."""
    kept = {
        name: value
        for name, value in inherited.items()
        if name in _KEPT_VARIABLES or not name.startswith(("VLLM_", "HF_", "PYTHONOPTIMIZE"))
    }
    fixed = {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_DO_NOT_TRACK": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_PLUGINS": "",
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
        "VLLM_MAX_IMAGE_PIXELS": str(config.media.max_source_pixels),
        # The startup budget decides, and the value is part of the key of the compile cache: keep it the same for all.
        "VLLM_ENGINE_READY_TIMEOUT_S": _FOREVER,
        # The pool in front closes idle connections, never the engine: so none goes stale under a request.
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": _FOREVER,
        "VLLM_CACHE_ROOT": str(cache / "vllm"),
        "HF_HOME": str(cache / "huggingface"),
        "XDG_CACHE_HOME": str(cache / "xdg"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "FLASHINFER_WORKSPACE_BASE": str(cache),
        "CUDA_CACHE_PATH": str(cache / "nvidia"),
        "NUMBA_CACHE_DIR": str(cache / "numba"),
        "VLLM_CONFIG_ROOT": str(scratch / "config"),
        "VLLM_RPC_BASE_PATH": str(scratch),
        "XDG_CONFIG_HOME": str(scratch / "config"),
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        # torch asks for the user's name, which an arbitrary user id of a restricted pod does not have.
        "USER": "qwenvl",
        "LOGNAME": "qwenvl",
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",
        "NO_COLOR": "1",
        # More threads than one only fight over the cores in picture preprocessing; on the CPU they are the device.
        "OMP_NUM_THREADS": "1",
    }
    if config.engine.device == "cpu":
        # The engine's scheduler waits by spinning and needs a core that no thread spins on (vLLM's OMPProcessManager).
        fixed["OMP_NUM_THREADS"] = str(max(1, min(_CPU_THREADS, len(os.sched_getaffinity(0)) - 1)))
        # Several engines on one node would otherwise all pin themselves to the same cores.
        fixed["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    return {**kept, **fixed}


def reap_orphans(child: int) -> None:
    """Collect exited processes that fell to us as process 1; `child` is asyncio's to collect."""
    with suppress(ChildProcessError):
        while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if found.si_pid == child:
                return
            os.waitpid(found.si_pid, 0)


class Engine:
    """One life of the child. `relay` gets each line that it prints."""

    def __init__(self, arguments: list[str], environment: dict[str, str], relay: Callable[[str], None]) -> None:
        self._arguments = arguments
        self._environment = environment
        self._relay = relay
        self._process: asyncio.subprocess.Process
        self._printing: asyncio.Task[None]

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            MODULE,
            *self._arguments,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            # A session of its own: one kill ends the engine's processes all together, and Ctrl-C reaches only us.
            start_new_session=True,
        )
        self._printing = asyncio.create_task(self._relay_output())

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> int:
        """The exit code once the API server is gone, whatever is left of its children."""
        return await self._process.wait()

    async def stop(self, patience: float) -> None:
        """SIGTERM, then after `patience` seconds SIGKILL for whatever of the engine is left."""
        self._signal(signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._process.wait()
        await self.kill()

    async def cancel(self, patience: float) -> None:
        """End a load: vLLM may miss the first SIGTERM while it imports, so it gets a second one."""
        self._signal(signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience / 2):
                await self._process.wait()
        await self.stop(patience / 2)

    async def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        # The last lines tell why it died. A grandchild in a session of its own may hold the pipe open for ever.
        await asyncio.wait({self._printing}, timeout=_LAST_LINES_SECONDS)
        self._printing.cancel()

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _relay_output(self) -> None:
        assert self._process.stdout is not None
        rest = b""
        while data := await self._process.stdout.read(_LINE_LIMIT):
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > _LINE_LIMIT:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._relay(line.decode("utf-8", "replace"))
        if rest:
            self._relay(rest.decode("utf-8", "replace"))
