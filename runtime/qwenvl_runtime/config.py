"""RuntimeConfig: the one contract between the operator and the runtime.

The operator renders it into a ConfigMap, the runtime parses the same class from the mounted file. Nothing else, and no
environment variable, tells the runtime what to do. Only pydantic may be imported here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

CONFIG_DIRECTORY = "/etc/qwenvl"
CONFIG_FILE = "runtime.json"
PORT = 8000
"""Where clients ask. Nothing listens on it until the process is warm, so that whoever still knows the address of a
container that was killed is refused by the kernel, and can ask another pod."""
MANAGEMENT_PORT = 8001
"""The warm-up report, metrics and probes, from the first moment to the last."""
MODEL_DIRECTORY = "/model"
"""Where the operator mounts a model volume, read-only."""
CACHE_DIRECTORY = "/cache"
"""Where the engine keeps compiled code; survives the pod when the CR names a cache volume."""
SCRATCH_DIRECTORY = "/tmp"
"""An emptyDir of the pod's own: the root file system is read-only."""
REVISION_HEADER = "X-QwenVL-Revision"
BOOT_ID_HEADER = "X-QwenVL-Boot-Id"

# vLLM scales every picture to at least this many pixels (`shortest_edge` of the family's preprocessor), so a smaller
# limit could not be kept. One token stands for 32x32 pixels.
MIN_PIXELS = 65536
PIXELS_PER_TOKEN = 32 * 32
PICTURE_MARKS = 2
"""Tokens around a picture's own: where it starts, and where it ends."""

Seconds = Annotated[float, Field(ge=0)]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class EngineConfig(Frozen):
    """What the engine is started with."""

    model_path: str
    """Folder of the snapshot inside the container."""
    served_name: str
    """Name by which clients ask for the model."""
    device: Annotated[str, Field(pattern="^(cuda|cpu)$")] = "cuda"
    """`cpu` is for trials of tiny models only."""
    gpu_count: Annotated[int, Field(ge=0)] = 1
    """GPUs of the pod; the model is split over all of them (tensor parallel). 0 on the CPU."""
    max_model_len: Annotated[int, Field(ge=1)]
    max_num_seqs: Annotated[int, Field(ge=1)]
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.92
    cuda_graphs: bool = True
    quantization: str | None = None
    """Format of the weights, which the snapshot must be in; None takes it as it is."""
    extra_args: tuple[str, ...] = ()


class SnapshotConfig(Frozen):
    """What must be true of the snapshot before it is loaded."""

    manifest_digest: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")] = ""
    """Digest of the manifest that the snapshot must match; empty verifies nothing."""
    trust_marker: bool = True
    """Whether files that look as they did when they were hashed last need not be hashed again."""


class MediaConfig(Frozen):
    """What a request may carry."""

    max_images: Annotated[int, Field(ge=0)]
    max_videos: Annotated[int, Field(ge=0)]
    max_pixels: Annotated[int, Field(ge=MIN_PIXELS)]
    """Larger pictures are scaled down to this many pixels before the model sees them."""
    max_request_bytes: Annotated[int, Field(ge=1)]
    max_source_pixels: Annotated[int, Field(ge=MIN_PIXELS)] = 40_000_000
    """A picture that is sent with more pixels is refused before it is decoded."""
    allowed_url_hosts: tuple[str, ...] = ()
    """`[http://]host[:port]`: from where pictures may be fetched. The front fetches them, never the engine."""


class QueueConfig(Frozen):
    """What a pod takes on at a time, running and waiting. 0 is no limit."""

    max_requests: Annotated[int, Field(ge=0)] = 0
    max_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens of all their prompts, as the front estimates them."""


class WarmupConfig(Frozen):
    """How long the warm-up may take."""

    budget: Seconds


class WatchdogConfig(Frozen):
    """When an engine that shows no progress counts as frozen. Out of rotation after `quiet` and `answer`, in less than
    a minute, and ended after `recovery` too, before the liveness probe would do that without words."""

    interval: Annotated[float, Field(gt=0)] = 2.0
    """Seconds between two looks."""
    patience: Seconds = 5.0
    """How long a look waits for an answer of the engine's API server."""
    quiet: Seconds = 20.0
    """How long nothing may move before a request for one token is sent."""
    answer: Seconds = 15.0
    """How long that may take: more than the longest step of the engine, late compilation included."""
    recovery: Seconds = 10.0
    """How long the engine gets after readiness was closed."""


