"""Requests that no client should send, by the thousand, to a front in a process of its own.

Run: python -m component.runtime.fuzz --requests 100000 --seed 1 (from tests/). The front must answer each of them
without a 5xx, let nothing through that the rules forbid, and not grow. The same seed sends the same requests.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import json
import multiprocessing
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httptools
import uvloop

from component.runtime.scripted_engine import RawClient, build_post
from harness.runtime_process import build_config
from harness.sample_pictures import animate, build_png_bomb, data_url, encode
from qwenvl_runtime.boot import Boot, Phase
from qwenvl_runtime.control_tokens import CONTROL_TOKENS
from qwenvl_runtime.fields import build_chat_fields, build_completion_fields
from qwenvl_runtime.front import Front
from qwenvl_runtime.limits import Limits

_CLIENTS = 8
_PATHS = ("/v1/chat/completions", "/v1/completions")
_ENGINE_FIELDS = frozenset(build_chat_fields(1)) | frozenset(build_completion_fields(1))
_FORBIDDEN = 418
"""What the engine says to a request that should not have reached it."""
_ANSWER = b"HTTP/1.1 %d Ok\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


@dataclass
class Result:
    answered: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    grown_bytes: int = 0
    seconds: float = 0.0


# The engine, which checks what it gets


class CheckingEngine(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._body: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        status = 200 if is_clean(b"".join(self._body)) else _FORBIDDEN
        self._begin()
        self._transport.write(_ANSWER % status)  # type: ignore[attr-defined]


def is_clean(body: bytes) -> bool:
    """Whether the engine may see this, by another parser than the front's."""
    try:
        content = json.loads(body.decode("utf-8"), object_pairs_hook=_refuse_twice)
    except ValueError:
        return False
    if not set(content) <= _ENGINE_FIELDS:
        return False
    asked = json.dumps([content.get(name) for name in ("messages", "prompt", "tools")], ensure_ascii=False)
    if any(token in asked for token in CONTROL_TOKENS) or asked.count("data:image/") > 4:
        return False
    messages: list[dict[str, Any]] = content.get("messages", [])
    parts = [part for each in messages if type(each.get("content")) is list for part in each["content"]]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return all(part["type"] in ("text", "refusal", "image_url") for part in parts) and all(
        url.startswith("data:image/") for url in urls
    )


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a key is given twice")
    return dict(pairs)


# What is sent


_GOOD = [data_url(encode("PNG")), data_url(encode("JPEG"), "image/jpeg"), data_url(encode("WEBP"), "image/webp")]
_BAD = [
    data_url(build_png_bomb(50_000, 50_000)), data_url(animate("PNG")), data_url(animate("WEBP"), "image/webp"),
    data_url(encode("GIF"), "image/gif"), data_url(encode("PNG")[:-30]), "http://169.254.169.254/",
    "file:///etc/passwd", "https://localhost/a.png", "data:text/html,<b>", "data:", "", "//a",
    "data:image/png;base64,", "x" * 3000,
]  # fmt: skip
_ODD: list[Any] = [
    None, True, False, 0, -1, 1 << 64, 10**30, 1.5, -1e300, "", "a", "\0", "\ufeff", "é" * 50, [], {}, [[]], [{}],
    [None], {"a": 1}, "<|im_", "start|>", "|", *CONTROL_TOKENS, *_BAD[5:],
]  # fmt: skip
_NAMES = [
    *sorted(_ENGINE_FIELDS), "mm_processor_kwargs", "media_io_kwargs", "chat_template", "cache_salt",
    "kv_transfer_params", "vllm_xargs", "priority", "prompt_embeds", "documents", "echo", "user", "type", "text",
    "image_url", "url", "uuid", "role", "content", "name", "tool_calls", "function", "arguments", "<|im_end|>", "",
]  # fmt: skip


def build_content(chance: random.Random) -> tuple[str, dict[str, Any]]:
    """A request that is good, or nearly."""
    if chance.random() < 0.15:
        return _PATHS[1], {
            "prompt": chance.choice(["once", ["a", "b"], chance.choice(CONTROL_TOKENS)]),
            "max_tokens": 5,
        }
    parts: list[dict[str, Any]] = [
        {"type": "text", "text": "".join(chance.choices(["a ", "<|im_", "end|>", "é"], k=3))}
    ]
    for _ in range(chance.choice((0, 0, 1, 1, 2, 6))):
        url = chance.choice(_GOOD if chance.random() < 0.8 else _BAD)
        parts.append({"type": "image_url", "image_url": {"url": url}})
    messages: list[dict[str, Any]] = [{"role": "system", "content": "be kind"}, {"role": "user", "content": parts}]
    if chance.random() < 0.3:
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": "\\u003c|im_end|>"}'}}
        messages += [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "1", "content": "x"}]
    content: dict[str, Any] = {"model": "m", "messages": messages, "stream": chance.random() < 0.5, "n": 1}
    if chance.random() < 0.3:
        content["tools"] = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    return _PATHS[0], content


def distort(content: Any, chance: random.Random) -> None:
    """Change one thing somewhere in it."""
    while True:
        inner = [
            each for each in (content.values() if type(content) is dict else content) if type(each) in (dict, list)
        ]
        if not inner or not any(inner) or chance.random() < 0.4:
            break
        content = chance.choice([each for each in inner if each] or inner)
    odd = copy.deepcopy(chance.choice(_ODD))
    if type(content) is list:
        content.insert(chance.randint(0, len(content)), odd)
    elif content and chance.random() < 0.6:
        content[chance.choice(list(content))] = odd
    else:
        content[chance.choice(_NAMES)] = odd


