"""What the fit check knows by heart: the model's shapes, the weight formats, the accelerators."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from types import MappingProxyType

GIB = 1 << 30


@dataclass(frozen=True)
class Shapes:
    """A Qwen3-VL-MoE, from its config.json; counts of parameters by how formats and GPUs treat them."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    moe_intermediate: int
    vocabulary: int
    experts: int
    """Parameters of all routed experts."""
    attention: int
    embeddings: int
    """Input embeddings and output head: never quantized, split over the GPUs."""
    router: int
    vision: int
    """The vision tower with its mergers: never quantized, whole on every GPU."""


QWEN3_VL_30B_A3B = Shapes(
    layers=48,
    hidden=2048,
    heads=32,
    kv_heads=4,
    head_dim=128,
    moe_intermediate=768,
    vocabulary=151_936,
    experts=28_991_029_248,
    attention=905_981_952,
    embeddings=622_329_856,
    router=12_582_912,
    vision=538_631_408,
)


@dataclass(frozen=True)
class Format:
    """How weights are stored; what is not named here stays bf16."""

    name: str
    expert_bits: float
    """Bits of one weight of an expert, scales included."""
    attention_bits: float
    block: int = 1
    """Width of the blocks that share a scale: a GPU's part of an expert must be made of whole ones."""


_GROUP = 128
# fp8: one 32-bit scale for 128x128 weights. 4-bit: a 16-bit scale and a 4-bit zero for 128 weights. nvfp4: an 8-bit
# scale for 16 weights. int8: what vLLM and compressed-tensors agree on for MoE, experts alone.
FORMATS = MappingProxyType(
    {
        each.name: each
        for each in (
            Format("fp8", 8 + 32 / 128**2, 8 + 32 / 128**2, block=128),
            Format("int8", 8, 16),
            Format("awq", 4 + 20 / 128, 4 + 20 / 128),
            Format("gptq", 4 + 20 / 128, 4 + 20 / 128),
            Format("nvfp4", 4 + 8 / 16, 4 + 8 / 16),
            Format("none", 16, 16),
        )
    }
)


@dataclass(frozen=True)
class Accelerator:
    """One GPU model."""

    name: str
    """As in `hardware.accelerator.model`."""
    memory: float
    """GiB that CUDA reports: less than the nominal size, part of which the driver keeps."""
    capability: int
    """CUDA compute capability, 80 for 8.0."""
    aliases: tuple[str, ...] = ()
    """Other names of the same GPU, without the words of `_ADDED`."""
    refusal: str = ""
    """Why nothing is served on it; empty where it is supported."""
    slice_of: str = ""
    """The whole GPU, of one that is a MIG slice."""
    shared: bool = False
    """Whether other pods may be on it, as with time-slicing."""

    @property
    def family(self) -> str:
        """The name without the memory."""
        return self.name.split("-")[0]


_SMALL = (
    "24 GB GeForce cards of this generation are not supported: no native FP8, and no peer access between two of them"
)

_TOO_OLD = "GPUs of this generation and size are not supported: an RTX 3090 is not either"
# An RTX 3090 has a line of its own.
_OLD = re.compile(r"(RTX)?(20[678]0|30[5-8]0)|GTX[0-9]{3}|(T4|V100|P100|P40|P4|M60|K80)(?![0-9])")
# What a name may have beside the GPU's own, in any spelling of cloud, shop or label: it does not tell two GPUs apart.
_ADDED = re.compile(
    r"NVIDIA|TESLA|GEFORCE|GPU|TENSOR|CORE|SXM[0-9]?|PCIE|HBM[0-9]E?|BLACKWELL|SERVER|WORKSTATION|MAX|Q|EDITION|SHARED"
)
_SIZE = re.compile(r"([0-9]+)(?:G|GB|GIB)")
_SLICE = re.compile(r"mig-([0-9]+g\.([0-9]+)gb)", re.IGNORECASE)
# Of the GB in a slice's name; 39.5 GiB of 3g.40gb, for example.
_SLICE_SHARE = 0.98

