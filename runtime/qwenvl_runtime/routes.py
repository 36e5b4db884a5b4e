"""The few paths that there are; a request for anything else never reaches the engine."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

from qwenvl_runtime.errors import RequestError, bad_request
from qwenvl_runtime.limits import Limits
from qwenvl_runtime.request_head import RequestHead


@dataclass(frozen=True)
class Route:
    method: str
    relayed: bool
    """Whether the engine answers it."""


ROUTES = {
    "/v1/chat/completions": Route("POST", relayed=True),
    "/v1/completions": Route("POST", relayed=True),
    "/v1/models": Route("GET", relayed=True),
    "/healthz": Route("GET", relayed=False),
    "/readyz": Route("GET", relayed=False),
    "/metrics": Route("GET", relayed=False),
    "/warmup": Route("GET", relayed=False),
}


def check_request(head: RequestHead, limits: Limits) -> Route:
    """The route of a request. Raises RequestError for what is never answered."""
    route = ROUTES.get(head.path)
    if route is None:
        message = f"There is no such path. There are: {', '.join(ROUTES)}."
        raise RequestError(HTTPStatus.NOT_FOUND, "not_found", message)
    if head.method != route.method and (head.method != "HEAD" or route.method != "GET" or route.relayed):
        allow = (("Allow", route.method),)
        raise RequestError(HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed", f"Use {route.method}.", allow)
    if route.method == "GET" and head.body_length != 0:
        raise bad_request("A GET has no body here: send it without Content-Length and Transfer-Encoding.")
    limits.check_body(head.body_length or 0)
    headers = head.headers
    if b"content-encoding" in headers and headers[b"content-encoding"].lower() != b"identity":
        message = "Send the body without Content-Encoding."
        raise RequestError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "content_encoding", message)
    if b"expect" in headers and headers[b"expect"].lower() != b"100-continue":
        message = "Nothing but 100-continue can be expected."
        raise RequestError(HTTPStatus.EXPECTATION_FAILED, "expectation_failed", message)
    return route
