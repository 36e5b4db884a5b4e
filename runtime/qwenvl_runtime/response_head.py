"""The head of the engine's response, less what the front says itself, and where the response's body ends.

The engine is trusted to write HTTP as it should, so its heads are only cut at their line ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus

import httptools

# Of the engine's headers these are hop-by-hop or said by the front itself.
_DROPPED_HEADERS = frozenset(
    (b"connection", b"keep-alive", b"proxy-authenticate", b"server", b"te", b"trailer", b"upgrade", b"x-request-id")
)
_BODILESS = (int(HTTPStatus.NO_CONTENT), int(HTTPStatus.NOT_MODIFIED))
_STATUS_LINES = {int(status): f"HTTP/1.1 {int(status)} {status.phrase}\r\n".encode() for status in HTTPStatus}


@dataclass(slots=True)
class ResponseHead:
    status: int
    headers: bytes
    """The lines to pass on, each with its line end."""
    body_length: int | None
    """None when the body is chunked or ends with the connection."""
    chunked: bool
    keep_alive: bool


def read_response_head(raw: bytes, keep_chunks: bool = True) -> ResponseHead:
    """`raw` goes up to the empty line and holds it. Raises ValueError for what is no head."""
    first, *lines = raw[:-4].split(b"\r\n")
    if not first.startswith(b"HTTP/1.1 "):
        raise ValueError("the engine does not speak HTTP/1.1")
    status, length, chunked, keep_alive = int(first[9:12]), None, False, True
    kept = []
    for line in lines:
        name, value, passed = _read_line(line)
        if name == b"content-length":
            length = int(value)
        elif name == b"transfer-encoding":
            chunked = value.lower() == b"chunked"
            passed = passed if keep_chunks else b""
        elif name == b"connection":
            keep_alive = value.lower() != b"close"
        kept.append(passed)
    if status in _BODILESS:
        length = 0
    return ResponseHead(status, b"".join(kept), None if chunked else length, chunked, keep_alive)


@lru_cache(maxsize=256)
def _read_line(line: bytes) -> tuple[bytes, bytes, bytes]:
    """Name, value, and the line as it is passed on; an engine's heads are made of the same few lines."""
    name, _, value = line.partition(b":")
    name = name.lower()
    return name, value.strip(), b"" if name in _DROPPED_HEADERS else line + b"\r\n"


class Chunks:
    """Finds the end of a chunked body; for clients that do not know chunks (HTTP/1.0) it takes their framing away."""

    def __init__(self, raw_head: bytes, decode: bool) -> None:
        self.complete = False
        self._body: list[bytes] = []
        self._decode = decode
        if decode:
            self.on_body = self._body.append
        self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(raw_head)

    def feed(self, data: bytes) -> bytes:
        """What the client gets for these bytes. Raises httptools.HttpParserError."""
        self._parser.feed_data(data)
        if not self._decode:
            return data
        data = b"".join(self._body)
        self._body.clear()
        return data

    def on_message_complete(self) -> None:
        self.complete = True


def status_line(status: int) -> bytes:
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
