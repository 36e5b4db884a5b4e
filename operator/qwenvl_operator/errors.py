"""What can go wrong in a reconcile, by what has to happen next."""

from __future__ import annotations


class InvalidSpec(Exception):  # noqa: N818 - an outcome of a reconcile, named after the condition's reason
    """What the spec asks for cannot be had: `Stalled` until its generation changes, or until what is in its way has
    gone, which is looked for every `after` seconds."""

    def __init__(self, reason: str, message: str, *, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after
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

    @property
    def is_refusal(self) -> bool:
        """Whether the spec or somebody's permissions are the cause: to be said in status, and tried again."""
        return self.status in (400, 403, 422)

    @property
    def is_fault(self) -> bool:
        """Whether the API server could not do what it was asked for, a webhook that fails included. Most faults pass by
        themselves: to be said only if it lasts."""
        return self.status >= 500


class Waiting(Exception):  # noqa: N818 - an outcome of a reconcile, not a fault
    """Nothing can be done before something else has happened: look again after `after` seconds."""

    def __init__(self, after: float, message: str) -> None:
        super().__init__(message)
        self.after = after
        self.message = message


class StartError(Exception):
    """The process cannot start as it was configured; the message says what to change."""
