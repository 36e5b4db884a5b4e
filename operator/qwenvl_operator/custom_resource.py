"""A QwenVLDeployment as the operator works with it: identity and parsed spec."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import ValidationError
from pydantic.main import IncEx

from qwenvl_operator.api.v1alpha1 import QwenVLDeploymentSpec
from qwenvl_operator.errors import InvalidSpec
from qwenvl_operator.objects import Key, Manifest
from qwenvl_runtime.arguments import refused_arguments

# Everything else in the spec reaches a pod and is part of its revision.
NOT_OF_THE_POD: Mapping[str, IncEx | bool] = {
    "model": {"preset": True},
    "hardware": {"accelerator": {"model": True}},
    "replicas": True,
    "rollout": True,
    "suspend": True,
    "warmup": {"max_first_to_steady": True},
}


@dataclass(frozen=True)
class CustomResource:
    """One QwenVLDeployment of one generation."""

    key: Key
    uid: str
    generation: int
    spec: QwenVLDeploymentSpec

    @classmethod
    def parse(cls, manifest: Manifest) -> CustomResource:
        """Raises InvalidSpec, which names each wrong field."""
        metadata = manifest["metadata"]
        try:
            spec = QwenVLDeploymentSpec.model_validate(manifest.get("spec", {}))
        except ValidationError as error:
            raise InvalidSpec("InvalidSpec", _explain(error)) from error
        if refused := refused_arguments(spec.engine.extra_args):
            raise InvalidSpec(
                "InvalidSpec",
                f"spec.engine.extraArgs: remove {', '.join(refused)}: the operator sets these or forbids them.",
            )
        return cls(
            key=Key(metadata["namespace"], metadata["name"]),
            uid=metadata["uid"],
            generation=metadata["generation"],
            spec=spec,
        )

    @property
    def served_name(self) -> str:
        return self.spec.model.served_name or self.key.name

    @property
    def replicas(self) -> int:
        """Pods that should exist."""
        return 0 if self.spec.suspend else self.spec.replicas

    @property
    def on_cpu(self) -> bool:
        return self.spec.hardware.accelerator.resource == "cpu"

    @cached_property
    def revision(self) -> str:
        """Hash of everything in the spec that matters to a pod, and of nothing else.

        Values equal to their defaults are left out, so that a field that a later version adds with a default does
        not restart a pod; neither does a later version's default image, which is not part of the spec.
        """
        relevant = self.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=NOT_OF_THE_POD)
        relevant["model"]["servedName"] = self.served_name
        return hashlib.sha256(json.dumps(_drop_empty(relevant), sort_keys=True).encode()).hexdigest()[:10]


def wants_no_pods(manifest: Manifest) -> bool:
    """Whether a CR asks for no pods, by fields that are right whatever else of its spec is wrong."""
    spec = manifest.get("spec", {})
    return spec.get("suspend") is True or spec.get("replicas") == 0


def _drop_empty(fields: dict[str, Any]) -> dict[str, Any]:
    """Without the sections of which nothing is left."""
    dropped = {name: _drop_empty(value) if isinstance(value, dict) else value for name, value in fields.items()}
    return {name: value for name, value in dropped.items() if value != {}}


def _explain(error: ValidationError) -> str:
    parts = [
        f"spec.{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors(include_url=False)
    ]
    return "; ".join(parts) + "."
