"""Which reason stands behind what the kubelet, the scheduler and the API server say in prose: pure."""

from __future__ import annotations

import re

from qwenvl_operator.custom_resource import CustomResource
from qwenvl_operator.errors import ApiError
from qwenvl_operator.objects import Manifest
from qwenvl_operator.permissions import Permission
from qwenvl_operator.pods import Container, condition, container, is_unschedulable, runtime_of
from qwenvl_operator.reasons import Reason

# The names with which the runtime's last words begin.
_LAST_WORDS = {
    "ENGINE_DIED": Reason.ENGINE_CRASHED,
    "ENGINE_FROZEN": Reason.ENGINE_FROZEN,
    "LOAD_TIMEOUT": Reason.STARTUP_BUDGET_EXCEEDED,
    "WARMUP_FAILED": Reason.WARMUP_FAILED,
    "SNAPSHOT_INVALID": Reason.SNAPSHOT_INVALID,
    "QUANTIZATION_MISMATCH": Reason.QUANTIZATION_MISMATCH,
}
SNAPSHOT_FAULTS = (Reason.SNAPSHOT_INVALID, Reason.QUANTIZATION_MISMATCH)
"""Nothing else than another snapshot, or another spec, helps against these."""
HOPELESS = (*SNAPSHOT_FAULTS, Reason.CONTAINER_REFUSED)
"""Once is enough to know that the next start will end like this one."""
CRASHES = (
    *_LAST_WORDS.values(),
    Reason.RUNTIME_CRASHED,
    Reason.OUT_OF_GPU_MEMORY,
    Reason.OUT_OF_HOST_MEMORY,
    Reason.GPU_LOST,
)
"""Every reason that a container ended for."""
_ADVICE = {
    Reason.OUT_OF_GPU_MEMORY: "Lower spec.engine.maxNumSeqs, spec.engine.maxModelLen or spec.media.maxPixels.",
    Reason.GPU_LOST: "The pod is replaced after its third end; see the node's kernel log for Xid errors and cordon it.",
    Reason.STARTUP_BUDGET_EXCEEDED: "Raise spec.startup.budget, or see `kubectl logs --previous {pod}`.",
    Reason.WARMUP_FAILED: "`kubectl logs --previous {pod}` has what the engine says to it.",
    Reason.ENGINE_CRASHED: "`kubectl logs --previous {pod}` has the rest.",
    Reason.RUNTIME_CRASHED: "`kubectl logs --previous {pod}` has the rest.",
}
# The container never ran: the kubelet's words for that.
_NEVER_STARTED = ("StartError", "ContainerCannotRun")
# vLLM, where somebody else holds memory of the GPU, and where the weights leave no room for the KV cache.
_GPU_SHARED = re.compile(r"is less than desired GPU memory utilization")
_NO_CACHE = re.compile(r"No available memory for the cache blocks|available KV cache memory")
# torch, the CUDA runtime and driver, and cuBLAS.
_GPU_MEMORY = re.compile(
    rf"CUDA out of memory|OutOfMemoryError|CUDA (?:driver )?error: out of memory|CUBLAS_STATUS_ALLOC_FAILED|"
    rf"{_GPU_SHARED.pattern}|{_NO_CACHE.pattern}"
)
# Errors that only other hardware helps against, as cudaGetErrorString (CUDA Runtime API, "Error Handling") and NVML say
# them. That there is no device at all is more often a node whose container runtime is not set up.
_GPU_LOST = re.compile(
    r"(?i)uncorrectable (?:ECC|NVLink) error|GPU is lost|fallen off the bus|hardware stack error|"
    r"CUDA-capable device\(s\) is/are busy or unavailable|"
    r"Unable to determine the device handle|GPU requires reset|\bXid\b"
)
_GPU_WORDS = {Reason.OUT_OF_GPU_MEMORY: _GPU_MEMORY, Reason.GPU_LOST: _GPU_LOST}
# The scheduler's plugins VolumeBinding, VolumeZone and VolumeRestrictions.
_VOLUME = re.compile(r"(?i)persistent ?volume|pvc\(s\)|VolumeBinding|volume node affinity|storageclass|free storage")
# Its plugins NodeAffinity and TaintToleration.
_KEPT_OUT = re.compile(r"node affinity/selector|untolerated taint")


