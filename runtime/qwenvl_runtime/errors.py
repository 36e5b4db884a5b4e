"""Errors that the front itself answers, in the OpenAI API's shape."""

from __future__ import annotations

from http import HTTPStatus

import orjson


class RequestError(Exception):
    """A request that gets an error instead of an answer. `param` is the path of the field that has to change."""

    def __init__(
        self,
        status: HTTPStatus,
        code: str,
        message: str,
        headers: tuple[tuple[str, str], ...] = (),
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers
        self.param = param

    def body(self) -> bytes:
        """The error in OpenAI's shape."""
        if self.status == HTTPStatus.TOO_MANY_REQUESTS:
            kind = "rate_limit_error"
        else:
            kind = "invalid_request_error" if self.status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
        return orjson.dumps({"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}})


def bad_request(message: str) -> RequestError:
    return RequestError(HTTPStatus.BAD_REQUEST, "bad_request", message)


def unavailable(code: str, message: str) -> RequestError:
    return RequestError(HTTPStatus.SERVICE_UNAVAILABLE, code, message, (("Retry-After", "5"),))


def engine_unreachable() -> RequestError:
    return unavailable("engine_unreachable", "The engine cannot be reached.")


def bad_field(code: str, param: str, message: str) -> RequestError:
    """A field that has to change; `param` is its path, such as `messages[0].content[1].image_url.url`."""
    return RequestError(HTTPStatus.BAD_REQUEST, code, f"{param}: {message}" if param else message, param=param or None)
