"""How much and how long one client may take of the front."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

from qwenvl_runtime.config import RuntimeConfig
from qwenvl_runtime.errors import RequestError

_SPARE_CONNECTIONS = 256


@dataclass(frozen=True)
class Limits:
    body_bytes: int
    head_bytes: int = 32 << 10
    headers: int = 100
    ahead_bytes: int = 64 << 10
    """Bytes of further requests that are taken while one is being answered."""
    head_seconds: float = 10.0
    body_seconds: float = 10.0
    body_rate: int = 256 << 10
    """Bytes of a body that each second must bring, beyond those of `body_seconds`."""
    lag_seconds: float = 2.0
    """How long a body may take for `body_rate` bytes before it is the first to go once `buffered_bytes` are reached."""
    idle_seconds: float = 75.0
    stall_seconds: float = 60.0
    """How long a client may take none of its answer."""
    linger_seconds: float = 2.0
    """How long a refused client may go on sending, so that it gets to read why."""
    connections: int = 2048
    management_connections: int = 64
    """Of the kubelet, the operator and Prometheus."""
    buffered_bytes: int = 96 << 20
    """Bytes of all bodies together that have begun to come and that the engine has not taken yet. One more of the
    largest is in memory up to four times over while it is checked, all within 256 MiB."""

    @classmethod
    def of(cls, config: RuntimeConfig) -> Limits:
        body = config.media.max_request_bytes
        # However many requests the queue takes, connections are left for probes and for reading why one has to wait.
        connections = max(cls.connections, config.queue.max_requests + _SPARE_CONNECTIONS)
        return cls(body_bytes=body, connections=connections, buffered_bytes=max(cls.buffered_bytes, 2 * body))

    def body_patience(self, length: int | None) -> float:
        """Seconds that a body may take; `length` is None for a chunked one."""
        return self.body_seconds + (self.body_bytes if length is None else length) / self.body_rate

    def check_body(self, size: int) -> None:
        if size > self.body_bytes:
            message = f"The body is larger than {self.body_bytes} bytes (media.maxRequestBytes)."
            raise RequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "request_too_large", message)