def crash_reason(container: Container) -> Reason:
    """Why the container ended, by its exit and its last words."""
    if container.last_exit_reason in _NEVER_STARTED:
        return Reason.CONTAINER_REFUSED
    if container.last_exit_reason == "OOMKilled":
        return Reason.OUT_OF_HOST_MEMORY
    reason = _LAST_WORDS.get(container.last_words.partition(":")[0], Reason.RUNTIME_CRASHED)
    if reason is Reason.ENGINE_CRASHED:
        return next((cause for cause, words in _GPU_WORDS.items() if words.search(container.last_words)), reason)
    return reason


def advise(pod: Manifest) -> str:
    """What to do about a pod's last crash where its last words do not say it; empty where they do."""
    state = container(pod)
    reason = crash_reason(state)
    if reason is Reason.OUT_OF_HOST_MEMORY:
        return _advise_memory(pod)
    if reason is Reason.OUT_OF_GPU_MEMORY and _GPU_SHARED.search(state.last_words):
        return "Something else holds memory of this GPU: end it, or lower spec.engine.gpuMemoryUtilization."
    if reason is Reason.OUT_OF_GPU_MEMORY and _NO_CACHE.search(state.last_words):
        return "Raise spec.engine.gpuMemoryUtilization, or lower spec.engine.maxModelLen or spec.media.maxPixels."
    return _ADVICE.get(reason, "").format(pod=pod["metadata"]["name"])


def _advise_memory(pod: Manifest) -> str:
    if "memory" in runtime_of(pod).get("resources", {}).get("limits", {}):
        return "Raise spec.runtime.resources.limits.memory."
    return (
        "It has no limit of its own: the node is out of memory. Say in spec.runtime.resources.requests.memory what the"
        " pod needs, so that it gets a node that has it."
    )


def was_evicted_for_memory(pod: Manifest) -> bool:
    """Whether the kubelet evicted the pod since its node ran out of memory."""
    status = pod["status"]
    return status.get("reason") == "Evicted" and "low on resource: memory" in status.get("message", "")


def unscheduled_reason(cr: CustomResource, message: str) -> Reason:
    """Why the scheduler places no pod. A GPU is missing as well where all are on nodes that may not be gone to."""
    accelerator = cr.spec.hardware.accelerator.resource
    if not cr.on_cpu and f"Insufficient {accelerator}" in message:
        return Reason.WAITING_FOR_GPU
    if _VOLUME.search(message):
        return Reason.VOLUME_UNAVAILABLE
    kept_out = not cr.on_cpu and _KEPT_OUT.search(message) and "Insufficient" not in message
    return Reason.WAITING_FOR_GPU if kept_out else Reason.UNSCHEDULABLE


def tell_unplaced(pod: Manifest) -> str:
    """Why a pod has no node, in the scheduler's words where it has said anything."""
    name, scheduled = pod["metadata"]["name"], condition(pod, "PodScheduled")
    message = scheduled.get("message", "")
    if is_unschedulable(pod):
        return f"Pod {name} fits no node since {scheduled.get('lastTransitionTime')}: {message}"
    if reason := scheduled.get("reason"):
        return f"Pod {name} has no node: {reason}: {message}"
    return f"Pod {name} has no node: the scheduler has not looked at it yet, or waits for a volume to be made."


def explain_refusal(error: ApiError) -> tuple[Reason, str]:
    """Reason and message for a call of the operator's own that was refused."""
    right = Permission.refused_by(error)
    return (Reason.PERMISSION_MISSING, right.explain()) if right else (Reason.APPLY_REFUSED, str(error))


def refusal_reason(message: str) -> Reason:
    """Why the API server creates no pod."""
    if "exceeded quota" in message or "failed quota" in message:
        return Reason.QUOTA_EXCEEDED
    return Reason.POD_SECURITY_REFUSED if "violates PodSecurity" in message else Reason.PODS_REFUSED
