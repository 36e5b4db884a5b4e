"""What can go wrong in a reconcile, by what has to happen next."""

from __future__ import annotations


class InvalidSpec(Exception):
    """The spec cannot work as it stands: `Stalled` until its generation changes."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class ApiError(Exception):
    """The API server refused a call, or could not be reached (status 0).

    `retry_after` is what the server asked for, in seconds.
    """

    def __init__(self, status: int, reason: str, message: str, *, call: str, retry_after: float | None = None) -> None:
        super().__init__(f"{call}: {status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.call = call
        self.retry_after = retry_after
