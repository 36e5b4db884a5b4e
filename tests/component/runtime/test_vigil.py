"""What the watch over the engine takes for its death, and what only for slowness."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from component.runtime.test_life import WATCHDOG
from harness.runtime_process import build_config
from qwenvl_runtime.boot import Boot
from qwenvl_runtime.ending import Ending, ExitCode
from qwenvl_runtime.vigil import Vigil


async def keep_vigil(engine: Path) -> Ending:
    config = build_config(watchdog=WATCHDOG)
    return await Vigil(engine, Boot("rev-1"), config, moved=lambda: 0, waiting=lambda: 0).keep(lambda: None)


@pytest.mark.parametrize("exists", [True, False])
async def test_an_engine_that_takes_no_connections_is_dead(tmp_path: Path, exists: bool) -> None:
    engine = tmp_path / "engine.sock"
    if exists:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(engine))
    assert (await keep_vigil(engine)).code is ExitCode.ENGINE_DIED


async def test_an_engine_whose_queue_of_connections_is_full_is_left_to_the_watchdog(tmp_path: Path) -> None:
    engine = tmp_path / "engine.sock"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(engine))
        listener.listen(0)
        first.connect(str(engine))
        assert (await keep_vigil(engine)).code is ExitCode.ENGINE_FROZEN
