"""An engine whose every byte a test decides, on a unix socket, and raw HTTP towards the front."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

Act = Callable[["Visit"], Awaitable[None]]


@dataclass
class Visit:
    """One request that reached the engine, and the connection that it came on."""

    head: bytes
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    connection: int

    @property
    def lines(self) -> list[str]:
        return self.head.decode("latin-1").lower().split("\r\n")

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, body: bytes = b"{}", status: str = "200 OK", extra: str = "") -> None:
        head = f"HTTP/1.1 {status}\r\nserver: engine\r\n{extra}content-length: {len(body)}\r\n\r\n"
        await self.send(head.encode() + body)


@dataclass
class ScriptedEngine:
    socket: Path
    act: Act
    visits: list[Visit] = field(default_factory=list)
    connections: int = 0
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the front closes a connection."""
    _serving: list[asyncio.Task[None]] = field(default_factory=list)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ScriptedEngine]:
        server = await asyncio.start_unix_server(self._serve, str(self.socket), limit=1 << 26)
        try:
            yield self
        finally:
            server.close()
            # A connection that a failed test left open would keep the event loop from closing.
            for task in self._serving:
                task.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.append(task)
        try:
            await self._serve_visits(reader, writer)
        finally:
            self.left.set()
            writer.transport.abort()

    async def _serve_visits(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = self.connections
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b":0"
                )
                body = await reader.readexactly(int(length.partition(b":")[2]))
                visit = Visit(head, body, reader, writer, connection)
                self.visits.append(visit)
                await self.act(visit)
                if writer.is_closing():
                    # What was written has to go out before the connection ends.
                    await writer.wait_closed()
                    break


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    raw_body: bytes

    def error_code(self) -> str:
        code: str = json.loads(self.raw_body)["error"]["code"]
        return code


class RawClient:
    """Sends exactly the bytes that it is given."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int, receive_buffer: int = 0) -> RawClient:
        connection = socket.socket()
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
        except ConnectionError:
            connection.close()
            raise
        return cls(*await asyncio.open_connection(sock=connection, limit=1 << 26))

    @classmethod
    @asynccontextmanager
    async def opened(cls, port: int) -> AsyncIterator[RawClient]:
        client = await cls.connect(port)
        try:
            yield client
        finally:
            client.close()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def read_reply(self, bodiless: bool = False) -> Reply:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip("\r\n").split("\r\n")
        pairs = [line.partition(": ") for line in lines]
        headers = {name.lower(): value for name, _, value in pairs}
        assert len(headers) == len(pairs), f"a header is given twice: {lines}"
        body = b""
        if bodiless:
            pass
        elif "content-length" in headers:
            body = await self.reader.readexactly(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            body = await self.reader.readuntil(b"0\r\n\r\n")
        else:
            body = await self.reader.read()
        return Reply(int(first.split(" ")[1]), headers, body)

    async def ask(self, data: bytes) -> Reply:
        await self.send(data)
        return await self.read_reply()

    async def is_closed(self) -> bool:
        """Waits for the end of the connection."""
        with suppress(ConnectionError):
            return await self.reader.read() == b""
        return True

    def pause(self) -> None:
        """Take nothing more from the socket."""
        self.transport.pause_reading()

    def resume(self) -> None:
        self.transport.resume_reading()

    @property
    def transport(self) -> asyncio.Transport:
        return cast(asyncio.Transport, self.writer.transport)

    def close(self) -> None:
        self.writer.close()


def build_post(
    body: bytes = b"{}", headers: str = "", path: str = "/v1/chat/completions", version: str = "1.1"
) -> bytes:
    lines = f"POST {path} HTTP/{version}\r\nHost: pod\r\ncontent-type: application/json\r\n{headers}"
    return f"{lines}content-length: {len(body)}\r\n\r\n".encode() + body


def build_get(path: str, headers: str = "", version: str = "1.1", method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/{version}\r\nHost: pod\r\n{headers}\r\n".encode()
