"""What the front answers itself: probes, the warm-up report and the page of metrics."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import orjson

from qwenvl_runtime.boot import Boot, Phase
from qwenvl_runtime.client import ask
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

    async def build(self, path: str) -> Page:
        match path:
            case "/readyz":
                return self._report_phase(self._boot.phase is Phase.SERVING)
            case "/healthz":
                return self._report_phase(await self._is_engine_healthy())
            case "/warmup":
                return Page(HTTPStatus.OK, self._boot.report().model_dump_json().encode())
            case _:
                return Page(HTTPStatus.OK, await self._collect_metrics(), CONTENT_TYPE)

    def _report_phase(self, good: bool) -> Page:
        status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
        return Page(status, orjson.dumps({"phase": self._boot.phase, "reason": self._boot.reason}))

    async def _is_engine_healthy(self) -> bool:
        if self._boot.phase in (Phase.VERIFYING, Phase.LOADING, Phase.FAILED):
            return False
        answer = await ask(self._engine_socket, "/health", _ENGINE_PATIENCE)
        return answer is not None and answer.status == HTTPStatus.OK

    async def _collect_metrics(self) -> bytes:
        answer = await ask(self._engine_socket, "/metrics", _ENGINE_PATIENCE)
        engines = answer.body if answer is not None and answer.status == HTTPStatus.OK else b""
        return engines + self._metrics.render()
