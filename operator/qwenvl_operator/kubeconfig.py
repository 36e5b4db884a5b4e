"""Where the credentials are: in KUBECONFIG, else in the pod, else in ~/.kube/config; read as kubectl reads them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError

from qwenvl_operator.errors import StartError


class _Context(BaseModel):
    namespace: str | None = None


class _NamedContext(BaseModel):
    name: str
    context: _Context


class _NamedObject(BaseModel):
    name: str


class _File(BaseModel):
    """What is looked at here; lists that hold nothing are null where kubectl has written them."""

    current_context: str | None = Field(default=None, alias="current-context")
    contexts: list[_NamedContext] | None = None
    clusters: list[_NamedObject] | None = None
    users: list[_NamedObject] | None = None


@dataclass(frozen=True)
class Kubeconfig:
    """Several files together: what more than one of them says counts as the first one says it."""

    paths: str
    """Those that hold something, as KUBECONFIG names them."""
    context: str
    namespace: str

    @classmethod
    def read(cls) -> Kubeconfig:
        """Raises StartError, which names the file."""
        named = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
        paths = [path for path in named.split(os.pathsep) if Path(path).is_file()]
        if not paths:
            raise StartError(f"no kubeconfig at {named}: set KUBECONFIG, or run in a pod with a service account")
        contents = {path: content for path in paths if (content := _load(path)) is not None}
        files = [_understand(path, content) for path, content in contents.items()]
        context = next((file.current_context for file in files if file.current_context), None)
        if context is None:
            raise StartError(f"no current context in {named}: `kubectl config use-context NAME` sets it")
        entries = (entry for file in files for entry in file.contexts or () if entry.name == context)
        entry = next(entries, None)
        namespace = entry.context.namespace if entry else None
        return cls(os.pathsep.join(contents), context, namespace or "default")


def is_in_pod() -> bool:
    """Whether the pod's service account is used: a KUBECONFIG that is set goes first."""
    return "KUBERNETES_SERVICE_HOST" in os.environ and not os.environ.get("KUBECONFIG")


def default_namespace() -> str:
    """That of the kubeconfig's context. Raises StartError where that cannot be read."""
    return "default" if is_in_pod() else Kubeconfig.read().namespace


def _load(path: str) -> Any:
    try:
        # Of a stream, unlike of a text, yaml quotes nothing in its errors: it might be a token.
        with Path(path).open("rb") as stream:
            return yaml.safe_load(stream)
    except OSError as error:
        raise StartError(f"the kubeconfig {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise StartError(f"the kubeconfig {path} is no YAML: {' '.join(str(error).split())}") from error


def _understand(path: str, content: Any) -> _File:
    if not isinstance(content, dict):
        raise StartError(f"the kubeconfig {path} is no kubeconfig: it holds no keys")
    try:
        return _File.model_validate(content)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise StartError(f"the kubeconfig {path} is no kubeconfig: {faults}") from error
