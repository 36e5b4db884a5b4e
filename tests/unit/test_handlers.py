"""The kopf side: what is asked of kopf, and the names of its tasks that the liveness probe goes by."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import kopf
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

# These are kopf's internals: this is where a new version of kopf that changed them is noticed.
from kopf._cogs.aiokits.aiotoggles import ToggleSet
from kopf._cogs.clients import auth
from kopf._cogs.clients.fetching import fetch_objs
from kopf._cogs.structs.credentials import Vault, VaultKey
from kopf._cogs.structs.references import Resource as KopfResource
from kopf._core.reactor.orchestration import Ensemble, spawn_missing_watchers

from qwenvl_operator.cluster import Connection
from qwenvl_operator.feed import LISTED
from qwenvl_operator.handlers import UNUSED_FINALIZER, Backoffs, build_settings, missing_watchers, open_session
from qwenvl_operator.naming import MANAGED_SELECTOR
from qwenvl_operator.objects import Kind, Manifest
from qwenvl_operator.permissions import Permission


def kopf_resource(kind: Kind) -> Any:
    return KopfResource(kind.value.group, kind.value.version, kind.value.plural, namespaced=True)


class Told(list[tuple[str, bool]]):
    """What the watches' session says of the answers."""

    def __init__(self) -> None:
        self.items: list[Manifest] = []

    def answered(self, right: Permission, *, granted: bool) -> None:
        self.append((f"{right.verb} {right.resource}", granted))

    def listed(self, manifests: Iterable[Manifest]) -> None:
        self.items.extend(manifests)


@pytest.fixture(name="paused")
async def _paused() -> Any:
    """kopf's switch that keeps a watcher from asking anything."""
    paused = ToggleSet(any)
    await paused.make_toggle(True, name="test")
    return paused


@pytest.mark.parametrize("namespaces", [(), ("ai",), ("ai", "lab")])
async def test_the_probe_knows_the_watchers_by_the_names_that_kopf_gives_them(
    namespaces: tuple[str, ...], paused: Any
) -> None:
    ensemble = Ensemble(
        operator_indexed=ToggleSet(all), operator_paused=paused, peering_missing=await paused.make_toggle()
    )

    async def nothing(**_: Any) -> None: ...

    await spawn_missing_watchers(
        processor=nothing,
        settings=build_settings(),
        indexed_resources=(),
        watched_resources=[kopf_resource(kind) for kind in LISTED],
        watched_namespaces=namespaces or (None,),
        ensemble=ensemble,
    )
    names = {task.get_name() for task in asyncio.all_tasks()}
    assert missing_watchers(namespaces, names) == set()
    victim = next(iter(ensemble.watcher_tasks.values()))
    victim.cancel()
    await asyncio.wait([victim])
    names = {task.get_name() for task in asyncio.all_tasks()}
    assert missing_watchers(namespaces, names) == {victim.get_name()}
    for task in ensemble.watcher_tasks.values():
        task.cancel()
    await asyncio.wait(ensemble.watcher_tasks.values())


@asynccontextmanager
async def listened_to(app: web.Application) -> AsyncIterator[tuple[kopf.AiohttpSession, TestServer, Told]]:
    """The watches' session with an API server, and what is told of it."""
    told = Told()
    async with TestServer(app) as server:
        credentials = Connection(
            server=str(server.make_url("/")),
            verify=True,
            ca_path=None,
            certificate_path=None,
            key_path=None,
            proxy=None,
            scheme="Bearer",
            token="secret",
        )
        access = open_session(credentials, told)
        async with access.aiohttp_session:
            yield access, server, told


async def test_the_answers_to_the_watches_are_heard_of_although_kopf_says_nothing_of_them() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"items": []}, status=int(request.query.get("status", 200)))

    app = web.Application()
    app.router.add_get("/api/v1/pods", answer)
    app.router.add_get("/apis", answer)
    async with listened_to(app) as (access, server, told):
        for path in (
            "/apis",
            "/api/v1/pods?status=503",
            "/api/v1/pods?limit=500",
            "/api/v1/pods?watch=true",
            "/api/v1/pods?watch=true&status=403",
        ):
            (await access.aiohttp_session.get(server.make_url(path))).release()
        assert told == [("list pods", True), ("watch pods", True), ("watch pods", False)]


async def test_kopf_gets_no_item_of_a_list_and_so_makes_no_task_for_it() -> None:
    items: dict[str, list[Manifest] | None] = {
        "": [{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}],
        "more": [{"metadata": {"name": "c"}}],
        "end": None,
    }
    follows = {"": "more", "more": "end", "end": ""}

    async def answer(request: web.Request) -> web.Response:
        place = request.query.get("continue", "")
        metadata = {"resourceVersion": "7", "continue": follows[place]}
        return web.json_response({"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": items[place]})

    app = web.Application()
    app.router.add_get("/api/v1/pods", answer)
    async with listened_to(app) as (access, _, told):
        auth.vault_var.set(Vault({VaultKey("test"): access}))
        pages = fetch_objs(
            settings=build_settings(), resource=kopf_resource(Kind.POD), namespace=None, logger=logging.getLogger()
        )
        assert [page async for page in pages] == [([], "7")] * 3
    assert told.items == [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}} for name in "abc"]


def test_before_kopf_has_reached_the_api_server_nothing_is_missing() -> None:
    assert missing_watchers((), {"leader", "health reporter"}) == set()


def test_a_kind_that_the_api_server_does_not_know_is_missing() -> None:
    started = {"watcher for pods.v1@None"}
    assert "watcher for qwenvldeployments.v1alpha1.qwenvl.io@None" in missing_watchers((), started)


def test_only_what_is_managed_is_watched_and_every_custom_resource() -> None:
    selectors = build_settings().watching.label_selectors
    for kind in LISTED:
        wanted = [] if kind is Kind.CR else [MANAGED_SELECTOR]
        assert selectors.collect(kopf_resource(kind)) == wanted


def test_kopf_is_asked_to_write_nothing_and_to_need_no_more_rights() -> None:
    settings = build_settings()
    assert settings.scanning.disabled
    assert not settings.posting.enabled
    assert settings.persistence.finalizer == UNUSED_FINALIZER != kopf.OperatorSettings().persistence.finalizer
    assert isinstance(settings.watching.server_timeout, int)


def test_kopf_copies_no_object_for_diffs_that_nobody_asks_for() -> None:
    storage = build_settings().persistence.diffbase_storage
    assert storage.build(body=kopf.Body({"spec": {"replicas": 2}})) == {}
    assert storage.fetch(body=kopf.Body({"spec": {"replicas": 2}})) is None


def test_a_silent_watch_is_given_up_some_seconds_after_a_bookmark_is_overdue() -> None:
    assert 62 < build_settings().watching.inactivity_timeout <= 70


def test_attempts_never_end_and_their_pauses_are_bounded() -> None:
    pauses = list(itertools.islice(Backoffs(first=0.5, cap=30.0), 1000))
    assert len(pauses) == 1000
    assert max(pauses) <= 30.0
    assert min(pauses[10:]) >= 15.0
    assert len(set(pauses)) > 900
    # kopf goes over the same object again for every request.
    assert next(iter(Backoffs(first=0.5))) <= 0.5
