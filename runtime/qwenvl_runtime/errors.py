"""Errors that the front itself answers, in the OpenAI API's shape."""

from __future__ import annotations

from http import HTTPStatus

import orjson


class RequestError(Exception):
    """A request that gets an error instead of an answer."""

    def __init__(self, status: HTTPStatus, code: str, message: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers

    def body(self) -> bytes:
        """The error in OpenAI's shape."""
        kind = "invalid_request_error" if self.status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
        return orjson.dumps({"error": {"message": self.message, "type": kind, "param": None, "code": self.code}})


def bad_request(message: str) -> RequestError:
    return RequestError(HTTPStatus.BAD_REQUEST, "bad_request", message)