ACCELERATORS = MappingProxyType(
    {
        each.name: each
        for each in (
            Accelerator("A10-24G", 22.1, 86, ("A10G",)),
            Accelerator("L40S-48G", 44.4, 89),
            Accelerator("A100-40G", 39.4, 80),
            Accelerator("A100-80G", 79.2, 80),
            Accelerator("H100-80G", 79.2, 90),
            Accelerator("H200-141G", 139.8, 90, ("H200NVL",)),
            Accelerator("B200-180G", 178.3, 100),
            Accelerator("RTX3090-24G", 23.6, 86, ("3090", "RTX3090TI", "3090TI"), refusal=_SMALL),
            Accelerator("RTX4090-24G", 23.5, 89, ("4090", "RTX4090D")),
            Accelerator("RTX5090-32G", 31.4, 120, ("5090", "RTX5090D")),
            Accelerator("RTXPRO6000-96G", 94.9, 120),
        )
    }
)


def find_accelerator(model: str, product: str, resource: str = "nvidia.com/gpu") -> Accelerator | None:
    """By `hardware.accelerator.model`, or else by a node's product label; both in any of the names a GPU goes by.

    None where the name is unknown, or could be of several. The label and the resource also say whether it is a slice of
    one, or shared; a slice has its memory in its name, whatever the whole has.

    >>> find_accelerator("h100", "").name, find_accelerator("", "NVIDIA-A10").name, find_accelerator("A100", "")
    ('H100-80G', 'A10-24G', None)
    >>> find_accelerator("A100", "", "nvidia.com/mig-3g.40gb").name
    'A100 (3g.40gb)'
    """
    found = _find_whole(_SLICE.sub("", model or product))
    cut = _SLICE.search(resource) or _SLICE.search(product)
    if not found or (len(found) > 1 and not cut):
        return None
    gpu = found[0]
    if cut:
        whole = gpu.name if len(found) == 1 else gpu.family
        gpu = replace(gpu, name=f"{whole} ({cut[1]})", slice_of=whole, memory=int(cut[2]) * _SLICE_SHARE)
    return replace(gpu, shared=resource.endswith(".shared") or product.endswith("-SHARED"))


def _find_whole(named: str) -> list[Accelerator]:
    """All that the name could be of."""
    words = re.split(r"[ ._-]+", named.upper())
    sizes = {size[1] for word in words if (size := _SIZE.fullmatch(word))}
    name = "".join(word for word in words if not _ADDED.fullmatch(word) and not _SIZE.fullmatch(word))
    if _OLD.match(name):
        return [Accelerator(named, 0.0, 75, refusal=_TOO_OLD)]
    return [
        gpu
        for gpu in ACCELERATORS.values()
        if name in (gpu.family, *gpu.aliases) and sizes <= {gpu.name.removeprefix(f"{gpu.family}-").removesuffix("G")}
    ]


def attention(kv_bytes: int, capability: int) -> tuple[str, ...]:
    """What vLLM should compute attention with, by the KV cache's type and the generation."""
    if capability == 100:
        return ("FLASHINFER",)
    if kv_bytes == 1 and capability != 90:
        return ("FLASHINFER", "TRITON_ATTN")
    return ("FLASH_ATTN",)


def kernel(weights: str, capability: int, part: int, *, marlin: bool = False) -> str:
    """What computes the experts, as vLLM chooses it by weight format and generation (its MoE oracles).

    `part` is how wide an expert's part on one GPU is; `marlin` whether the user asks for Marlin.
    """
    if weights == "none":
        return "bf16 Triton"
    if weights == "fp8":
        return _fp8_kernel(capability, part, marlin=marlin)
    if weights == "int8":
        return "Triton W8A8"
    if weights == "nvfp4":
        return "native FP4" if capability >= 100 else "Marlin W4A16: FP4 is storage only here"
    return "Moe WNA16 W4A16, since Marlin needs whole groups of 128" if part % _GROUP else "Marlin W4A16"


def _fp8_kernel(capability: int, part: int, *, marlin: bool) -> str:
    if capability < 89 or marlin:
        return "Marlin W8A16: FP8 is storage only here, without FP8 arithmetic"
    if part % FORMATS["fp8"].block:
        return "Triton W8A8, which alone computes with parts of a block"
    return "FlashInfer W8A8" if capability == 100 else "Triton or CUTLASS W8A8"
