"""Requests through the real front: what is refused, what has to wait, and pictures that the front fetches."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from component.runtime.fuzz import fuzz
from component.runtime.scripted_engine import RawClient, Reply, ScriptedEngine, Visit, build_get, build_post
from component.waiting import until
from harness.certificates import Authority
from harness.runtime_process import build_config
from harness.sample_pictures import build_png_bomb, data_url, encode
from qwenvl_runtime import media_fetch
from qwenvl_runtime.boot import Boot, Phase
from qwenvl_runtime.front import Front
from qwenvl_runtime.limits import Limits
from qwenvl_runtime.logs import set_up_logging
from qwenvl_runtime.media import MediaCheck
from qwenvl_runtime.media_fetch import BytesLeft, MediaFetcher

PNG = encode("PNG")


class Pod:
    def __init__(self, front: Front, port: int, engine: ScriptedEngine, stack: AsyncExitStack) -> None:
        self.front = front
        self.port = port
        self.engine = engine
        self.stack = stack

    async def connect(self) -> RawClient:
        client = await RawClient.connect(self.port)
        self.stack.callback(client.close)
        return client

    async def ask(self, content: Any) -> Reply:
        return await (await self.connect()).ask(build_post(json.dumps(content).encode()))

    async def read_metrics(self) -> str:
        return (await (await self.connect()).ask(build_get("/metrics"))).raw_body.decode()


StartPod = Callable[..., Awaitable[Pod]]


async def answer(visit: Visit) -> None:
    await visit.answer(b'{"choices": []}')


@pytest.fixture
async def start_pod(tmp_path: Path) -> AsyncIterator[StartPod]:
    async with AsyncExitStack() as stack:

        async def start(act: Callable[[Visit], Awaitable[None]] = answer, **parts: Any) -> Pod:
            config = build_config(**parts)
            engine = await stack.enter_async_context(ScriptedEngine(tmp_path / "e.sock", act).running())
            front = Front(Boot("r", phase=Phase.SERVING, warmed=True), engine.socket, Limits.of(config), config)
            port, _ = await front.open(0, 0)
            await front.open_to_clients()
            stack.push_async_callback(front.close)
            return Pod(front, port, engine, stack)

        yield start


def ask_about(url: str) -> dict[str, Any]:
    content = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": url}}]
    return {"messages": [{"role": "user", "content": content}]}


# Refusals


async def test_what_is_refused_never_reaches_the_engine_and_is_counted(start_pod: StartPod) -> None:
    pod = await start_pod()
    client = await pod.connect()
    for content, code in (
        (ask_about("http://169.254.169.254/latest/meta-data"), "media_not_allowed"),
        (ask_about(data_url(build_png_bomb(50_000, 50_000))), "media_limit"),
        ({**ask_about(data_url(PNG)), "cache_salt": "x"}, "unsupported_field"),
        ([], "invalid_json"),
    ):
        reply = await client.ask(build_post(json.dumps(content).encode()))
        assert (reply.status, reply.error_code()) == (400, code)
        assert reply.headers["connection"] == "keep-alive"
    zipped = gzip.compress(b"{}")
    reply = await client.ask(build_post(zipped, "content-encoding: gzip\r\n"))
    assert (reply.status, reply.error_code()) == (415, "content_encoding")
    assert pod.engine.visits == []
    metrics = await pod.read_metrics()
    assert 'qwenvl_runtime_refused_requests_total{code="media_limit"} 1.0' in metrics


async def test_the_engine_gets_what_was_checked(start_pod: StartPod) -> None:
    pod = await start_pod()
    content = ask_about(data_url(PNG))
    assert (await pod.ask({**content, "user": "anna"})).status == 200
    assert json.loads(pod.engine.visits[0].body) == content


# The queue


async def test_the_engine_is_not_given_more_pixels_than_it_can_hold(start_pod: StartPod) -> None:
    go = asyncio.Event()

    async def hold(visit: Visit) -> None:
        await go.wait()
        await visit.answer()

    pod = await start_pod(hold, media={"max_source_pixels": 262144})
    pictures = ask_about(data_url(build_png_bomb(512, 512)))
    pictures["messages"][0]["content"] += pictures["messages"][0]["content"][1:] * 3
    clients = [await pod.connect() for _ in range(8)]
    for client in clients:
        await client.send(build_post(json.dumps(pictures).encode()))
    await until(lambda: len(pod.engine.visits) == 8)
    reply = await pod.ask(pictures)
    assert (reply.status, reply.error_code()) == (429, "queue_full")
    go.set()
    for client in clients:
        assert (await client.read_reply()).status == 200
    assert pod.front.admission.pixels == 0


async def test_the_queue_is_left_however_a_request_ends(start_pod: StartPod) -> None:
    endings: list[str] = []

    async def end(visit: Visit) -> None:
        endings.append("begun")
        match len(endings):
            case 1:
                await visit.answer()
            case 2:
                await visit.answer(b"{}", "500 No")
            case 3:
                await visit.send(b"HTTP")
                visit.writer.transport.abort()
            case 4:
                await visit.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")
                visit.writer.transport.abort()
            case _:
                await visit.reader.read()

    pod = await start_pod(end, queue={"max_requests": 1})
    content = {"messages": [{"role": "user", "content": "x" * 400}]}
    assert (await pod.ask(content)).status == 200
    assert (await pod.ask(content)).status == 500
    assert (await pod.ask(content)).status == 502
    with pytest.raises(asyncio.IncompleteReadError):
        await pod.ask(content)
    assert (await pod.ask([])).status == 400
    last = await pod.connect()
    await last.send(build_post(json.dumps(content).encode()))
    await until(lambda: len(endings) == 5)
    assert (pod.front.admission.requests, pod.front.admission.tokens > 100) == (1, True)
    reply = await pod.ask(content)
    assert (reply.status, reply.error_code(), reply.headers["retry-after"]) == (429, "queue_full", "5")
    probe = await pod.connect()
    assert (await probe.ask(build_get("/readyz"))).status == 200
    last.close()
    await asyncio.wait_for(pod.engine.left.wait(), 5)
    await until(lambda: not pod.front.admission.requests)
    assert pod.front.admission.tokens == 0


# Pictures by URL


class PictureHost:
    """Answers whatever the test says, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.reply = b""
        self.hang = False
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(self.reply)
        if self.hang:
            await reader.read()
        await writer.drain()
        writer.close()

    def show(self, body: bytes, status: str = "200 OK", extra: str = "") -> None:
        self.reply = f"HTTP/1.1 {status}\r\n{extra}content-length: {len(body)}\r\n\r\n".encode() + body


