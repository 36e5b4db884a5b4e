"""The models of `qwenvl.io/v1alpha1`: what a user writes, what the operator answers.

The docstring under a field is its description in `kubectl explain`, in the API reference and here: one source.
A default here is part of the API and is stored with the object: it may never change within v1alpha1. Defaults that
move (the runtime image) are resolved by the operator instead.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, with_config
from pydantic.alias_generators import to_camel
from typing_extensions import TypedDict

from qwenvl_operator.api.quantity import Duration, Quantity

GROUP = "qwenvl.io"
VERSION = "v1alpha1"
KIND = "QwenVLDeployment"
PLURAL = "qwenvldeployments"
SHORT_NAME = "qvl"
API_VERSION = f"{GROUP}/{VERSION}"
# Children are named after the CR; a Service's name is a DNS label of at most 63 characters, and the ConfigMaps and the
# pods' labels add a revision of 10 characters and a dash to it.
MAX_NAME_LENGTH = 52
NAME = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"

JsonObject = dict[str, Any]


def rules(*pairs: tuple[str, str]) -> JsonObject:
    """CEL expressions and what the API server answers where they do not hold, for `json_schema_extra`."""
    return {"x-kubernetes-validations": [{"message": message, "rule": rule} for rule, message in pairs]}


def list_map(key: str) -> JsonObject:
    """A list whose items are told apart by one of their fields, so that several appliers can share it."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


ROOT_RULES = rules(
    (
        f"self.metadata.name.size() <= {MAX_NAME_LENGTH}",
        f"metadata.name must have at most {MAX_NAME_LENGTH} characters: the names of ConfigMaps and pods add to it",
    ),
    (
        f"self.metadata.name.matches('{NAME}')",
        "metadata.name is also the name of a Service: it must start with a letter, and only lower-case letters, digits "
        "and '-' may follow",
    ),
)
"""Rules about the whole object."""

SubdomainName = Annotated[
    str,
    Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"),
]
"""The name of an object, as the API server checks it."""
LabelValue = Annotated[str, Field(max_length=63, pattern=r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")]
URL_HOST = r"^(http://)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?(:[0-9]{1,5})?$"
LongDuration = Annotated[
    Duration,
    Field(
        json_schema_extra=rules(
            ("duration(self) >= duration('1s') && duration(self) <= duration('24h')", "must be from 1s to 24h")
        )
    ),
]


class Model(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )


NO_PARENT = rules(("!self.split('/').exists(part, part == '..')", "must not contain '..'"))


class PersistentVolumeClaimSource(Model):
    """A folder on a PersistentVolumeClaim."""

    claim_name: SubdomainName
    """Name of the PersistentVolumeClaim, in the namespace of this resource."""
    path: Annotated[str, Field(max_length=1024, pattern=r"^$|^[^/]", json_schema_extra=NO_PARENT)] = ""
    """Folder of the snapshot on the volume, relative to its root. Empty means the root."""


class HostPathSource(Model):
    """A folder on the node, such as a local NVMe disk that every GPU node has filled."""

    path: Annotated[str, Field(max_length=1024, pattern=r"^/.", json_schema_extra=NO_PARENT)]
    """Absolute path on the node. The folder must exist there; it is mounted read-only."""


class RuntimeImageSource(Model):
    """A folder inside the runtime image itself."""

    path: Annotated[str, Field(max_length=1024, pattern=r"^/.", json_schema_extra=NO_PARENT)]
    """Absolute path of the snapshot inside the runtime image."""


class ModelSource(Model):
    """Where the weights are."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "[has(self.persistentVolumeClaim), has(self.hostPath), has(self.runtimeImage)].exists_one(x, x)",
                "set exactly one of persistentVolumeClaim, hostPath and runtimeImage",
            )
        )
    )

    persistent_volume_claim: PersistentVolumeClaimSource | None = None
    """A folder on a PersistentVolumeClaim, mounted read-only."""
    host_path: HostPathSource | None = None
    """A folder on the node, mounted read-only."""
    runtime_image: RuntimeImageSource | None = None
    """A folder inside the runtime image: weights that were baked in."""


class Preset(StrEnum):
    INSTRUCT = "qwen3-vl-30b-a3b-instruct"
    THINKING = "qwen3-vl-30b-a3b-thinking"
    CUSTOM = "custom"


class Quantization(StrEnum):
    FP8 = "fp8"
    INT8 = "int8"
    AWQ = "awq"
    GPTQ = "gptq"
    NVFP4 = "nvfp4"
    NONE = "none"


class Verification(StrEnum):
    CACHED = "Cached"
    ALWAYS = "Always"


class ModelSpec(Model):
    """Which model is served, and where its files are."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "self.verification == 'Cached' || self.manifestDigest != ''",
                "verification: Always needs a manifestDigest to verify by",
            )
        )
    )

    preset: Preset | None = None
    """Whose shapes the fit check takes. `custom` is another model of the architecture, which is not checked. Left out:
    the instruct model on GPUs, `custom` on `cpu`."""
    quantization: Quantization | None = None
    """Format of the weights, which the fit check counts with and the snapshot must be in. Left out: it counts with
    `fp8`, and the snapshot may be in any."""
    served_name: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$|^$")] = ""
    """Name by which clients ask for the model (`model` in a request). Empty means the name of this resource."""
    manifest_digest: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$", max_length=71)] = ""
    """Digest of the snapshot's manifest, as `qwenvl manifest create` prints it. When it is set, every file is verified
    before the engine starts, and nothing else is ever loaded. Empty verifies nothing."""
    verification: Verification = Verification.CACHED
    """`Cached`: files that have not changed since they were hashed, by all that the file system says of them, are not
    hashed again; that is remembered in `runtime.cache`. `Always`: every start hashes them."""
    source: ModelSource
    """Where the weights are: exactly one member is set. Nothing is ever downloaded."""


