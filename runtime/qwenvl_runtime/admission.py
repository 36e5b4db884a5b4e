"""How much the pod takes on at a time, so that nobody waits for ever: requests, and an estimate of their tokens."""

from __future__ import annotations

from http import HTTPStatus

from qwenvl_runtime.config import QueueConfig
from qwenvl_runtime.errors import RequestError

LARGEST = 32
"""How many pictures of media.maxSourcePixels a pod takes on at a time."""
_RETRY_SECONDS = "5"


class Admission:
    """`max_pixels`: of all pictures as they were sent; 0 is no limit. The engine may hold all of them decoded."""

    def __init__(self, limits: QueueConfig, max_pixels: int = 0) -> None:
        self._limits = limits
        self._max_pixels = max_pixels
        self.requests = 0
        """A request for several answers counts as many: each is a sequence of its own in the engine."""
        self.tokens = 0
        self.pixels = 0

    def check_room(self, tokens: int = 0, answers: int = 1, pixels: int = 0) -> None:
        """Raises RequestError. A request alone is always let in: the engine knows better what is too long for it."""
        limits = self._limits
        if not self.requests:
            return
        if limits.max_requests and self.requests + answers > limits.max_requests:
            raise _refuse("requests", self.requests, answers, limits.max_requests, "queue.maxRequests")
        if limits.max_tokens and self.tokens + tokens > limits.max_tokens:
            raise _refuse("prompt tokens (estimated)", self.tokens, tokens, limits.max_tokens, "queue.maxTokens")
        if self._max_pixels and self.pixels + pixels > self._max_pixels:
            setting = f"media.maxSourcePixels x {LARGEST}"
            raise _refuse("pixels of pictures", self.pixels, pixels, self._max_pixels, setting)

    def enter(self, tokens: int, answers: int, pixels: int = 0) -> None:
        self.check_room(tokens, answers, pixels)
        self.requests += answers
        self.tokens += tokens
        self.pixels += pixels

    def leave(self, tokens: int, answers: int, pixels: int = 0) -> None:
        self.requests -= answers
        self.tokens -= tokens
        self.pixels -= pixels


def _refuse(what: str, here: int, asked: int, most: int, setting: str) -> RequestError:
    own = f" and {asked} are asked for," if asked else ""
    alone = "; a request for so many is taken only while nothing else runs: send a smaller one" if asked > most else ""
    return build_full(f"{here} {what} are running or waiting,{own} of at most {most} ({setting}){alone}")


def build_full(what: str) -> RequestError:
    message = f"The pod is full: {what}. Try again later."
    return RequestError(HTTPStatus.TOO_MANY_REQUESTS, "queue_full", message, (("Retry-After", _RETRY_SECONDS),))