@pytest.fixture
async def host() -> AsyncIterator[PictureHost]:
    host = PictureHost()
    server = await asyncio.start_server(host.serve, "127.0.0.1", 0)
    host.port = server.sockets[0].getsockname()[1]
    yield host
    server.close()


@pytest.fixture
def loopback_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_fetch, "is_forbidden", lambda address: False)


async def start_fetching(start_pod: StartPod, host: PictureHost, **parts: Any) -> tuple[Pod, dict[str, Any]]:
    media = {"allowed_url_hosts": [f"http://localhost:{host.port}"], **parts}
    return await start_pod(media=media), ask_about(f"http://localhost:{host.port}/a/b.png?sig=%2F")


@pytest.mark.usefixtures("loopback_allowed")
async def test_the_front_fetches_and_the_engine_gets_the_picture(start_pod: StartPod, host: PictureHost) -> None:
    pod, content = await start_fetching(start_pod, host)
    host.show(PNG, extra="content-type: text/plain\r\n")
    assert (await pod.ask(content)).status == 200
    assert host.asked[0].startswith(f"GET /a/b.png?sig=%2F HTTP/1.1\r\nHost: localhost:{host.port}\r\n")
    assert json.loads(pod.engine.visits[0].body) == ask_about(data_url(PNG))
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(PNG), PNG)
    for host.reply in (chunked, b"HTTP/1.1 200 OK\r\n\r\n" + PNG):
        assert (await pod.ask(content)).status == 200
    assert pod.front.admission.tokens == 0


async def test_a_named_host_at_a_forbidden_address_is_not_connected_to(start_pod: StartPod, host: PictureHost) -> None:
    pod, content = await start_fetching(start_pod, host)
    host.show(PNG)
    reply = await pod.ask(content)
    assert (reply.status, reply.error_code()) == (400, "media_unavailable")
    assert host.asked == pod.engine.visits == []