class Accelerator(Model):
    """What a runtime pod computes on."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "self.resource != 'cpu' || self.count == 1",
                "count must be 1 when resource is cpu: ask for cores in spec.runtime.resources",
            )
        )
    )

    resource: Annotated[str, Field(max_length=253, pattern=r"^cpu$|^[a-z0-9.-]+/[A-Za-z0-9._-]+$")] = "nvidia.com/gpu"
    """Extended resource that a node offers, such as `nvidia.com/gpu`; `cpu` is for trials of tiny models only."""
    count: Literal[1, 2, 4, 8] = 1
    """GPUs per pod. The model is split over all of them (tensor parallel)."""
    model: Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9][A-Za-z0-9 ._-]*)?$")] = ""
    """Which GPU it is, such as `H100-80G`, for the fit check; `qwenvl fit --table` lists those it knows. Empty: the one
    that `nodeSelector` names by `nvidia.com/gpu.product`."""


@with_config(
    extra="forbid",
    use_attribute_docstrings=True,
    json_schema_extra=rules(
        (
            "!has(self.operator) || self.operator != 'Exists' || !has(self.value) || self.value == ''",
            "value must be empty when operator is Exists",
        ),
        (
            "(has(self.key) && self.key != '') || (has(self.operator) && self.operator == 'Exists')",
            "operator must be Exists when key is empty",
        ),
        (
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            "effect must be NoExecute when tolerationSeconds is set",
        ),
    ),
)
class Toleration(TypedDict, total=False):
    """A toleration as in a pod spec, and passed on as it is written."""

    key: Annotated[str, Field(max_length=317)]
    """Taint key that is tolerated. Empty, with operator `Exists`, tolerates every taint."""
    operator: Literal["Exists", "Equal"]
    """How the taint's value is compared; `Equal` if it is left out."""
    value: LabelValue
    """Taint value that is tolerated."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]
    """Taint effect that is tolerated. Left out means all of them."""
    tolerationSeconds: int
    """How long a pod stays on a node after the taint was added. Left out means for ever."""


class Hardware(Model):
    """Where runtime pods are scheduled."""

    accelerator: Accelerator = Accelerator()
    """What a runtime pod computes on."""
    node_selector: Annotated[dict[str, LabelValue], Field(max_length=64)] = {}
    """Labels that a node must have."""
    tolerations: Annotated[list[Toleration], Field(max_length=32)] = []
    """Tolerations of the pods, as in a pod spec."""
    runtime_class_name: Annotated[str, Field(max_length=253, pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$")] = ""
    """RuntimeClass of the pods, such as `nvidia`. Empty means the cluster's default."""


