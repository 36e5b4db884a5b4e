"""What the front adds to a small request, as a ratio to asking the engine directly.

Run: python -m component.runtime.relay_cost (from tests/, nothing else running). Engine, front and client are processes
of their own; the engine answers at once, so that nothing but the hops shows. Rounds are interleaved, medians reported.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import statistics
import sys
import tempfile
import time
from multiprocessing.queues import Queue
from pathlib import Path

import uvloop

from component.runtime.scripted_engine import build_post
from harness.runtime_process import build_config
from qwenvl_runtime.boot import Boot, Phase
from qwenvl_runtime.front import Front
from qwenvl_runtime.limits import Limits

_ROUNDS = 5
_REQUESTS = 2000
_BODY = b'{"model": "m", "messages": [{"role": "user", "content": "' + b"x" * 960 + b'"}]}'
_ANSWER = b'{"choices": [{"message": {"content": "ok"}}]}'


class InstantEngine(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(_ANSWER)
        self._transport.write(head + _ANSWER)  # type: ignore[attr-defined]


def run_engine(path: Path) -> None:
    async def serve() -> None:
        server = await asyncio.get_running_loop().create_unix_server(InstantEngine, str(path))
        await server.serve_forever()

    uvloop.run(serve())


def run_front(path: Path, port: Queue[int]) -> None:
    async def serve() -> None:
        front = Front(Boot("r", phase=Phase.SERVING, warmed=True), path, Limits(body_bytes=1 << 20), build_config())
        port.put(await front.open(0))
        await asyncio.Event().wait()

    sys.stdout = Path("/dev/null").open("w")  # noqa: SIM115 - for the life of the process
    uvloop.run(serve())


def time_requests(connection: socket.socket) -> float:
    """Median seconds of a request and its answer."""
    request = build_post(_BODY)
    seconds = []
    for _ in range(_REQUESTS):
        began = time.perf_counter()
        connection.sendall(request)
        assert connection.recv(65536).endswith(_ANSWER)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def main() -> None:
    context = multiprocessing.get_context("fork")
    path = Path(tempfile.mkdtemp()) / "engine.sock"
    port: Queue[int] = context.Queue()
    processes = [context.Process(target=run_engine, args=(path,)), context.Process(target=run_front, args=(path, port))]
    for process in processes:
        process.start()
    try:
        front = socket.create_connection(("127.0.0.1", port.get()))
        direct = socket.socket(socket.AF_UNIX)
        direct.connect(str(path))
        rounds = [(time_requests(direct), time_requests(front)) for _ in range(_ROUNDS)]
        alone, through = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"direct {alone * 1e6:.0f} us, through the front {through * 1e6:.0f} us: {through / alone:.1f} times")
    finally:
        for process in processes:
            process.terminate()


if __name__ == "__main__":
    main()
