"""Makes the engine listen on a port, too, as for those who run it by itself. Python imports this module at its start.

vLLM listens on a port or on a socket, and two engines would not be alike.
"""

from __future__ import annotations

import os
import socket
import sys

PORT = "BENCH_ENGINE_PORT"

if PORT in os.environ and "vllm.entrypoints.openai.api_server" in sys.orig_argv:
    import uvicorn

    serve = uvicorn.Server.serve

    async def serve_both(self: uvicorn.Server, sockets: list[socket.socket] | None = None) -> None:
        await serve(self, [*(sockets or []), socket.create_server(("127.0.0.1", int(os.environ[PORT])))])

    uvicorn.Server.serve = serve_both  # type: ignore[method-assign]
