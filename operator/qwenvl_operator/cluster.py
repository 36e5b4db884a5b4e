"""The Cluster protocol, and the one Kubernetes client behind it. Only this module imports kubernetes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Protocol
from urllib.parse import quote, urlencode

import aiohttp
import orjson
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from qwenvl_operator.errors import ApiError, StartError
from qwenvl_operator.kubeconfig import Kubeconfig, is_in_pod
from qwenvl_operator.metrics import Metrics
from qwenvl_operator.naming import FIELD_MANAGER, MANAGED_SELECTOR
from qwenvl_operator.objects import Kind, Manifest, Ref, ref_of

USER_AGENT = f"qwenvl-operator/{version('qwenvl')}"
REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=30, connect=10)
APPLY, MERGE_PATCH = "application/apply-patch+yaml", "application/strategic-merge-patch+json"
LIST_CHUNK = 100
"""A page of a list is in memory as a whole, at the start one of each kind at once."""
CLUSTER_SCOPED = (Kind.NODE, Kind.NAMESPACE, Kind.RUNTIME_CLASS)
MISSHAPEN = (AttributeError, KeyError, OSError, TypeError, ValueError)
"""What kubernetes raises for a kubeconfig in which something else stands than it expects."""
UNANSWERED = (aiohttp.ClientError, TimeoutError, OSError, ConfigException)


class Cluster(Protocol):
    """What the operator asks of an API server. Every call raises ApiError when it is refused or not answered."""

    async def get(self, ref: Ref) -> Manifest | None:
        """The object, with metadata.managedFields, or None if there is none."""

    async def list(self, kind: Kind, *, managed: bool = True, namespace: str = "") -> list[Manifest]:
        """All objects of a kind in one namespace, or in all that are watched (`managed`: only those with our label).

        Each carries apiVersion and kind; metadata.managedFields is left out.
        """

    def pages(self, kind: Kind, *, managed: bool = True, namespace: str = "") -> AsyncIterator[Sequence[Manifest]]:
        """The same in pages, of which one at a time needs memory."""

    async def apply(self, manifest: Manifest) -> Manifest:
        """Server-side apply with our field manager, taking over fields that another manager set."""

    async def empty(self, ref: Ref, patch: Manifest) -> Manifest:
        """Take fields away, whoever set them: a strategic merge patch of nothing but nulls."""

    async def apply_status(self, manifest: Manifest) -> Manifest:
        """The same for the status subresource; the manifest carries identity and `status` alone."""

    async def delete(self, ref: Ref, uid: str) -> None:
        """Delete exactly the object with this UID, its dependents in the background. Gone already is fine."""

    async def create_event(self, manifest: Manifest) -> None:
        """Record an Event (events.k8s.io/v1)."""

    async def list_events(self, about: Manifest) -> Sequence[Manifest]:
        """The Events (events.k8s.io/v1) about this very object."""


@dataclass(frozen=True)
class Connection:
    """Where the API server is and who we are, for the watches, which kopf makes with a client of its own."""

    server: str
    verify: bool
    ca_path: str | None
    certificate_path: str | None
    key_path: str | None
    proxy: str | None
    scheme: str
    """`Bearer` or `Basic`; empty with a client certificate."""
    token: str = field(repr=False)


async def connection() -> Connection:
    """The credentials as they are now: a service account's token rotates."""
    configuration = await _configuration()
    authorization = await configuration.get_api_key_with_prefix("BearerToken") or ""
    scheme, _, token = authorization.partition(" ")
    return Connection(
        server=configuration.host,
        verify=configuration.verify_ssl,
        ca_path=configuration.ssl_ca_cert,
        certificate_path=configuration.cert_file,
        key_path=configuration.key_file,
        proxy=configuration.proxy,
        scheme=scheme,
        token=token,
    )


@asynccontextmanager
async def open_client() -> AsyncIterator[ApiClient]:
    """A client of the API server, closed at the end. Raises StartError if there are no credentials."""
    configuration = await _configuration()
    try:
        opened = ApiClient(configuration)
    except OSError as error:
        raise StartError(f"the certificates for {configuration.host} cannot be used: {error}") from error
    async with opened as client:
        client.user_agent = USER_AGENT
        yield client


