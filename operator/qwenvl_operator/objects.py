"""Kubernetes objects as the operator holds them: plain manifests, and references to them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from qwenvl_operator.api.v1alpha1 import API_VERSION, KIND, PLURAL

Manifest = dict[str, Any]
"""An object as the API server writes it. Built and compared, never changed in place."""


@dataclass(frozen=True)
class Resource:
    """How the API server names a kind."""

    api_version: str
    kind: str
    plural: str

    @property
    def group(self) -> str:
        """`apps` for `apps/v1`, empty for the core group."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        return self.api_version.rpartition("/")[2]


class Kind(Enum):
    """Every kind that the operator reads or writes, and after them those that `qwenvl doctor` alone reads."""

    CR = Resource(API_VERSION, KIND, PLURAL)
    SERVICE_ACCOUNT = Resource("v1", "ServiceAccount", "serviceaccounts")
    CONFIG_MAP = Resource("v1", "ConfigMap", "configmaps")
    SERVICE = Resource("v1", "Service", "services")
    DEPLOYMENT = Resource("apps/v1", "Deployment", "deployments")
    DISRUPTION_BUDGET = Resource("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
    POD = Resource("v1", "Pod", "pods")
    NODE = Resource("v1", "Node", "nodes")
    EVENT = Resource("events.k8s.io/v1", "Event", "events")
    LEASE = Resource("coordination.k8s.io/v1", "Lease", "leases")
    CLAIM = Resource("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
    QUOTA = Resource("v1", "ResourceQuota", "resourcequotas")
    NAMESPACE = Resource("v1", "Namespace", "namespaces")
    RUNTIME_CLASS = Resource("node.k8s.io/v1", "RuntimeClass", "runtimeclasses")
    DEFINITION = Resource("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions")
    ACCESS_REVIEW = Resource("authorization.k8s.io/v1", "SubjectAccessReview", "subjectaccessreviews")
    OWN_ACCESS_REVIEW = Resource("authorization.k8s.io/v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews")
    OWN_REVIEW = Resource("authentication.k8s.io/v1", "SelfSubjectReview", "selfsubjectreviews")

    @classmethod
    def of(cls, manifest: Manifest) -> Kind:
        """The kind of a manifest. Raises KeyError for one that the operator does not handle."""
        return _BY_NAME[manifest["apiVersion"], manifest["kind"]]


_BY_NAME = {(kind.value.api_version, kind.value.kind): kind for kind in Kind}

CHILD_KINDS = (
    Kind.SERVICE_ACCOUNT,
    Kind.CONFIG_MAP,
    Kind.SERVICE,
    Kind.DEPLOYMENT,
    Kind.DISRUPTION_BUDGET,
)
"""The children of a CR, in the order in which they are applied."""

WATCHED_KINDS = (*CHILD_KINDS, Kind.POD)
"""Watched with MANAGED_SELECTOR; the CRs are watched too, without a selector."""


class Key(NamedTuple):
    """Identity of a CR, and of the work about it."""

    namespace: str
    name: str


class Ref(NamedTuple):
    """Identity of any namespaced object."""

    kind: Kind
    namespace: str
    name: str


def ref_of(manifest: Manifest) -> Ref:
    metadata = manifest["metadata"]
    return Ref(Kind.of(manifest), metadata.get("namespace", ""), metadata["name"])


def owner_uid(manifest: Manifest) -> str:
    """UID of the controlling QwenVLDeployment; empty if something else, or nothing, controls the object."""
    for owner in manifest["metadata"].get("ownerReferences", ()):
        if owner.get("controller") and owner["kind"] == KIND and owner["apiVersion"] == API_VERSION:
            return str(owner["uid"])
    return ""
