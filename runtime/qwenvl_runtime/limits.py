"""How much and how long one client may take of the front."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

from qwenvl_runtime.errors import RequestError


@dataclass(frozen=True)
class Limits:
    body_bytes: int
    head_bytes: int = 32 << 10
    headers: int = 100
    ahead_bytes: int = 64 << 10
    """Bytes of further requests that are taken while one is being answered."""
    write_bytes: int = 64 << 10
    """Bytes of an answer that wait for a slow client before the engine's side is paused."""
    head_seconds: float = 10.0
    body_seconds: float = 120.0
    idle_seconds: float = 75.0
    stall_seconds: float = 60.0
    """How long a client may take none of its answer."""
    linger_seconds: float = 2.0
    """How long a refused client may go on sending, so that it gets to read why."""
    connections: int = 2048

    def check_body(self, size: int) -> None:
        if size > self.body_bytes:
            message = f"The body is larger than {self.body_bytes} bytes (media.maxRequestBytes)."
            raise RequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "request_too_large", message)