class KubernetesCluster:
    """The protocol on a real API server.

    Nothing is written while `may_write` says no: a process that was frozen past the end of its lease wakes up in the
    middle of a reconcile, and another one is at work by then.
    """

    def __init__(
        self,
        client: ApiClient,
        metrics: Metrics,
        *,
        namespaces: tuple[str, ...] = (),
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        self._client = client
        self._metrics = metrics
        self._namespaces = namespaces
        self._may_write = may_write

    async def get(self, ref: Ref) -> Manifest | None:
        try:
            found: Manifest = await self._request("get", ref)
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return found

    async def apply(self, manifest: Manifest) -> Manifest:
        return await self._apply(manifest, "")

    async def empty(self, ref: Ref, patch: Manifest) -> Manifest:
        query = {"fieldManager": FIELD_MANAGER}
        return _slim(await self._request("patch", ref, query=query, body=patch, media_type=MERGE_PATCH))

    async def apply_status(self, manifest: Manifest) -> Manifest:
        return await self._apply(manifest, "/status")

    async def delete(self, ref: Ref, uid: str) -> None:
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid},
            "propagationPolicy": "Background",
        }
        try:
            await self._request("delete", ref, body=options)
        except ApiError as error:
            # A conflict means that the name belongs to another object by now.
            if error.status not in (404, 409):
                raise

    async def create(self, manifest: Manifest) -> Manifest:
        """Make an object; refused with status 409 if there is one of its name."""
        ref = ref_of(manifest)
        return _slim(await self._request("create", ref._replace(name=""), body=manifest, about=ref.name))

    async def replace(self, manifest: Manifest) -> Manifest:
        """Put a whole object; refused with status 409 unless it is still at the manifest's resourceVersion."""
        return _slim(await self._request("update", ref_of(manifest), body=manifest))

    async def create_event(self, manifest: Manifest) -> None:
        await self.create(manifest)

    async def version(self) -> str:
        """The API server's, such as v1.34.4; whoever has credentials may ask for it."""
        call = "get /version"
        try:
            code, answer, headers = await self._send("get", "/version", {}, None)
        except UNANSWERED as error:
            raise _no_answer(error, call) from error
        if code != 200:
            raise _refusal(code, answer, headers.get("Retry-After"), call)
        return str(orjson.loads(answer)["gitVersion"])

    async def list_events(self, about: Manifest) -> Sequence[Manifest]:
        metadata = about["metadata"]
        query = {"fieldSelector": f"regarding.uid={metadata['uid']}"}
        found = await self._request("list", Ref(Kind.EVENT, metadata["namespace"], ""), query=query)
        items: Sequence[Manifest] = found["items"]
        return items

    async def list(self, kind: Kind, *, managed: bool = True, namespace: str = "") -> list[Manifest]:
        return [item async for page in self.pages(kind, managed=managed, namespace=namespace) for item in page]

    async def pages(
        self, kind: Kind, *, managed: bool = True, namespace: str = ""
    ) -> AsyncIterator[Sequence[Manifest]]:
        namespaces = ("",) if kind in CLUSTER_SCOPED or not self._namespaces else self._namespaces
        for asked in (namespace,) if namespace else namespaces:
            query = {"limit": str(LIST_CHUNK)} | ({"labelSelector": MANAGED_SELECTOR} if managed else {})
            while True:
                page = await self._request("list", Ref(kind, asked, ""), query=query)
                identity = {"apiVersion": kind.value.api_version, "kind": kind.value.kind}
                yield [_slim({**identity, **item}) for item in page["items"]]
                query["continue"] = page["metadata"].get("continue", "")
                if not query["continue"]:
                    break

    async def _apply(self, manifest: Manifest, subresource: str) -> Manifest:
        query, ref = {"fieldManager": FIELD_MANAGER, "force": "true"}, ref_of(manifest)
        request = self._request("patch", ref, subresource=subresource, query=query, body=manifest, media_type=APPLY)
        return _slim(await request)

    async def _request(
        self,
        verb: str,
        ref: Ref,
        *,
        subresource: str = "",
        query: dict[str, str] | None = None,
        body: Manifest | None = None,
        about: str = "",
        media_type: str = "application/json",
    ) -> Any:
        call = " ".join((verb, ref.kind.value.plural + subresource, "/".join(filter(None, (*ref[1:], about))))).strip()
        if verb not in ("get", "list") and not self._may_write():
            raise ApiError(0, "LeaseLost", "another operator may be at work by now", call=call)
        try:
            code, answer, headers = await self._send(verb, _path(ref) + subresource, query or {}, body, media_type)
        except UNANSWERED as error:
            self._metrics.requested(verb, ref.kind, 0)
            raise _no_answer(error, call) from error
        self._metrics.requested(verb, ref.kind, code)
        if not 200 <= code <= 299:
            raise _refusal(code, answer, headers.get("Retry-After"), call)
        return orjson.loads(answer)

    async def _send(
        self, verb: str, path: str, query: dict[str, str], body: Manifest | None, media_type: str = "application/json"
    ) -> tuple[int, bytes, Any]:
        method, url, headers, data, _ = await self._client.param_serialize(
            METHODS[verb],
            path + (f"?{urlencode(query)}" if query else ""),
            header_params={"Accept": "application/json", "Content-Type": media_type},
            body=body,
            auth_settings=["BearerToken"],
        )
        response = await self._client.call_api(method, url, headers, data, _request_timeout=REQUEST_TIMEOUT)
        return response.status, await response.read(), response.headers


