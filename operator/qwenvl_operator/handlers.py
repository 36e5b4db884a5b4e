"""The kopf side: which kinds are watched, how kopf logs in, and the liveness probe. Nothing is decided here.

Only `on.event` handlers: kopf then writes nothing to any object, neither finalizers nor annotations.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp
import kopf
import orjson

from qwenvl_operator.cluster import LIST_CHUNK, USER_AGENT, Connection, connection
from qwenvl_operator.feed import LISTED, Feed
from qwenvl_operator.naming import MANAGED_SELECTOR
from qwenvl_operator.objects import WATCHED_KINDS, Kind, Manifest
from qwenvl_operator.permissions import Permission
from qwenvl_operator.settings import Settings

UNUSED_FINALIZER = "qwenvl.io/never-set"
WATCHER = "watcher for "
"""How kopf begins the names of its tasks that watch."""


@dataclass(frozen=True)
class Backoffs:
    """Pauses between attempts, without an end: a watch that gives up ends the process."""

    first: float = 0.5
    cap: float = 30.0

    def __iter__(self) -> Iterator[float]:
        pause = self.first
        while True:
            yield pause * random.uniform(0.5, 1.0)
            pause = min(pause * 2, self.cap)


class NoDiffs:
    """For `on.event` handlers nothing is compared, and kopf's copy of each object for it is the most of its time."""

    def build(self, *, body: kopf.Body, extra_fields: object = None) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> None:
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        return None


async def watch(
    feed: Feed, settings: Settings, *, stop: asyncio.Event, clean_up: Callable[[], Awaitable[None]]
) -> None:
    """Watch until `stop` is set or a signal comes; `clean_up` runs when the watches have ended, before kopf does.

    Raises whatever ended a watch by a fault.
    """
    await kopf.operator(
        registry=build_registry(feed, settings, clean_up),
        settings=build_settings(),
        standalone=True,
        # Unused without peering; left to itself kopf asks for the user's name, which a pod's user id does not have.
        identity="standalone",
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
        liveness_endpoint=f"http://0.0.0.0:{settings.health_port}/healthz",
        stop_flag=stop,
    )


def build_registry(feed: Feed, settings: Settings, clean_up: Callable[[], Awaitable[None]]) -> kopf.OperatorRegistry:
    """The handlers, in a registry of their own."""
    registry = kopf.OperatorRegistry()

    known: dict[Connection, kopf.AiohttpSession] = {}

    async def log_in(**_: Any) -> kopf.AiohttpSession:
        credentials = await connection()
        # The same again for the same credentials: kopf then knows that they were refused, and ends the process.
        if credentials not in known:
            known[credentials] = open_session(credentials, feed)
        return known[credentials]

    async def take_in(event: dict[str, Any], **_: Any) -> None:
        feed.watched(event["type"], dict(event["object"]))

    async def probe(**_: Any) -> str:
        missing = missing_watchers(settings.namespaces, {task.get_name() for task in asyncio.all_tasks()})
        if missing:
            raise kopf.PermanentError(f"not watched any more: {', '.join(sorted(missing))}")
        return "watching"

    async def end(**_: Any) -> None:
        await clean_up()
        # After a fault of one watch kopf would wait five seconds for the others to end by themselves.
        for task in asyncio.all_tasks():
            if task.get_name().startswith(WATCHER):
                task.cancel()

    kopf.on.login(registry=registry, backoff=5)(log_in)
    kopf.on.probe(registry=registry, id="watches")(probe)
    kopf.on.cleanup(registry=registry, errors=kopf.ErrorsMode.PERMANENT)(end)
    for kind in LISTED:
        resource = kind.value
        kopf.on.event(
            group=resource.group,
            version=resource.version,
            plural=resource.plural,
            id=f"watch-{resource.plural}",
            registry=registry,
        )(take_in)
    return registry


class Listener(Protocol):
    """Who wants to know how the requests of the watches fare, and takes their lists."""

    def answered(self, right: Permission, *, granted: bool) -> None: ...

    def listed(self, manifests: Iterable[Manifest]) -> None: ...


def open_session(credentials: Connection, listener: Listener) -> kopf.AiohttpSession:
    """The watches' session. kopf says nothing of a list that is empty, and retries what is forbidden in silence.

    Of a list kopf gets its version alone. For each item it would make a task, which took half of the time in which a
    restarted operator has looked at a thousand resources.
    """

    class Answer(aiohttp.ClientResponse):
        async def json(self, *, loads: Callable[[str], Any] = orjson.loads, **options: Any) -> Any:
            content = await super().json(loads=loads, **options)
            if not isinstance(content, dict) or "items" not in content:
                return content
            identity = {"apiVersion": content["apiVersion"], "kind": content["kind"].removesuffix("List")}
            listener.listed(identity | item for item in content["items"] or ())
            return content | {"items": []}

    async def answered(_: object, __: object, answer: aiohttp.TraceRequestEndParams) -> None:
        right = Permission.to_read(answer.url.path, watch="watch" in answer.url.query)
        if right is not None and answer.response.status in (200, 403):
            listener.answered(right, granted=answer.response.status == 200)

    tracing = aiohttp.TraceConfig()
    tracing.on_request_end.append(answered)
    access = kopf.ConnectionInfo(
        server=credentials.server,
        insecure=not credentials.verify,
        ca_path=credentials.ca_path,
        certificate_path=credentials.certificate_path,
        private_key_path=credentials.key_path,
        scheme=credentials.scheme or None,
        token=credentials.token or None,
    )
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=access.as_ssl_context()),
        headers={**access.as_http_headers(), "User-Agent": USER_AGENT},
        proxy=credentials.proxy,
        trust_env=True,
        trace_configs=[tracing],
        response_class=Answer,
    )
    return kopf.AiohttpSession(server=credentials.server, aiohttp_session=session)


def build_settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    # Neither CustomResourceDefinitions nor Namespaces are watched: the rights for it are not asked for.
    settings.scanning.disabled = True
    settings.posting.enabled = False
    # kopf takes its own finalizer off any object that it sees, another kopf operator's objects included.
    settings.persistence.finalizer = UNUSED_FINALIZER
    settings.persistence.diffbase_storage = NoDiffs()
    settings.networking.error_backoffs = Backoffs()
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.networking.trust_env = True
    settings.watching.connect_timeout = 10
    settings.watching.server_timeout = 300  # an integer: it goes into the URL as it is
    settings.watching.client_timeout = 310
    # The API server says something at least once a minute.
    settings.watching.inactivity_timeout = 70.0
    settings.watching.reconnect_backoff = 1.0
    settings.watching.chunk_size = LIST_CHUNK
    # For so long kopf keeps a task for each object that was heard of, and the object itself with it.
    settings.queueing.idle_timeout = 0.1
    settings.process.ultimate_exiting_timeout = 25
    for kind in WATCHED_KINDS:
        resource = kind.value
        settings.watching.label_selectors[resource.group, resource.version, resource.plural] = MANAGED_SELECTOR
    return settings


def missing_watchers(namespaces: tuple[str, ...], tasks: set[str]) -> set[str]:
    """Watches that should run and do not, by the names of kopf's tasks.

    None is missing before any has started: kopf starts all of them at once, when it has reached the API server.
    """
    expected = {
        f"{WATCHER}{_resource_name(kind)}@{namespace}" for kind in LISTED for namespace in namespaces or (None,)
    }
    return expected - tasks if any(name.startswith(WATCHER) for name in tasks) else set()


def _resource_name(kind: Kind) -> str:
    return f"{kind.value.plural}.{kind.value.version}.{kind.value.group}".rstrip(".")
