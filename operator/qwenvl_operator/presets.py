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
    products: tuple[str, ...]
    """How the label `nvidia.com/gpu.product` begins."""
    refusal: str = ""
    """Why nothing is served on it; empty where it is supported."""
    slice_of: str = ""
    """The whole GPU, of one that is a MIG slice."""
    shared: bool = False
    """Whether other pods may be on it, as with time-slicing."""


_SMALL = (
    "24 GB GeForce cards of this generation are not supported: no native FP8, and no peer access between two of them"
)

_TOO_OLD = "GPUs of this generation and size are not supported: an RTX 3090 is not either"
# As they are written without spaces and hyphens; an RTX 3090 has a line of its own.
_OLD = re.compile(r"RTX(20[678]|30[5-8])0|GTX[0-9]{3}|^(NVIDIA|TESLA)*(T4|V100|P100|P40|P4|M60|K80)(?![0-9])")
_SLICE = re.compile(r"mig-([0-9]+g\.([0-9]+)gb)", re.IGNORECASE)
# Of the GB in a slice's name; 39.5 GiB of 3g.40gb, for example.
_SLICE_SHARE = 0.98

ACCELERATORS = MappingProxyType(
    {
        each.name: each
        for each in (
            Accelerator("A10-24G", 22.1, 86, ("NVIDIA-A10", "NVIDIA-A10G")),
            Accelerator("L40S-48G", 44.4, 89, ("NVIDIA-L40S",)),
            Accelerator("A100-40G", 39.4, 80, ("NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-PCIE-40GB")),
            Accelerator("A100-80G", 79.2, 80, ("NVIDIA-A100-SXM4-80GB", "NVIDIA-A100-80GB-PCIe")),
            Accelerator("H100-80G", 79.2, 90, ("NVIDIA-H100-80GB-HBM3", "NVIDIA-H100-PCIe")),
            Accelerator("H200-141G", 139.8, 90, ("NVIDIA-H200",)),
            Accelerator("B200-180G", 178.3, 100, ("NVIDIA-B200",)),
            Accelerator("RTX3090-24G", 23.6, 86, ("NVIDIA-GeForce-RTX-3090",), refusal=_SMALL),
            Accelerator("RTX4090-24G", 23.5, 89, ("NVIDIA-GeForce-RTX-4090",)),
            Accelerator("RTX5090-32G", 31.4, 120, ("NVIDIA-GeForce-RTX-5090",)),
            Accelerator("RTXPRO6000-96G", 94.9, 120, ("NVIDIA-RTX-PRO-6000-Blackwell",)),
        )
    }
)


def find_accelerator(model: str, product: str, resource: str = "nvidia.com/gpu") -> Accelerator | None:
    """By `hardware.accelerator.model`, with or without the memory behind it, or else by a node's product label.

    The label and the resource also say whether it is a slice of one, or shared.

    >>> find_accelerator("h100", "").name, find_accelerator("", "NVIDIA-A10").name, find_accelerator("A100", "")
    ('H100-80G', 'A10-24G', None)
    >>> find_accelerator("H100", "", "nvidia.com/mig-3g.40gb").name
    'H100-80G (3g.40gb)'
    """
    gpu = _find_whole(model, product)
    if gpu is None:
        return None
    if cut := _SLICE.search(resource) or _SLICE.search(product):
        gpu = replace(gpu, name=f"{gpu.name} ({cut[1]})", slice_of=gpu.name, memory=int(cut[2]) * _SLICE_SHARE)
    return replace(gpu, shared=resource.endswith(".shared") or product.endswith("-SHARED"))


def _find_whole(model: str, product: str) -> Accelerator | None:
    named = (model or product).upper().replace(" ", "").replace("-", "")
    if _OLD.search(named):
        return Accelerator(model or product, 0.0, 75, (), refusal=_TOO_OLD)
    if model:
        exact = [each for name, each in ACCELERATORS.items() if name.replace("-", "") == named]
        short = [each for name, each in ACCELERATORS.items() if name.split("-")[0] == named]
        found = exact or short
        return found[0] if len(found) == 1 else None
    if "LAPTOP" in named:
        return None  # with less memory than the card of the same name
    labels = [(label, each) for each in ACCELERATORS.values() for label in each.products]
    return next((each for label, each in labels if product == label or product.startswith(f"{label}-")), None)


def attention(kv_bytes: int, capability: int) -> tuple[str, ...]:
    """What vLLM should compute attention with, by the KV cache's type and the generation."""
    if capability == 100:
        return ("FLASHINFER",)
    if kv_bytes == 1 and capability != 90:
        return ("FLASHINFER", "TRITON_ATTN")
    return ("FLASH_ATTN",)


def kernel(weights: str, capability: int) -> str:
    """What computes the experts, as vLLM chooses it by weight format and generation (its MoE oracles)."""
    if weights == "none":
        return "bf16 Triton"
    if weights == "fp8":
        if capability < 89:
            return "Marlin W8A16: FP8 is storage only here, without FP8 arithmetic"
        return "FlashInfer W8A8" if capability >= 100 else "Triton or CUTLASS W8A8"
    if weights == "int8":
        return "Triton W8A8"
    if weights == "nvfp4":
        return "native FP4" if capability >= 100 else "Marlin W4A16: FP4 is storage only here"
    return "Marlin W4A16"
