"""Model x hardware -> memory, KV tokens, and what keeps it from running: pure.

All memory is per GPU, in GiB. The overhead was fitted to three starts of vLLM with FP8 weights: on an H100 (79.2 GiB,
utilization 0.92) 424,112 tokens with its defaults and 452,176 with 64 sequences and pictures of 4.2 megapixels, on an
H200 1,033,296 tokens. Between those lie the memory of the vision encoder and that of the sampler.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwenvl_operator.api.v1alpha1 import TEXT_TOKENS
from qwenvl_operator.presets import FORMATS, GIB, Accelerator, Shapes, kernel
from qwenvl_runtime.config import PICTURE_MARKS, PIXELS_PER_TOKEN

# CUDA's context, CUDA graphs, and the activations of one step of the decoder.
BASE_OVERHEAD = 0.89
# With several GPUs: NCCL and the buffers of the all-reduce, 0.2 GiB without NVLink and up to 1.8 with it; not measured
# with this model.
PARALLEL_OVERHEAD = 1.0
# What CUDA and NCCL take before vLLM looks how much is free: no start is known with less, hardly one with more.
LEAST_CONTEXT, USUAL_CONTEXT = 0.2, 1.0
# The vision encoder, at the profile's largest picture, for each of its tokens.
ENCODER_BYTES = 150 * 1024
# Of the largest video, whatever `max_pixels` is: 25,165,824 pixels, of which two frames share their tokens.
VIDEO_TOKENS = 12_288
# Logits of each sequence in bf16 and float32.
LOGIT_BYTES = 6
BLOCK_TOKENS = 16
DEFAULT_UTILIZATION = 0.92
SEVERAL_SLICES = "a pod can compute on one MIG slice only, since slices cannot talk to each other"


@dataclass(frozen=True)
class Demand:
    """What a CR asks of its GPUs."""

    weights: str = "fp8"
    """Name of the weight format."""
    count: int = 1
    utilization: float = DEFAULT_UTILIZATION
    max_model_len: int = 65536
    max_num_seqs: int = 64
    max_images: int = 8
    max_videos: int = 0
    max_pixels: int = 4_194_304
    kv_bytes: int = 2
    """Bytes of one value in the KV cache."""
    split_experts: bool = True
    """False with `--enable-expert-parallel`: each GPU has whole experts."""
    marlin: bool = False
    """True with `--moe-backend marlin`, which fills up a part of an expert to whole blocks."""


@dataclass(frozen=True)
class Fit:
    """The verdict with its numbers."""

    fits: bool
    message: str
    """Why not, and what would; or what there is."""
    weights: float
    """GiB of weights on each GPU."""
    encoder: float
    """GiB that the vision encoder takes at its peak."""
    overhead: float
    """GiB beside the weights and the KV cache, the encoder's included."""
    kv_tokens: int
    """Tokens in the KV cache, 0 where the weights leave no room."""
    pictures: int
    """Pictures of the largest size that one request has room for."""
    kernel: str
    warnings: tuple[str, ...] = ()


def picture_tokens(max_pixels: int) -> int:
    """Tokens of the largest picture, its two marks included."""
    return max_pixels // PIXELS_PER_TOKEN + PICTURE_MARKS


def encoder_tokens(demand: Demand) -> int:
    """Tokens of the largest picture or video, which vLLM computes once at the start to see what that takes."""
    pictures = demand.max_pixels // PIXELS_PER_TOKEN if demand.max_images else 0
    return max(pictures, VIDEO_TOKENS if demand.max_videos else 0)


def expert_part(demand: Demand, shapes: Shapes) -> int:
    """How wide an expert's part on one GPU is."""
    if not demand.split_experts:
        return shapes.moe_intermediate
    part = shapes.moe_intermediate // demand.count
    return part + -part % FORMATS[demand.weights].block if demand.marlin else part


