"""Names, labels and annotations of everything the operator makes."""

from __future__ import annotations

from qwenvl_operator.api.v1alpha1 import GROUP
from qwenvl_operator.objects import Key
from qwenvl_runtime.config import PORT

FIELD_MANAGER = "qwenvl-operator"
MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGED_SELECTOR = f"{MANAGED_BY}={FIELD_MANAGER}"
NAME_LABEL = f"{GROUP}/name"
"""Name of the CR that an object belongs to."""
REVISION_LABEL = f"{GROUP}/revision"
APPLIED_HASH = f"{GROUP}/applied-hash"
"""Annotation of a child: hash of the manifest that was applied last, so that a removed field is noticed."""
GATE = f"{GROUP}/warmed-up"
"""Readiness gate of the runtime pods."""
CONTAINER = "runtime"
"""Name of the runtime container."""
SERVING, MANAGEMENT = "http", "management"
"""Names of its ports."""


def selector(key: Key) -> dict[str, str]:
    """Labels that pick the runtime pods of a CR. A Deployment's selector cannot change, so neither can this."""
    return {MANAGED_BY: FIELD_MANAGER, NAME_LABEL: key.name}


def labels(key: Key) -> dict[str, str]:
    """Labels of every child. None is inherited from the CR: Argo CD would take the child for a member of its app."""
    return {**selector(key), "app.kubernetes.io/name": "qwenvl", "app.kubernetes.io/component": "runtime"}


def child_name(key: Key) -> str:
    """Name of the Deployment, Service, ServiceAccount and PodDisruptionBudget."""
    return key.name


def config_map_name(key: Key, revision: str) -> str:
    """ConfigMaps are immutable, one per revision."""
    return f"{key.name}-{revision}"


def owner_key(namespace: str, object_labels: dict[str, str]) -> Key | None:
    """The CR that an object belongs to, by its labels; None for an object that is not of ours."""
    name = object_labels.get(NAME_LABEL)
    return Key(namespace, name) if name and object_labels.get(MANAGED_BY) == FIELD_MANAGER else None


def endpoint(key: Key) -> str:
    """Base URL of the OpenAI-compatible API inside the cluster."""
    return f"http://{child_name(key)}.{key.namespace}.svc:{PORT}/v1"
