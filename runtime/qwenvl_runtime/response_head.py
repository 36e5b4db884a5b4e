"""The head of the engine's response, less what the front says itself, and where the response's body ends."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

import httptools

# Of the engine's headers these are hop-by-hop or said by the front itself.
_DROPPED_HEADERS = frozenset(
    (b"connection", b"keep-alive", b"proxy-authenticate", b"server", b"te", b"trailer", b"upgrade", b"x-request-id")
)
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


class ResponseReader:
    """Reads one of the engine's response heads and, if that is chunked, where its body ends."""

    _dropped = _DROPPED_HEADERS

    def __init__(self, head: bytes) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self.complete = False
        self._parser.feed_data(head)
        self.head = self._build_head()

    def feed_body(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_message_complete(self) -> None:
        self.complete = True

    def _build_head(self) -> ResponseHead:
        length, chunked = None, False
        kept = []
        for name, value in self._headers:
            lower = name.lower()
            if lower == b"content-length":
                length = int(value)
            elif lower == b"transfer-encoding":
                chunked = value.lower() == b"chunked"
            if lower not in self._dropped:
                kept.append(b"%b: %b\r\n" % (name, value))
        status = self._parser.get_status_code()
        if status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            length = 0
        keep_alive = self._parser.should_keep_alive()
        return ResponseHead(status, b"".join(kept), None if chunked else length, chunked, keep_alive)


class DecodingReader(ResponseReader):
    """For clients that do not know chunks (HTTP/1.0): gives the body's bytes without their framing."""

    _dropped = _DROPPED_HEADERS | {b"transfer-encoding"}

    def __init__(self, head: bytes) -> None:
        self.body: list[bytes] = []
        super().__init__(head)

    def on_body(self, data: bytes) -> None:
        self.body.append(data)


def status_line(status: int) -> bytes:
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
