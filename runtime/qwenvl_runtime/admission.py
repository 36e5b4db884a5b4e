"""How much the pod takes on at a time, so that nobody waits for ever: requests, and an estimate of their tokens."""

from __future__ import annotations

from http import HTTPStatus

from qwenvl_runtime.config import QueueConfig
from qwenvl_runtime.errors import RequestError

_RETRY_SECONDS = "5"


class Admission:
    def __init__(self, limits: QueueConfig) -> None:
        self._limits = limits
        self.requests = 0
        """A request for several answers counts as many: each is a sequence of its own in the engine."""
        self.tokens = 0

    def check_room(self, tokens: int = 0, answers: int = 1) -> None:
        """Raises RequestError. A request alone is always let in: the engine knows better what is too long for it."""
        limits = self._limits
        if limits.max_requests and self.requests and self.requests + answers > limits.max_requests:
            raise build_full(f"{self.requests} requests are running or waiting (queue.maxRequests)")
        if limits.max_tokens and self.requests and self.tokens + tokens > limits.max_tokens:
            raise build_full(f"about {self.tokens} prompt tokens are running or waiting (queue.maxTokens)")

    def enter(self, tokens: int, answers: int) -> None:
        self.check_room(tokens, answers)
        self.requests += answers
        self.tokens += tokens

    def leave(self, tokens: int, answers: int) -> None:
        self.requests -= answers
        self.tokens -= tokens


def build_full(what: str) -> RequestError:
    message = f"The pod is full: {what}. Try again later."
    return RequestError(HTTPStatus.TOO_MANY_REQUESTS, "queue_full", message, (("Retry-After", _RETRY_SECONDS),))
