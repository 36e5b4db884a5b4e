"""The fake engine's process: vLLM's command line, HTTP on a unix socket, vLLM's ways of ending."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time

import httptools
from vllm.completions import Question, build_answer, build_events, count_usage, read_question
from vllm.faults import Faults, keep, note

_FLAGS = (
    "--uds",
    "--model",
    "--served-model-name",
    "--max-model-len",
    "--max-num-seqs",
    "--limit-mm-per-prompt",
    "--mm-processor-kwargs",
    "--allowed-media-domains",
    "--gpu-memory-utilization",
    "--tensor-parallel-size",
    "--mm-encoder-tp-mode",
    "--shutdown-timeout",
    "--kv-cache-memory-bytes",
    "--fingerprint-mode",
    "--uvicorn-log-level",
    "--seed",
    "--load-format",
    "--faults",
)
_SWITCHES = ("--enforce-eager", "--disable-fastapi-docs", "--disable-uvicorn-access-log")
_METRICS = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="%s"} %d
# HELP vllm:generation_tokens Number of generation tokens processed.
# TYPE vllm:generation_tokens counter
vllm:generation_tokens_total{engine="0",model_name="%s"} %d
"""


class Engine:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.model: str = arguments.served_model_name
        self.max_pixels: int = json.loads(arguments.mm_processor_kwargs)["max_pixels"]
        self.max_images: int = json.loads(arguments.limit_mm_per_prompt)["image"]
        self.running = 0
        self.tokens = 0
        self.looks = dict.fromkeys(("/health", "/metrics"), 0)
        self._served: set[str] = set()

    def is_first(self, question: Question) -> bool:
        """Whether no question of its kind was asked before; real engines are slow then."""
        kind = "picture" if question.sizes else "text"
        first = kind not in self._served
        self._served.add(kind)
        return first