def weight_gib(demand: Demand, shapes: Shapes) -> float:
    """Weights on one GPU: the vision tower and the router are whole on each."""
    weights = FORMATS[demand.weights]
    filled = expert_part(demand, shapes) * demand.count / shapes.moe_intermediate if demand.split_experts else 1
    split = shapes.experts * filled * weights.expert_bits / 8 + shapes.attention * weights.attention_bits / 8
    split += shapes.embeddings * 2
    return (split / demand.count + (shapes.router + shapes.vision) * 2) / GIB


def kv_token_bytes(demand: Demand, shapes: Shapes) -> int:
    """Bytes of one token on one GPU; beyond `kv_heads` GPUs the heads are repeated."""
    return 2 * shapes.layers * max(1, shapes.kv_heads // demand.count) * shapes.head_dim * demand.kv_bytes


def measure(demand: Demand, gpu: Accelerator, shapes: Shapes) -> Fit:
    """The numbers, without a verdict."""
    weights = weight_gib(demand, shapes)
    encoder = encoder_tokens(demand) * ENCODER_BYTES / GIB
    overhead = BASE_OVERHEAD + encoder + demand.max_num_seqs * shapes.vocabulary * LOGIT_BYTES / GIB
    overhead += PARALLEL_OVERHEAD if demand.count > 1 else 0
    room = gpu.memory * demand.utilization - weights - overhead
    tokens = int(max(room, 0.0) * GIB) // kv_token_bytes(demand, shapes)
    pictures = min(demand.max_images, demand.max_model_len // picture_tokens(demand.max_pixels))
    return Fit(
        fits=True,
        message="",
        weights=weights,
        encoder=encoder,
        overhead=overhead,
        kv_tokens=tokens - tokens % BLOCK_TOKENS,
        pictures=pictures,
        kernel=kernel(demand.weights, gpu.capability, expert_part(demand, shapes), marlin=demand.marlin),
    )


def find_problem(demand: Demand, gpu: Accelerator, fit: Fit, shapes: Shapes) -> str:
    """Why it cannot run; empty if it can."""
    if refusal := gpu.refusal or (SEVERAL_SLICES if gpu.slice_of and demand.count > 1 else ""):
        return refusal
    if shapes.heads % demand.count:
        return f"{shapes.heads} attention heads cannot be split over {demand.count} GPUs"
    picture = demand.max_pixels // PIXELS_PER_TOKEN
    if demand.max_images and picture + TEXT_TOKENS > demand.max_model_len:
        return (
            f"a picture of media.maxPixels takes {picture:,} tokens and a short text {TEXT_TOKENS}, engine.maxModelLen "
            f"is {demand.max_model_len:,}: lower the one or raise the other"
        )
    block = FORMATS[demand.weights].block
    part = expert_part(demand, shapes)
    if part % block and gpu.capability < 89:
        return (
            f"{demand.count} parts of an expert ({part} wide) are not made of whole {block}-wide blocks, which the "
            "kernels of this generation need"
        )
    return _find_lack(demand, gpu, fit)


def _find_lack(demand: Demand, gpu: Accelerator, fit: Fit) -> str:
    """What there is too little of: memory, or tokens for the longest request."""
    usable = gpu.memory * demand.utilization
    if gpu.memory - usable < LEAST_CONTEXT:
        return (
            f"engine.gpuMemoryUtilization {demand.utilization:g} leaves {gpu.memory - usable:.2f} GiB of each GPU's "
            f"{gpu.memory:g} GiB, less than CUDA itself takes: vLLM does not start unless its share is free"
        )
    if not fit.kv_tokens:
        return (
            f"{fit.weights:.1f} GiB of weights and {fit.overhead:.1f} GiB of working memory on each GPU exceed "
            f"{usable:.1f} GiB, which is {demand.utilization:g} of its {gpu.memory:g} GiB"
        )
    if fit.kv_tokens < demand.max_model_len:
        return (
            f"{fit.weights:.1f} GiB of weights and {fit.overhead:.1f} GiB of working memory leave room for "
            f"{fit.kv_tokens:,} tokens, engine.maxModelLen is {demand.max_model_len:,}"
        )
    return ""