class Engine(Model):
    """How the engine is started."""

    max_model_len: Annotated[int, Field(ge=256, le=262144)] = 65536
    """Longest request in tokens, pictures and answer included. A picture of 1024x1024 is 1024 tokens."""
    max_num_seqs: Annotated[int, Field(ge=1, le=1024)] = 64
    """Requests that the engine computes at the same time; further ones wait."""
    gpu_memory_utilization: Annotated[str, Field(pattern=r"^(0\.[0-9]*[1-9][0-9]*|1(\.0+)?)$", max_length=8)] = "0.92"
    """Share of each GPU's memory that the engine takes, as a decimal string above 0 and up to 1."""
    cuda_graphs: bool = True
    """CUDA graphs and compilation. `false` makes decoding 9 to 15 times slower and is meant for debugging alone."""
    extra_args: Annotated[list[Annotated[str, Field(max_length=1024)]], Field(max_length=64)] = []
    """Further arguments of `vllm serve`, such as `--kv-cache-dtype=fp8`. Those that the operator owns are refused."""


class Media(Model):
    """What a request may carry. Pictures come inline, as JPEG, PNG or WebP, unless hosts are named."""

    # Twice what the warm-up's largest picture takes in base64: a pod that may not be sent it would never be ready.
    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "self.maxImages == 0"
                " || quantity(string(self.maxRequestBytes)).asApproximateFloat() >= double(self.maxPixels) / 16.0",
                "a request must have room for a picture of maxPixels: raise maxRequestBytes to maxPixels / 16 or more,"
                " or lower maxPixels",
            ),
            ("self.maxSourcePixels >= self.maxPixels", "maxSourcePixels must not be below maxPixels"),
        )
    )

    max_images: Annotated[int, Field(ge=0, le=256)] = 8
    """Pictures per request."""
    max_videos: Annotated[int, Field(ge=0, le=8)] = 0
    """Videos per request, inline as MP4 or WebM. Their frames are not counted: allow them to trusted clients only."""
    max_pixels: Annotated[int, Field(ge=65536, le=16777216)] = 4194304
    """Pixels of a picture as the model sees it; larger ones are scaled down. One token per 1024 pixels."""
    max_source_pixels: Annotated[int, Field(ge=65536, le=178956970)] = 40000000
    """Pixels of a picture as it is sent; one that says it has more is refused before it is decoded."""
    max_request_bytes: Annotated[
        Quantity,
        Field(
            json_schema_extra=rules(
                (
                    "quantity(string(self)).compareTo(quantity('64Ki')) >= 0"
                    " && quantity(string(self)).compareTo(quantity('1Gi')) <= 0",
                    "must be from 64Ki to 1Gi",
                )
            )
        ),
    ] = "20Mi"
    """Size of a request's body. Pictures travel in it as base64, a third larger than their files."""
    allowed_url_hosts: Annotated[
        list[Annotated[str, Field(max_length=272, pattern=URL_HOST)]],
        Field(max_length=32, alias="allowedURLHosts"),
    ] = []
    """Hosts whose pictures may be asked for by URL: `host` or `host:port` over https, `http://host:port` over http. The
    pod fetches them itself and follows no redirects. A private address is allowed, for the host was named; loopback,
    link-local, multicast and cloud metadata addresses never are. Empty: pictures come inline only."""


class Queue(Model):
    """What a pod takes on at a time, running and waiting. Above it clients get 429 with Retry-After."""

    max_requests: Annotated[int, Field(ge=1, le=8192)] | None = None
    """Requests, one for several answers as many. Left out: four times engine.maxNumSeqs."""
    max_tokens: Annotated[int, Field(ge=1024, le=1073741824)] | None = None
    """Tokens of all their prompts, estimated from their text and the sizes of their pictures. Left out: eight times
    engine.maxModelLen."""


class GatePolicy(StrEnum):
    STRICT = "Strict"
    FALLBACK = "Fallback"


