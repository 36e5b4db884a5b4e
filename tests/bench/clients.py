"""The load: raw HTTP from bytes that are made beforehand, light enough that the hops are what is measured."""

from __future__ import annotations

import re
import select
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path

Address = Path | tuple[str, int]

_READ_SIZE = 1 << 18
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_PATIENCE_S = 60.0


class BadAnswerError(Exception):
    """An arm did not answer as it should; its numbers would mean nothing."""


def build_post(body: bytes) -> bytes:
    lines = "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
    return f"{lines}content-length: {len(body)}\r\n\r\n".encode() + body


def connect(address: Address) -> socket.socket:
    if isinstance(address, Path):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(address))
    else:
        connection = socket.create_connection(address)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def time_requests(connection: socket.socket, request: bytes, seconds: float) -> list[float]:
    """Ask one after the other for that long, ten times at least; how long each took."""
    connection.settimeout(_PATIENCE_S)
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < 10 or time.perf_counter() < end:
        began = time.perf_counter()
        connection.sendall(request)
        _read_answer(connection)
        taken.append(time.perf_counter() - began)
    return taken


def _read_answer(connection: socket.socket) -> None:
    answer = connection.recv(_READ_SIZE)
    while (end := answer.find(b"\r\n\r\n")) < 0 and (more := connection.recv(_READ_SIZE)):
        answer += more
    length = _LENGTH.search(answer, 0, end)
    if not answer.startswith(b"HTTP/1.1 200 ") or length is None:
        raise BadAnswerError(answer[:500].decode(errors="replace"))
    while len(answer) < end + 4 + int(length[1]):
        answer += connection.recv(_READ_SIZE)


@dataclass
class Stream:
    """One streamed answer as it came in."""

    connection: socket.socket
    pieces: list[tuple[int, bytes]] = field(default_factory=list)
    """What each read brought, and when (monotonic nanoseconds)."""
    complete: bool = False

    @property
    def text(self) -> bytes:
        return b"".join(piece for _, piece in self.pieces)


def run_streams(address: Address, requests: list[bytes]) -> list[Stream]:
    """Ask all at the same time, each on a connection of its own, and read until the last one is over."""
    poll = select.epoll()
    streams: dict[int, Stream] = {}
    for _ in requests:
        connection = connect(address)
        streams[connection.fileno()] = Stream(connection)
        poll.register(connection.fileno(), select.EPOLLIN)
    for stream, request in zip(streams.values(), requests, strict=True):
        stream.connection.sendall(request)
    missing = len(streams)
    while missing:
        ready = poll.poll(_PATIENCE_S)
        if not ready:
            break
        for number, _ in ready:
            stream = streams[number]
            data = stream.connection.recv(_READ_SIZE)
            stream.pieces.append((time.monotonic_ns(), data))
            stream.complete = data.endswith(b"0\r\n\r\n")
            if stream.complete or not data:
                poll.unregister(number)
                missing -= 1
    poll.close()
    for stream in streams.values():
        stream.connection.close()
    return list(streams.values())