class Connection(asyncio.Protocol):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._transport: asyncio.Transport
        self._task: asyncio.Task[None] | None = None
        self._drained = asyncio.Event()
        self._drained.set()
        self._start_message()

    def _start_message(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._path = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._drained.set()
        if self._task is not None and not self._task.done():
            self._task.cancel()

    def pause_writing(self) -> None:
        self._drained.clear()

    def resume_writing(self) -> None:
        self._drained.set()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode().lower()] = value.decode()

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        path, headers, body = self._path.decode(), self._headers, b"".join(self._body)
        self._start_message()
        self._task = asyncio.ensure_future(self._answer(path, headers, body))

    async def _answer(self, path: str, headers: dict[str, str], body: bytes) -> None:
        faults = Faults.load()
        if path in self._engine.looks:
            self._engine.looks[path] += 1
            await asyncio.sleep(faults.late_looks if self._engine.looks[path] % 3 else 0)
        if path == "/health":
            self._write(faults.health_status, b"")
        elif path == "/metrics":
            engine = self._engine
            engine.tokens += faults.moves
            page = _METRICS % (engine.model, engine.running, engine.model, engine.tokens)
            self._write(200, page.encode(), "text/plain")
        elif path == "/v1/models":
            listed = {"object": "list", "data": [{"id": self._engine.model, "object": "model", "owned_by": "fake"}]}
            self._write(200, json.dumps(listed).encode())
        elif path in ("/v1/chat/completions", "/v1/completions"):
            await self._complete(path, headers, body, faults)
        else:
            note("stray", path=path)
            self._write(404, b"{}")
        if headers.get("connection") == "close" or faults.close_after_answer:
            self._transport.close()

    async def _complete(self, path: str, headers: dict[str, str], body: bytes, faults: Faults) -> None:
        request_id = headers.get("x-request-id", "")
        note("request", path=path, headers=headers, size=len(body))
        # An engine core that hangs takes nothing up.
        taken = not faults.hang
        self._engine.running += taken
        try:
            await self._answer_question(read_question(body), request_id, faults)
        except asyncio.CancelledError:
            note("aborted", request_id=request_id)
            raise
        except (ValueError, KeyError, TypeError) as error:
            self._fail(400, f"cannot read the request: {error}")
        finally:
            self._engine.running -= taken

    async def _answer_question(self, question: Question, request_id: str, faults: Faults) -> None:
        if faults.tattle:
            log(f"Skipping multimodal part '{question.text}'", "WARNING")
        if faults.die_in_request:
            os._exit(0)
        if faults.hang:
            await asyncio.Event().wait()
        if faults.status:
            self._fail(faults.status, "as the faults say")
            return
        if len(question.sizes) > self._engine.max_images:
            self._fail(400, f"At most {self._engine.max_images} image(s) may be provided in one prompt.")
            return
        self._engine.tokens += faults.events
        first = self._engine.is_first(question)
        if first:
            await asyncio.sleep(faults.first_seconds)
        usage = count_usage(question, faults, self._engine.max_pixels)
        mark = f"x-fake-first: {str(first).lower()}\r\n"
        if question.stream:
            events = build_events(question, usage, faults, self._engine.model, request_id)
            await self._stream(events, mark, faults)
            note("streamed", request_id=request_id)
        else:
            self._write(200, build_answer(question, usage, faults, self._engine.model, request_id), extra=mark)

    async def _stream(self, events: list[bytes], mark: str, faults: Faults) -> None:
        head = f"HTTP/1.1 200 OK\r\nserver: fake\r\ncontent-type: text/event-stream; charset=utf-8\r\n{mark}"
        self._transport.write(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
        for number, event in enumerate(events):
            if number and faults.event_seconds:
                await asyncio.sleep(faults.event_seconds)
            if faults.die_in_answer and number == len(events) // 2:
                os._exit(0)
            chunk = b"%x\r\n%b\r\n" % (len(event), event)
            step = faults.piece_bytes or len(chunk)
            for start in range(0, len(chunk), step):
                self._transport.write(chunk[start : start + step])
                # Let the piece leave on its own, as a slow network would cut it.
                await asyncio.sleep(0)
            await self._drained.wait()
        self._transport.write(b"0\r\n\r\n")

    def _fail(self, status: int, message: str) -> None:
        error = {"message": message, "type": "FakeError", "param": None, "code": status}
        self._write(status, json.dumps({"error": error}).encode())

    def _write(self, status: int, body: bytes, content_type: str = "application/json", extra: str = "") -> None:
        head = f"HTTP/1.1 {status} Fake\r\nserver: fake\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\n{extra}"
        head += f"content-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)


def log(text: str, level: str = "INFO") -> None:
    stamp = time.strftime("%m-%d %H:%M:%S")
    print(f"(APIServer pid={os.getpid()}) {level} {stamp} [fake.py:1] {text}", flush=True)


async def serve(arguments: argparse.Namespace, faults: Faults) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    if not faults.ignore_sigterm:
        loop.add_signal_handler(signal.SIGTERM, stop.set)
    engine = Engine(arguments)
    server = await loop.create_unix_server(lambda: Connection(engine), arguments.uds)
    log("Application startup complete.")
    await stop.wait()
    server.close()
    note("stopped", running=engine.running)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in _FLAGS:
        parser.add_argument(flag)
    for switch in _SWITCHES:
        parser.add_argument(switch, action="store_true")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if arguments.faults:
        keep(arguments.faults)
    faults = Faults.load()
    note("started", pid=os.getpid(), arguments=sys.argv[1:], environment=dict(os.environ))
    if faults.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if faults.child:
        note("child", pid=subprocess.Popen(["sleep", "600"]).pid)
    time.sleep(faults.start_seconds)
    if faults.start_failure:
        log(faults.start_failure, "ERROR")
        raise SystemExit(1)
    # Zeros would take no page of memory.
    ballast = b"x" * faults.start_bytes
    asyncio.run(serve(arguments, faults))
    del ballast


if __name__ == "__main__":
    main()
