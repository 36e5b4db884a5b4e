"""The life of the process: start the engine, warm it up, serve, drain; what ends it, and with which exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import time
from contextlib import suppress
from http import HTTPStatus
from itertools import chain, repeat
from pathlib import Path

from qwenvl_runtime.boot import Boot, Phase
from qwenvl_runtime.client import fetch
from qwenvl_runtime.config import SCRATCH_DIRECTORY, RuntimeConfig
from qwenvl_runtime.ending import Ending, ExitCode
from qwenvl_runtime.engine import Engine, build_arguments, build_environment, reap_orphans
from qwenvl_runtime.engine_logs import EngineLog
from qwenvl_runtime.front import Front
from qwenvl_runtime.limits import Limits
from qwenvl_runtime.logs import log_loop_error, write_line
from qwenvl_runtime.manifest import SnapshotError
from qwenvl_runtime.snapshot import QuantizationMismatchError, Snapshot
from qwenvl_runtime.vigil import Vigil
from qwenvl_runtime.warmup import Ask, Shot, WarmupError, ask_port, fire, prepare_shots

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.05
_RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0)
_CANCEL_SECONDS = 4.0
_FLUSH_SECONDS = 1.0


class Server:
    def __init__(self, config: RuntimeConfig, ports: tuple[int, int], cache: Path, limits: Limits) -> None:
        """`ports`: that of the clients, and the management port."""
        self._config = config
        self._ports = ports
        self._boot = Boot(config.revision)
        self._scratch = Path(SCRATCH_DIRECTORY, f"qwenvl-{self._boot.boot_id[:8]}")
        self._socket = self._scratch / "engine.sock"
        self._engine_log = EngineLog()
        self._front = Front(self._boot, self._socket, limits, config)
        cache = cache if os.access(cache, os.W_OK) else self._scratch / "cache"
        self._engine = Engine(
            build_arguments(config, self._socket),
            build_environment(config, os.environ, cache, self._scratch),
            self._engine_log.relay,
        )
        self._snapshot = Snapshot(config, cache)
        self._boot.read_snapshot = self._snapshot.report
        self._stop = asyncio.Event()

    async def run(self) -> Ending:
        """From the check of the snapshot to the end of everything, whatever ends it."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(log_loop_error)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        try:
            port, management_port = await self._front.open(*self._ports)
        except OSError as error:
            return _cannot_listen(error)
        write_line(
            "runtime",
            "info",
            "started",
            boot_id=self._boot.boot_id,
            revision=self._boot.revision,
            port=port,
            management_port=management_port,
        )
        self._scratch.mkdir(mode=0o700)
        deadline = loop.time() + self._config.startup_budget
        try:
            return await self._check_snapshot() or await self._run_engine(management_port, deadline)
        finally:
            await self._front.close()
            shutil.rmtree(self._scratch, ignore_errors=True)

    async def _check_snapshot(self) -> Ending | None:
        """Before the engine sees a byte of it; returns what was wrong.

        Nothing can end a read of a volume that hangs: the check is then left behind, with its threads.
        """
        budget, progress, began = self._config.startup_budget, self._snapshot.progress, time.monotonic()
        stop = asyncio.create_task(self._stop.wait())
        checking = asyncio.create_task(asyncio.to_thread(self._snapshot.check, time.time()))
        await asyncio.wait({checking, stop}, timeout=budget, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not checking.done():
            if self._stop.is_set():
                return Ending(ExitCode.STOPPED, "stopped while the snapshot was verified")
            message = (
                f"the snapshot was not verified within startup.budget ({budget:g} s): it was still {progress.step}"
            )
            if progress.total:
                message += f", {progress.done / 1e9:.1f} of {progress.total / 1e9:.1f} GB are hashed"
            return Ending(ExitCode.LOAD_TIMEOUT, message)
        try:
            checking.result()
        except QuantizationMismatchError as error:
            return Ending(ExitCode.QUANTIZATION_MISMATCH, str(error))
        except SnapshotError as error:
            return Ending(ExitCode.SNAPSHOT_INVALID, str(error))
        self._boot.stages["verify"] = time.monotonic() - began
        return None

    async def _run_engine(self, port: int, deadline: float) -> Ending:
        self._boot.phase, self._boot.reason = Phase.LOADING, "the engine is loading the model"
        await self._engine.start()
        try:
            return await self._live(port, deadline)
        finally:
            await self._engine.kill()

    async def _live(self, port: int, deadline: float) -> Ending:
        serving = asyncio.create_task(self._serve(port, deadline))
        stop = asyncio.create_task(self._stop.wait())
        death = asyncio.create_task(self._engine.wait())
        try:
            await asyncio.wait({serving, stop, death}, return_when=asyncio.FIRST_COMPLETED)
            if death.done():
                return await self._mourn(death.result())
            if serving.done():
                self._boot.phase = Phase.FAILED
                return serving.result()
            serving.cancel()
            return await self._drain(death)
        finally:
            for task in (serving, stop, death):
                task.cancel()

    async def _serve(self, port: int, deadline: float) -> Ending:
        """Become ready and stay so; returns what went wrong."""
        began = time.monotonic()
        drawing = asyncio.create_task(asyncio.to_thread(prepare_shots, self._config))
        late = "the engine did not load"
        try:
            async with asyncio.timeout_at(deadline):
                await self._wait_healthy()
                late = "the engine loaded, but whether the snapshot is still the same could not be seen"
                await asyncio.to_thread(self._snapshot.check_unchanged)
        except TimeoutError:
            budget = self._config.startup_budget
            return Ending(ExitCode.LOAD_TIMEOUT, f"{late} within startup.budget ({budget:g} s)")
        except SnapshotError as error:
            return Ending(ExitCode.SNAPSHOT_INVALID, str(error))
        self._boot.stages["engine"] = time.monotonic() - began
        self._boot.engine = self._engine_log.report
        logger.info("the engine is healthy after %.1f s", self._boot.stages["engine"])
        try:
            async with asyncio.timeout(self._config.warmup.budget):
                await self._warm_up(await drawing, ask_port(port, self._front.warmup_token))
        except TimeoutError:
            budget = self._config.warmup.budget
            message = f"the warm-up was not done within warmup.budget ({budget:g} s): {self._boot.reason}"
            return Ending(ExitCode.WARMUP_FAILED, message)
        try:
            await self._open()
        except OSError as error:
            return _cannot_listen(error)
        front = self._front
        vigil = Vigil(self._socket, self._boot, self._config, lambda: front.pool.received, front.count_in_flight)
        return await vigil.keep(lambda: reap_orphans(self._engine.pid))

    async def _wait_healthy(self) -> None:
        # Nothing tells when the engine starts to listen, so it is asked, cheaply and often.
        while True:
            if await self._is_healthy():
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def _is_healthy(self) -> bool:
        with suppress(OSError):
            return (await fetch(self._socket, "GET", "/health")).status == HTTPStatus.OK
        return False

    async def _warm_up(self, shots: list[Shot], ask: Ask) -> None:
        boot = self._boot
        boot.phase = Phase.WARMING
        began = time.monotonic()
        failure = ""
        for pause in chain(_RETRY_SECONDS, repeat(_RETRY_SECONDS[-1])):
            try:
                boot.shots = ()
                for shot in shots:
                    boot.reason = f"the warm-up asks `{shot.name}`{failure}"
                    boot.shots += (await fire(shot, ask),)
                break
            except (WarmupError, OSError) as error:
                boot.reason = str(error)
                failure = f", once more because {error}"
                logger.warning("the warm-up failed and will be tried again: %s", error)
                await asyncio.sleep(pause)
        boot.stages["warmup"] = time.monotonic() - began
        self._engine_log.guarded = True

    async def _open(self) -> None:
        """Let clients in. Raises OSError."""
        await self._front.open_to_clients()
        boot = self._boot
        boot.reason = ""
        boot.warmed = True
        boot.phase = Phase.SERVING
        logger.info("ready: the warm-up took %.1f s", boot.stages["warmup"])

    async def _mourn(self, code: int) -> Ending:
        """The engine is gone: let its clients read that, then end."""
        phase, self._boot.phase = self._boot.phase, Phase.FAILED
        await self._engine.kill()
        with suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH_SECONDS):
                await self._front.wait_idle()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        cause = self._engine_log.find_cause()
        return Ending(ExitCode.ENGINE_DIED, f"the engine {how} while {phase}" + (f": {cause}" if cause else ""))

    async def _drain(self, death: asyncio.Task[int]) -> Ending:
        drain = self._config.drain
        warmed, self._boot.phase = self._boot.warmed, Phase.DRAINING
        self._boot.reason = "the pod is being stopped"
        if not warmed:
            logger.info("stopping before anything was served")
            await self._engine.cancel(min(_CANCEL_SECONDS, drain.engine_stop))
            return Ending(ExitCode.STOPPED, "stopped before it was ready")
        logger.info("draining: %d requests are running", self._front.count_busy())
        self._front.draining = True
        await asyncio.wait({death}, timeout=drain.propagation)
        self._front.close_to_clients()
        idle = asyncio.create_task(self._front.wait_idle())
        await asyncio.wait({idle, death}, timeout=drain.longest_request, return_when=asyncio.FIRST_COMPLETED)
        idle.cancel()
        if death.done():
            return await self._mourn(death.result())
        cut = self._front.count_busy()
        await self._front.close()
        await self._engine.stop(drain.engine_stop)
        return Ending(ExitCode.STOPPED, f"stopped; requests that ran too long and were cut: {cut}")


def _cannot_listen(error: OSError) -> Ending:
    return Ending(ExitCode.BAD_CONFIG, f"cannot listen on {error.strerror}")
