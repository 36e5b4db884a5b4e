"""What goes wrong in a way that a person can do something about."""


class HarnessError(Exception):
    """The harness cannot do what was asked of it; the message says why, and what to change where that is known."""
