"""The id under which one request is known to the client, in the log and in the engine."""

from __future__ import annotations

import random
import re

HEADER = "X-Request-Id"
_WELL_FORMED = re.compile(rb"[A-Za-z0-9._-]{1,128}")
# Ids have to differ, not to be secret: clients choose their own.
_numbers = random.Random()


def choose_request_id(offered: bytes | None) -> str:
    """The client's own id if it is well-formed, else a new one."""
    if offered is not None and _WELL_FORMED.fullmatch(offered):
        return offered.decode("ascii")
    return _numbers.randbytes(16).hex()
