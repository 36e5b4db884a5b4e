"""The watch over an engine that serves: asks for its health and its counters, sends canaries, closes readiness."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path

import orjson

from qwenvl_runtime.boot import Boot, Phase
from qwenvl_runtime.client import ask, fetch
from qwenvl_runtime.config import RuntimeConfig
from qwenvl_runtime.ending import Ending, ExitCode
from qwenvl_runtime.watchdog import Alarm, Watchdog, read_counters

logger = logging.getLogger(__name__)

_REFUSALS = 2


class Vigil:
    """`moved` tells how many bytes the engine has sent to clients, `waiting` how many requests it has to answer."""

    def __init__(
        self, socket: Path, boot: Boot, config: RuntimeConfig, moved: Callable[[], int], waiting: Callable[[], int]
    ) -> None:
        self._socket = socket
        self._boot = boot
        self._config = config
        self._moved = moved
        self._waiting = waiting
        self._counters: tuple[bytes, ...] = ()
        self._bytes = 0
        self._answered = 0
        self._canary: asyncio.Task[None] | None = None

    async def keep(self, tidy: Callable[[], None]) -> Ending:
        """Until the engine is dead or frozen. `tidy` is called at every look.

        An API server may outlive its engine, refusing connections or its own health: that is a death too.
        """
        watchdog, refusals = Watchdog(self._config.watchdog, asyncio.get_running_loop().time()), 0
        try:
            while True:
                await asyncio.sleep(self._config.watchdog.interval)
                tidy()
                refused, signs = await asyncio.gather(self._refuses(), self._read_signs())
                refusals = refusals + 1 if refused else 0
                if refusals == _REFUSALS:
                    message = "the engine says that it is dead, or takes no connections any more"
                    return Ending(ExitCode.ENGINE_DIED, message)
                alarm = watchdog.look(asyncio.get_running_loop().time(), signs)
                self._boot.silence = watchdog.silence
                if alarm is Alarm.END:
                    return Ending(ExitCode.ENGINE_FROZEN, self._describe())
                self._act(alarm)
        finally:
            if self._canary is not None:
                self._canary.cancel()

    async def _refuses(self) -> bool:
        """Slow is not dead, nor is a queue of connections that is full: those are for the watchdog to judge."""
        try:
            async with asyncio.timeout(self._config.watchdog.patience):
                return (await fetch(self._socket, "GET", "/health")).status != HTTPStatus.OK
        except (ConnectionError, FileNotFoundError):
            return True
        except OSError:
            return False

    async def _read_signs(self) -> object:
        moved = self._moved()
        # While bytes flow to clients nobody needs to ask: an engine's page of metrics costs it some milliseconds.
        if moved == self._bytes and (page := await ask(self._socket, "/metrics", self._config.watchdog.patience)):
            self._counters = read_counters(page.body)
        self._bytes = moved
        return moved, self._counters, self._answered

    def _act(self, alarm: Alarm) -> None:
        boot = self._boot
        if alarm >= Alarm.ASK and (self._canary is None or self._canary.done()):
            self._canary = asyncio.create_task(self._ask_canary())
        if alarm is Alarm.CLOSE and boot.phase is Phase.SERVING:
            boot.phase = Phase.FROZEN
            logger.warning("not ready any more: %s", self._describe())
        elif alarm < Alarm.CLOSE and boot.phase is Phase.FROZEN:
            boot.phase = Phase.SERVING
            logger.warning("ready again: the engine works")
        boot.reason = self._describe() if boot.phase is Phase.FROZEN else ""

    async def _ask_canary(self) -> None:
        """One token. In a full queue it may wait for long, and tells nothing then; the others' tokens do."""
        body = {"model": self._config.engine.served_name, "prompt": "1", "max_tokens": 1, "temperature": 0}
        headers = {"content-type": "application/json"}
        with suppress(OSError):
            answer = await fetch(self._socket, "POST", "/v1/completions", headers, orjson.dumps(body))
            self._answered += answer.status == HTTPStatus.OK

    def _describe(self) -> str:
        waiting = self._waiting()
        return (
            f"the engine has done nothing for {self._boot.silence:.0f} s, not even answered a request for one token,"
            f" while {waiting} request(s) waited for it"
        )
