"""The way to the engine: a pool of connections on its unix socket, and one call on one of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Protocol, cast

import httptools

from qwenvl_runtime.response_head import Chunks, ResponseHead, read_response_head

_IDLE_LIMIT = 128
_HEAD_LIMIT = 1 << 16
_KEPT_LIMIT = 256 << 10
"""Bytes of a request that are kept for a second try. A larger one gets a new connection, which cannot be stale."""
_HEAD_END = b"\r\n\r\n"


class Listener(Protocol):
    """Who gets the answer of a call."""

    def answer_begun(self, head: ResponseHead, data: bytes) -> None: ...
    def answer_continued(self, data: bytes) -> None: ...
    def answer_ended(self) -> None: ...
    def answer_failed(self, reached: bool) -> None:
        """The engine could not be reached, or (`reached`) broke off."""


class Pool:
    """Idle connections, youngest first: the one that was used last is the least likely to be stale."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._idle: deque[EngineConnection] = deque()
        self.received = 0
        """Bytes of what the engine has computed: whoever watches it sees that it moves. Its API server answers other
        requests by itself, and refuses some, when nothing moves behind it."""
        self.unsent = 0
        """Bytes of requests that the engine has not taken yet."""

    def take(self) -> EngineConnection | None:
        return self._idle.pop() if self._idle else None

    async def connect(self) -> EngineConnection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_unix_connection(lambda: EngineConnection(self), str(self._socket))
        return connection

    def give_back(self, connection: EngineConnection) -> None:
        if len(self._idle) < _IDLE_LIMIT:
            self._idle.append(connection)
        else:
            connection.close()

    def forget(self, connection: EngineConnection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()


class Call:
    """One request to the engine. Asked once more when a pooled connection turns out to be stale, never otherwise."""

    def __init__(self, pool: Pool, request: bytes, listener: Listener, decode: bool = False) -> None:
        self._pool = pool
        self._request = request
        self._listener = listener
        self._decode = decode
        self._cancelled = False
        self._pooled = False
        self._connecting: asyncio.Task[EngineConnection] | None = None
        self._connection = pool.take() if len(request) <= _KEPT_LIMIT else None
        if self._connection is not None:
            self._pooled = True
            self._connection.send(request, decode, listener, self._break)
        else:
            self._connect()

    def cancel(self) -> None:
        """Nobody listens any more: closing the connection makes the engine abort the request."""
        self._cancelled = True
        if self._connection is not None:
            self._connection.abort()

    def pause(self) -> None:
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        if self._connection is not None:
            self._connection.resume()

    def _connect(self) -> None:
        self._pool.unsent += len(self._request)
        self._connecting = asyncio.create_task(self._pool.connect())
        self._connecting.add_done_callback(self._connected)

    def _connected(self, task: asyncio.Task[EngineConnection]) -> None:
        self._pool.unsent -= len(self._request)
        if task.cancelled() or isinstance(task.exception(), OSError):
            if not self._cancelled:
                self._listener.answer_failed(reached=False)
            return
        self._connection = task.result()
        if self._cancelled:
            self._connection.abort()
        else:
            request, self._request = self._request, b""
            self._connection.send(request, self._decode, self._listener, self._break)

    def _break(self, silent: bool) -> None:
        """The connection is gone; `silent`: before a single byte of the answer."""
        if self._cancelled:
            return
        if self._pooled and silent:
            self._pooled = False
            self._connection = None
            self._connect()
        else:
            self._listener.answer_failed(reached=True)


class EngineConnection(asyncio.Protocol):
    """Carries one call at a time."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._transport: asyncio.Transport
        self._listener: Listener | None = None
        self._broken: Callable[[bool], None]
        self._decode = False
        self._computes = False
        self._head: ResponseHead | None = None
        self._chunks: Chunks | None = None
        self._buffer = b""
        self._left = 0  # bytes of the answer that are missing; 1 while nobody knows how many
        self._paused = False
        self._unsent = 0

    def send(self, request: bytes, decode: bool, listener: Listener, broken: Callable[[bool], None]) -> None:
        """`decode`: take the framing away from a chunked answer."""
        self._listener, self._broken, self._decode = listener, broken, decode
        self._computes = request.startswith(b"POST")
        self._transport.write(request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do what asyncio's do without being of their class.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=0)  # it sends at once, see ClientConnection

    def pause_writing(self) -> None:
        self._unsent = self._transport.get_write_buffer_size()
        self._pool.unsent += self._unsent

    def resume_writing(self) -> None:
        self._pool.unsent -= self._unsent
        self._unsent = 0

    def connection_lost(self, exc: Exception | None) -> None:
        self.resume_writing()
        self._pool.forget(self)
        listener, self._listener = self._listener, None
        if listener is None:
            return
        head = self._head
        if head is not None and head.body_length is None and not head.chunked and exc is None:
            listener.answer_ended()
        else:
            self._broken(head is None and not self._buffer)

    def data_received(self, data: bytes) -> None:
        if self._listener is None:
            self._transport.abort()
            return
        try:
            if self._head is None:
                self._read_head(data, self._listener)
            else:
                self._count(data, self._head)
                self._listener.answer_continued(self._read_body(data, self._head))
        except (httptools.HttpParserError, ValueError):
            self._transport.abort()
            return
        if self._left == 0 and self._head is not None:
            self._end(self._head)

    def pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._listener = None
        self._transport.abort()

    def _read_head(self, data: bytes, listener: Listener) -> None:
        data = self._buffer + data
        end = data.find(_HEAD_END) + len(_HEAD_END)
        if end < len(_HEAD_END):
            if len(data) > _HEAD_LIMIT:
                raise ValueError("the head does not end")
            self._buffer = data
            return
        raw, body, self._buffer = data[:end], data[end:], b""
        head = read_response_head(raw, keep_chunks=not self._decode)
        self._chunks = Chunks(raw, self._decode) if head.chunked else None
        self._left = 1 if head.body_length is None else head.body_length
        self._head = head
        self._count(body, head)
        listener.answer_begun(head, self._read_body(body, head) if body else b"")

    def _count(self, data: bytes, head: ResponseHead) -> None:
        if self._computes and head.status == HTTPStatus.OK:
            self._pool.received += len(data)

    def _read_body(self, data: bytes, head: ResponseHead) -> bytes:
        """What of `data` goes to the client; sets `_left` to 0 when the body is whole."""
        if self._chunks is not None:
            data = self._chunks.feed(data)
            self._left = 0 if self._chunks.complete else 1
        elif head.body_length is not None:
            self._left -= len(data)
            if self._left < 0:
                raise ValueError("more bytes than the answer was said to have")
        return data

    def _end(self, head: ResponseHead) -> None:
        listener, self._listener, self._head, self._chunks = self._listener, None, None, None
        del self._broken  # it leads to the call and all that the client sent
        # The client may be slow to take the last bytes; the next call on this connection has another client.
        self.resume()
        if not head.keep_alive:
            self._transport.close()
        elif listener is not None:
            self._pool.give_back(self)
        if listener is not None:
            listener.answer_ended()
