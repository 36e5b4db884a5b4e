"""A stand-in for the engine that costs next to nothing: it answers at once, or streams chunks at a given pace.

Each chunk carries the time at which it was sent, so that a client on the same machine can tell how long it travelled.
"""

from __future__ import annotations

import heapq
import json
import multiprocessing
import re
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_READ_SIZE = 1 << 20
_GOLDEN = 0.618033988749895
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_PACE = re.compile(rb"(\d+) chunks, one every (\d+) ms, (spread|in step)")
_ANSWER = json.dumps({
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}).encode()  # fmt: skip
_ANSWERED = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(_ANSWER) + _ANSWER
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
_EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m",'
    b'"choices":[{"index":0,"delta":{"content":"sent:%016d;"},"finish_reason":%s}]}\n\n'
)
_END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


@dataclass(frozen=True)
class Pace:
    chunks: int
    interval_ms: int
    spread: bool
    """Streams take turns; otherwise all send in the same moment, as an engine's steps make them do."""

    @property
    def rate(self) -> float:
        """Chunks of one stream in a second."""
        return 1000 / self.interval_ms

    def __str__(self) -> str:
        how = "spread" if self.spread else "in step"
        return f"{self.chunks} chunks, one every {self.interval_ms} ms, {how}"


class Visitor:
    """One connection: reads requests to their ends without keeping them."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._head = b""
        self._left = 0
        self._first = b""

    def read(self, data: bytes) -> list[bytes]:
        """The requests that `data` completes, each by its first bytes."""
        complete = []
        while data:
            if self._left == 0:
                self._head += data
                end = self._head.find(b"\r\n\r\n")
                if end < 0:
                    break
                length = _LENGTH.search(self._head, 0, end)
                data, self._left = self._head[end + 4 :], int(length[1]) if length else 0
                self._first = data[:4096]
                self._head = b""
            elif len(self._first) < 4096:
                self._first += data[:4096]
            taken = min(len(data), self._left)
            data, self._left = data[taken:], self._left - taken
            if self._left == 0:
                complete.append(self._first)
        return complete


class Engine:
    def __init__(self, listeners: list[socket.socket]) -> None:
        self._poll = select.epoll()
        self._listeners = {listener.fileno(): listener for listener in listeners}
        self._visitors: dict[int, Visitor] = {}
        self._due: list[tuple[int, int, Visitor, int, Pace]] = []
        self._begun = 0
        for number in self._listeners:
            self._poll.register(number, select.EPOLLIN)

    def serve(self) -> None:
        while True:
            wait = max(0, self._due[0][0] - time.monotonic_ns()) / 1e9 if self._due else None
            # epoll counts in milliseconds, select in microseconds, and it takes an epoll for a file.
            if select.select([self._poll], [], [], wait)[0]:
                for number, _ in self._poll.poll(0):
                    self._attend(number)
            while self._due and self._due[0][0] <= time.monotonic_ns():
                self._stream(*heapq.heappop(self._due))

    def _attend(self, number: int) -> None:
        if number in self._listeners:
            self._accept(self._listeners[number])
            return
        visitor = self._visitors[number]
        try:
            data = visitor.connection.recv(_READ_SIZE)
        except OSError:
            data = b""
        if not data:
            self._forget(visitor)
        for request in visitor.read(data):
            pace = _PACE.search(request)
            if pace is None:
                self._send(visitor, _ANSWERED)
            else:
                self._begin(visitor, Pace(int(pace[1]), int(pace[2]), pace[3] == b"spread"))

    def _accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._visitors[connection.fileno()] = Visitor(connection)
        self._poll.register(connection.fileno(), select.EPOLLIN)

    def _begin(self, visitor: Visitor, pace: Pace) -> None:
        self._send(visitor, _STREAM_HEAD)
        self._begun += 1
        interval = pace.interval_ms * 1_000_000
        phase = int(self._begun * _GOLDEN % 1 * interval) if pace.spread else 0
        due = (time.monotonic_ns() // interval + 1) * interval + phase
        heapq.heappush(self._due, (due, self._begun, visitor, pace.chunks, pace))

    def _stream(self, due: int, stream: int, visitor: Visitor, left: int, pace: Pace) -> None:
        event = _EVENT % (time.monotonic_ns(), b'"stop"' if left == 1 else b"null")
        chunk = b"%x\r\n%b\r\n" % (len(event), event)
        if not self._send(visitor, chunk if left > 1 else chunk + _END):
            return
        if left > 1:
            heapq.heappush(self._due, (due + pace.interval_ms * 1_000_000, stream, visitor, left - 1, pace))

    def _send(self, visitor: Visitor, data: bytes) -> bool:
        try:
            visitor.connection.sendall(data)
        except OSError:
            self._forget(visitor)
            return False
        return True

    def _forget(self, visitor: Visitor) -> None:
        if self._visitors.pop(visitor.connection.fileno(), None) is not None:
            visitor.connection.close()


@dataclass(frozen=True)
class EngineAddress:
    """Both ways to the same engine."""

    port: int
    path: Path


@contextmanager
def running(folder: Path) -> Iterator[EngineAddress]:
    tcp = socket.create_server(("127.0.0.1", 0), backlog=4096)
    unix = socket.socket(socket.AF_UNIX)
    path = folder / "engine.sock"
    unix.bind(str(path))
    unix.listen(4096)
    process = multiprocessing.get_context("fork").Process(target=_serve, args=([tcp, unix],), daemon=True)
    process.start()
    try:
        yield EngineAddress(tcp.getsockname()[1], path)
    finally:
        process.kill()
        process.join()
        tcp.close()
        unix.close()


def _serve(listeners: list[socket.socket]) -> None:
    with suppress(KeyboardInterrupt):
        Engine(listeners).serve()
