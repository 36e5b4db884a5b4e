"""How late the event loop comes to what is due: work that blocks it delays every resource, the lease and the probes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

INTERVAL = 1.0


async def beat(late: Callable[[float], None]) -> None:
    """Tell again and again by how many seconds the last pause was longer than it should have been."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + INTERVAL
        await asyncio.sleep(INTERVAL)
        late(loop.time() - due)