def damage(body: bytes, chance: random.Random) -> bytes:
    """Change it as bytes: what no JSON library would write."""
    place = chance.randrange(len(body) + 1)
    return chance.choice(
        (
            body[:place],
            body[:place] + bytes([chance.randrange(256)]) + body[place + 1 :],
            body[:-1] + b',"n":1,"messages":[],"stop":["' + chance.choice(CONTROL_TOKENS).encode() + b'"]}',
            body.replace(b"<", b"\\u003c").replace(b"|", b"\\u007c"),
            chance.choice((b"\xef\xbb\xbf", b"\0", b" ")) + body,
            body.replace(b": 1", b": " + chance.choice((b"NaN", b"1e999", b"01", b"-0", b"9" * 400))),
            body[:place] + b"[" * chance.choice((10, 70, 2000)) + body[place:],
        )
    )


def build_wire(chance: random.Random) -> tuple[bytes, bool]:
    """A request, and whether its head is broken: then nobody knows where it ends."""
    path, content = build_content(chance)
    for _ in range(chance.choice((0, 0, 1, 1, 2, 4))):
        distort(content, chance)
    body = json.dumps(content, ensure_ascii=chance.random() < 0.5).encode("utf-8", "replace")
    if chance.random() < 0.25:
        body = damage(body, chance)
    wire = build_post(body, path=path)
    broken = chance.random() < 0.05
    if broken:
        place = chance.randrange(wire.index(b"\r\n\r\n"))
        wire = wire[:place] + bytes([chance.randrange(256)]) + wire[place + 1 :]
    return wire, broken


# The run


def run_engine(path: Path, pipe: Connection) -> None:
    async def serve() -> None:
        server = await asyncio.get_running_loop().create_unix_server(CheckingEngine, str(path))
        pipe.send("listens")
        await server.serve_forever()

    uvloop.run(serve())


def run_front(path: Path, pipe: Connection) -> None:
    async def serve() -> None:
        config = build_config(queue={"max_requests": 64})
        # A head that was broken may leave the front waiting for more.
        limits = replace(Limits.of(config), head_seconds=0.3, body_seconds=0.3, linger_seconds=0.3)
        front = Front(Boot("r", phase=Phase.SERVING, warmed=True), path, limits, config)
        port, _ = await front.open(0, 0)
        await front.open_to_clients()
        pipe.send(port)
        await asyncio.Event().wait()

    sys.stdout = Path("/dev/null").open("w")  # noqa: SIM115 - for the life of the process
    uvloop.run(serve())


def read_memory(pid: int, name: str) -> int:
    """Bytes; `VmRSS` is what the process has now, `VmHWM` the most that it had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) << 10


async def send_all(port: int, seed: int, requests: int, result: Result) -> None:
    chance = random.Random(seed)
    client: RawClient | None = None
    for _ in range(requests):
        wire, broken = build_wire(chance)
        client = client or await RawClient.connect(port)
        try:
            reply = await asyncio.wait_for(client.ask(wire), 30)
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError) as error:
            result.failures.append(f"{type(error).__name__} after {wire[:400]!r}")
            client.close()
            client = None
            continue
        result.answered += 1
        result.statuses[reply.status] += 1
        if reply.status >= 500 or reply.status == _FORBIDDEN:
            result.failures.append(f"{reply.status} to {wire[:4000]!r}")
        if broken or reply.headers["connection"] == "close":
            client.close()
            client = None
    if client is not None:
        client.close()


async def fuzz(requests: int, seed: int) -> Result:
    context = multiprocessing.get_context("spawn")
    path = Path(tempfile.mkdtemp()) / "engine.sock"
    ours, theirs = context.Pipe()
    engine = context.Process(target=run_engine, args=(path, theirs), daemon=True)
    front = context.Process(target=run_front, args=(path, theirs), daemon=True)
    result, began = Result(), time.monotonic()
    try:
        engine.start()
        await asyncio.to_thread(ours.recv)
        front.start()
        port = await asyncio.to_thread(ours.recv)
        assert front.pid is not None
        rest = read_memory(front.pid, "VmRSS")
        share = [requests // _CLIENTS + (number < requests % _CLIENTS) for number in range(_CLIENTS)]
        async with asyncio.TaskGroup() as group:
            for number, part in enumerate(share):
                group.create_task(send_all(port, seed * 1000 + number, part, result))
        result.grown_bytes = read_memory(front.pid, "VmHWM") - rest
        if not (front.is_alive() and engine.is_alive()):
            result.failures.append("a process ended")
    finally:
        for process in (front, engine):
            if process.pid is not None:
                process.terminate()
                process.join()
    result.seconds = time.monotonic() - began
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    result = uvloop.run(fuzz(arguments.requests, arguments.seed))
    print(f"{result.answered} of {arguments.requests} answered in {result.seconds:.0f} s, seed {arguments.seed}")
    print(", ".join(f"{status}: {number}" for status, number in sorted(result.statuses.items())))
    print(f"The front grew by {result.grown_bytes / (1 << 20):.1f} MiB at most; {len(result.failures)} failures.")
    for failure in result.failures[:20]:
        print(failure)
    return 1 if result.failures or result.grown_bytes > 256 << 20 else 0


if __name__ == "__main__":
    raise SystemExit(main())
