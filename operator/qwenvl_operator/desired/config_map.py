"""The ConfigMap of one revision: the RuntimeConfig that the pods read, and the pod template that goes with it.

It is immutable and named after the revision. The template is recorded in it because a later version of the operator
may build another one from the same spec: pods then keep the recorded one until the spec changes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property

from qwenvl_operator.api.quantity import parse_quantity
from qwenvl_operator.api.v1alpha1 import Verification
from qwenvl_operator.custom_resource import CustomResource
from qwenvl_operator.deadlines import ENGINE_STOP, PROPAGATION, Deadlines
from qwenvl_operator.desired.child import child
from qwenvl_operator.naming import REVISION_LABEL, config_map_name
from qwenvl_operator.objects import Kind, Manifest
from qwenvl_runtime.config import (
    CONFIG_FILE,
    MODEL_DIRECTORY,
    DrainConfig,
    EngineConfig,
    MediaConfig,
    QueueConfig,
    RuntimeConfig,
    SnapshotConfig,
    WarmupConfig,
)

TEMPLATE_FILE = "pod-template.json"
# What a pod takes on where the CR does not say: enough that the engine is never idle, little enough to be answered.
_QUEUED_PER_RUNNING = 4
_QUEUED_CONTEXTS = 8


@dataclass(frozen=True)
class Recorded:
    """What a revision's pods are made of."""

    config: str
    """The text of the RuntimeConfig file."""
    template_text: str
    """The text of the pod template's file."""

    @cached_property
    def template(self) -> Manifest:
        template: Manifest = json.loads(self.template_text)
        return template

    @classmethod
    def new(cls, config: str, template: Manifest) -> Recorded:
        return cls(config, json.dumps(template, indent=2, sort_keys=True) + "\n")

    @classmethod
    def of(cls, manifest: Manifest) -> Recorded | None:
        """Read it back from the ConfigMap; None if the ConfigMap is not one that `build` made."""
        data = manifest.get("data") or {}
        try:
            recorded = cls(data[CONFIG_FILE], data[TEMPLATE_FILE])
            return recorded if recorded.template else None
        except (KeyError, json.JSONDecodeError):
            return None


def build(cr: CustomResource, recorded: Recorded) -> Manifest:
    manifest = child(
        cr,
        Kind.CONFIG_MAP,
        config_map_name(cr.key, cr.revision),
        immutable=True,
        data={
            CONFIG_FILE: recorded.config,
            TEMPLATE_FILE: recorded.template_text,
        },
    )
    manifest["metadata"]["labels"] = {**manifest["metadata"]["labels"], REVISION_LABEL: cr.revision}
    return manifest


def runtime_config(cr: CustomResource) -> str:
    """The RuntimeConfig of a CR, as the text of its file."""
    spec, deadlines = cr.spec, Deadlines.of(cr.spec)
    config = RuntimeConfig(
        revision=cr.revision,
        engine=EngineConfig(
            model_path=model_path(cr),
            served_name=cr.served_name,
            device="cpu" if cr.on_cpu else "cuda",
            gpu_count=0 if cr.on_cpu else spec.hardware.accelerator.count,
            max_model_len=spec.engine.max_model_len,
            max_num_seqs=spec.engine.max_num_seqs,
            gpu_memory_utilization=float(spec.engine.gpu_memory_utilization),
            cuda_graphs=spec.engine.cuda_graphs,
            extra_args=tuple(spec.engine.extra_args),
            quantization=spec.model.quantization,
        ),
        snapshot=SnapshotConfig(
            manifest_digest=spec.model.manifest_digest,
            trust_marker=spec.model.verification is Verification.CACHED,
        ),
        media=MediaConfig(
            max_images=spec.media.max_images,
            max_videos=spec.media.max_videos,
            max_pixels=spec.media.max_pixels,
            max_request_bytes=int(parse_quantity(spec.media.max_request_bytes)),
            max_source_pixels=spec.media.max_source_pixels,
            allowed_url_hosts=tuple(spec.media.allowed_url_hosts),
        ),
        queue=QueueConfig(
            max_requests=spec.queue.max_requests or _QUEUED_PER_RUNNING * spec.engine.max_num_seqs,
            max_tokens=spec.queue.max_tokens or _QUEUED_CONTEXTS * spec.engine.max_model_len,
        ),
        warmup=WarmupConfig(budget=deadlines.warmup_budget),
        drain=DrainConfig(propagation=PROPAGATION, longest_request=deadlines.longest_request, engine_stop=ENGINE_STOP),
        startup_budget=deadlines.startup_budget,
    )
    return config.dump()


def model_path(cr: CustomResource) -> str:
    """Folder of the snapshot inside the runtime container."""
    source = cr.spec.model.source
    if source.runtime_image is not None:
        return source.runtime_image.path
    claim = source.persistent_volume_claim
    return f"{MODEL_DIRECTORY}/{claim.path}" if claim is not None and claim.path else MODEL_DIRECTORY
