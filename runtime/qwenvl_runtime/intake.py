"""Bytes in, whole requests out: cuts a connection's bytes into requests within limits, without any I/O."""

from __future__ import annotations

import re
from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple

from qwenvl_runtime.chunked_body import ChunkedBody
from qwenvl_runtime.errors import RequestError, bad_request
from qwenvl_runtime.limits import Limits
from qwenvl_runtime.request_head import RequestHead, read_request_head

_BLANK = (b"\r\n", b"\n")
_HEAD_END = b"\r\n\r\n"
_VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]\r\n")


class Request(NamedTuple):
    head: RequestHead
    body: bytes
    last: bool
    """True when the connection cannot be read any further."""


class Intake:
    """`admit` sees each head before a byte of the body is waited for, and raises RequestError to refuse it."""

    def __init__(self, limits: Limits, admit: Callable[[RequestHead], None]) -> None:
        self._limits = limits
        self._admit = admit
        self._ahead = b""
        self._place = 0
        """Up to here what is ahead has been read: cutting it off at each step would copy the rest each time."""
        self._head: RequestHead | None = None
        self._chunks: ChunkedBody | None = None
        self._body: list[bytes] = []
        self._left = 0

    @property
    def ahead(self) -> int:
        """Bytes that wait to be read."""
        return len(self._ahead) - self._place

    @property
    def begun(self) -> bool:
        """Whether a request has begun and is not whole yet."""
        return self._place < len(self._ahead) or self._head is not None

    def feed(self, data: bytes) -> None:
        if self._place == len(self._ahead):
            if self._left >= len(data):
                # The common way of a large body: straight to its place.
                self._body.append(data)
                self._left -= len(data)
                return
            self._ahead = data
        else:
            self._ahead = self._ahead[self._place :] + data
        self._place = 0

    def read(self) -> Request | None:
        """The next whole request, or None while bytes are missing. Raises RequestError, after which nothing is read."""
        head = self._head or self._read_head()
        if head is None:
            return None
        chunks = self._chunks
        if chunks is None:
            if self._left:
                data = self._take(self._left)
                self._body.append(data)
                self._left -= len(data)
            return None if self._left else self._finish(head, b"".join(self._body), last=False)
        chunks.feed(self._take(len(self._ahead)))
        # Its framing has no right to more than it frames.
        self._limits.check_body(max(len(chunks.bytes), chunks.wire_size // 2))
        # What follows a chunked body has been swallowed by its parser.
        return self._finish(head, bytes(chunks.bytes), last=chunks.trailing) if chunks.complete else None

    def clear(self) -> None:
        self._ahead, self._place = b"", 0
        self._body.clear()
        self._head = self._chunks = None
        self._left = 0

    def _read_head(self) -> RequestHead | None:
        ahead = self._ahead
        while ahead.startswith(_BLANK, self._place):
            self._place = ahead.index(b"\n", self._place) + 1
        begin, end = self._place, ahead.find(_HEAD_END, self._place)
        if (len(ahead) if end < 0 else end) - begin > self._limits.head_bytes:
            message = f"The request's head is larger than {self._limits.head_bytes} bytes."
            raise RequestError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large", message)
        if end < 0:
            _check_lines(ahead, begin)
            return None
        raw = self._take(end + len(_HEAD_END) - begin)
        head = read_request_head(raw, self._limits.headers)
        self._admit(head)
        if head.body_length is None:
            self._chunks = ChunkedBody(raw)
        self._left = head.body_length or 0
        self._head = head
        return head

    def _take(self, length: int) -> bytes:
        """At most so many of the bytes ahead."""
        data = self._ahead[self._place : self._place + length]
        self._place += len(data)
        if self._place == len(self._ahead):
            self._ahead, self._place = b"", 0  # a large one is not held for longer than it is needed
        return data

    def _finish(self, head: RequestHead, body: bytes, last: bool) -> Request:
        self._head = self._chunks = None
        self._body = []
        return Request(head, body, last)


def _check_lines(ahead: bytes, begin: int) -> None:
    """Raises RequestError where no further byte can make a head of this: nobody has to wait for its end."""
    first = ahead.find(b"\n", begin) + 1
    if first and not _VERSION.fullmatch(ahead, max(begin, first - 10), first):
        raise bad_request("The request's first line does not end with its version, such as HTTP/1.1, and CR LF.")
    if ahead.count(b"\n", begin) != ahead.count(b"\r\n", begin):
        raise bad_request("The lines of a request's head must end with CR LF.")
