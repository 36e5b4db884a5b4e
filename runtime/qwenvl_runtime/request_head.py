"""The head of a client's request, read strictly, and the request that the engine gets in its place.

A head is whole when it is read here, so that one pattern tells whether it is sound, as RFC 9112 has it: no folded line,
no space before a colon, no line that ends otherwise than with CR LF.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from qwenvl_runtime.errors import RequestError, bad_request

# What the engine is told of a client's headers. Everything else (cookies, credentials, forwarding) stops here.
PASSED_REQUEST_HEADERS = (b"content-type", b"accept", b"traceparent", b"tracestate")
_FIRST_LINE = re.compile(rb"([A-Z][A-Z-]*+) ([!-~]++) HTTP/([0-9]\.[0-9])\r\n")
_LINES = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]++:[\t -~\x80-\xff]*+\r\n)*+\r\n")
_VERSIONS = (b"1.1", b"1.0")
_BLANKS = b" \t"
_FORBIDDEN_TWICE = frozenset((b"host", b"content-length", b"transfer-encoding"))
_LENGTH_DIGITS = 18


@dataclass(slots=True)
class RequestHead:
    method: str
    path: str
    headers: dict[bytes, bytes]
    """By their names in small letters; of one that was given twice the last."""
    version: str
    keep_alive: bool
    body_length: int | None
    """None when the body is chunked."""


def read_request_head(raw: bytes, max_headers: int) -> RequestHead:
    """`raw` goes up to the empty line and holds it. Raises RequestError for what is malformed or ambiguous."""
    first = _FIRST_LINE.match(raw)
    if first is None or _LINES.fullmatch(raw, first.end()) is None:
        raise bad_request("The request's head is not well-formed HTTP.")
    method, target, version = first.groups()
    if version not in _VERSIONS:
        raise RequestError(HTTPStatus.BAD_REQUEST, "http_version", "Use HTTP/1.1.")
    lines = raw[first.end() : -2].splitlines()
    if len(lines) > max_headers:
        message = f"The request has {len(lines)} headers; at most {max_headers} headers are taken."
        raise RequestError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "too_many_headers", message)
    headers, options = _read_headers(lines)
    if b"host" not in headers and version == b"1.1":
        raise bad_request("Host is missing.")
    upgrade = (b"upgrade" in headers and b"upgrade" in options) or method == b"CONNECT"
    length = _read_body_length(headers, version)
    if length is None and upgrade:
        raise bad_request("A chunked body cannot be upgraded.")
    kept = b"close" not in options if version == b"1.1" else b"keep-alive" in options
    return RequestHead(method.decode(), _read_path(target), headers, version.decode(), kept and not upgrade, length)


def _read_headers(lines: list[bytes]) -> tuple[dict[bytes, bytes], Sequence[bytes]]:
    """The headers, and the options of all that are called Connection."""
    headers: dict[bytes, bytes] = {}
    options: Sequence[bytes] = ()
    for line in lines:
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip(_BLANKS)
        if name in headers and name in _FORBIDDEN_TWICE:
            raise bad_request("Host, Content-Length or Transfer-Encoding is given twice.")
        if name == b"connection":
            options = [*options, *(option.strip(_BLANKS) for option in value.lower().split(b","))]
        headers[name] = value
    return headers, options


def _read_body_length(headers: dict[bytes, bytes], version: bytes) -> int | None:
    length, coding = headers.get(b"content-length"), headers.get(b"transfer-encoding")
    if coding is not None:
        if length is not None or coding.lower() != b"chunked" or version == b"1.0":
            raise bad_request("The body's length is ambiguous: give Content-Length or Transfer-Encoding: chunked.")
        return None
    if length is None:
        return 0
    if not length.isdigit() or len(length) > _LENGTH_DIGITS:
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
