"""The runtime's tests run on the event loop that it runs on, which needs a time limit of its own."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

import pytest
import uvloop

_LIMIT_SECONDS = 45


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], Any]]:
    return {"uvloop": uvloop.new_event_loop}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # pytest-timeout's signal cannot get through to a uvloop that waits.
    for item in items:
        if isinstance(item, pytest.Function) and item.path.is_relative_to(Path(__file__).parent):
            item.obj = _limit(item.obj) if iscoroutinefunction(item.obj) else item.obj


def _limit(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def limited(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(_LIMIT_SECONDS):
            await test(*args, **kwargs)

    return limited
