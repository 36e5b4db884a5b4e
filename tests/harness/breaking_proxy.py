"""A reverse proxy before an apiserver that breaks what its rules say: any call, any answer, any watch.

Towards the operator it speaks plain HTTP, towards the apiserver it is the administrator.
"""

import asyncio
import json
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, TCPConnector, web

from harness.cluster import Cluster

T = TypeVar("T")

_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_NOT_PASSED_ON = {"host", "connection", "transfer-encoding", "content-length", "authorization"}


@dataclass(frozen=True)
class Refuse:
    """Answer with an error; the apiserver is not asked."""

    status: int
    retry_after: int | None = None


@dataclass(frozen=True)
class Replay:
    """Answer 200 with an old body; the apiserver is not asked."""

    body: str


@dataclass(frozen=True)
class Cut:
    """Break the connection. `asked`: the apiserver has done what it was asked, only its answer is lost."""

    asked: bool = False


@dataclass(frozen=True)
class Hang:
    """Say nothing more, with the connection open: of a watch the events are dropped."""


Action = Refuse | Replay | Cut | Hang


@dataclass
class Rule:
    """What becomes of the requests that match: the first rule that is not used up."""

    action: Action
    verbs: tuple[str, ...] = ()
    """As RBAC names them; none means all."""
    path: str = ""
    """A part of the path."""
    skip: int = 0
    """Let so many pass first."""
    times: int | None = None
    then: Callable[[], None] | None = None
    """Called when the action is due, before anything is answered."""
    hits: list[float] = field(default_factory=list)
    """When it was applied."""

    def matches(self, call: "Call") -> bool:
        is_used_up = self.times is not None and len(self.hits) >= self.times
        return not is_used_up and (not self.verbs or call.verb in self.verbs) and self.path in call.path


class Call(NamedTuple):
    verb: str
    path: str
    at: float


class BreakingProxy:
    """Runs on a thread of its own; rules may be added and dropped at any time."""

    def __init__(self, cluster: Cluster) -> None:
        self.calls: list[Call] = []
        self._rules: list[Rule] = []
        self._watches: dict[asyncio.Task[Any], tuple[Call, web.StreamResponse]] = {}
        self._server, self._tls = _admin(cluster)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="breaking-proxy")
        self._thread.start()
        self.port = self._run(self._start())

    def kubeconfig(self, folder: Path) -> Path:
        """A file by which a client comes through the proxy."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path = folder / f"proxy-{self.port}.kubeconfig"
        path.write_text(json.dumps(config))
        return path

    def add(self, rule: Rule) -> Rule:
        self._rules.append(rule)
        return rule

    def drop(self, rule: Rule) -> None:
        self._rules.remove(rule)

    @contextmanager
    def breaking(self, rule: Rule) -> Iterator[Rule]:
        """The rule holds for as long as the block runs."""
        self.add(rule)
        try:
            yield rule
        finally:
            self.drop(rule)

    def end_watches(self, path: str, error: int | None = None) -> None:
        """End the open watches of a path, after an ERROR event of this code if one is given."""
        self._run(self._end_watches(path, error))

    def watched(self, path: str) -> bool:
        return any(path in call.path for call, _ in list(self._watches.values()))

    def close(self) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _start(self) -> int:
        self._client = ClientSession(
            connector=TCPConnector(ssl=self._tls, limit=0), timeout=ClientTimeout(total=None), auto_decompress=False
        )
        application = web.Application(client_max_size=2**24)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port: int = self._runner.addresses[0][1]
        return port

    async def _stop(self) -> None:
        for task in self._watches:
            task.cancel()
        await self._runner.cleanup()
        await self._client.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        call = _call(request)
        self.calls.append(call)
        rule = self._due(call)
        if rule is not None and not isinstance(rule.action, Cut):
            return await _answer(rule)
        if rule is not None and not rule.action.asked:  # type: ignore[union-attr]
            raise _cut(request, rule)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _NOT_PASSED_ON}
        url = self._server + request.raw_path
        async with self._client.request(request.method, url, headers=headers, data=await request.read()) as answer:
            if rule is not None:
                await answer.read()
                raise _cut(request, rule)
            return await self._pass_on(request, call, answer)

    async def _pass_on(self, request: web.Request, call: Call, answer: ClientResponse) -> web.StreamResponse:
        headers = {name: value for name, value in answer.headers.items() if name.lower() not in _NOT_PASSED_ON}
        response = web.StreamResponse(status=answer.status, headers=headers)
        await response.prepare(request)
        if call.verb != "watch":
            await response.write(await answer.read())
            return response
        task = asyncio.current_task()
        assert task is not None
        self._watches[task] = (call, response)
        try:
            with suppress(ClientError, ConnectionError):
                async for line in answer.content:
                    if self._due(call, is_event=True) is None:
                        await response.write(line)
        finally:
            del self._watches[task]
        return response

    def _due(self, call: Call, *, is_event: bool = False) -> Rule | None:
        """The rule that applies; the events of a watch are dropped by rules that hang it, and by none else."""
        for rule in self._rules:
            if not rule.matches(call) or (is_event and not isinstance(rule.action, Hang)):
                continue
            if rule.skip:
                rule.skip -= 1
                continue
            rule.hits.append(time.monotonic())
            return rule
        return None

    async def _end_watches(self, path: str, error: int | None) -> None:
        event = {"type": "ERROR", "object": _status(error)} if error is not None else None
        for task, (call, response) in list(self._watches.items()):
            if path in call.path:
                if event is not None:
                    await response.write(json.dumps(event).encode() + b"\n")
                await response.write_eof()
                task.cancel()


async def _answer(rule: Rule) -> web.Response:
    if rule.then:
        rule.then()
    match rule.action:
        case Refuse(status, retry_after):
            headers = {"Retry-After": str(retry_after)} if retry_after is not None else {}
            return web.json_response(_status(status), status=status, headers=headers)
        case Replay(body):
            return web.Response(text=body, content_type="application/json")
        case _:
            await asyncio.Event().wait()
            raise AssertionError


def _cut(request: web.Request, rule: Rule) -> web.HTTPException:
    """Breaks the connection; what is raised afterwards reaches nobody."""
    if rule.then:
        rule.then()
    if request.transport is not None:
        request.transport.abort()
    return web.HTTPBadGateway()


def _call(request: web.Request) -> Call:
    verb = _VERBS.get(request.method, request.method)
    if verb == "get" and request.query.get("watch"):
        verb = "watch"
    elif verb == "get" and "limit" in request.query:
        verb = "list"
    return Call(verb, request.path, time.monotonic())


def _status(code: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Status",
        "metadata": {},
        "status": "Failure",
        "reason": {409: "Conflict", 410: "Expired", 422: "Invalid", 429: "TooManyRequests"}.get(code, "Broken"),
        "message": "broken by the proxy",
        "code": code,
    }


def _admin(cluster: Cluster) -> tuple[str, ssl.SSLContext]:
    """Where the apiserver is, and what it takes to be its administrator."""
    config = json.loads(cluster.kubeconfig.read_text())
    pki = cluster.kubeconfig.parent / "pki"
    tls = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    tls.load_cert_chain(pki / "admin.crt", pki / "admin.key")
    return str(config["clusters"][0]["cluster"]["server"]), tls
