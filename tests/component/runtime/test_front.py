"""The front between raw clients and an engine whose bytes the test decides."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest

from component.runtime.scripted_engine import Act, RawClient, ScriptedEngine, Visit, build_get, build_post
from harness.runtime_process import build_config
from qwenvl_runtime.boot import Boot, Phase
from qwenvl_runtime.front import WARMUP_HEADER, Front
from qwenvl_runtime.limits import Limits
from qwenvl_runtime.media import MediaCheck
from qwenvl_runtime.media_hosts import MediaHosts
from qwenvl_runtime.screen import Asked

CHAT = "/v1/chat/completions"


@dataclass
class Pod:
    front: Front
    boot: Boot
    port: int
    management_port: int
    engine: ScriptedEngine
    stack: AsyncExitStack

    async def connect(self, receive_buffer: int = 0, *, management: bool = False) -> RawClient:
        client = await RawClient.connect(self.management_port if management else self.port, receive_buffer)
        self.stack.callback(client.close)
        return client


class LetThrough:
    """These tests are about bytes; what they mean is screened in test_screening.py."""

    def check(self, path: str, body: bytes) -> Passed:
        return Passed({}, MediaCheck(build_config().media, MediaHosts(())), 0, body)


@dataclass(slots=True)
class Passed(Asked):
    body: bytes

    def write(self) -> bytes:
        return self.body


StartPod = Callable[..., Awaitable[Pod]]


async def give_answer(visit: Visit) -> None:
    await visit.answer(b'{"echo": %d}' % len(visit.body))


@pytest.fixture
async def start_pod(tmp_path: Path) -> AsyncIterator[StartPod]:
    async with AsyncExitStack() as stack:

        async def start(act: Act = give_answer, phase: Phase = Phase.SERVING, **limits: float) -> Pod:
            engine = await stack.enter_async_context(ScriptedEngine(tmp_path / "e.sock", act).running())
            boot = Boot("rev-1", phase=phase, warmed=phase is Phase.SERVING)
            # Fields of several types by their names, of which mypy sees only the union.
            front = Front(boot, engine.socket, Limits(**{"body_bytes": 100_000, **limits}), build_config())  # type: ignore[arg-type]
            front.screen = LetThrough()
            port, management_port = await front.open(0, 0)
            await front.open_to_clients()
            stack.push_async_callback(front.close)
            return Pod(front, boot, port, management_port, engine, stack)

        yield start


# Routes


@pytest.mark.parametrize(
    "target",
    [
        "/", "/v1", "/v1/", "/v1/chat/completions/", "//v1/chat/completions", "/v1//chat/completions",
        "/V1/chat/completions", "/v1/./chat/completions", "/x/../v1/chat/completions", "/v1/%63hat/completions",
        "/v1/chat/completions%20", "/v1/chat/completions;a", "/v1/chat/completions#a", "/invocations", "/tokenize",
        "/v1/embeddings", "/v1/responses", "/v1/chat/completions/batch", "/inference/v1/generate", "/docs", "/health",
        "/load", "/v1/models/x", "*", "/sleep?level=1",
    ],
)  # fmt: skip
async def test_nothing_but_the_listed_routes_reaches_the_engine(start_pod: StartPod, target: str) -> None:
    pod = await start_pod()
    client = await pod.connect()
    reply = await client.ask(build_post(path=target))
    assert reply.status in (400, 404)
    assert pod.engine.visits == []


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("GET", CHAT, "POST"), ("POST", "/v1/models", "GET"), ("HEAD", "/v1/models", "GET"), ("DELETE", "/readyz", "GET")],
)
async def test_other_methods_are_told_the_right_one(start_pod: StartPod, method: str, path: str, allow: str) -> None:
    pod = await start_pod()
    client = await pod.connect()
    await client.send(build_get(path, method=method))
    reply = await client.read_reply(bodiless=method == "HEAD")
    assert (reply.status, reply.headers["allow"]) == (405, allow)
    assert pod.engine.visits == []


@pytest.mark.parametrize("path", ["/v1/models", "/readyz"])
@pytest.mark.parametrize("framing", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
async def test_nobody_takes_a_body_with_a_get(start_pod: StartPod, path: str, framing: str) -> None:
    pod = await start_pod(body_bytes=2_000_000)
    client = await pod.connect()
    await client.send(build_get(path, f"{framing}\r\n"))
    reply = await client.read_reply()
    assert (reply.status, reply.error_code()) == (400, "bad_request")
    assert await client.is_closed()
    assert pod.engine.visits == []


async def test_a_get_may_say_that_it_has_no_body(start_pod: StartPod) -> None:
    pod = await start_pod()
    client = await pod.connect()
    assert (await client.ask(build_get("/v1/models", "Content-Length: 0\r\n"))).status == 200


@pytest.mark.parametrize("path", ["/v1/models", "/healthz", "/metrics"])
async def test_many_who_ask_the_same_share_one_answer_of_the_engine(start_pod: StartPod, path: str) -> None:
    go = asyncio.Event()

    async def ponder(visit: Visit) -> None:
        await go.wait()
        await visit.answer(b'{"visit": %d}' % len(pod.engine.visits))

    pod = await start_pod(ponder)
    clients = [await pod.connect() for _ in range(30)]
    for client in clients:
        await client.send(build_get(path))
    await wait_steady(lambda: len(pod.engine.visits))
    clients.pop(0).close()
    await asyncio.sleep(0.05)
    go.set()
    replies = [await client.read_reply() for client in clients]
    assert {reply.status for reply in replies} == {200}
    assert len(pod.engine.visits) == 1
    assert (await clients[0].ask(build_get(path))).status == 200
    assert len(pod.engine.visits) == 2, "an answer is not kept"


async def test_the_engines_word_on_its_models_is_passed_on(start_pod: StartPod) -> None:
    async def fail(visit: Visit) -> None:
        await visit.answer(b'{"error": {"code": "x"}}', "404 No")

    pod = await start_pod(fail)
    client = await pod.connect()
    reply = await client.ask(build_get("/v1/models"))
    assert (reply.status, reply.raw_body) == (404, b'{"error": {"code": "x"}}')
    pod.engine.socket.unlink()
    reply = await client.ask(build_get("/v1/models"))
    assert (reply.status, reply.error_code(), reply.headers["retry-after"]) == (503, "engine_unreachable", "5")


@pytest.mark.parametrize(
    "target", [f"{CHAT}?secret=1", f"http://pod:8000{CHAT}", f"HTTP://pod{CHAT}", f"https://u:p@pod{CHAT}?x"]
)
async def test_the_engine_gets_the_bare_path(start_pod: StartPod, target: str) -> None:
    pod = await start_pod()
    client = await pod.connect()
    assert (await client.ask(build_post(path=target))).status == 200
    assert pod.engine.visits[0].lines[0] == f"post {CHAT} http/1.1"


# What is passed on


async def test_the_engine_gets_few_headers_and_the_request_id(start_pod: StartPod) -> None:
    pod = await start_pod()
    client = await pod.connect()
    headers = (
        "X-Request-Id: order-66\r\nCookie: c\r\nAuthorization: Bearer s\r\nX-Forwarded-For: 1.1.1.1\r\naccept: */*\r\n"
        "traceparent: 00-a-b-01\r\nTE: trailers\r\nAccept-Encoding: gzip\r\nX-data-parallel-rank: 3\r\n"
    )
    reply = await client.ask(build_post(b'{"a":1}', headers))
    assert reply.headers["x-request-id"] == "order-66"
    assert (reply.headers["x-qwenvl-revision"], reply.headers["x-qwenvl-boot-id"]) == ("rev-1", pod.boot.boot_id)
    assert "server" not in reply.headers
    names = sorted(line.partition(":")[0] for line in pod.engine.visits[0].lines[1:] if line)
    assert names == ["accept", "content-length", "content-type", "host", "traceparent", "x-request-id"]
    assert "x-request-id: order-66" in pod.engine.visits[0].lines


@pytest.mark.parametrize("offered", ["a b", "ä", "x" * 129, "{}", "a/b", ""])
async def test_a_malformed_request_id_is_replaced(start_pod: StartPod, offered: str) -> None:
    pod = await start_pod()
    client = await pod.connect()
    reply = await client.ask(build_post(headers=f"X-Request-Id: {offered}\r\n".encode().decode("latin-1")))
    assert len(reply.headers["x-request-id"]) == 32
    assert f"x-request-id: {reply.headers['x-request-id']}" in pod.engine.visits[0].lines


async def test_a_chunked_body_is_framed_anew(start_pod: StartPod) -> None:
    pod = await start_pod()
    client = await pod.connect()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: pod\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    for piece in (head[:30], head[30:] + b"5;ext=1\r\nhel", b"lo\r\n3\r", b"\nyou\r\n0\r\nTrailer: x\r\n\r", b"\n"):
        await client.send(piece)
        await asyncio.sleep(0)
    assert (await client.read_reply()).status == 200
    assert pod.engine.visits[0].body == b"helloyou"
    assert "content-length: 8" in pod.engine.visits[0].lines
    assert not any(line.startswith(("transfer-encoding", "trailer")) for line in pod.engine.visits[0].lines)


@pytest.mark.parametrize("piece", [1, 2, 7, 64, 5000])
async def test_a_stream_arrives_byte_for_byte(start_pod: StartPod, piece: int) -> None:
    events = "".join(f'data: {{"w": "é€{"x" * n}"}}\n\n' for n in range(40)).encode() + b"data: [DONE]\n\n"
    # Chunks that end inside letters and events, with extensions, as a server may write them.
    framed = b"".join(b"%X;n=v\r\n%b\r\n" % (len(part), part) for part in cut(events, 13)) + b"0\r\n\r\n"

    async def stream(visit: Visit) -> None:
        answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + framed
        for part in cut(answer, piece):
            await visit.send(part)
            await asyncio.sleep(0)

    pod = await start_pod(stream)
    client = await pod.connect()
    reply = await client.ask(build_post())
    assert reply.raw_body == framed
    assert reply.headers["content-type"] == "text/event-stream"
    assert (await client.ask(build_post())).raw_body == framed, "the connections can be used again"
    assert pod.engine.connections == 1


async def test_old_clients_get_the_stream_without_chunks(start_pod: StartPod) -> None:
    async def stream(visit: Visit) -> None:
        await visit.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await asyncio.sleep(0.01)
        await visit.send(b"2\r\nde\r\n0\r\n\r\n")

    pod = await start_pod(stream)
    client = await pod.connect()
    reply = await client.ask(build_post(version="1.0"))
    assert reply.raw_body == b"abcde"
    assert (reply.headers["connection"], "transfer-encoding" in reply.headers) == ("close", False)


async def test_an_answer_that_ends_with_its_connection(start_pod: StartPod) -> None:
    async def close(visit: Visit) -> None:
        await visit.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it")
        visit.writer.close()

    pod = await start_pod(close)
    client = await pod.connect()
    reply = await client.ask(build_post(headers="Connection: close\r\n"))
    assert reply.raw_body == b"all of it"


# Clients that leave, and slow ones


@pytest.mark.parametrize("after_head", [False, True])
async def test_the_engine_learns_at_once_that_the_client_left(
    start_pod: StartPod, after_head: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    arrived = asyncio.Event()

    async def ponder(visit: Visit) -> None:
        if after_head:
            await visit.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        arrived.set()
        assert await visit.reader.read() == b""
        visit.writer.close()

    pod = await start_pod(ponder)
    client = await pod.connect()
    await client.send(build_post())
    await arrived.wait()
    client.close()
    await asyncio.wait_for(pod.engine.left.wait(), 1)
    await pod.front.close()  # the log goes out with it
    line = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (line["message"], line["status"]) == ("client left", 200 if after_head else 499)


async def test_a_client_that_leaves_while_sending_reaches_nobody(start_pod: StartPod) -> None:
    pod = await start_pod()
    client = await pod.connect()
    await client.send(build_post(b"x" * 1000)[:-10])
    client.close()
    await asyncio.wait_for(pod.front.wait_idle(), 1)
    assert pod.engine.visits == []


async def test_a_slow_client_holds_the_engine_back_and_loses_nothing(start_pod: StartPod) -> None:
    chunk = b"%x\r\n%b\r\n" % (65536, b"y" * 65536)
    sent = 0

    async def flood(visit: Visit) -> None:
        nonlocal sent
        await visit.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(400):
            await visit.send(chunk)
            sent += len(chunk)
        await visit.send(b"0\r\n\r\n")

    pod = await start_pod(flood)
    client = await pod.connect()
    client.pause()
    await client.send(build_post())
    await wait_steady(lambda: sent)
    assert sent < 16 << 20, "what waits is bounded by the sockets' buffers, not by the answer"
    client.resume()
    body = (await client.read_reply()).raw_body
    assert len(body) == 400 * len(chunk) + 5
    # The engine's connection must not have stayed paused.
    assert len((await client.ask(build_post())).raw_body) == 400 * len(chunk) + 5
    assert pod.engine.connections == 1


async def test_a_client_slow_with_the_last_bytes_does_not_stop_the_next_one(start_pod: StartPod) -> None:
    async def answer_at_once(visit: Visit) -> None:
        await visit.answer(b"y" * 150_000)

    pod = await start_pod(answer_at_once)
    slow = await pod.connect(receive_buffer=4096)
    slow.pause()
    await slow.send(build_post())
    await wait_steady(lambda: len(pod.engine.visits))
    for _ in range(2):
        client = await pod.connect()
        assert len((await asyncio.wait_for(client.ask(build_post()), 2)).raw_body) == 150_000
    assert pod.engine.connections == 1
    slow.resume()
    assert len((await slow.read_reply()).raw_body) == 150_000
    assert (await slow.ask(build_post())).status == 200


async def test_a_client_that_takes_nothing_is_cut(start_pod: StartPod) -> None:
    async def flood(visit: Visit) -> None:
        await visit.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await visit.send(b"10000\r\n%b\r\n" % (b"y" * 65536))

    pod = await start_pod(flood, stall_seconds=0.3)
    client = await pod.connect()
    client.pause()
    await client.send(build_post())
    await asyncio.wait_for(pod.engine.left.wait(), 5)
    await asyncio.wait_for(pod.front.wait_idle(), 1)


async def test_slow_heads_and_bodies_end(start_pod: StartPod) -> None:
    pod = await start_pod(head_seconds=0.3, body_seconds=0.3)
    silent, head, body, chunked = [await pod.connect() for _ in range(4)]
    managed = await pod.connect(management=True)
    await head.send(b"POST /v1/chat/comp")
    await body.send(build_post(b"x" * 50)[:-1])
    await chunked.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n")
    assert await silent.is_closed()
    assert await managed.is_closed()
    for client in (head, body, chunked):
        reply = await client.read_reply()
        assert (reply.status, reply.error_code()) == (408, "request_timeout")
        assert await client.is_closed()
    assert pod.engine.visits == []


async def test_a_trickle_does_not_buy_time(start_pod: StartPod) -> None:
    pod = await start_pod(body_seconds=0.5)
    client = await pod.connect()
    await client.send(build_post(b"x" * 1000)[:-900])
    reply = asyncio.create_task(client.read_reply())
    while not reply.done():
        client.writer.write(b"x")
        await asyncio.sleep(0.02)
    assert reply.result().status == 408


async def test_idle_connections_end(start_pod: StartPod) -> None:
    pod = await start_pod(idle_seconds=0.3, head_seconds=0.2)
    client = await pod.connect()
    assert (await client.ask(build_post())).status == 200
    assert await client.is_closed()


async def test_blank_lines_keep_no_connection_open(start_pod: StartPod) -> None:
    pod = await start_pod(head_seconds=0.3)
    client = await pod.connect()
    closed = asyncio.create_task(client.is_closed())
    while not closed.done():
        client.writer.write(b"\r\n")
        await asyncio.sleep(0.02)
    assert closed.result()


# Limits


async def test_a_large_body_is_refused_before_it_is_sent(start_pod: StartPod) -> None:
    pod = await start_pod()
    client = await pod.connect()
    await client.send(
        f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nContent-Length: 100001\r\nExpect: 100-continue\r\n\r\n".encode()
    )
    reply = await client.read_reply()
    assert (reply.status, reply.error_code()) == (413, "request_too_large")


async def test_a_client_that_sends_on_after_its_refusal_can_read_it(start_pod: StartPod) -> None:
    pod = await start_pod()
    client = await pod.connect()
    await client.send(build_post(b"x" * 3_000_000)[:200])
    for _ in range(20):
        await client.send(b"x" * 100_000)
        await asyncio.sleep(0.01)
    assert (await client.read_reply()).status == 413
    assert await client.is_closed()


async def test_a_large_chunked_body_is_counted(start_pod: StartPod) -> None:
    pod = await start_pod()
    client = await pod.connect()
    await client.send(f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
    for _ in range(11):
        client.writer.write(b"2710\r\n%b\r\n" % (b"x" * 10_000))
    assert (await client.read_reply()).status == 413
    assert pod.engine.visits == []


@pytest.mark.parametrize(
    ("chunk", "status"), [(b"2\r\nab\r\n", 400), (b"1;" + b"x" * 1000 + b"\r\na\r\n", 413)], ids=["tiny", "padded"]
)
async def test_a_body_of_more_frame_than_content_is_refused(start_pod: StartPod, chunk: bytes, status: int) -> None:
    pod = await start_pod()
    client = await pod.connect()
    await client.send(f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
    client.writer.write(chunk * (250_000 // len(chunk)))
    assert (await client.read_reply()).status == status
    assert pod.engine.visits == []


@pytest.mark.parametrize(
    ("headers", "limit"),
    [("a: %s\r\n" % ("x" * 40_000), b"32768 bytes"), ("".join(f"h{n}: 1\r\n" for n in range(101)), b"100 headers")],
)
async def test_large_heads_are_refused(start_pod: StartPod, headers: str, limit: bytes) -> None:
    pod = await start_pod()
    client = await pod.connect()
    await client.send(build_post(headers=headers))
    reply = await client.read_reply()
    assert reply.status == 431
    assert limit in reply.raw_body
    assert pod.engine.visits == []


@pytest.mark.parametrize("management", [False, True])
async def test_a_probe_gets_in_however_many_clients_there_are(start_pod: StartPod, management: bool) -> None:
    answered = asyncio.Event()

    async def ponder(visit: Visit) -> None:
        await answered.wait()
        await visit.answer()

    pod = await start_pod(ponder, connections=3)
    working, silent, slow = await pod.connect(), await pod.connect(), await pod.connect()
    await working.send(build_post())
    await slow.send(b"POST /v1/ch")
    await wait_steady(lambda: len(pod.engine.visits))
    for _ in range(5):
        probe = await pod.connect(management=management)
        assert (await probe.ask(build_get("/readyz"))).status == 200
    assert management or (await silent.is_closed() and await slow.is_closed())
    answered.set()
    assert (await working.read_reply()).status == 200, "the engine worked for it"


async def test_who_works_keeps_no_probe_out_and_no_probe_ends_what_works(start_pod: StartPod) -> None:
    answered = asyncio.Event()

    async def ponder(visit: Visit) -> None:
        await answered.wait()
        await visit.answer()

    pod = await start_pod(ponder, connections=2, management_connections=2)
    working = [await pod.connect(), await pod.connect()]
    for client in working:
        await client.send(build_post())
    await wait_steady(lambda: len(pod.engine.visits))
    for _ in range(5):
        probe = await pod.connect(management=True)
        assert (await probe.ask(build_get("/readyz"))).status == 200
    answered.set()
    assert [(await client.read_reply()).status for client in working] == [200, 200]


async def test_who_takes_no_answer_keeps_no_probe_out_of_the_management_port(start_pod: StartPod) -> None:
    pod = await start_pod(management_connections=2)
    deaf = [await pod.connect(management=True, receive_buffer=4096) for _ in range(2)]
    for client in deaf:
        await client.send(build_get("/warmup") * 2000)
    for _ in range(3):
        probe = await pod.connect(management=True)
        assert (await probe.ask(build_get("/readyz"))).status == 200


async def test_bodies_that_are_not_whole_share_their_memory(start_pod: StartPod) -> None:
    pod = await start_pod(buffered_bytes=150_000)
    one, other = await pod.connect(), await pod.connect()
    await one.send(build_post(b"x" * 100_000)[:-1])
    await wait_steady(lambda: pod.front.buffered)
    await other.send(build_post(b"x" * 100_000)[:-1])
    reply = await other.read_reply()
    assert (reply.status, reply.error_code(), reply.headers["retry-after"]) == (429, "queue_full", "5")
    assert (await one.ask(b"x")).status == 200
    assert pod.front.buffered == 0
    pod.front.pool.unsent += 100_000
    reply = await one.ask(build_post(b"x" * 100_000)[:-1])
    assert reply.error_code() == "queue_full", "what the engine has not taken yet counts too"


async def test_who_has_stopped_sending_makes_room_for_who_sends(start_pod: StartPod) -> None:
    pod = await start_pod(buffered_bytes=300_000, body_rate=10_000, lag_seconds=0.6)
    stalled, trickling, sending, newcomer = [await pod.connect() for _ in range(4)]
    request = build_post(b"x" * 100_000)
    await stalled.send(request[:-10])
    await trickling.send(request[:90_000])
    for start in range(0, 60_000, 2_000):
        await sending.send(request[start : start + 2_000])
        await trickling.send(b"x")
        await asyncio.sleep(0.03)
    await newcomer.send(request[:-10])
    reply = await stalled.read_reply()
    assert (reply.status, reply.error_code()) == (408, "request_timeout")
    assert (await newcomer.ask(request[-10:])).status == 200
    assert (await sending.ask(request[60_000:])).status == 200
    assert (await trickling.ask(request[90_030:])).status == 200, "there was room enough without it"
    assert pod.front.buffered == 0


# The engine's faults


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"error": {"message": "broken PNG file (chunk IDAT)", "type": "InternalServerError", "code": 500}}', 400),
        (b'{"error": {"message": "Cannot load local files without `--allowed-local-media-path`."}}', 400),
        (b'{"error": {"message": "EngineCore encountered an issue."}}', 500),
        (b'{"error": {"message": "an answer about a broken PNG file"}}', 500),
        (b"Internal Server Error", 500),
        (b"[]", 500),
        (b"", 500),
    ],
)
async def test_only_a_clients_fault_is_taken_from_the_engine(start_pod: StartPod, body: bytes, status: int) -> None:
    async def fail(visit: Visit) -> None:
        await visit.send(f"HTTP/1.1 500 No\r\ncontent-length: {len(body)}\r\n\r\n".encode())
        for part in cut(body, 7):
            await visit.send(part)
            await asyncio.sleep(0)

    pod = await start_pod(fail)
    client = await pod.connect()
    for _ in range(2):
        reply = await client.ask(build_post())
        assert reply.status == status
        if status == 500:
            assert reply.raw_body == body
        else:
            assert reply.error_code() == "media_malformed"
            assert b"chunk" not in reply.raw_body
    assert pod.engine.connections == 1


# Requests that two parsers could read in two ways

BODY = b"5\r\nhello\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    "raw",
    [
        b"Host: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + BODY,
        b"Host: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        b"Host: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"Host: a\r\nContent-Length: 5, 5\r\n\r\nhello",
        b"Host: a\r\nContent-Length: +5\r\n\r\nhello",
        b"Host: a\r\nContent-Length: -5\r\n\r\nhello",
        b"Host: a\r\nContent-Length: 0x5\r\n\r\nhello",
        b"Host: a\r\nContent-Length: 5 5\r\n\r\nhello",
        b"Host: a\r\nContent-Length : 5\r\n\r\nhello",
        b"Host: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n" + BODY,
        b"Host: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n" + BODY,
        b"Host: a\r\nTransfer-Encoding: identity\r\n\r\n" + BODY,
        b"Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + BODY,
        b"Host: a\r\nTransfer-Encoding:\x0bchunked\r\n\r\n" + BODY,
        b"Host: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n",
        b"Host: a\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
        b"Host: a\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
        b"Host: a\r\nA: b\r\n continued: 1\r\n\r\n",
        b"Host: a\r\nA: b\nContent-Length: 5\r\n\r\nhello",
        b"Host: a\nContent-Length: 5\n\nhello\r\n\r\n",
        b"Host: a\r\nA: \x00\r\n\r\n",
        b"Host: a\r\nNo colon\r\n\r\n",
        b"Host: a\r\nHost: b\r\n\r\n",
        b"Host: a\r\nHost: b\r\nA: 1\r\n\r\n",
        b"A: 1\r\n\r\n",
    ],
)
async def test_ambiguous_requests_are_refused(start_pod: StartPod, raw: bytes) -> None:
    pod = await start_pod()
    client = await pod.connect()
    await client.send(b"POST /v1/chat/completions HTTP/1.1\r\n" + raw)
    reply = await client.read_reply()
    assert (reply.status, reply.headers["connection"]) == (400, "close")
    assert await client.is_closed()
    assert pod.engine.visits == []


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\nHost: a\n\n", b"GET / HTTP/1.1\r\nHost: a\n", b"GET /\r\n", b"GET /\n",
        b"hello\r\n",
    ],
)  # fmt: skip
async def test_a_head_that_can_become_none_is_refused_at_once(start_pod: StartPod, raw: bytes) -> None:
    pod = await start_pod(head_seconds=30.0)
    client = await pod.connect()
    reply = await asyncio.wait_for(client.ask(raw), 5)
    assert (reply.status, reply.error_code()) == (400, "bad_request")


@pytest.mark.parametrize(
    "raw",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /readyz HTTP/3.0\r\nHost: a\r\n\r\n",
        b"GET /readyz\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /readyz HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_refused(start_pod: StartPod, raw: bytes) -> None:
    pod = await start_pod()
    client = await pod.connect()
    await client.send(raw)
    assert (await client.read_reply()).status == 400
    assert await client.is_closed()


# Connections


async def test_pipelined_requests_are_answered_in_order(start_pod: StartPod) -> None:
    async def dawdle(visit: Visit) -> None:
        await asyncio.sleep(0.05 if visit.body == b"first" else 0)
        await visit.answer(visit.body)

    pod = await start_pod(dawdle)
    client = await pod.connect()
    gets = build_get("/readyz") + build_get("/nowhere")
    await client.send(build_post(b"first") + build_post(b"second") + gets + build_post(b"third"))
    replies = [await client.read_reply() for _ in range(5)]
    assert [reply.status for reply in replies] == [200, 200, 200, 404, 200]
    assert [replies[place].raw_body for place in (0, 1, 4)] == [b"first", b"second", b"third"]
    assert len(pod.engine.visits) == 3


async def test_thousands_of_pipelined_requests_neither_recurse_nor_fill_the_memory(start_pod: StartPod) -> None:
    pod = await start_pod()
    client = await pod.connect()
    client.writer.write(build_get("/nowhere") * 5000)
    for _ in range(5000):
        assert (await client.read_reply()).status == 404


async def test_one_byte_at_a_time(start_pod: StartPod) -> None:
    pod = await start_pod()
    client = await pod.connect()
    for byte in b"\r\n" + build_post(b"hello"):
        await client.send(bytes([byte]))
        await asyncio.sleep(0)
    assert json.loads((await client.read_reply()).raw_body) == {"echo": 5}


@pytest.mark.parametrize("build", [build_post, partial(build_get, "/readyz")], ids=["post", "get"])
@pytest.mark.parametrize(
    ("version", "header", "stays"),
    [
        ("1.1", "", True),
        ("1.1", "Connection: close\r\n", False),
        ("1.0", "", False),
        ("1.0", "Connection: keep-alive\r\n", True),
    ],
)
async def test_keep_alive(
    start_pod: StartPod, build: Callable[..., bytes], version: str, header: str, stays: bool
) -> None:
    pod = await start_pod()
    client = await pod.connect()
    reply = await client.ask(build(headers=header, version=version))
    assert reply.headers["connection"] == ("keep-alive" if stays else "close")
    if stays:
        assert (await client.ask(build_post())).status == 200
    else:
        assert await client.is_closed()


async def test_head_answers_without_a_body(start_pod: StartPod) -> None:
    pod = await start_pod()
    client = await pod.connect()
    await client.send(build_get("/readyz", method="HEAD") + build_get("/readyz"))
    assert (await client.read_reply(bodiless=True)).status == 200
    assert json.loads((await client.read_reply()).raw_body)["phase"] == "serving"


async def test_an_offer_to_upgrade_is_not_taken(start_pod: StartPod) -> None:
    pod = await start_pod()
    client = await pod.connect()
    offer = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    reply = await client.ask(build_post(b"hello", headers=offer))
    assert (reply.status, json.loads(reply.raw_body)) == (200, {"echo": 5})


async def test_the_client_is_told_to_continue(start_pod: StartPod) -> None:
    pod = await start_pod()
    client = await pod.connect()
    request = build_post(b"hello", "Expect: 100-continue\r\n")
    await client.send(request[:-5])
    assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert (await client.ask(request[-5:])).status == 200
    assert not any(line.startswith("expect") for line in pod.engine.visits[0].lines)


async def test_a_client_of_http_1_0_is_not_told_to_continue(start_pod: StartPod) -> None:
    pod = await start_pod()
    client = await pod.connect()
    request = build_post(b"hello", "Expect: 100-continue\r\n", version="1.0")
    await client.send(request[:-5])
    await asyncio.sleep(0.05)
    assert (await client.ask(request[-5:])).status == 200


@pytest.mark.parametrize(("header", "status"), [("Expect: magic\r\n", 417), ("Content-Encoding: gzip\r\n", 415)])
async def test_what_the_front_does_not_do(start_pod: StartPod, header: str, status: int) -> None:
    pod = await start_pod()
    client = await pod.connect()
    assert (await client.ask(build_post(headers=header))).status == status
    assert pod.engine.visits == []


# Who may ask when


@pytest.mark.parametrize("phase", [Phase.LOADING, Phase.WARMING, Phase.FROZEN, Phase.FAILED])
async def test_an_engine_that_does_not_work_gets_no_request(start_pod: StartPod, phase: Phase) -> None:
    pod = await start_pod(phase=phase)
    client = await pod.connect()
    for request in (build_post(), build_post(path="/v1/completions"), build_get("/v1/models")):
        reply = await (await pod.connect()).ask(request)
        assert (reply.status, reply.error_code()) == (503, "not_ready")
        assert reply.headers["retry-after"] == "5"
    assert (await client.ask(build_get("/readyz"))).status == 503
    assert pod.engine.visits == []


async def test_only_this_process_may_warm_up(start_pod: StartPod) -> None:
    pod = await start_pod(phase=Phase.WARMING)
    for token in ("", "x", pod.front.warmup_token[:-1], pod.front.warmup_token.upper()):
        reply = await (await pod.connect(management=True)).ask(build_post(headers=f"{WARMUP_HEADER}: {token}\r\n"))
        assert (reply.status, reply.error_code()) == (404, "not_found")
    assert pod.engine.visits == []
    reply = await (await pod.connect()).ask(build_post(headers=f"{WARMUP_HEADER}: {pod.front.warmup_token}\r\n"))
    assert (reply.status, reply.error_code()) == (503, "not_ready"), "the warm-up does not come where clients ask"
    assert pod.engine.visits == []
    client = await pod.connect(management=True)
    assert (await client.ask(build_post(headers=f"{WARMUP_HEADER}: {pod.front.warmup_token}\r\n"))).status == 200
    assert not any(line.startswith("x-qwenvl") for line in pod.engine.visits[0].lines)


async def test_the_model_is_not_asked_on_the_management_port(start_pod: StartPod) -> None:
    pod = await start_pod()
    client = await pod.connect(management=True)
    assert (await client.ask(build_get("/readyz"))).status == 200
    for request in (build_post(headers=f"{WARMUP_HEADER}: {pod.front.warmup_token}\r\n"), build_get("/v1/models")):
        reply = await (await pod.connect(management=True)).ask(request)
        assert (reply.status, reply.error_code()) == (404, "not_found")
        assert str(pod.port).encode() in reply.raw_body
    assert pod.engine.visits == []


async def test_draining_answers_and_says_goodbye(start_pod: StartPod) -> None:
    pod = await start_pod()
    idle, client = await pod.connect(), await pod.connect()
    assert (await idle.ask(build_post())).status == 200
    pod.boot.phase = Phase.DRAINING
    pod.front.draining = True
    reply = await client.ask(build_post())
    assert (reply.status, reply.headers["connection"]) == (200, "close")
    assert (await (await pod.connect()).ask(build_get("/readyz"))).status == 503
    pod.front.close_to_clients()
    assert await idle.is_closed()
    with pytest.raises(ConnectionError):
        await pod.connect()
    scrape = await pod.connect(management=True)
    await scrape.send(b"GET /metr")
    assert (await (await pod.connect(management=True)).ask(build_get("/readyz"))).status == 503
    await asyncio.wait_for(pod.front.wait_idle(), 1)  # whoever looks at the pod does not keep it from ending


# An engine that fails


async def test_an_engine_that_is_not_there(start_pod: StartPod) -> None:
    pod = await start_pod()
    pod.engine.socket.unlink()
    client = await pod.connect()
    reply = await client.ask(build_post())
    assert (reply.status, reply.headers["retry-after"]) == (503, "5")
    assert (await client.ask(build_get("/healthz"))).status == 503


@pytest.mark.parametrize("part", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Le", b"nonsense\r\n\r\n"])
async def test_an_engine_that_breaks_off_before_its_answer(start_pod: StartPod, part: bytes) -> None:
    async def break_off(visit: Visit) -> None:
        await visit.send(part)
        visit.writer.close()

    pod = await start_pod(break_off)
    client = await pod.connect()
    reply = await client.ask(build_post())
    assert (reply.status, reply.error_code()) == (502, "engine_broke_off")
    assert len(pod.engine.visits) == 1, "a connection that was new is not tried again"


@pytest.mark.parametrize(
    "start", [b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", b"Content-Length: 50\r\n\r\nhello"]
)
async def test_half_an_answer_never_looks_whole(start_pod: StartPod, start: bytes) -> None:
    async def break_off(visit: Visit) -> None:
        await visit.send(b"HTTP/1.1 200 OK\r\n" + start)
        visit.writer.close()

    pod = await start_pod(break_off)
    client = await pod.connect()
    await client.send(build_post())
    with pytest.raises(asyncio.IncompleteReadError):
        await client.read_reply()


async def test_a_stale_connection_is_replaced_once(start_pod: StartPod) -> None:
    async def close_second(visit: Visit) -> None:
        if visit.connection == 1 and len(pod.engine.visits) > 1:
            visit.writer.close()
        else:
            await visit.answer()

    pod = await start_pod(close_second)
    client = await pod.connect()
    assert (await client.ask(build_post(b"1"))).status == 200
    assert (await client.ask(build_post(b"2"))).status == 200
    assert [(visit.connection, visit.body) for visit in pod.engine.visits] == [(1, b"1"), (1, b"2"), (2, b"2")]


async def test_a_request_is_not_repeated_once_its_answer_began(start_pod: StartPod) -> None:
    async def break_second(visit: Visit) -> None:
        if len(pod.engine.visits) > 1:
            await visit.send(b"H")
            visit.writer.close()
        else:
            await visit.answer()

    pod = await start_pod(break_second)
    client = await pod.connect()
    assert (await client.ask(build_post())).status == 200
    assert (await client.ask(build_post())).status == 502
    assert len(pod.engine.visits) == 2


async def test_an_engine_that_says_too_much_loses_its_connection(start_pod: StartPod) -> None:
    async def chatter(visit: Visit) -> None:
        await visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n")

    pod = await start_pod(chatter)
    for _ in range(2):
        client = await pod.connect()
        await client.send(build_post())
        reply = await client.read_reply()
        assert (reply.status, reply.raw_body[:2]) in ((502, b'{"'), (200, b"ok"))
    assert pod.engine.connections == 2


# What the front says itself


async def test_the_metrics_page_holds_the_engines_and_ours(start_pod: StartPod) -> None:
    async def serve(visit: Visit) -> None:
        await visit.answer(b"# TYPE vllm:x gauge\nvllm:x 1.0\n" if b"/metrics" in visit.head else b"{}")

    pod = await start_pod(serve)
    client = await pod.connect()
    await client.ask(build_post())
    await client.ask(build_get("/nowhere?canary"))
    page = (await client.ask(build_get("/metrics"))).raw_body.decode()
    assert "vllm:x 1.0\n" in page
    assert f'qwenvl_runtime_requests_total{{route="{CHAT}",status="2xx"}} 1.0' in page
    assert 'qwenvl_runtime_requests_total{route="other",status="4xx"} 1.0' in page
    assert "qwenvl_runtime_in_flight_requests 0.0" in page
    assert f'qwenvl_runtime_info{{boot_id="{pod.boot.boot_id}",revision="rev-1"}} 1.0' in page
    pod.engine.socket.unlink()
    page = (await client.ask(build_get("/metrics"))).raw_body.decode()
    assert "qwenvl_runtime_info" in page
    assert "vllm:" not in page


async def test_requests_in_flight_are_counted(start_pod: StartPod) -> None:
    arrived, go = asyncio.Event(), asyncio.Event()

    async def wait(visit: Visit) -> None:
        arrived.set()
        await go.wait()
        await visit.answer()

    pod = await start_pod(wait)
    client = await pod.connect()
    await client.send(build_post())
    await arrived.wait()
    assert pod.front.count_in_flight() == 1
    go.set()
    await client.read_reply()
    assert pod.front.count_in_flight() == 0


async def test_the_log_shows_the_route_and_nothing_that_was_asked(
    start_pod: StartPod, capfd: pytest.CaptureFixture[str]
) -> None:
    pod = await start_pod()
    client = await pod.connect()
    await client.ask(build_post(b'{"messages": "canary-1"}', "X-Canary: canary-2\r\n", f"{CHAT}?canary=3"))
    await client.ask(build_get("/canary-4"))
    await (await pod.connect()).ask(b"canary-5\r\n\r\n")
    await pod.front.close()
    out = capfd.readouterr().out
    assert "canary" not in out
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(line["route"], line["status"]) for line in lines] == [(CHAT, 200), ("other", 404), ("other", 400)]
    assert lines[0]["revision"] == "rev-1"
    assert lines[0]["bytes_in"] == 24


class CountedOutput(io.RawIOBase):
    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.news = asyncio.Event()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.writes.append(bytes(data))
        self.news.set()
        return len(data)


async def test_lines_of_the_log_go_out_together(start_pod: StartPod, monkeypatch: pytest.MonkeyPatch) -> None:
    output = CountedOutput()
    # As it is with PYTHONUNBUFFERED, which is set in the image.
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(cast(BinaryIO, output), write_through=True))
    pod = await start_pod()
    client = await pod.connect()
    for _ in range(20):
        await client.ask(build_post())
    while b"".join(output.writes).count(b"\n") < 20:
        output.news.clear()
        await output.news.wait()
    assert len(output.writes) < 10


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


async def wait_steady(read: Callable[[], int]) -> None:
    """Until a counter has stopped for a while."""
    seen, since = -1, 0
    while since < 20:
        await asyncio.sleep(0.02)
        since = since + 1 if read() == seen else 0
        seen = read()
