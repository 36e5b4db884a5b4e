"""Bytes in, whole requests out: cuts a connection's bytes into requests within limits, without any I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from qwenvl_runtime.errors import RequestError
from qwenvl_runtime.limits import Limits
from qwenvl_runtime.request_head import RequestHead, RequestReader

_HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Request:
    head: RequestHead
    body: bytes
    last: bool
    """True when the connection cannot be read any further."""


class Intake:
    """`admit` sees each head before a byte of the body is waited for, and raises RequestError to refuse it."""

    def __init__(self, limits: Limits, admit: Callable[[RequestHead], None]) -> None:
        self._limits = limits
        self._admit = admit
        self._ahead = bytearray()
        self._reader: RequestReader | None = None
        self._body: list[bytes] = []
        self._left = 0

    @property
    def ahead(self) -> int:
        """Bytes that wait to be read."""
        return len(self._ahead)

    @property
    def begun(self) -> bool:
        """Whether a request has begun and is not whole yet."""
        return bool(self._ahead) or self._reader is not None

    def feed(self, data: bytes) -> None:
        if self._left >= len(data) and not self._ahead:
            # The common way of a large body: straight to its place.
            self._body.append(data)
            self._left -= len(data)
        else:
            self._ahead += data

    def read(self) -> Request | None:
        """The next whole request, or None while bytes are missing. Raises RequestError, after which nothing is read."""
        if self._reader is None:
            self._read_head()
        reader = self._reader
        if reader is None:
            return None
        if reader.head.body_length is not None:
            data = bytes(self._ahead[: self._left])
            del self._ahead[: len(data)]
            self._body.append(data)
            self._left -= len(data)
            return self._finish(reader, b"".join(self._body), last=False) if self._left == 0 else None
        data, self._ahead = bytes(self._ahead), bytearray()
        reader.feed_body(data)
        self._limits.check_body(reader.body_size)
        # What follows a chunked body has been swallowed by its parser.
        return self._finish(reader, b"".join(reader.body), last=reader.trailing) if reader.complete else None

    def clear(self) -> None:
        self._ahead.clear()
        self._body.clear()
        self._reader = None
        self._left = 0

    def _read_head(self) -> None:
        while self._ahead.startswith(b"\r\n"):
            del self._ahead[:2]
        end = self._ahead.find(_HEAD_END)
        if (len(self._ahead) if end < 0 else end) > self._limits.head_bytes:
            raise RequestError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large", "The head is too large.")
        if end < 0:
            return
        end += len(_HEAD_END)
        head = bytes(self._ahead[:end])
        del self._ahead[:end]
        reader = RequestReader(head, self._limits.headers)
        self._admit(reader.head)
        self._reader = reader
        self._left = reader.head.body_length or 0

    def _finish(self, reader: RequestReader, body: bytes, last: bool) -> Request:
        self._reader = None
        self._body = []
        return Request(reader.head, body, last)
