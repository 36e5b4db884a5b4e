"""The Cluster protocol, and the one Kubernetes client behind it. Only this module imports kubernetes."""

from __future__ import annotations

from typing import Protocol

from qwenvl_operator.objects import Kind, Manifest, Ref


class Cluster(Protocol):
    """What the operator asks of an API server. Every call raises ApiError when it is refused or not answered."""

    async def get(self, ref: Ref) -> Manifest | None:
        """The object, or None if there is none."""

    async def list(self, kind: Kind, *, managed: bool = True) -> list[Manifest]:
        """All objects of a kind in the watched namespaces (`managed`: only those with our label).

        Each carries apiVersion and kind; metadata.managedFields is left out.
        """

    async def apply(self, manifest: Manifest) -> Manifest:
        """Server-side apply with our field manager, taking over fields that another manager set."""

    async def apply_status(self, manifest: Manifest) -> Manifest:
        """The same for the status subresource; the manifest carries identity and `status` alone."""

    async def delete(self, ref: Ref, uid: str) -> None:
        """Delete exactly the object with this UID, its dependents in the background. Gone already is fine."""

    async def create_event(self, manifest: Manifest) -> None:
        """Record an Event (events.k8s.io/v1)."""