class DrainConfig(Frozen):
    """What happens between SIGTERM and the end of the container."""

    propagation: Seconds
    """How long the pod goes on taking requests after it said that it is not ready: endpoints forget it meanwhile."""
    longest_request: Seconds
    """How long running requests get after that."""
    engine_stop: Seconds
    """How long the engine gets to end by itself once nothing runs."""


class RuntimeConfig(Frozen):
    """Everything that the runtime is told."""

    revision: str
    """The revision of the spec that this pod serves; returned with every answer."""
    engine: EngineConfig
    snapshot: SnapshotConfig = SnapshotConfig()
    media: MediaConfig
    queue: QueueConfig = QueueConfig()
    warmup: WarmupConfig
    watchdog: WatchdogConfig = WatchdogConfig()
    drain: DrainConfig
    startup_budget: Seconds
    """How long loading may take before the runtime gives up and says so."""

    @classmethod
    def load(cls, path: Path) -> RuntimeConfig:
        """Read the mounted file. Raises pydantic.ValidationError, which names each wrong field, or OSError."""
        return cls.model_validate_json(path.read_bytes())

    def dump(self) -> str:
        """The file's text: JSON with sorted keys, so that equal configurations are equal files.

        Without defaults: an older runtime, which knows no later field, can be told all that it could be told before.
        """
        import json

        return json.dumps(self.model_dump(mode="json", exclude_defaults=True), indent=2, sort_keys=True) + "\n"


class Said(BaseModel):
    """Part of a report. What a later version adds to it is no reason not to read the rest."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class WarmupShot(Said):
    """One request of the warm-up set, asked several times."""

    name: str
    """`text`, `smallest`, `typical`, `largest`, and last `proof`: a picture of a size that the set does not hold, asked
    after the set. Its first against its steady answer tells what the first user will notice."""
    width: int = 0
    height: int = 0
    first_seconds: Seconds
    steady_seconds: Seconds
    """Median of the askings after the first."""


class EngineReport(Said):
    """What the engine says of itself while it starts."""

    kv_cache_tokens: Annotated[int, Field(ge=0)] | None = None
    """None while the engine has not said it."""
    attention_backend: str = ""
    cuda_graphs: bool = False
    compiled: bool = False


class SnapshotReport(Said):
    """How far the verification of the snapshot is."""

    digest: str
    """Of the manifest that is pinned."""
    files: Annotated[int, Field(ge=0)] = 0
    bytes_total: Annotated[int, Field(ge=0)] = 0
    bytes_done: Annotated[int, Field(ge=0)] = 0
    """Hashed so far."""
    verified_at: float | None = None
    """Unix time at which the hashing began that found every file to match; None until it has."""
    from_marker: bool = False
    """That was at an earlier start, and no file has changed since."""


class WarmupReport(Said):
    """The answer of GET /warmup: what this very process has served of the warm-up set."""

    boot_id: str
    """Random, made anew by every start of the process."""
    pod: str
    """The pod's host name, which is the pod's name."""
    revision: str
    started_at: float
    """Unix time at which the process started; the operator ties the report to the container by it."""
    complete: bool
    """True once the whole set was answered."""
    shots: tuple[WarmupShot, ...] = ()
    engine: EngineReport | None = None
    snapshot: SnapshotReport | None = None
    """None if no manifest is pinned."""
    stages: dict[str, Seconds] = {}
    """Seconds per stage of the start: `verify`, `engine` (its start to engine healthy), `warmup`."""
    reason: str = ""
    """While not complete: what the process is doing, or why the warm-up failed. Never holds a request's content."""