METHODS = {"get": "GET", "list": "GET", "create": "POST", "update": "PUT", "patch": "PATCH", "delete": "DELETE"}
"""The API server's verbs, as RBAC names them."""


async def _configuration() -> Configuration:
    configuration = Configuration()
    if is_in_pod():
        try:
            # Re-reads the token's file once a minute from here on.
            load_incluster_config(client_configuration=configuration)
        except ConfigException as error:
            raise StartError(f"credentials for the API server cannot be read: {error}") from error
        return configuration
    kubeconfig = Kubeconfig.read()
    try:
        await load_kube_config(
            kubeconfig.paths, context=kubeconfig.context, client_configuration=configuration, persist_config=False
        )
    except (ConfigException, *MISSHAPEN) as error:
        raise StartError(f"credentials in {kubeconfig.paths} cannot be read: {error}") from error
    return configuration


def _path(ref: Ref) -> str:
    resource = ref.kind.value
    root = f"/apis/{resource.api_version}" if resource.group else f"/api/{resource.api_version}"
    namespace = f"/namespaces/{quote(ref.namespace)}" if ref.namespace else ""
    return f"{root}{namespace}/{resource.plural}" + (f"/{quote(ref.name)}" if ref.name else "")


def _no_answer(error: Exception, call: str) -> ApiError:
    return ApiError(0, type(error).__name__, str(error) or "no answer in time", call=call)


def _refusal(code: int, answer: bytes, retry_after: str | None, call: str) -> ApiError:
    """What the server said; a proxy before it may say it in something else than a Status object."""
    try:
        status = orjson.loads(answer)
        reason, message = str(status.get("reason", "")), str(status.get("message", ""))
        causes = (status.get("details") or {}).get("causes", ())
    except (ValueError, AttributeError):
        reason, message, causes = "", answer[:200].decode(errors="replace"), ()
    if any(cause.get("field") == "metadata.uid" for cause in causes):
        # An apply that names the UID of an object whose name is another's by now: a conflict, said in other words.
        code, reason = 409, "Conflict"
    seconds = float(retry_after) if retry_after and retry_after.isdecimal() else None
    return ApiError(code, reason or "Unknown", message or "no message", call=call, retry_after=seconds)


def _slim(manifest: Manifest) -> Manifest:
    """Without managedFields, which are half of an object's size and are read of single objects alone."""
    metadata = {key: value for key, value in manifest["metadata"].items() if key != "managedFields"}
    return {**manifest, "metadata": metadata}
