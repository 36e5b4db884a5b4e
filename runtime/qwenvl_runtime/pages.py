"""What the front answers itself: probes, the warm-up report, the page of metrics and the list of models."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import orjson

from qwenvl_runtime.boot import Boot, Phase
from qwenvl_runtime.client import Answer, ask
from qwenvl_runtime.errors import engine_unreachable
from qwenvl_runtime.metrics import CONTENT_TYPE, Metrics

_ENGINE_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Page:
    status: HTTPStatus
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


class Pages:
    def __init__(self, boot: Boot, engine_socket: Path, metrics: Metrics) -> None:
        self._boot = boot
        self._engine_socket = engine_socket
        self._metrics = metrics
        self._asking: dict[str, asyncio.Task[Answer | None]] = {}

    async def build(self, path: str) -> Page:
        """Raises RequestError."""
        match path:
            case "/readyz":
                return self._report_phase(self._boot.phase is Phase.SERVING)
            case "/healthz":
                return self._report_phase(await self._is_engine_healthy())
            case "/warmup":
                return Page(HTTPStatus.OK, self._boot.report().model_dump_json().encode())
            case "/v1/models":
                return await self._list_models()
            case _:
                return Page(HTTPStatus.OK, await self._collect_metrics(), CONTENT_TYPE)

    def _report_phase(self, good: bool) -> Page:
        status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
        return Page(status, orjson.dumps({"phase": self._boot.phase, "reason": self._boot.reason}))

    async def _is_engine_healthy(self) -> bool:
        if self._boot.phase in (Phase.VERIFYING, Phase.LOADING, Phase.FAILED):
            return False
        answer = await self._ask("/health")
        return answer is not None and answer.status == HTTPStatus.OK

    async def _collect_metrics(self) -> bytes:
        answer = await self._ask("/metrics")
        engines = answer.body if answer is not None and answer.status == HTTPStatus.OK else b""
        return engines + self._metrics.render()

    async def _list_models(self) -> Page:
        answer = await self._ask("/v1/models")
        if answer is None:
            raise engine_unreachable()
        return Page(HTTPStatus(answer.status), answer.body)

    async def _ask(self, path: str) -> Answer | None:
        """Whoever asks while an answer is on its way gets that one, so that the engine has one connection for all."""
        task = self._asking.get(path)
        if task is None:
            task = self._asking[path] = asyncio.create_task(ask(self._engine_socket, path, _ENGINE_PATIENCE))
            task.add_done_callback(lambda _: self._asking.pop(path))
        return await asyncio.shield(task)
