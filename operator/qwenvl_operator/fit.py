"""Whether a model can run on its GPUs, how tightly, and what would make it run: pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice

from qwenvl_operator.footprint import (
    DEFAULT_UTILIZATION,
    USUAL_CONTEXT,
    Demand,
    Fit,
    find_problem,
    measure,
    picture_tokens,
)
from qwenvl_operator.presets import ACCELERATORS, FORMATS, QWEN3_VL_30B_A3B, Accelerator, Shapes

COUNTS = (1, 2, 4, 8)
TIGHT_REQUESTS = 2.0
# By how much the tokens may be fewer than predicted, where nothing was measured.
ERROR = 0.2
# Less is not advised: a page of small print needs a megapixel, and fewer sequences save little memory.
LEAST_PIXELS = 1 << 20
LEAST_SEQS = 16

_Change = tuple[str, Demand]
"""What would be written, and what it makes of the demand."""


def check(demand: Demand, gpu: Accelerator, shapes: Shapes = QWEN3_VL_30B_A3B) -> Fit:
    """Whether the demand can run on `demand.count` GPUs of this kind."""
    fit = measure(demand, gpu, shapes)
    problem = find_problem(demand, gpu, fit, shapes)
    if not problem:
        room = (
            f"{fit.kv_tokens:,} tokens of KV cache, {fit.kv_tokens / demand.max_model_len:.1f} of the longest requests"
        )
        return replace(fit, message=f"{_name(demand, gpu)}: {room}.", warnings=tuple(_warn(demand, gpu, fit)))
    nearest = _find_nearest(demand, gpu, shapes)
    advice = f" What would: {'; or '.join(nearest)}." if nearest else ""
    return replace(fit, fits=False, message=f"{_name(demand, gpu)}: {problem}.{advice}")


def _find_nearest(demand: Demand, gpu: Accelerator, shapes: Shapes) -> list[str]:
    """What makes it fit, with the prediction's error to spare, on the same GPUs first: one change where one is enough,
    else two."""

    def works(demand: Demand, on: Accelerator) -> bool:
        fit = measure(demand, on, shapes)
        return demand.max_model_len <= fit.kv_tokens * (1 - ERROR) and not find_problem(demand, on, fit, shapes)

    def first(changes: Iterable[_Change], on: Accelerator = gpu) -> list[str]:
        return list(islice((text for text, changed in changes if works(changed, on)), 1))

    def relieve(changes: Iterable[_Change], on: Accelerator = gpu) -> Iterator[_Change]:
        return (change for each in changes for setting in _settings(each, on, shapes) for change in setting)

    given = ("", demand)
    formats = [
        (f"model.quantization: {name}", replace(demand, weights=name)) for name in FORMATS if name != demand.weights
    ]
    others = [1] if gpu.slice_of and demand.count > 1 else [count for count in COUNTS if count > demand.count]
    counts = [(f"hardware.accelerator.count: {count}", replace(demand, count=count)) for count in others]
    whole = [change for each in counts for change in (each, *_keep_experts_whole(each))]
    found = [text for setting in _settings(given, gpu, shapes) for text in first(setting)]
    found += first(formats)
    found = found or first(relieve(relieve([given]))) + first(relieve(formats))
    found += first(whole) or ([] if found else first(relieve(counts)))
    if not found:
        larger = sorted(ACCELERATORS.values(), key=lambda each: each.memory)
        named = [((f"an accelerator such as {each.name}", demand), each) for each in larger]
        found = [text for change, on in named for text in first([change], on)][:1]
        found = found or [text for change, on in named for text in first(relieve([change], on), on)][:1]
    return sorted(found, key=lambda text: text.count(" with "))


def _settings(change: _Change, gpu: Accelerator, shapes: Shapes) -> Iterator[list[_Change]]:
    """Each setting that may make room, changed by a little first."""
    text, demand = change
    so_far = f"{text} with " if text else ""
    usual = replace(demand, utilization=DEFAULT_UTILIZATION)
    # Of a shared GPU a low share is meant.
    yield [] if gpu.shared else [(f"{so_far}engine.gpuMemoryUtilization: {DEFAULT_UTILIZATION:g}", usual)]
    yield _keep_experts_whole(change)
    tokens = int(measure(demand, gpu, shapes).kv_tokens * (1 - ERROR)) // 1024 * 1024
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


def _keep_experts_whole(change: _Change) -> list[_Change]:
    text, demand = change
    if demand.count == 1 or not demand.split_experts:
        return []
    so_far = f"{text} with " if text else ""
    return [(f"{so_far}--enable-expert-parallel in engine.extraArgs", replace(demand, split_experts=False))]


def _halves(number: int, least: int) -> Iterator[int]:
    while number // 2 >= least:
        number //= 2
        yield number


def _warn(demand: Demand, gpu: Accelerator, fit: Fit) -> Iterator[str]:
    at_once = fit.kv_tokens / demand.max_model_len
    if at_once < TIGHT_REQUESTS:
        yield f"tight: the KV cache holds {at_once:.1f} requests of engine.maxModelLen"
    if at_once * (1 - ERROR) < 1:
        yield f"with {ERROR:.0%} fewer tokens than predicted the engine does not start: then lower engine.maxModelLen"
    free = gpu.memory * (1 - demand.utilization)
    if free < USUAL_CONTEXT:
        yield (
            f"engine.gpuMemoryUtilization {demand.utilization:g} leaves {free:.2f} GiB of each GPU for CUDA and NCCL, "
            f"which take up to {USUAL_CONTEXT:g}: vLLM does not start unless its share is free"
        )
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