class Warmup(Model):
    """The pictures and the text that a pod must have answered before it gets traffic."""

    budget: LongDuration = "5m"
    """How long the warm-up may take before the container gives up."""
    max_first_to_steady: Annotated[str, Field(pattern=r"^[1-9][0-9]*(\.[0-9]+)?$", max_length=8)] = "3"
    """First answer over steady answer, as a decimal string, of a picture that is asked right after the warm-up set.
    Above it the warm-up missed something: status warns, and the pod serves all the same."""
    gate_policy: GatePolicy = GatePolicy.STRICT
    """`Strict`: a pod is Ready only once the operator has read the warm-up report of its very container, so a pod that
    starts while the operator is down waits for it. `Fallback`: the container's own readiness is enough."""


class Startup(Model):
    """The one budget from which the startup probe, the progress deadline and the gate's deadline follow."""

    budget: LongDuration = "30m"
    """How long a pod may take from the start of its container to a loaded model."""


class Drain(Model):
    """What running requests get when a pod ends."""

    longest_request: LongDuration = "120s"
    """Requests up to this long are never cut by a rollout, a scale-down or a node drain."""


class RolloutStrategy(StrEnum):
    AUTO = "Auto"
    SURGE = "Surge"
    RECREATE = "Recreate"


class Rollout(Model):
    """How a change of the spec reaches the pods."""

    strategy: RolloutStrategy = RolloutStrategy.AUTO
    """`Surge`: the new pod is warm before an old one ends, which needs a free GPU. `Recreate`: the old pods end first.
    `Auto`: Surge where a node has room for one more pod; if none has, one pod after the other is replaced in place, and
    a single one as by Recreate."""


class ResourceRequirements(Model):
    """Requests and limits of the runtime container, as in a pod spec. The accelerator is added by the operator."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "!has(self.requests) || !has(self.limits) || self.requests.all(name, !(name in self.limits)"
                " || quantity(string(self.requests[name])).compareTo(quantity(string(self.limits[name]))) <= 0)",
                "a request must not be above the limit of the same resource",
            )
        )
    )

    requests: Annotated[dict[str, Quantity], Field(max_length=16)] = {}
    """Least amounts that a node must have free."""
    limits: Annotated[dict[str, Quantity], Field(max_length=16)] = {}
    """Most that the container may use."""


class CacheVolumeClaim(Model):
    """A PersistentVolumeClaim for the engine's compiled code."""

    claim_name: SubdomainName
    """Name of the PersistentVolumeClaim, in the namespace of this resource; it must be writable."""


class Cache(Model):
    """Where compiled code is kept, so that a second start takes a minute less."""

    persistent_volume_claim: CacheVolumeClaim | None = None
    """A volume that outlives the pod. Never share it between tenants: its files are executed."""


class LocalObjectReference(Model):
    """An object in the same namespace."""

    name: SubdomainName
    """Name of the object."""


class Runtime(Model):
    """The runtime container."""

    image: Annotated[str, Field(max_length=512, pattern=r"^\S*$")] = ""
    """Image of the runtime. Empty means the default that the operator had when it first saw this revision."""
    image_pull_secrets: Annotated[
        list[LocalObjectReference], Field(max_length=8, json_schema_extra=list_map("name"))
    ] = []
    """Secrets for pulling the image, in the namespace of this resource."""
    resources: ResourceRequirements = ResourceRequirements()
    """Memory and CPU of the container."""
    cache: Cache = Cache()
    """Where compiled code is kept."""


# What the chat template, a short question and its answer take: the runtime's warm-up asks within it.
TEXT_TOKENS = 192


