"""In which format a snapshot's weights are, as its own configuration says: pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwenvl_runtime.arguments import find_option

NONE = "none"
_BY_METHOD = {
    "fp8": "fp8",
    "fbgemm_fp8": "fp8",
    "awq": "awq",
    "awq_marlin": "awq",
    "auto_awq": "awq",
    "gptq": "gptq",
    "gptq_marlin": "gptq",
    "auto_gptq": "gptq",
    "modelopt_fp4": "nvfp4",
}
_BY_ALGORITHM = {"FP8": "fp8", "FP8_PB_WO": "fp8", "FP8_PER_CHANNEL_PER_TOKEN": "fp8", "NVFP4": "nvfp4"}
# The engine's own quantization of plain weights at load time: fp8_per_block, int8_per_channel_weight_only...
_ONLINE = {"fp8": "fp8", "int8": "int8", "experts": "int8", "nvfp4": "nvfp4"}


@dataclass(frozen=True)
class Format:
    """`names`: what the CR may call it, empty if it has no name there; `words`: what the snapshot says."""

    names: frozenset[str]
    words: str


def find_format(config: Mapping[str, Any], modelopt: Mapping[str, Any] | None, extra_args: Sequence[str]) -> Format:
    """`config` is config.json, `modelopt` hf_quant_config.json, which older exports of ModelOpt have instead of a
    section in it. `extra_args` may ask the engine to quantize plain weights. Raises ValueError."""
    section = _section(config)
    if modelopt and not section:
        section = {"quant_method": "modelopt", **_object(modelopt, "quantization", "hf_quant_config.json")}
    if not section:
        return _plain(extra_args)
    method = str(section.get("quant_method", section.get("format") and "compressed-tensors")).lower()
    if method in ("compressed-tensors", "compressed_tensors"):
        return _compressed_tensors(section)
    if method == "modelopt":
        algorithm = str(section.get("quant_algo") or _object(section, "quantization").get("quant_algo"))
        return Format(_names(_BY_ALGORITHM.get(algorithm.upper())), f"modelopt {algorithm}")
    if method in ("auto-round", "auto_round", "inc"):
        packing = str(section.get("packing_format", ""))
        return Format(_names(_BY_METHOD.get(packing.rpartition(":")[2])), f"{method} {packing}".strip())
    return Format(_names(_BY_METHOD.get(method)), method)


def _section(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where vLLM looks for it, in its order."""
    text = _object(config, "text_config")
    places = ((config, "quantization_config"), (text, "quantization_config"), (config, "compression_config"))
    for holder, name in places:
        if found := _object(holder, name):
            return found
    return {}


def _plain(extra_args: Sequence[str]) -> Format:
    asked = find_option(extra_args, "--quantization", "-q")
    if asked is None:
        return Format(_names(NONE), "no quantization")
    return Format(_names(_ONLINE.get(asked.partition("_")[0])), f"plain weights, quantized as {asked} on load")


def _compressed_tensors(section: Mapping[str, Any]) -> Format:
    groups = _object(section, "config_groups") or {"": section}
    names: set[str] = set()
    words: list[str] = []
    for group in groups.values():
        if not isinstance(group, Mapping):
            raise ValueError("quantization_config.config_groups in config.json holds something that is not an object")
        weights = _object(group, "weights")
        layout = str(group.get("format") or section.get("format", ""))
        kind, bits = str(weights.get("type", "")), weights.get("num_bits")
        names |= _compressed_names(layout, kind, bits)
        words.append(f"{layout} {kind}{bits or ''}".strip())
    return Format(frozenset(names), f"compressed-tensors {', '.join(words)}")


def _compressed_names(layout: str, kind: str, bits: object) -> frozenset[str]:
    match layout, kind, bits:
        case "nvfp4-pack-quantized", _, _:
            return _names("nvfp4")
        case "mxfp4-pack-quantized", _, _:
            return _names(None)
        case _, "float", 8:
            return _names("fp8")
        case _, "int", 8:
            return _names("int8")
        case _, "int", 4:
            # Both methods end in this one format, which does not tell which of the two made it.
            return frozenset({"awq", "gptq"})
    return _names({"float-quantized": "fp8", "int-quantized": "int8"}.get(layout))


def _object(holder: Mapping[str, Any], name: str, file: str = "config.json") -> Mapping[str, Any]:
    found = holder.get(name) or {}
    if not isinstance(found, Mapping):
        raise ValueError(f"{name} in {file} is not an object")
    return found


def _names(name: str | None) -> frozenset[str]:
    return frozenset({name} if name else ())
