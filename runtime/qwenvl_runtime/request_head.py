"""The head of a client's request, read strictly, and the request that the engine gets in its place.

httptools reads the tokens; where a message ends is decided here, so that no two parsers can disagree about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

import httptools

from qwenvl_runtime.errors import RequestError, bad_request

# What the engine is told of a client's headers. Everything else (cookies, credentials, forwarding) stops here.
PASSED_REQUEST_HEADERS = (b"content-type", b"accept", b"traceparent", b"tracestate")
_PIECES, _PIECE_BYTES = 4096, 32
"""Chunks that a body may have, and bytes for each further one: each costs some time."""
_FORBIDDEN_TWICE = frozenset((b"host", b"content-length", b"transfer-encoding"))


@dataclass(slots=True)
class RequestHead:
    method: str
    path: str
    headers: dict[bytes, bytes]
    version: str
    keep_alive: bool
    body_length: int | None
    """None when the body is chunked."""


class RequestReader:
    """Reads one request's head and, if that is chunked, its body."""

    def __init__(self, head: bytes, max_headers: int) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._count = 0
        self._ambiguous = False
        self._begun = 0
        self._head_complete = False
        self.complete = False
        self.trailing = False
        """Bytes after the chunked body: the next request, whose beginning is lost."""
        self.body = bytearray()
        self.wire_size = 0
        """Bytes of a chunked body as they came, with its framing."""
        self._pieces = 0
        self._keep_alive = False
        upgrade = self._feed(head)
        if not self._head_complete or self._begun > 1 or self.body:
            raise bad_request("The request's head is malformed.")
        if self._count > max_headers:
            message = f"The request has {self._count} headers; at most {max_headers} headers are taken."
            raise RequestError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "too_many_headers", message)
        self.head = self._build_head(upgrade)
        if self.head.body_length is not None:
            del self._parser  # which refers to this reader: without it, no garbage is left to be collected

    def feed_body(self, data: bytes) -> None:
        self._feed(data)
        if self._begun > 1:
            self.trailing = True
        self.wire_size += len(data)
        if self._pieces > _PIECES + len(self.body) // _PIECE_BYTES:
            raise bad_request("The body comes in too many chunks that are too small.")

    def on_message_begin(self) -> None:
        self._begun += 1

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_complete:
            return  # a trailer
        name = name.lower()
        self._count += 1
        headers = self._headers
        if name in headers and name in _FORBIDDEN_TWICE:
            self._ambiguous = True
        headers[name] = value

    def on_headers_complete(self) -> None:
        self._head_complete = True
        self._keep_alive = self._parser.should_keep_alive()  # at the message's end it has forgotten

    def on_body(self, data: bytes) -> None:
        if self.complete:
            return  # the next request's
        self.body += data
        self._pieces += 1

    def on_message_complete(self) -> None:
        self.complete = True

    def _feed(self, data: bytes) -> bool:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return True
        except httptools.HttpParserError as error:
            if self.complete and self._head_complete:
                self.trailing = True
                return False
            raise bad_request("The request is not well-formed HTTP.") from error
        return False

    def _build_head(self, upgrade: bool) -> RequestHead:
        headers = self._headers
        version = self._parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise RequestError(HTTPStatus.BAD_REQUEST, "http_version", "Use HTTP/1.1.")
        if self._ambiguous or (b"host" not in headers and version == "1.1"):
            raise bad_request("Host, Content-Length or Transfer-Encoding is missing or given twice.")
        length = _read_body_length(headers, version)
        if length is None and upgrade:
            raise bad_request("A chunked body cannot be upgraded.")
        return RequestHead(
            method=self._parser.get_method().decode("ascii"),
            path=_read_path(self._target),
            headers=headers,
            version=version,
            keep_alive=self._keep_alive and not upgrade,
            body_length=length,
        )


def _read_body_length(headers: dict[bytes, bytes], version: str) -> int | None:
    length, coding = headers.get(b"content-length"), headers.get(b"transfer-encoding")
    if coding is not None:
        if length is not None or coding.lower() != b"chunked" or version == "1.0":
            raise bad_request("The body's length is ambiguous: give Content-Length or Transfer-Encoding: chunked.")
        return None
    if length is None:
        return 0
    if not length.isdigit():
        raise bad_request("Content-Length is not a number.")
    return int(length)


def _read_path(target: bytes) -> str:
    """The path as it was sent, less the query: routes match it exactly, so no spelling of a path reaches another."""
    if not target.startswith(b"/"):
        scheme, mark, rest = target.partition(b"://")
        if mark and scheme.lower() in (b"http", b"https"):
            target = b"/" + rest.partition(b"/")[2]
    return target.partition(b"?")[0].decode("latin-1")


def build_request(head: RequestHead, request_id: str, body: bytes) -> bytes:
    """The request that the engine gets: framed anew, whatever way the client framed its own."""
    headers = head.headers
    lines = [f"{head.method} {head.path} HTTP/1.1\r\nhost: engine\r\nx-request-id: {request_id}\r\n".encode()]
    for name in PASSED_REQUEST_HEADERS:
        if name in headers:
            lines += (name, b": ", headers[name], b"\r\n")
    lines += (b"content-length: %d\r\n\r\n" % len(body), body)
    return b"".join(lines)