class QwenVLDeploymentSpec(Model):
    """What should run."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                f"self.media.maxImages == 0 || self.media.maxPixels / 1024 + {TEXT_TOKENS} <= self.engine.maxModelLen",
                f"a picture of media.maxPixels takes a token per 1024 pixels, and {TEXT_TOKENS} of engine.maxModelLen "
                "are for text: lower media.maxPixels or raise engine.maxModelLen",
            ),
            (
                "self.hardware.accelerator.resource == 'cpu' || !has(self.runtime.resources.limits)"
                " || !(self.hardware.accelerator.resource in self.runtime.resources.limits)",
                "ask for accelerators in hardware.accelerator, not in runtime.resources.limits",
            ),
            (
                "self.hardware.accelerator.resource == 'cpu' || !has(self.runtime.resources.requests)"
                " || !(self.hardware.accelerator.resource in self.runtime.resources.requests)",
                "ask for accelerators in hardware.accelerator, not in runtime.resources.requests",
            ),
        )
    )

    model: ModelSpec
    """Which model is served, and where its files are."""
    hardware: Hardware = Hardware()
    """Where runtime pods are scheduled, and on how many GPUs."""
    engine: Engine = Engine()
    """How the engine is started."""
    media: Media = Media()
    """What a request may carry."""
    queue: Queue = Queue()
    """What a pod takes on at a time."""
    warmup: Warmup = Warmup()
    """What a pod must have answered before it gets traffic."""
    startup: Startup = Startup()
    """How long a start may take."""
    drain: Drain = Drain()
    """What running requests get when a pod ends."""
    replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """Runtime pods. `kubectl scale` changes it."""
    rollout: Rollout = Rollout()
    """How a change of the spec reaches the pods."""
    runtime: Runtime = Runtime()
    """The runtime container."""
    suspend: bool = False
    """True takes the pods away and keeps everything else, so that the GPUs are free for a while."""


class ConditionStatus(StrEnum):
    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Model):
    """One aspect of the resource's state, in the form of metav1.Condition."""

    type: Annotated[str, Field(max_length=316)]
    """Name of the aspect."""
    status: ConditionStatus
    """True, False or Unknown."""
    observed_generation: Annotated[int, Field(ge=0)]
    """Generation of the spec that this was said about."""
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    """When `status` last changed."""
    reason: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")]
    """One word for programs; each has a heading in the troubleshooting page."""
    message: Annotated[str, Field(max_length=32768)]
    """What a person can do about it."""


class WarmupStatus(Model):
    """The latest warm-up, in seconds as decimal strings."""

    first_seconds: str
    """First answer about a picture of a new size, right after the warm-up set."""
    steady_seconds: str
    """Median of the same request's answers after that."""


class SnapshotStatus(Model):
    """The snapshot that was verified last by the pinned manifest."""

    digest: str
    """The manifest's digest."""
    verified_at: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    """When the hashing began that found every file to match."""


class FitStatus(Model):
    """Whether the model fits the hardware: what was predicted, and what the engine reports."""

    summary: str = ""
    """The prediction in words, or why there is none."""
    kv_cache_tokens: Annotated[int, Field(ge=0)] | None = None
    """Tokens of KV cache that were predicted."""
    engine_kv_cache_tokens: Annotated[int, Field(ge=0)] | None = None
    """Tokens of KV cache that the engine reports."""
    difference: str = ""
    """The engine's figure over the predicted one, less 1, in percent."""
    attention_backend: str = ""
    """What computes attention, as the engine reports it."""
    cuda_graphs: bool | None = None
    """Whether the engine captured CUDA graphs."""
    compiled: bool | None = None
    """Whether the engine runs compiled code."""
    warnings: list[str] = []
    """What is tight, or slower than it could be."""


class QwenVLDeploymentStatus(Model):
    """What does run."""

    observed_generation: int = -1
    """Generation of the spec that this status is about; -1 until an operator has seen the resource."""
    replicas: Annotated[int, Field(ge=0)] = 0
    """Runtime pods that exist."""
    ready_replicas: Annotated[int, Field(ge=0)] = 0
    """Runtime pods that are warm and get traffic."""
    selector: str = ""
    """Label selector of the runtime pods, for `kubectl scale` and autoscalers."""
    revision: str = ""
    """Hash of everything in the spec that matters to a pod."""
    endpoint: str = ""
    """URL of the OpenAI-compatible API inside the cluster."""
    warmup: WarmupStatus | None = None
    """The latest warm-up of this revision."""
    snapshot: SnapshotStatus | None = None
    """The verification of the snapshot."""
    fit: FitStatus | None = None
    """The fit check, and the engine's own report beside it."""
    conditions: Annotated[list[Condition], Field(max_length=16, json_schema_extra=list_map("type"))] = []
    """Ready, Reconciling and Stalled (kstatus), and Available, Scheduled, SnapshotVerified and WarmedUp."""
