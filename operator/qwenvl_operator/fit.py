"""Model x hardware -> memory, KV tokens, and whether it can run: pure.

All memory is per GPU, in GiB. The overhead was fitted to three starts of vLLM with FP8 weights: on an H100 (79.2 GiB,
utilization 0.92) 424,112 tokens with its defaults and 452,176 with 64 sequences and pictures of 4.2 megapixels, on an
H200 1,033,296 tokens. Between those lie the memory of the vision encoder and that of the sampler.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from qwenvl_operator.presets import ACCELERATORS, FORMATS, GIB, QWEN3_VL_30B_A3B, Accelerator, Shapes, kernel
from qwenvl_runtime.config import PICTURE_MARKS, PIXELS_PER_TOKEN

# CUDA's context, CUDA graphs, and the activations of one step of the decoder.
BASE_OVERHEAD = 0.89
# The vision encoder, at the profile's largest picture, for each of its tokens.
ENCODER_BYTES = 150 * 1024
# Logits of each sequence in bf16 and float32.
LOGIT_BYTES = 6
BLOCK_TOKENS = 16
COUNTS = (1, 2, 4, 8)
TIGHT_REQUESTS = 2.0
# Less is not advised: a page of small print needs a megapixel, and fewer sequences save little memory.
LEAST_PIXELS = 1 << 20
LEAST_SEQS = 16
SEVERAL_SLICES = "a pod can compute on one MIG slice only, since slices cannot talk to each other"


@dataclass(frozen=True)
class Demand:
    """What a CR asks of its GPUs."""

    weights: str = "fp8"
    """Name of the weight format."""
    count: int = 1
    utilization: float = 0.92
    max_model_len: int = 65536
    max_num_seqs: int = 64
    max_images: int = 8
    max_pixels: int = 4_194_304
    kv_bytes: int = 2
    """Bytes of one value in the KV cache."""
    split_experts: bool = True
    """False with `--enable-expert-parallel`: each GPU has whole experts."""
    marlin: bool = False
    """True with `--moe-backend marlin`, which fills up a part of an expert to whole blocks."""


_Change = tuple[str, Demand]
"""What would be written, and what it makes of the demand."""


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


def check(demand: Demand, gpu: Accelerator, shapes: Shapes = QWEN3_VL_30B_A3B) -> Fit:
    """Whether the demand can run on `demand.count` GPUs of this kind."""
    fit = _measure(demand, gpu, shapes)
    problem = _find_problem(demand, gpu, fit, shapes)
    if not problem:
        room = (
            f"{fit.kv_tokens:,} tokens of KV cache, {fit.kv_tokens / demand.max_model_len:.1f} of the longest requests"
        )
        return replace(fit, message=f"{_name(demand, gpu)}: {room}.", warnings=tuple(_warn(demand, gpu, fit)))
    nearest = _find_nearest(demand, gpu, shapes)
    advice = f" What would: {'; or '.join(nearest)}." if nearest else ""
    return replace(fit, fits=False, message=f"{_name(demand, gpu)}: {problem}.{advice}")


def picture_tokens(max_pixels: int) -> int:
    """Tokens of the largest picture, its two marks included."""
    return max_pixels // PIXELS_PER_TOKEN + PICTURE_MARKS


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


def _measure(demand: Demand, gpu: Accelerator, shapes: Shapes) -> Fit:
    weights = weight_gib(demand, shapes)
    encoder = demand.max_pixels // PIXELS_PER_TOKEN * ENCODER_BYTES / GIB if demand.max_images else 0.0
    overhead = BASE_OVERHEAD + encoder + demand.max_num_seqs * shapes.vocabulary * LOGIT_BYTES / GIB
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


def _find_problem(demand: Demand, gpu: Accelerator, fit: Fit, shapes: Shapes) -> str:
    if refusal := gpu.refusal or (SEVERAL_SLICES if gpu.slice_of and demand.count > 1 else ""):
        return refusal
    if shapes.heads % demand.count:
        return f"{shapes.heads} attention heads cannot be split over {demand.count} GPUs"
    block = FORMATS[demand.weights].block
    part = expert_part(demand, shapes)
    if part % block and gpu.capability < 89:
        return (
            f"{demand.count} parts of an expert ({part} wide) are not made of whole {block}-wide blocks, which the "
            "kernels of this generation need; add --enable-expert-parallel to engine.extraArgs"
        )
    usable = gpu.memory * demand.utilization
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


def _find_nearest(demand: Demand, gpu: Accelerator, shapes: Shapes) -> list[str]:
    """What makes it fit, on the same GPUs first: one change where one is enough, else two."""

    def first(changes: Iterable[_Change], on: Accelerator = gpu) -> list[str]:
        working = (
            text for text, changed in changes if not _find_problem(changed, on, _measure(changed, on, shapes), shapes)
        )
        return list(islice(working, 1))

    def relieve(changes: Iterable[_Change]) -> Iterator[_Change]:
        return (change for each in changes for setting in _smaller(each, gpu, shapes) for change in setting)

    given = ("", demand)
    formats = [
        (f"model.quantization: {name}", replace(demand, weights=name)) for name in FORMATS if name != demand.weights
    ]
    others = [1] if gpu.slice_of and demand.count > 1 else [count for count in COUNTS if count > demand.count]
    counts = [(f"hardware.accelerator.count: {count}", replace(demand, count=count)) for count in others]
    found = [text for setting in _smaller(given, gpu, shapes) for text in first(setting)]
    found += first(formats)
    found = found or first(relieve(relieve([given]))) + first(relieve(formats))
    found += first(counts) or ([] if found else first(relieve(counts)))
    if not found:
        larger = sorted(ACCELERATORS.values(), key=lambda each: each.memory)
        found = [f"an accelerator such as {each.name}" for each in larger if first([given], each)][:1]
    return sorted(found, key=lambda text: text.count(" with "))


def _smaller(change: _Change, gpu: Accelerator, shapes: Shapes) -> Iterator[list[_Change]]:
    """Each setting that takes memory, made smaller: by a little first."""
    text, demand = change
    so_far = f"{text} with " if text else ""
    tokens = _measure(demand, gpu, shapes).kv_tokens // 1024 * 1024
    fits = picture_tokens(demand.max_pixels) + 1024 <= tokens < demand.max_model_len
    yield [(f"{so_far}engine.maxModelLen: {tokens}", replace(demand, max_model_len=tokens))] if fits else []
    yield [
        (f"{so_far}media.maxPixels: {pixels}", replace(demand, max_pixels=pixels))
        for pixels in _halves(demand.max_pixels, LEAST_PIXELS)
    ]
    yield [
        (f"{so_far}engine.maxNumSeqs: {seqs}", replace(demand, max_num_seqs=seqs))
        for seqs in _halves(demand.max_num_seqs, LEAST_SEQS)
    ]


def _halves(number: int, least: int) -> Iterator[int]:
    while number // 2 >= least:
        number //= 2
        yield number


def _warn(demand: Demand, gpu: Accelerator, fit: Fit) -> Iterator[str]:
    at_once = fit.kv_tokens / demand.max_model_len
    if at_once < TIGHT_REQUESTS:
        yield f"tight: the KV cache holds {at_once:.1f} requests of engine.maxModelLen"
    if fit.pictures < demand.max_images:
        largest = picture_tokens(demand.max_pixels)
        yield (
            f"engine.maxModelLen has room for {fit.pictures} of media.maxImages {demand.max_images} pictures of "
            f"{largest} tokens"
        )
    if "storage only" in fit.kernel:
        yield f"{demand.weights} on {gpu.name}: {fit.kernel}"
    if gpu.shared:
        yield "the GPU is shared: the figures hold only while nothing else is in its memory"
    if demand.kv_bytes == 1 and gpu.capability not in (90, 100):
        yield "an fp8 KV cache makes vLLM take another attention back end on this generation: compare speed and answers"


def _name(demand: Demand, gpu: Accelerator) -> str:
    return f"{demand.weights} weights on {demand.count}x {gpu.name}"
