"""Settings of the operator's process: read once from the environment at start, passed down from there."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from qwenvl_operator.naming import FIELD_MANAGER

PREFIX = "QWENVL_"


class Settings(BaseModel):
    """Each field is read from the environment variable `QWENVL_<FIELD>`; the Helm chart sets them."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    runtime_image: str
    """Image for CRs that name none; a CR keeps the one it started with until its spec changes."""
    namespaces: tuple[str, ...] = ()
    """Namespaces to watch, comma-separated in the environment. Empty means all of them."""
    lease_namespace: str = "qwenvl-system"
    """Where the Lease of the active operator is kept: the operator's own namespace."""
    lease_name: str = FIELD_MANAGER
    """Name of that Lease: a Helm release has one of its own."""
    identity: str = ""
    """Name of this process in the Lease: the pod's name."""
    resync_seconds: float = 600.0
    """How often the caches are confirmed by one LIST per kind."""
    metrics_port: int = 8080
    """Port of the operator's own metrics."""
    health_port: int = 8081
    """Port of the liveness probe, at `/healthz`."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Raises pydantic.ValidationError, which names each wrong or missing variable's field."""
        known = {
            name: environment[PREFIX + name.upper()]
            for name in cls.model_fields
            if PREFIX + name.upper() in environment
        }
        values: dict[str, object] = dict(known)
        if "namespaces" in known:
            values["namespaces"] = tuple(part.strip() for part in known["namespaces"].split(",") if part.strip())
        return cls.model_validate(values)

    @property
    def sees_nodes(self) -> bool:
        """Whether the operator may read nodes and all pods: only where it serves the whole cluster."""
        return not self.namespaces
