"""Objects of a cluster of ours, read in this process: tests ask so often that kubectl would take half a core."""

from __future__ import annotations

import base64
import json
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx

from harness.commands import CommandError

_DISCOVERY = {"accept": "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"}
_FLAGS = {
    "-n": "namespace",
    "--namespace": "namespace",
    "--selector": "labelSelector",
    "--field-selector": "fieldSelector",
}
_SHOW_MANAGED = "--show-managed-fields"
_NOTHING_KEPT = httpx.Limits(max_keepalive_connections=0)


@dataclass(frozen=True)
class _Resource:
    root: str
    """`/api/v1`, `/apis/GROUP/VERSION`"""
    plural: str
    namespaced: bool

    def path(self, namespace: str, name: str) -> str:
        where = f"/namespaces/{namespace}" if self.namespaced else ""
        return f"{self.root}{where}/{self.plural}" + (f"/{name}" if name else "")


class Reader:
    """Takes what `kubectl get` takes, as far as the tests write it. `kubeconfig` has a client certificate inside."""

    def __init__(self, kubeconfig: Path) -> None:
        config = json.loads(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        context = ssl.create_default_context(cadata=_decoded(cluster, "certificate-authority-data").decode())
        with tempfile.NamedTemporaryFile() as pair:
            pair.write(_decoded(user, "client-certificate-data") + _decoded(user, "client-key-data"))
            pair.flush()
            context.load_cert_chain(pair.name)
        self._http = httpx.Client(
            base_url=cluster["server"], verify=context, trust_env=False, timeout=30, limits=_NOTHING_KEPT
        )
        self._resources: dict[str, _Resource] = {}

    def get(self, what: str, *arguments: str) -> dict[str, Any]:
        """One object, or a list of all that fit. Raises CommandError as kubectl would end."""
        names = [argument for argument in arguments if not argument.startswith("-")]
        flags = dict(argument.partition("=")[::2] for argument in arguments if argument.startswith("-"))
        managed = flags.pop(_SHOW_MANAGED, None) is not None
        options = {_FLAGS[flag]: value for flag, value in flags.items()}
        namespace = options.pop("namespace", "default")
        kinds, _, name = what.partition("/")
        named = name or "".join(names)
        paths = [self._resource(kind).path(namespace, named) for kind in kinds.split(",")]
        answers = [self._ask(path, options) for path in paths]
        found = answers if named else [item for answer in answers for item in _items(answer)]
        for each in found:
            if not managed:
                each["metadata"].pop("managedFields", None)
        return found[0] if named else {"items": found}

    def _resource(self, name: str) -> _Resource:
        if name not in self._resources:
            # It may have been defined since.
            self._resources = dict(self._discover())
        return self._resources[name]

    def _discover(self) -> Iterator[tuple[str, _Resource]]:
        """Where several groups have a name the first one wins, as with kubectl."""
        found: dict[str, _Resource] = {}
        for root in ("/api", "/apis"):
            for group in self._ask(root, {}, _DISCOVERY)["items"]:
                path = "/".join(filter(None, (root, group["metadata"].get("name"), group["versions"][0]["version"])))
                for each in group["versions"][0]["resources"]:
                    resource = _Resource(path, each["resource"], each["scope"] == "Namespaced")
                    for name in (each["resource"], each["singularResource"], *each.get("shortNames", ())):
                        found.setdefault(name, resource)
        yield from found.items()

    def _ask(self, path: str, options: dict[str, str], headers: dict[str, str] | None = None) -> dict[str, Any]:
        try:
            answer = self._http.get(path, params=options, headers=headers)
        except httpx.HTTPError as error:
            raise CommandError(("get", path), 1, f"{type(error).__name__}: {error}") from error
        found: dict[str, Any] = answer.json() if answer.status_code != HTTPStatus.SERVICE_UNAVAILABLE else {}
        if answer.is_error:
            raise CommandError(("get", path), 1, f"{found.get('reason')}: {found.get('message', answer.text)}")
        return found


def _items(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """With their kinds, which the items of a list do not carry."""
    found: list[dict[str, Any]] = answer["items"]
    return [{"kind": answer["kind"].removesuffix("List"), "apiVersion": answer["apiVersion"], **item} for item in found]


def _decoded(section: dict[str, str], name: str) -> bytes:
    return base64.b64decode(section[name])
