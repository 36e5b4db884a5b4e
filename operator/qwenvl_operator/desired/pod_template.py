"""The pod template: one runtime container, restricted, read-only, on the accelerator that the CR asks for."""

from __future__ import annotations

from typing import Any

from qwenvl_operator.api.v1alpha1 import GatePolicy
from qwenvl_operator.custom_resource import CustomResource
from qwenvl_operator.deadlines import PROBE_PERIOD, Deadlines
from qwenvl_operator.naming import (
    CONTAINER,
    GATE,
    MANAGEMENT,
    REVISION_LABEL,
    SERVING,
    child_name,
    config_map_name,
    labels,
)
from qwenvl_operator.objects import Manifest
from qwenvl_runtime.config import (
    CACHE_DIRECTORY,
    CONFIG_DIRECTORY,
    CONFIG_FILE,
    MANAGEMENT_PORT,
    MODEL_DIRECTORY,
    PORT,
    SCRATCH_DIRECTORY,
)

# An arbitrary number that no host user has; the images are built for it.
USER = 65532


def build(cr: CustomResource, runtime_image: str) -> Manifest:
    """The template of a revision; `runtime_image` is used where the CR names none."""
    spec = cr.spec
    pod: Manifest = {
        "serviceAccountName": child_name(cr.key),
        "automountServiceAccountToken": False,
        # Environment variables of all Services of a namespace would reach the engine, which reads any VLLM_*.
        "enableServiceLinks": False,
        **dict.fromkeys(("hostNetwork", "hostPID", "hostIPC")),
        "terminationGracePeriodSeconds": Deadlines.of(spec).termination_grace,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(cr, spec.runtime.image or runtime_image)],
        "volumes": _volumes(cr),
    }
    if spec.warmup.gate_policy is GatePolicy.STRICT:
        pod["readinessGates"] = [{"conditionType": GATE}]
    if spec.hardware.node_selector:
        pod["nodeSelector"] = spec.hardware.node_selector
    if spec.hardware.tolerations:
        pod["tolerations"] = [dict(toleration) for toleration in spec.hardware.tolerations]
    if spec.hardware.runtime_class_name:
        pod["runtimeClassName"] = spec.hardware.runtime_class_name
    if spec.runtime.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": secret.name} for secret in spec.runtime.image_pull_secrets]
    return {"metadata": {"labels": {**labels(cr.key), REVISION_LABEL: cr.revision}}, "spec": pod}


def _container(cr: CustomResource, image: str) -> Manifest:
    deadlines = Deadlines.of(cr.spec)
    return {
        "name": CONTAINER,
        "image": image,
        # What runs is the image's own command, with a file of ours and nothing else.
        **dict.fromkeys(("command", "args", "env", "envFrom", "lifecycle")),
        "ports": [
            {"name": SERVING, "containerPort": PORT, "protocol": "TCP"},
            {"name": MANAGEMENT, "containerPort": MANAGEMENT_PORT, "protocol": "TCP"},
        ],
        "resources": _resources(cr),
        "startupProbe": {
            "httpGet": {"path": "/healthz", "port": MANAGEMENT},
            "periodSeconds": PROBE_PERIOD,
            "failureThreshold": deadlines.startup_probe_failures,
        },
        # Where clients ask, so that nobody is ready to whom nothing listens.
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": SERVING},
            "periodSeconds": PROBE_PERIOD,
            "timeoutSeconds": 2,
            "failureThreshold": 3,
        },
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": MANAGEMENT},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
        # The last log lines explain a crash that the runtime had no time to explain; they hold no request's content.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": _mounts(cr),
    }


def _resources(cr: CustomResource) -> dict[str, dict[str, str]]:
    resources = cr.spec.runtime.resources
    requests = {name: str(amount) for name, amount in resources.requests.items()}
    limits = {name: str(amount) for name, amount in resources.limits.items()}
    if not cr.on_cpu:
        accelerator = cr.spec.hardware.accelerator
        # Extended resources cannot be overcommitted: request and limit must be equal.
        requests[accelerator.resource] = limits[accelerator.resource] = str(accelerator.count)
    return {name: amounts for name, amounts in (("requests", requests), ("limits", limits)) if amounts}


def _mounts(cr: CustomResource) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [
        {"name": "config", "mountPath": CONFIG_DIRECTORY, "readOnly": True},
        {"name": "cache", "mountPath": CACHE_DIRECTORY},
        {"name": "scratch", "mountPath": SCRATCH_DIRECTORY},
        {"name": "shared-memory", "mountPath": "/dev/shm"},
    ]
    source = cr.spec.model.source
    if source.runtime_image is None:
        mounts.append({"name": "model", "mountPath": MODEL_DIRECTORY, "readOnly": True})
    return mounts


def _volumes(cr: CustomResource) -> list[dict[str, Any]]:
    # Tensor-parallel workers exchange through shared memory; the runtime's default of 64 MiB stops them.
    shared_memory = f"{2 * cr.spec.hardware.accelerator.count}Gi"
    cache = cr.spec.runtime.cache.persistent_volume_claim
    volumes: list[dict[str, Any]] = [
        {
            "name": "config",
            "configMap": {
                "name": config_map_name(cr.key, cr.revision),
                "items": [{"key": CONFIG_FILE, "path": CONFIG_FILE}],
            },
        },
        {"name": "cache", "persistentVolumeClaim": {"claimName": cache.claim_name}}
        if cache
        else {"name": "cache", "emptyDir": {}},
        {"name": "scratch", "emptyDir": {}},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": shared_memory}},
    ]
    source = cr.spec.model.source
    if source.persistent_volume_claim is not None:
        claim = {"claimName": source.persistent_volume_claim.claim_name, "readOnly": True}
        volumes.append({"name": "model", "persistentVolumeClaim": claim})
    elif source.host_path is not None:
        volumes.append({"name": "model", "hostPath": {"path": source.host_path.path, "type": "Directory"}})
    return volumes
