"""An installed operator: where it is, what it watches, and which rights it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from qwenvl_operator.naming import FIELD_MANAGER
from qwenvl_operator.objects import CHILD_KINDS, WATCHED_KINDS, Kind, Manifest, Ref, Resource
from qwenvl_operator.settings import PREFIX


class Right(NamedTuple):
    """One verb on one resource, as RBAC has it."""

    verb: str
    group: str
    resource: str
    """With its subresource, such as `pods/status`."""
    namespace: str = ""
    """Empty: in every namespace."""
    name: str = ""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}" + (f" in {self.namespace}" if self.namespace else "")


@dataclass(frozen=True)
class Installation:
    """An operator, by its Deployment."""

    deployment: Manifest

    @classmethod
    def find(cls, deployments: list[Manifest]) -> list[Installation]:
        """Known by the one setting that every operator has: labels and names are the installer's."""
        found = [cls(deployment) for deployment in deployments]
        return [one for one in found if f"{PREFIX}RUNTIME_IMAGE" in one._environment()]

    @property
    def namespace(self) -> str:
        return str(self.deployment["metadata"]["namespace"])

    @property
    def name(self) -> str:
        return f"{self.namespace}/{self.deployment['metadata']['name']}"

    @property
    def account(self) -> str:
        """Its service account, as the API server names users."""
        pod = self.deployment["spec"]["template"]["spec"]
        return f"system:serviceaccount:{self.namespace}:{pod.get('serviceAccountName', 'default')}"

    @property
    def lease(self) -> Ref:
        """What the operator at work holds."""
        return Ref(Kind.LEASE, self.namespace, self._environment().get(f"{PREFIX}LEASE_NAME") or FIELD_MANAGER)

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Those that it watches; empty means all of them."""
        named = str(self._environment().get(f"{PREFIX}NAMESPACES") or "")
        return tuple(part.strip() for part in named.split(",") if part.strip())

    @property
    def needed_rights(self) -> list[Right]:
        """What the chart grants, for it is what the operator uses."""
        everywhere = [] if self.namespaces else [_right("list", Kind.NODE.value)]
        inside = [right for namespace in self.namespaces or ("",) for right in _rights_in(namespace)]
        lease = Kind.LEASE.value
        return [
            *inside,
            *everywhere,
            _right("create", lease, self.namespace),
            *(_right(verb, lease, self.namespace)._replace(name=self.lease.name) for verb in ("get", "update")),
        ]

    @property
    def release(self) -> str:
        """Of the chart that installed it, empty if that is not said."""
        return str(self.deployment["metadata"].get("labels", {}).get("app.kubernetes.io/version", ""))

    def owns(self, pod: Manifest) -> bool:
        chosen, labels = self.deployment["spec"]["selector"]["matchLabels"], pod["metadata"].get("labels", {})
        return bool(pod["metadata"]["namespace"] == self.namespace and chosen.items() <= labels.items())

    def overlaps(self, other: Installation) -> bool:
        """Whether both would reconcile the same resources; each has a lease of its own."""
        return not self.namespaces or not other.namespaces or not set(self.namespaces).isdisjoint(other.namespaces)

    def watches(self, namespace: str) -> bool:
        return not self.namespaces or namespace in self.namespaces

    def _environment(self) -> dict[str, str | None]:
        containers = self.deployment["spec"]["template"]["spec"]["containers"]
        return {item["name"]: item.get("value") for box in containers for item in box.get("env", ())}


def _rights_in(namespace: str) -> list[Right]:
    cr = Kind.CR.value
    return [
        *(_right(verb, cr, namespace) for verb in ("get", "list", "watch")),
        _right("patch", cr, namespace, "status"),
        _right("update", cr, namespace, "finalizers"),
        *(_right(verb, kind.value, namespace) for kind in WATCHED_KINDS for verb in ("get", "list", "watch")),
        *(_right(verb, kind.value, namespace) for kind in CHILD_KINDS for verb in ("create", "patch", "delete")),
        _right("delete", Kind.POD.value, namespace),
        _right("patch", Kind.POD.value, namespace, "status"),
        *(_right(verb, Kind.EVENT.value, namespace) for verb in ("create", "list")),
    ]


def _right(verb: str, resource: Resource, namespace: str = "", subresource: str = "") -> Right:
    return Right(verb, resource.group, "/".join(filter(None, (resource.plural, subresource))), namespace)