async def test_a_name_is_resolved_once_and_every_address_counts(
    start_pod: StartPod, host: PictureHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [["10.255.255.1", "127.0.0.1"], ["127.0.0.1"]]
    loop = asyncio.get_running_loop()
    questions: list[str] = []

    class Names:
        """The event loop with a DNS that changes its mind."""

        def __getattr__(self, name: str) -> Any:
            return getattr(loop, name)

        async def getaddrinfo(self, name: str, port: int, **options: Any) -> list[Any]:
            questions.append(name)
            return [(2, 1, 6, "", (address, port)) for address in answers[len(questions) - 1]]

    monkeypatch.setattr(media_fetch, "get_running_loop", Names)
    pod, content = await start_fetching(start_pod, host)
    host.show(PNG)
    assert (await pod.ask(content)).error_code() == "media_unavailable"
    assert questions == ["localhost"]
    assert host.asked == []
    monkeypatch.setattr(media_fetch, "is_forbidden", lambda address: False)
    assert (await pod.ask(content)).status == 200
    assert questions == ["localhost"] * 2, "the address that was checked is connected to, without asking again"


@pytest.mark.usefixtures("loopback_allowed")
@pytest.mark.parametrize(
    ("reply", "code", "words"),
    [
        (
            b"HTTP/1.1 302 Found\r\nlocation: http://localhost/\r\ncontent-length: 0\r\n\r\n",
            "media_unavailable",
            "redirects",
        ),
        (b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n", "media_unavailable", "status 404"),
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 1\r\n\r\na", "media_unavailable", "compressed"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", "media_malformed", "none of"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n" + PNG, "media_unavailable", "could not be fetched"),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
            "media_unavailable",
            "could not be fetched",
        ),
        (b"SSH-2.0-OpenSSH\r\n", "media_unavailable", "could not be fetched"),
        (b"", "media_unavailable", "could not be fetched"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + PNG[:-20], "media_malformed", "truncated"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + build_png_bomb(50_000, 50_000), "media_limit", "maxSourcePixels"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + PNG + b"x" * 2_000_000, "media_unavailable", "maxRequestBytes"),
        (b"HTTP/1.1 200 OK\r\na: " + b"x" * 2_000_000, "media_unavailable", "maxRequestBytes"),
    ],
)
async def test_what_a_host_may_not_answer(
    start_pod: StartPod, host: PictureHost, reply: bytes, code: str, words: str
) -> None:
    pod, content = await start_fetching(start_pod, host)
    host.reply = reply
    answered = await pod.ask(content)
    assert (answered.status, answered.error_code()) == (400, code)
    assert words in answered.raw_body.decode()
    assert json.loads(answered.raw_body)["error"]["param"] == "messages[0].content[1].image_url.url"
    assert len(host.asked) == 1
    assert pod.engine.visits == []
    assert pod.front.admission.requests == 0


async def test_what_nobody_has_foreseen_is_answered_and_quotes_nobody(
    start_pod: StartPod, host: PictureHost, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    class Broken(MediaFetcher):
        async def fill(self, media: MediaCheck, left: BytesLeft) -> None:
            raise LookupError("canary of a prompt")

    pod, content = await start_fetching(start_pod, host)
    set_up_logging()
    pod.front.fetcher = Broken()
    reply = await pod.ask({**content, "model": "canary"})
    assert (reply.status, reply.error_code()) == (500, "internal_error")
    assert pod.front.admission.requests == 0
    said = capfdbinary.readouterr().out
    assert b"LookupError" in said
    assert b"canary" not in said


async def test_a_client_that_is_gone_as_its_picture_comes_is_forgotten(start_pod: StartPod, host: PictureHost) -> None:
    cut: list[asyncio.Task[None]] = []

    class Late(MediaFetcher):
        async def fill(self, media: MediaCheck, left: BytesLeft) -> None:
            # It runs between the end of this task, which cannot be cancelled then, and what follows from that.
            cut.append(asyncio.create_task(pod.front.close()))

    pod, content = await start_fetching(start_pod, host)
    pod.front.fetcher = Late()
    client = await pod.connect()
    await client.send(build_post(json.dumps(content).encode()))
    assert await client.is_closed()
    await asyncio.gather(*cut)
    await asyncio.sleep(0)
    assert pod.front.admission.requests == 0
    assert pod.front.pool.take() is None
    assert pod.engine.visits == []


@pytest.mark.usefixtures("loopback_allowed")
async def test_a_host_that_does_not_answer_is_given_up(start_pod: StartPod, host: PictureHost) -> None:
    pod, content = await start_fetching(start_pod, host)
    pod.front.fetcher = MediaFetcher(seconds=0.2)
    host.hang = True
    reply = await pod.ask(content)
    assert (reply.status, reply.error_code()) == (400, "media_unavailable")
    assert "0.2 s" in reply.raw_body.decode()


@pytest.mark.usefixtures("loopback_allowed")
async def test_the_certificate_of_a_host_is_checked(
    start_pod: StartPod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority.create(tmp_path / "pki")
    authority.issue("right", "/CN=a", names=("localhost",))
    authority.issue("wrong", "/CN=localhost", names=("pictures.example.com",))
    host, tls = PictureHost(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    host.show(PNG)
    server = await asyncio.start_server(host.serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    pod = await start_pod(media={"allowed_url_hosts": [f"localhost:{port}"]})
    pod.stack.callback(server.close)
    content = ask_about(f"https://localhost:{port}/a.png")
    for trusted, certificate, status in (("", "right", 400), ("ca.crt", "wrong", 400), ("ca.crt", "right", 200)):
        tls.load_cert_chain(authority.folder / f"{certificate}.crt", authority.folder / f"{certificate}.key")
        # As a company gives its own authority.
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.folder / trusted) if trusted else "/dev/null")
        pod.front.fetcher = MediaFetcher()
        reply = await pod.ask(content)
        assert reply.status == status, (trusted, certificate, reply.raw_body)
        assert status == 200 or "certificate is not trusted" in reply.raw_body.decode()
    assert len(host.asked) == len(pod.engine.visits) == 1, "nothing is asked of a host that nobody vouches for"


# Anything


async def test_a_small_fuzz_run() -> None:
    result = await fuzz(requests=3000, seed=7)
    assert result.answered == 3000
    assert result.failures == []
    assert result.statuses[200] > 500
    assert result.statuses[400] > 500
    assert result.grown_bytes < 256 << 20
