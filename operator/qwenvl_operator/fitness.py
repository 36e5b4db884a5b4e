"""The fit check of one CR: what it asks of which GPU, and what its engine reports of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qwenvl_operator.api.v1alpha1 import FitStatus, Preset, QwenVLDeploymentSpec
from qwenvl_operator.fit import check
from qwenvl_operator.footprint import Demand, Fit
from qwenvl_operator.presets import Accelerator, attention, find_accelerator
from qwenvl_runtime.arguments import find_option, has_flag
from qwenvl_runtime.config import EngineReport

PRODUCT_LABEL = "nvidia.com/gpu.product"
NO_GRAPHS = (
    "the engine runs without CUDA graphs although spec.engine.cudaGraphs is true: decoding is 9 to 15 times slower"
    " than it should be"
)
NOT_COMPILED = "the engine runs without compiled code although spec.engine.cudaGraphs is true"
# The prediction is good to some 5 %; a fifth less room than predicted means that something is not as it was declared.
LARGE_DIFFERENCE = 0.2

# Arguments that change what the engine takes, which the arithmetic does not follow.
UNCOUNTED = (
    "--cpu-offload-gb",
    "--enable-lora",
    "--kv-cache-memory-bytes",
    "--max-num-batched-tokens",
    "--num-gpu-blocks-override",
)


def check_spec(spec: QwenVLDeploymentSpec) -> Fit | str:
    """The verdict, or why there is none."""
    accelerator = spec.hardware.accelerator
    on_cpu = accelerator.resource == "cpu"
    preset = spec.model.preset or (Preset.CUSTOM if on_cpu else Preset.INSTRUCT)
    if preset is Preset.CUSTOM:
        return "Not checked: spec.model.preset is custom, whose size is not known."
    if on_cpu:
        return _refuse(
            f"{preset} has 31 billion parameters, which no CPU serves: give it GPUs, or set spec.model.preset to custom"
            " for a tiny model of the same architecture"
        )
    if not accelerator.resource.startswith("nvidia.com/"):
        return f"Not checked: the fit check knows NVIDIA's GPUs only, and nothing of {accelerator.resource}."
    gpu = find_gpu(spec)
    if gpu is None:
        named = accelerator.model or spec.hardware.node_selector.get(PRODUCT_LABEL, "")
        known = "`qwenvl fit --table` lists those it knows."
        if named:
            return f"Not checked: the fit check does not know {named}; {known}"
        return f"Not checked: spec.hardware.accelerator.model says nothing of the GPU; {known}"
    return _say_what_is_uncounted(check(demand_of(spec), gpu), spec.engine.extra_args)


def _say_what_is_uncounted(fit: Fit, given: Sequence[str]) -> Fit:
    uncounted = [flag for flag in UNCOUNTED if has_flag([part.partition("=")[0] for part in given], flag)]
    if not uncounted:
        return fit
    warning = f"the figures do not count {' and '.join(uncounted)} of engine.extraArgs"
    escape = f" But {warning}: if it runs with them, set model.preset to custom." if not fit.fits else ""
    return replace(fit, message=fit.message + escape, warnings=(*fit.warnings, warning))


def find_gpu(spec: QwenVLDeploymentSpec) -> Accelerator | None:
    accelerator = spec.hardware.accelerator
    product = spec.hardware.node_selector.get(PRODUCT_LABEL, "")
    return find_accelerator(accelerator.model, product, accelerator.resource)


def demand_of(spec: QwenVLDeploymentSpec) -> Demand:
    given = spec.engine.extra_args
    kv_type = find_option(given, "--kv-cache-dtype") or ""
    return Demand(
        weights=spec.model.quantization or "fp8",
        count=spec.hardware.accelerator.count,
        utilization=float(spec.engine.gpu_memory_utilization),
        max_model_len=spec.engine.max_model_len,
        max_num_seqs=spec.engine.max_num_seqs,
        max_images=spec.media.max_images,
        max_videos=spec.media.max_videos,
        max_pixels=spec.media.max_pixels,
        kv_bytes=1 if kv_type.startswith("fp8") else 2,
        split_experts=not has_flag(given, "--enable-expert-parallel", "-ep"),
        marlin=(find_option(given, "--moe-backend") or "").lower() == "marlin",
    )


def derive_fit(spec: QwenVLDeploymentSpec, report: EngineReport | None, known: FitStatus | None) -> FitStatus:
    """What status says. `report` is the engine's, if it was read in this pass; else what is `known` of it stays."""
    predicted = check_spec(spec)
    report = report or _known_report(known)
    tokens = predicted.kv_tokens if isinstance(predicted, Fit) and predicted.fits else None
    reported = report.kv_cache_tokens if report else None
    return FitStatus(
        summary=predicted.message if isinstance(predicted, Fit) else predicted,
        kv_cache_tokens=tokens,
        engine_kv_cache_tokens=reported,
        difference=f"{reported / tokens - 1:+.1%}" if tokens and reported else "",
        attention_backend=report.attention_backend if report else "",
        cuda_graphs=report.cuda_graphs if report else None,
        compiled=report.compiled if report else None,
        warnings=_warnings(spec, predicted, report, tokens),
    )


def _known_report(known: FitStatus | None) -> EngineReport | None:
    if known is None or known.cuda_graphs is None:
        return None
    return EngineReport(
        kv_cache_tokens=known.engine_kv_cache_tokens,
        attention_backend=known.attention_backend,
        cuda_graphs=known.cuda_graphs,
        compiled=bool(known.compiled),
    )


def find_slowdown(spec: QwenVLDeploymentSpec, fit: FitStatus) -> str:
    """Why decoding is many times slower than was asked for; empty if it is not."""
    if spec.hardware.accelerator.resource == "cpu" or not spec.engine.cuda_graphs:
        return ""
    if fit.cuda_graphs is False:
        return NO_GRAPHS
    return NOT_COMPILED if fit.compiled is False else ""


def _warnings(
    spec: QwenVLDeploymentSpec, predicted: Fit | str, report: EngineReport | None, tokens: int | None
) -> list[str]:
    warnings = list(predicted.warnings) if isinstance(predicted, Fit) else []
    if report is None or spec.hardware.accelerator.resource == "cpu":
        return warnings
    if spec.engine.cuda_graphs:
        warnings += [] if report.cuda_graphs else [NO_GRAPHS]
        warnings += [] if report.compiled else [NOT_COMPILED]
    warnings += _compare_attention(spec, report.attention_backend)
    if tokens and report.kv_cache_tokens and report.kv_cache_tokens < tokens * (1 - LARGE_DIFFERENCE):
        warnings.append(
            "the engine has much less room than predicted: does something else use this GPU, are the weights of another"
            " format, or is it another GPU than declared?"
        )
    return warnings


def _compare_attention(spec: QwenVLDeploymentSpec, reported: str) -> list[str]:
    gpu = find_gpu(spec)
    asked = find_option(spec.engine.extra_args, "--attention-backend")
    if not reported or not (gpu or asked):
        return []
    expected = (asked,) if asked else attention(demand_of(spec).kv_bytes, gpu.capability) if gpu else ()
    if reported in expected:
        return []
    return [f"the engine computes attention with {reported}, not with {' or '.join(expected)}: compare its speed"]


def _refuse(message: str) -> Fit:
    return Fit(fits=False, message=f"{message}.", weights=0, encoder=0, overhead=0, kv_tokens=0, pictures=0, kernel="")
