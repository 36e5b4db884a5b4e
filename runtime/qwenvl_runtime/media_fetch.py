"""Pictures from the hosts that media.allowedURLHosts names, fetched here so that the engine never opens a connection.

A name is resolved once, all its addresses are checked, and the connection goes to one of those that were checked:
an answer of DNS that changes in between changes nothing. Redirects are not followed.
"""

from __future__ import annotations

import asyncio
import ssl
from asyncio import get_running_loop
from base64 import b64encode
from dataclasses import dataclass, field
from http import HTTPStatus
from socket import SOCK_STREAM

import httptools

from qwenvl_runtime.errors import RequestError, bad_field
from qwenvl_runtime.media import MediaCheck, Slot
from qwenvl_runtime.media_hosts import PORTS, MediaLink, is_forbidden

FETCH_SECONDS = 10.0
_FETCHES = 32
_READ_SIZE = 1 << 16


@dataclass
class BytesLeft:
    """What the pictures of one request may still take of media.maxRequestBytes."""

    number: int

    def take(self, number: int) -> None:
        self.number -= number
        if self.number < 0:
            raise ValueError("makes the request larger than media.maxRequestBytes")


@dataclass
class BytesSource:
    data: bytes
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = len(self.data)

    def read(self, start: int, length: int) -> bytes:
        return self.data[start : start + length]


class MediaFetcher:
    def __init__(self, seconds: float = FETCH_SECONDS) -> None:
        self._seconds = seconds
        self._turns = asyncio.Semaphore(_FETCHES)
        self._tls: ssl.SSLContext | None = None

    async def fill(self, media: MediaCheck, left: BytesLeft) -> None:
        """Put every picture that has to be fetched into its slot. Raises RequestError."""
        tasks = [asyncio.create_task(self._fill(slot, media, left)) for slot in media.slots]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _fill(self, slot: Slot, media: MediaCheck, left: BytesLeft) -> None:
        try:
            async with asyncio.timeout(self._seconds), self._turns:
                data = await self._fetch(slot.link, left)
        except TimeoutError as error:
            raise _unavailable(slot, f"was not there within {self._seconds:g} s") from error
        except ssl.SSLCertVerificationError as error:
            raise _unavailable(slot, "could not be fetched: its host's certificate is not trusted") from error
        except (OSError, EOFError, httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise _unavailable(slot, "could not be fetched") from error
        except ValueError as error:
            raise _unavailable(slot, str(error)) from error
        media_type, _ = media.measure(slot.param, BytesSource(data))
        slot.holder["url"] = f"data:{media_type};base64,{b64encode(data).decode()}"

    async def _fetch(self, link: MediaLink, left: BytesLeft) -> bytes:
        """Raises OSError, EOFError, httptools' errors, or ValueError with words for the client."""
        address = await _resolve(link)
        tls = self._get_tls() if link.scheme == "https" else None
        host = link.host if tls else None
        reader, writer = await asyncio.open_connection(address, link.port, ssl=tls, server_hostname=host)
        try:
            # A presigned URL of an object store is signed with the host as clients send it: without the usual port.
            name = link.host if link.port == PORTS[link.scheme] else f"{link.host}:{link.port}"
            lines = f"GET {link.target} HTTP/1.1\r\nHost: {name}\r\nAccept: image/*\r\n"
            writer.write(
                f"{lines}Accept-Encoding: identity\r\nUser-Agent: qwenvl\r\nConnection: close\r\n\r\n".encode()
            )
            download = _Download(left)
            while not download.complete and (data := await reader.read(_READ_SIZE)):
                download.feed(data)
            return download.finish()
        finally:
            writer.transport.abort()

    def _get_tls(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls


async def _resolve(link: MediaLink) -> str:
    found = await get_running_loop().getaddrinfo(link.host, link.port, type=SOCK_STREAM)
    addresses = [str(address[0]) for _, _, _, _, address in found]
    if not addresses or any(map(is_forbidden, addresses)):
        raise ValueError("is at an address that no picture is fetched from")
    return addresses[0]


class _Download:
    def __init__(self, left: BytesLeft) -> None:
        self._left = left
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._begun = False
        self._framed = False
        self._fault = ""
        self.complete = False

    def feed(self, data: bytes) -> None:
        """Raises ValueError or httptools' errors."""
        self._left.take(len(data))
        self._parser.feed_data(data)
        if self._fault:
            raise ValueError(self._fault)

    def finish(self) -> bytes:
        """Raises EOFError for what is not whole."""
        if not self._begun or (self._framed and not self.complete):
            raise EOFError
        return b"".join(self._body)

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self._framed = self._framed or name in (b"content-length", b"transfer-encoding")
        if name == b"content-encoding" and value.lower() != b"identity":
            self._fault = "came compressed"

    def on_headers_complete(self) -> None:
        self._begun = True
        status = self._parser.get_status_code()
        if status != HTTPStatus.OK:
            followed = "; redirects are not followed" if status // 100 == 3 else ""
            self._fault = f"was answered with status {status}{followed}"

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        self.complete = True


def _unavailable(slot: Slot, what: str) -> RequestError:
    return bad_field("media_unavailable", slot.param, f"the picture {what}")
