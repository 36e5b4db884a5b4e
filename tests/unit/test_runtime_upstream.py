"""One call on one of the engine's connections, without sockets."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest

from component.waiting import until
from qwenvl_runtime.response_head import Chunks, ResponseHead, read_response_head
from qwenvl_runtime.upstream import Call, EngineConnection, Pool


class Transport:
    def __init__(self) -> None:
        self.reading = True
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def set_write_buffer_limits(self, high: int) -> None: ...

    def get_write_buffer_size(self) -> int:
        return len(self.written)

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class FullClient:
    """Takes no more after the first bytes."""

    call: Call
    ended = False

    def answer_begun(self, head: ResponseHead, data: bytes) -> None:
        self.call.pause()

    def answer_continued(self, data: bytes) -> None: ...

    def answer_ended(self) -> None:
        self.ended = True

    def answer_failed(self, reached: bool) -> None: ...


def test_a_connection_goes_back_to_the_pool_ready_to_read() -> None:
    pool, transport, client = Pool(Path("/none")), Transport(), FullClient()
    connection = EngineConnection(pool)
    connection.connection_made(cast(asyncio.BaseTransport, transport))
    pool.give_back(connection)
    client.call = Call(pool, b"request", client)
    assert transport.written == b"request"
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
    assert not transport.reading
    connection.data_received(b"cd")
    assert client.ended
    assert transport.reading
    assert pool.take() is connection


@pytest.mark.parametrize(
    ("request_line", "status", "moves"),
    [(b"POST", b"200 OK", True), (b"GET", b"200 OK", False), (b"POST", b"404 No", False)],
)
def test_what_the_api_server_answers_by_itself_is_no_movement(request_line: bytes, status: bytes, moves: bool) -> None:
    pool, client = Pool(Path("/none")), FullClient()
    connection = EngineConnection(pool)
    connection.connection_made(cast(asyncio.BaseTransport, Transport()))
    pool.give_back(connection)
    client.call = Call(pool, request_line + b" /v1/models HTTP/1.1\r\n\r\n", client)
    connection.data_received(b"HTTP/1.1 " + status + b"\r\nContent-Length: 4\r\n\r\nab")
    connection.data_received(b"cd")
    assert client.ended
    assert pool.received == (4 if moves else 0)


class Sockets(Pool):
    """Each connection is a new one."""

    async def connect(self) -> EngineConnection:
        connection = EngineConnection(self)
        connection.connection_made(cast(asyncio.BaseTransport, Transport()))
        return connection


async def test_a_large_request_is_kept_no_longer_than_until_the_engine_has_it() -> None:
    pool, client, large = Sockets(Path("/none")), FullClient(), 300 << 10
    pool.give_back(await pool.connect())
    call = Call(pool, b"x" * large, client)
    assert pool.take() is not None, "it is not sent on a connection that may be stale"
    assert pool.unsent == large
    await until(lambda: pool.unsent == 0)
    assert not call._request
    connection = call._connection
    assert connection is not None
    connection.pause_writing()
    assert pool.unsent == large, "the transport says that it waits"
    connection.resume_writing()
    assert pool.unsent == 0
    connection.pause_writing()
    connection.connection_lost(None)
    assert pool.unsent == 0


@pytest.mark.parametrize(
    ("lines", "length", "chunked", "keep_alive"),
    [
        (b"Content-Length: 5\r\n", 5, False, True),
        (b"Transfer-Encoding: chunked\r\n", None, True, True),
        (b"transfer-encoding:Chunked\r\nConnection: close\r\n", None, True, False),
        (b"Connection: Close\r\n", None, False, False),
    ],
)
def test_where_an_answer_ends(lines: bytes, length: int | None, chunked: bool, keep_alive: bool) -> None:
    head = read_response_head(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n")
    assert (head.status, head.body_length, head.chunked, head.keep_alive) == (200, length, chunked, keep_alive)


def test_what_the_front_says_itself_is_dropped() -> None:
    raw = b"HTTP/1.1 404 Not Found\r\nServer: uvicorn\r\nDATE: now\r\nX-Request-Id: 1\r\nConnection: x\r\n\r\n"
    assert read_response_head(raw).headers == b"DATE: now\r\n"


@pytest.mark.parametrize("raw", [b"HTTP/1.0 200 OK\r\n\r\n", b"nonsense\r\n\r\n", b"HTTP/1.1 x\r\n\r\n"])
def test_what_is_no_answer(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_response_head(raw)


def test_chunks_are_taken_away_for_clients_that_do_not_know_them() -> None:
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert b"ransfer" not in read_response_head(raw, keep_chunks=False).headers
    chunks = Chunks(raw, decode=True)
    assert chunks.feed(b"3\r\nab") == b"ab"
    assert not chunks.complete
    assert chunks.feed(b"c\r\n0\r\n\r\n") == b"c"
    assert chunks.complete
