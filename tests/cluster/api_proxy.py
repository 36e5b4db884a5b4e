"""A proxy before a real API server that can break any call.

The method of Sieve (OSDI 2022): kill at call k for every k, freeze a watch, hide an event, replay an old list. It works
on HTTP, so that nothing in the operator's process knows of it. The operator comes without credentials; towards the API
server the proxy has those of a kubeconfig.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import ssl
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from aiohttp import web
from yarl import URL

from harness.ports import free_port

Event = dict[str, Any]
Forward = Callable[[], Awaitable[web.StreamResponse]]
Effect = Callable[[web.BaseRequest, Forward], Awaitable[web.StreamResponse]]
"""What becomes of a call; the second argument has it done by the API server."""

Matches = Callable[["Call"], bool]

VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
PASSED_ON = ("Accept", "Content-Type", "User-Agent")


class Call(NamedTuple):
    """One request."""

    verb: str
    """As RBAC names it."""
    resource: str
    """The plural, the subresource behind it: `pods/status`; the path of what is no resource."""
    name: str
    """Empty for what concerns no single object."""
    at: float
    """Seconds of the monotonic clock."""

    @classmethod
    def of(cls, request: web.BaseRequest) -> Call:
        _, root, *parts = request.path.split("/")
        parts = parts[1:] if root == "api" else parts[2:]
        if len(parts) > 2 and parts[0] == "namespaces":
            parts = parts[2:]
        resource, name, subresource = (*parts, "", "", "")[:3]
        verb = VERBS.get(request.method) or ("get" if name else "watch" if "watch" in request.query else "list")
        return cls(verb, f"{resource}/{subresource}".rstrip("/") or request.path, name, time.monotonic())


def to(**fields: str) -> Matches:
    """Calls of this verb, resource and name, whatever is left out of it."""
    return lambda call: all(getattr(call, name) == value for name, value in fields.items())


def _any(_: Call) -> bool:
    return True


def refuse(status: int, retry_after: int | None = None) -> Effect:
    """Answer with an error, without asking the API server."""

    async def effect(_: web.BaseRequest, __: Forward) -> web.StreamResponse:
        headers = {"Retry-After": str(retry_after)} if retry_after else {}
        return web.json_response(failure(status), status=status, headers=headers)

    return effect


def replay(answer: str) -> Effect:
    """Answer what was true once."""

    async def effect(_: web.BaseRequest, __: Forward) -> web.StreamResponse:
        return web.Response(text=answer, content_type="application/json")

    return effect


def lose_answer(then: Callable[[], object]) -> Effect:
    """Have the call done, and then something else instead of its answer."""

    async def effect(request: web.BaseRequest, forward: Forward) -> web.StreamResponse:
        await forward()
        then()
        _abort(request)
        return web.Response()

    return effect


async def say_nothing(request: web.BaseRequest, _: Forward) -> web.StreamResponse:
    """Open a watch on which nothing ever comes."""
    await web.StreamResponse().prepare(request)
    never: asyncio.Future[web.StreamResponse] = asyncio.get_running_loop().create_future()
    return await never


def failure(code: int) -> Event:
    """A Status object, as the API server answers or sends it into a watch."""
    return {
        "apiVersion": "v1",
        "kind": "Status",
        "status": "Failure",
        "code": code,
        "reason": "Broken",
        "message": "broken by the test",
        "metadata": {},
    }


@dataclass
class _Breakage:
    effect: Effect
    matches: Matches
    skip: int
    times: float

    def takes(self, call: Call) -> bool:
        """Whether this call is to be broken; counts it."""
        if not self.matches(call):
            return False
        self.skip -= 1
        return -self.times <= self.skip < 0


@dataclass(eq=False)
class _Watch:
    call: Call
    request: web.BaseRequest
    response: web.StreamResponse = field(default_factory=web.StreamResponse)
    is_frozen: bool = False

    async def send(self, event: Event) -> None:
        await self.response.write(json.dumps(event).encode() + b"\n")


class Proxy:
    """Lets everything through until it is told otherwise; `heal` ends what was told."""

    def __init__(self, kubeconfig: Path) -> None:
        config = json.loads(kubeconfig.read_text())
        self.port = free_port()
        self._target = URL(config["clusters"][0]["cluster"]["server"])
        self._tls = _client_tls(config)
        self._calls: list[Call] = []
        self._breakages: list[_Breakage] = []
        self._hides: Callable[[Call, Event], bool] = lambda *_: False
        self._watches: list[_Watch] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._thread.start()
        self._run(self._start())

    # What tests ask and tell.

    def kubeconfig(self, folder: Path) -> Path:
        """For the operator: the way through this proxy."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "proxy", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "nobody", "user": {}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "nobody"}}],
            "current-context": "proxy",
        }
        path = folder / f"proxy-{self.port}.kubeconfig"
        path.write_text(json.dumps(config))
        return path

    def calls(self, matches: Matches = _any) -> list[Call]:
        """What was asked so far, oldest first."""
        return [call for call in self._calls if matches(call)]

    def break_calls(self, effect: Effect, matches: Matches = _any, *, skip: int = 0, times: float = math.inf) -> None:
        """Break so many of the calls that match, after the first few of them."""
        self._breakages.append(_Breakage(effect, matches, skip, times))

    def hide(self, verdict: Callable[[Call, Event], bool]) -> None:
        """Keep back the events of watches of which this is true."""
        self._hides = verdict

    def heal(self) -> None:
        """Break no further calls and hide no further events. A frozen watch stays frozen."""
        self._breakages.clear()
        self._hides = lambda *_: False

    def watched(self) -> set[str]:
        """The resources that are being watched, by watches that are not frozen."""
        return {watch.call.resource for watch in self._watches if not watch.is_frozen}

    def freeze_watches(self) -> None:
        """The watches that are open stay open, and nothing ever comes on them again."""
        for watch in self._watches:
            watch.is_frozen = True

    def end_watches(self, resource: str, code: int) -> None:
        """Send an ERROR event, as an API server does before it ends a watch."""
        self._run(self._end_watches(resource, {"type": "ERROR", "object": failure(code)}))

    def cut_watches(self) -> None:
        """Break the connections of all watches."""
        self._run(self._cut_watches())

    def go_away(self) -> None:
        """Break what is open, and refuse every connection."""
        self._run(self._go_away())

    def come_back(self) -> None:
        self._run(self._listen())

    def close(self) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # How it works.

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _start(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._tls), timeout=aiohttp.ClientTimeout(total=None)
        )
        self._server = web.Server(self._handle, access_log=None, handler_cancellation=True)
        self._runner = web.ServerRunner(self._server, shutdown_timeout=0.0)
        await self._runner.setup()
        await self._listen()

    async def _listen(self) -> None:
        self._site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await self._site.start()

    async def _go_away(self) -> None:
        await self._site.stop()
        for connection in self._server.connections:
            connection.force_close()

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()
        # Broken connections are only closed in the next rounds of the loop.
        await asyncio.sleep(0.1)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        call = Call.of(request)
        self._calls.append(call)
        broken = next((item for item in self._breakages if item.takes(call)), None)
        forward = partial(self._forward, request, call)
        return await (broken.effect(request, forward) if broken else forward())

    async def _forward(self, request: web.BaseRequest, call: Call) -> web.StreamResponse:
        url = self._target.join(URL(request.raw_path, encoded=True))
        headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
        body = await request.read()
        async with self._session.request(request.method, url, data=body or None, headers=headers) as answer:
            if call.verb == "watch" and answer.status == 200:
                return await self._relay(_Watch(call, request), answer)
            return web.Response(status=answer.status, body=await answer.read(), content_type=answer.content_type)

    async def _relay(self, watch: _Watch, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        self._watches.append(watch)
        try:
            await watch.response.prepare(watch.request)
            while line := await answer.content.readline():
                event = json.loads(line)
                if not (watch.is_frozen or self._hides(watch.call, event)):
                    await watch.send(event)
        finally:
            self._watches.remove(watch)
        return watch.response

    async def _end_watches(self, resource: str, event: Event) -> None:
        for watch in [watch for watch in self._watches if watch.call.resource == resource and not watch.is_frozen]:
            watch.is_frozen = True
            await watch.send(event)

    async def _cut_watches(self) -> None:
        for watch in self._watches:
            _abort(watch.request)


def _abort(request: web.BaseRequest) -> None:
    if request.transport:
        request.transport.abort()


def _client_tls(config: dict[str, Any]) -> ssl.SSLContext:
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
    context = ssl.create_default_context(cadata=authority)
    with tempfile.NamedTemporaryFile() as both:
        both.write(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
        both.flush()
        context.load_cert_chain(both.name)
    return context


@contextmanager
def running(kubeconfig: Path) -> Iterator[Proxy]:
    """A proxy for as long as the block runs."""
    proxy = Proxy(kubeconfig)
    try:
        yield proxy
    finally:
        proxy.close()
