"""Waiting for a condition inside the event loop that brings it about."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(1):
        while not condition():  # noqa: ASYNC110 - whatever changes it knows nothing of the test
            await asyncio.sleep(0)
