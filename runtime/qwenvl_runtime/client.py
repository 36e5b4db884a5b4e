"""A small HTTP client for the runtime's own requests: warm-up through the front, the engine's health and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httptools

_READ_SIZE = 1 << 16


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes


async def ask(socket: Path, path: str, patience: float) -> Answer | None:
    """GET from the engine; None where it does not answer within `patience` seconds."""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(patience):
            return await fetch(socket, "GET", path)
    return None


async def fetch(
    address: Path | tuple[str, int],
    method: str,
    path: str,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
) -> Answer:
    """Ask on a connection of its own. Raises OSError when there is no whole answer; the caller sets the time limit."""
    if isinstance(address, Path):
        reader, writer = await asyncio.open_unix_connection(str(address))
    else:
        reader, writer = await asyncio.open_connection(*address)
    try:
        fields = {"host": "localhost", "connection": "close", "content-length": str(len(body)), **(headers or {})}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        writer.write(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body)
        await writer.drain()
        response = _Response()
        while not response.complete and (data := await reader.read(_READ_SIZE)):
            response.feed(data)
        if not response.complete:
            raise ConnectionError("the connection was closed before the answer was whole")
        return Answer(response.status, b"".join(response.body))
    except httptools.HttpParserError as error:
        raise ConnectionError("the answer is not HTTP") from error
    finally:
        writer.transport.abort()


class _Response:
    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.body: list[bytes] = []
        self.complete = False

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)

    @property
    def status(self) -> int:
        status: int = self._parser.get_status_code()
        return status

    def on_body(self, data: bytes) -> None:
        self.body.append(data)

    def on_message_complete(self) -> None:
        self.complete = True
