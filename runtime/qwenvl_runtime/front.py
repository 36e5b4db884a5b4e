"""The pod's HTTP server: its ports, its connections and their deadlines, who may ask now, what is logged of it."""

from __future__ import annotations

import asyncio
import hmac
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path

from qwenvl_runtime.admission import LARGEST, Admission, build_full
from qwenvl_runtime.boot import Boot, Phase
from qwenvl_runtime.config import BOOT_ID_HEADER, REVISION_HEADER, RuntimeConfig
from qwenvl_runtime.connection import ClientConnection
from qwenvl_runtime.errors import RequestError, unavailable
from qwenvl_runtime.exchange import Exchange
from qwenvl_runtime.limits import Limits
from qwenvl_runtime.logs import add_line, flush_lines
from qwenvl_runtime.media_fetch import MediaFetcher
from qwenvl_runtime.metrics import Metrics
from qwenvl_runtime.pages import Pages
from qwenvl_runtime.request_head import RequestHead
from qwenvl_runtime.routes import ROUTES, check_request
from qwenvl_runtime.screen import Screen, Screening
from qwenvl_runtime.upstream import Pool

WARMUP_HEADER = "X-QwenVL-Warmup"
_BACKLOG = 1024
_LOG_SECONDS = 0.1
"""How long a line of the access log may wait, so that many go out with one write, and none before its answer."""
# A client that vanished without a word is noticed within half a minute, so that the engine stops working for it.
_VANISHED = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
)


