"""The body of a request whose length nobody said: chunks, until one is empty."""

from __future__ import annotations

import httptools

from qwenvl_runtime.errors import bad_request

_PIECES, _PIECE_BYTES = 4096, 32
"""Chunks that a body may have, and bytes for each further one: each costs some time."""


class ChunkedBody:
    """`head`: of the request, which its parser reads once more. Raises RequestError where it waits for no body then."""

    def __init__(self, head: bytes) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._begun = 0
        self._pieces = 0
        self.bytes = bytearray()
        self.wire_size = 0
        """Bytes of the body as they came, with their framing."""
        self.complete = False
        self.trailing = False
        """Bytes after the body: the next request, whose beginning is lost."""
        self._feed(head)
        if self.complete or self._begun != 1:
            raise bad_request("The request's head is malformed.")

    def feed(self, data: bytes) -> None:
        """Raises RequestError."""
        self._feed(data)
        if self._begun > 1:
            self.trailing = True
        self.wire_size += len(data)
        if self._pieces > _PIECES + len(self.bytes) // _PIECE_BYTES:
            raise bad_request("The body comes in too many chunks that are too small.")

    def on_message_begin(self) -> None:
        self._begun += 1

    def on_body(self, data: bytes) -> None:
        if self.complete:
            return  # the next request's
        self.bytes += data
        self._pieces += 1

    def on_message_complete(self) -> None:
        self.complete = True

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.complete:
                raise bad_request("The request is not well-formed HTTP.") from error
            self.trailing = True
