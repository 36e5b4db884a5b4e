"""One client's connection: a request at a time, each step with a deadline, never more than a little of it in memory."""

from __future__ import annotations

import asyncio
import math
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

from qwenvl_runtime.errors import RequestError
from qwenvl_runtime.exchange import Exchange
from qwenvl_runtime.intake import Intake
from qwenvl_runtime.request_head import RequestHead

if TYPE_CHECKING:
    from qwenvl_runtime.front import Front


class ClientConnection(asyncio.Protocol):
    def __init__(self, front: Front, is_management: bool) -> None:
        self._front = front
        self.is_management = is_management
        self._limits = front.limits
        self._transport: asyncio.Transport
        self._intake = Intake(front.limits, self._admit)
        self._exchange: Exchange | None = None
        self._answering = False
        self._ending = False
        self._advancing = False
        self._reading_paused = False
        self._writing_paused = False
        self._finish: tuple[bool, bool] | None = None
        self._received = 0
        self._lap_bytes = 0
        self._lap_at = 0.0
        """When the last `body_rate` bytes were there, and how many those were with all before."""
        self.deadline = math.inf
        """When to give up on what the client has to do next, by the front's clock."""

    @property
    def busy(self) -> bool:
        return self._exchange is not None or self._intake.begun

    @property
    def in_flight(self) -> bool:
        """Whether the engine works for this client, or soon will."""
        return self._exchange is not None and self._exchange.relayed

    @property
    def answering(self) -> bool:
        return self._answering

    @property
    def received(self) -> int:
        """Bytes of a request that is not whole."""
        return self._received

    @property
    def lags(self) -> bool:
        """Whether what it sends has come too slowly of late."""
        return self._received > 0 and self._front.now() - self._lap_at > self._limits.lag_seconds

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do what asyncio's do without being of their class.
        self._transport = cast(asyncio.Transport, transport)
        # Without room in its buffer uvloop sends at once, not when it has nothing else to do, so that what follows an
        # answer (its line in the log) does not hold it up. A client that anything has to wait for is slow.
        self._transport.set_write_buffer_limits(high=0)
        self.deadline = self._front.now() + self._limits.head_seconds
        self._front.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        self._front.remove(self)

    def eof_received(self) -> None:
        # A client that was killed and one that has just finished sending look the same. Both count as gone, so that
        # the engine never works for nobody; the transport closes itself after this.
        self._leave()

    def data_received(self, data: bytes) -> None:
        if self._ending:
            return
        if not self.busy:
            # The nearer one: blank lines begin no request, and must not keep a connection open.
            self.deadline = min(self.deadline, self._front.now() + self._limits.head_seconds)
        self._intake.feed(data)
        if not self._answering:
            self._received += len(data)
            self._front.buffered += len(data)
            if self._received - self._lap_bytes >= self._limits.body_rate:
                self._lap_bytes, self._lap_at = self._received, self._front.now()
            self._advance()
            if self._front.overflows():
                self._front.drop_laggards()
                if self._front.overflows() and not self._answering and not self._ending:
                    self._refuse(self._front.build_full())
        elif self._intake.ahead > self._limits.ahead_bytes and not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        self._writing_paused = True
        self.deadline = self._front.now() + self._limits.stall_seconds
        if self._exchange is not None:
            self._exchange.pause()

    def resume_writing(self) -> None:
        self._writing_paused = False
        self.deadline = math.inf
        if self._finish is not None:
            self._exchange_done(*self._finish)
        elif self._exchange is not None:
            self._exchange.resume()

    def expire(self) -> None:
        if self._ending or self._writing_paused:
            self.abort()
        elif self.busy:
            self._refuse(RequestError(HTTPStatus.REQUEST_TIMEOUT, "request_timeout", "The request came too slowly."))
        else:
            self._transport.close()

    def close_if_idle(self) -> None:
        if not self.busy:
            self._transport.close()

    def abort(self) -> None:
        self._leave()
        self._transport.abort()

    def _admit(self, head: RequestHead) -> None:
        self._exchange = Exchange(self._front, self._transport, head, self._exchange_done)
        self._front.admit(head, self.is_management)
        if head.body_length is None or self._intake.ahead < head.body_length:
            now = self._front.now()
            self._lap_bytes, self._lap_at = self._received, now
            self.deadline = now + self._limits.body_patience(head.body_length)
            if b"expect" in head.headers and head.version != "1.0":
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _advance(self) -> None:
        if self._advancing:
            return  # an answer given at once; the loop below goes on by itself
        self._advancing = True
        while not self._answering and not self._ending:
            try:
                request = self._intake.read()
            except RequestError as error:
                self._refuse(error)
                continue
            if request is None:
                break
            assert self._exchange is not None
            self._release()
            self._answering = True
            self.deadline = math.inf
            self._exchange.start(request.body, request.last)
        self._advancing = False

    def _refuse(self, error: RequestError) -> None:
        exchange = self._exchange or Exchange(self._front, self._transport, None, self._exchange_done)
        self._exchange = exchange
        self._release()
        self._answering = True
        exchange.refuse(error, unread=exchange.head is None or exchange.head.body_length != 0)

    def _exchange_done(self, keep_alive: bool, linger: bool = False) -> None:
        if self._writing_paused:
            # The next request must wait until the client has taken this answer.
            self._finish = (keep_alive, linger)
            return
        self._finish = None
        self._exchange = None
        self._answering = False
        if keep_alive:
            begun = self._intake.begun
            self.deadline = self._front.now() + (self._limits.head_seconds if begun else self._limits.idle_seconds)
            if self._reading_paused:
                self._reading_paused = False
                self._transport.resume_reading()
            if begun:
                self._advance()
        else:
            self._end(linger)
        self._front.settle()

    def _end(self, linger: bool) -> None:
        """Close after what was written has gone out; `linger`: let the client go on sending until it has read it."""
        self._ending = True
        self._intake.clear()
        if linger:
            self.deadline = self._front.now() + self._limits.linger_seconds
            self._transport.write_eof()
        else:
            self.deadline = self._front.now() + self._limits.stall_seconds
            self._transport.close()

    def _release(self) -> None:
        """What was received is whole, or forgotten."""
        self._front.buffered -= self._received
        self._received = self._lap_bytes = 0

    def _leave(self) -> None:
        """The client is gone."""
        self._ending = True
        self._release()
        self._intake.clear()
        exchange, self._exchange = self._exchange, None
        if exchange is not None and self._finish is None:
            exchange.cancel()