class Front:
    def __init__(self, boot: Boot, engine_socket: Path, limits: Limits, config: RuntimeConfig) -> None:
        self.limits = limits
        self.screen: Screening = Screen(config)
        self.admission = Admission(config.queue, LARGEST * config.media.max_source_pixels)
        self.fetcher = MediaFetcher()
        self.buffered = 0
        """Bytes of bodies that are not whole."""
        self.pool = Pool(engine_socket)
        self.draining = False
        """Every answer asks its client to come back on another connection."""
        self.identity = f"{REVISION_HEADER}: {boot.revision}\r\n{BOOT_ID_HEADER}: {boot.boot_id}\r\n".encode()
        self.warmup_token = secrets.token_urlsafe(32)
        self._boot = boot
        self._connections: dict[ClientConnection, None] = {}
        """Of clients, oldest first."""
        self._managed: dict[ClientConnection, None] = {}
        """Those of the management port, which clients do not crowd out."""
        self._settled: asyncio.Event = asyncio.Event()
        self._metrics = Metrics(boot, self.count_in_flight, lambda: self.admission.tokens)
        self.count_refusal = self._metrics.refuse
        self.pages = Pages(boot, engine_socket, self._metrics)
        self._log_flush: asyncio.TimerHandle | None = None
        self._listener: socket.socket
        self._server: asyncio.Server | None = None
        self._management: asyncio.Server
        self._sweeper: asyncio.Task[None]

    # Life

    async def open(self, port: int, management_port: int) -> tuple[int, int]:
        """Take both ports on every address of the pod, IPv6 too where there is any, and listen on the second.

        Returns the ports, for those who gave 0. Raises OSError.
        """
        self.now = asyncio.get_running_loop().time
        self._listener, management = _bind(port), _bind(management_port)
        self.port, bound = _port_of(self._listener), _port_of(management)
        self._management = await self._listen(management, is_management=True)
        self._sweeper = asyncio.create_task(self._sweep())
        return self.port, bound

    async def open_to_clients(self) -> None:
        """Listen on the first port as well; until then its connections are refused. Raises OSError."""
        self._server = await self._listen(self._listener, is_management=False)

    async def _listen(self, listener: socket.socket, is_management: bool) -> asyncio.Server:
        with _naming(_port_of(listener)):
            for option in _VANISHED:
                listener.setsockopt(*option)  # its connections inherit them
            listener.listen(_BACKLOG)  # a failure of its own call uvloop keeps to itself
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: ClientConnection(self, is_management), sock=listener, backlog=_BACKLOG)

    def close_to_clients(self) -> None:
        (self._server or self._listener).close()
        for connection in list(self._connections):
            connection.close_if_idle()

    async def wait_idle(self) -> None:
        """Until no request is being read or answered."""
        while self.count_busy():
            self._settled.clear()
            await self._settled.wait()

    async def close(self) -> None:
        """Cut whatever is left."""
        self._sweeper.cancel()
        (self._server or self._listener).close()
        self._management.close()
        for connection in [*self._connections, *self._managed]:
            connection.abort()
        self.pool.close()
        if self._log_flush is not None:
            self._log_flush.cancel()
            self._flush_log()

    async def _sweep(self) -> None:
        limits = self.limits
        shortest = min(limits.head_seconds, limits.body_seconds, limits.stall_seconds, limits.linger_seconds)
        while True:
            await asyncio.sleep(min(1.0, shortest / 4))
            now = self.now()
            for connection in [each for each in (*self._connections, *self._managed) if each.deadline < now]:
                connection.expire()

    # What connections ask

    def add(self, connection: ClientConnection) -> None:
        # The newest may be a probe; the oldest has had its time.
        if connection.is_management:
            self._managed[connection] = None
            if len(self._managed) > self.limits.management_connections:
                next((each for each in self._managed if not each.in_flight), connection).abort()
        else:
            self._connections[connection] = None
            if len(self._connections) > self.limits.connections:
                next((each for each in self._connections if not each.answering), connection).abort()

    def remove(self, connection: ClientConnection) -> None:
        self._connections.pop(connection, None)
        self._managed.pop(connection, None)
        self.settle()

    def settle(self) -> None:
        self._settled.set()

    def count_busy(self) -> int:
        return sum(connection.busy for connection in self._connections)

    def overflows(self) -> bool:
        """Whether the bodies that are on their way, from clients or to the engine, take too much memory."""
        return self.buffered + self.pool.unsent > self.limits.buffered_bytes

    def drop_laggards(self) -> None:
        """Until there is room: those whose bodies come too slowly, however much they have sent before. The one that has
        sent most is the first."""
        lagging = sorted((each for each in self._connections if each.lags), key=lambda each: each.received)
        while lagging and self.overflows():
            lagging.pop().expire()

    def count_in_flight(self) -> int:
        return sum(connection.in_flight for connection in self._connections)

    def admit(self, head: RequestHead, is_management: bool) -> None:
        """Raises RequestError for what will not be answered, before its body is read."""
        route = check_request(head, self.limits)
        if not route.relayed:
            return
        if is_management:
            self._check_warmup(head)
        elif self._boot.phase not in (Phase.SERVING, Phase.DRAINING):
            raise unavailable("not_ready", f"The model is not ready: {self._boot.phase}.")
        if route.method == "POST":
            self.admission.check_room()

    def build_full(self) -> RequestError:
        return build_full("too many requests are being sent at a time")

    def format_date(self) -> str:
        return formatdate(time.time(), usegmt=True)

    def record(self, exchange: Exchange, status: int, outcome: str) -> None:
        """Count and log an answered request; of what was asked only the route shows."""
        head = exchange.head
        route = head.path if head is not None and head.path in ROUTES else "other"
        self._metrics.count(route, status)
        if route != "other" and not exchange.relayed:
            return  # probes and scrapes, every few seconds
        if self._log_flush is None:
            self._log_flush = asyncio.get_running_loop().call_later(_LOG_SECONDS, self._flush_log)
        add_line(
            "access",
            "info",
            outcome,
            request_id=exchange.request_id,
            method=head.method if head is not None else "",
            route=route,
            status=status,
            bytes_in=exchange.received,
            bytes_out=exchange.sent,
            seconds=round(time.monotonic() - exchange.began, 6),
            revision=self._boot.revision,
        )

    def _flush_log(self) -> None:
        self._log_flush = None
        flush_lines()

    def _check_warmup(self, head: RequestHead) -> None:
        token = head.headers.get(WARMUP_HEADER.lower().encode(), b"")
        if self._boot.phase is not Phase.WARMING or not hmac.compare_digest(token, self.warmup_token.encode()):
            message = f"This port has probes, metrics and the warm-up's report. Ask the model on port {self.port}."
            raise RequestError(HTTPStatus.NOT_FOUND, "not_found", message)


def _bind(port: int) -> socket.socket:
    """A socket that has the port and does not listen yet."""
    if socket.has_dualstack_ipv6():
        with suppress(OSError):
            return _bind_to(socket.AF_INET6, port)
    return _bind_to(socket.AF_INET, port)


def _bind_to(family: socket.AddressFamily, port: int) -> socket.socket:
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family is socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    with _naming(port):
        listener.bind(("", port))
    return listener


def _port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


@contextmanager
def _naming(port: int) -> Iterator[None]:
    """The port stands in what is said of it."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"port {port}: {error.strerror}") from error
