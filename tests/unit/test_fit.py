"""The fit check: its figures against measured ones, its refusals, and what it advises instead."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from qwenvl_operator import cli
from qwenvl_operator.api.v1alpha1 import QwenVLDeploymentSpec
from qwenvl_operator.fit import COUNTS, ERROR, check
from qwenvl_operator.fit_command import build_table
from qwenvl_operator.fitness import NO_GRAPHS, NOT_COMPILED, check_spec, derive_fit, find_slowdown
from qwenvl_operator.footprint import Demand, Fit
from qwenvl_operator.presets import ACCELERATORS, FORMATS, find_accelerator, kernel
from qwenvl_runtime.config import EngineReport

ROOT = Path(__file__).parents[2]
# What vLLM takes when it is told nothing.
DEFAULTS = Demand(max_model_len=262144, max_num_seqs=1024, max_pixels=16_777_216)


def spec(**fields: Any) -> QwenVLDeploymentSpec:
    base: dict[str, Any] = {
        "model": {"source": {"hostPath": {"path": "/models"}}, **fields.pop("model", {})},
        "hardware": {"accelerator": fields.pop("accelerator", {"model": "H100-80G"}), **fields.pop("hardware", {})},
    }
    return QwenVLDeploymentSpec.model_validate({**base, **fields})


def fit_of(**fields: Any) -> Fit:
    fit = check_spec(spec(**fields))
    assert isinstance(fit, Fit)
    return fit


@pytest.mark.parametrize(
    ("accelerator", "demand", "measured"),
    [
        ("H100-80G", DEFAULTS, 424_112),
        ("H100-80G", replace(DEFAULTS, max_num_seqs=64, max_pixels=4_194_304), 452_176),
        ("H200-141G", DEFAULTS, 1_033_296),
    ],
)
def test_within_five_percent_of_what_was_measured(accelerator: str, demand: Demand, measured: int) -> None:
    fit = check(demand, ACCELERATORS[accelerator])
    assert fit.fits
    assert fit.kv_tokens == pytest.approx(measured, rel=0.05)
    assert fit.weights == pytest.approx(29.92, rel=0.01)


@pytest.mark.parametrize(
    ("accelerator", "changes", "said"),
    [
        ("A10-24G", {}, "exceed 20.3 GiB, which is 0.92 of its 22.1 GiB. What would: "),
        ("RTX3090-24G", {"count": 4}, "not supported"),
        ("L40S-48G", {"weights": "none"}, "model.quantization: fp8"),
        ("A10-24G", {"count": 4}, "What would: --enable-expert-parallel in engine.extraArgs"),
        ("L40S-48G", {"max_model_len": 131072}, "leave room for 101,376 tokens"),
        ("H100-80G", {"utilization": 1.0}, "leaves 0.00 GiB of each GPU's 79.2 GiB, less than CUDA itself takes"),
        (
            "A10-24G",
            {"weights": "awq", "max_model_len": 8192, "utilization": 0.999},
            "engine.gpuMemoryUtilization: 0.92",
        ),
        ("H100-80G", {"max_model_len": 8192, "max_pixels": 16_777_216}, "takes 16,384 tokens and a short text 192"),
    ],
)
def test_what_cannot_run_is_refused_with_the_numbers_and_what_would(
    accelerator: str, changes: dict[str, Any], said: str
) -> None:
    fit = check(replace(Demand(), **changes), ACCELERATORS[accelerator])
    assert not fit.fits
    assert said in fit.message


@pytest.mark.parametrize(
    "given", [["--enable-expert-parallel"], ["--enable_expert_parallel"], ["-ep"], ["--moe-backend=marlin"]]
)
def test_whole_experts_or_marlin_need_no_narrow_blocks(given: list[str]) -> None:
    fit = fit_of(accelerator={"model": "A10-24G", "count": 4}, engine={"extraArgs": given})
    assert fit.fits
    assert "Marlin" in fit.kernel


def test_marlin_fills_up_parts_of_experts_to_whole_blocks() -> None:
    gpu = ACCELERATORS["A10-24G"]
    filled, whole = (check(Demand(count=4, **how), gpu) for how in ({"marlin": True}, {"split_experts": False}))
    assert filled.weights / whole.weights == pytest.approx(4 / 3, rel=0.05)
    assert check(Demand(count=2, marlin=True), gpu).weights == check(Demand(count=2), gpu).weights


@pytest.mark.parametrize(
    "given",
    [["--kv-cache-dtype=fp8"], ["--seed", "1", "--kv-cache-dtype", "fp8_e4m3"], ["--kv_cache_dtype=fp8"]],
)
def test_an_fp8_cache_holds_twice_as_many_tokens(given: list[str]) -> None:
    assert fit_of(engine={"extraArgs": given}).kv_tokens == pytest.approx(2 * fit_of().kv_tokens, abs=32)


demands = st.builds(
    Demand,
    weights=st.sampled_from(list(FORMATS)),
    count=st.sampled_from(COUNTS),
    utilization=st.floats(0.3, 1.0),
    max_model_len=st.integers(256, 262144),
    max_num_seqs=st.integers(1, 1024),
    max_images=st.integers(0, 32),
    max_pixels=st.integers(65536, 16_777_216),
)
accelerators = st.sampled_from(list(ACCELERATORS.values()))


@given(demands, accelerators)
def test_more_memory_and_smaller_demands_never_fit_less(demand: Demand, gpu: Any) -> None:
    fit = check(demand, gpu)
    larger = check(demand, replace(gpu, memory=gpu.memory + 8))
    smaller = check(replace(demand, max_num_seqs=1, max_pixels=65536), gpu)
    assert larger.kv_tokens >= fit.kv_tokens
    assert smaller.kv_tokens >= fit.kv_tokens
    if fit.fits:
        assert larger.fits
        assert smaller.fits
        assert fit.kv_tokens >= demand.max_model_len


@given(demands, accelerators)
def test_what_is_advised_works_even_if_the_prediction_is_too_high(demand: Demand, gpu: Any) -> None:
    fit = check(demand, gpu)
    if fit.fits or " What would: " not in fit.message:
        return
    fields = {
        "engine.gpuMemoryUtilization": "utilization",
        "engine.maxModelLen": "max_model_len",
        "engine.maxNumSeqs": "max_num_seqs",
        "media.maxPixels": "max_pixels",
        "hardware.accelerator.count": "count",
    }
    for advice in fit.message.partition(" What would: ")[2].removesuffix(".").split("; or "):
        changed, on = demand, gpu
        for change in advice.split(" with "):
            what, _, value = change.partition(": ")
            if what == "model.quantization":
                changed = replace(changed, weights=value)
            elif what in fields:
                changed = replace(changed, **{fields[what]: yaml.safe_load(value)})
            elif "--enable-expert-parallel" in what:
                changed = replace(changed, split_experts=False)
            else:
                on = ACCELERATORS[change.removeprefix("an accelerator such as ")]
        fit = check(changed, on)
        assert fit.fits, advice
        assert changed.max_model_len <= (1 - ERROR) * fit.kv_tokens, advice
        assert len(advice.split(" with ")) <= 2


@pytest.mark.parametrize(
    ("accelerator", "changes", "advised"),
    [
        ("L40S-48G", {"max_model_len": 102_400}, ["engine.maxModelLen: 80896", "model.quantization: awq"]),
        ("L40S-48G", {"max_model_len": 262_144}, ["engine.maxModelLen: 80896", "hardware.accelerator.count: 2"]),
        ("A10-24G", {"weights": "awq"}, ["engine.maxModelLen: 18432", "hardware.accelerator.count: 2"]),
        ("A10-24G", {"count": 2, "max_model_len": 65536}, ["engine.maxModelLen: 38912", "model.quantization: awq"]),
        (
            "A10-24G",
            {"max_model_len": 262_144},
            [
                "model.quantization: awq with engine.maxModelLen: 18432",
                "hardware.accelerator.count: 4 with --enable-expert-parallel in engine.extraArgs",
            ],
        ),
        (
            "A10-24G",
            {"count": 4},
            [
                "--enable-expert-parallel in engine.extraArgs",
                "model.quantization: int8",
            ],
        ),
        ("H100-80G", {"utilization": 0.3}, ["engine.gpuMemoryUtilization: 0.92"]),
        ("H100-80G", {"utilization": 0.1}, ["engine.gpuMemoryUtilization: 0.92"]),
        (
            "A10-24G",
            {"weights": "awq", "max_pixels": 16_777_216, "max_num_seqs": 256},
            ["hardware.accelerator.count: 2", "media.maxPixels: 8388608 with engine.maxModelLen: 11264"],
        ),
    ],
)
def test_the_smallest_change_is_advised_first(accelerator: str, changes: dict[str, Any], advised: list[str]) -> None:
    fit = check(replace(Demand(), **changes), ACCELERATORS[accelerator])
    assert fit.message.partition(" What would: ")[2].removesuffix(".").split("; or ")[: len(advised)] == advised


def test_expert_parallel_is_advised_only_where_it_helps() -> None:
    fit = check(Demand(count=4, utilization=0.4), ACCELERATORS["A10-24G"])
    assert "engine.gpuMemoryUtilization: 0.92 with --enable-expert-parallel in engine.extraArgs" in fit.message
    assert " --enable-expert-parallel in engine.extraArgs." not in fit.message.partition("What would:")[0]


def test_a_shared_gpu_is_not_advised_to_be_taken_whole() -> None:
    fit = fit_of(
        accelerator={"model": "H100", "resource": "nvidia.com/gpu.shared"}, engine={"gpuMemoryUtilization": "0.3"}
    )
    assert not fit.fits
    assert "gpuMemoryUtilization: " not in fit.message


@pytest.mark.parametrize(
    ("accelerator", "changes", "warned"),
    [
        ("H100-80G", {}, ""),
        ("H100-80G", {"utilization": 0.98}, ""),
        ("H100-80G", {"utilization": 0.99}, "leaves 0.79 GiB of each GPU for CUDA and NCCL"),
        ("L40S-48G", {"max_model_len": 98_304}, "with 20% fewer tokens than predicted the engine does not start"),
        ("L40S-48G", {"max_model_len": 76_800}, "tight: the KV cache holds 1.3 requests"),
    ],
)
def test_what_may_turn_out_too_tight_is_warned_of(accelerator: str, changes: dict[str, Any], warned: str) -> None:
    fit = check(replace(Demand(), **changes), ACCELERATORS[accelerator])
    assert fit.fits
    assert any(warned in warning for warning in fit.warnings) == bool(warned)


def test_several_gpus_keep_memory_for_talking_to_each_other() -> None:
    one, two = (check(Demand(count=count), ACCELERATORS["H100-80G"]).overhead for count in (1, 2))
    assert two - one == pytest.approx(1)


def test_a_video_takes_the_encoder_as_pictures_do() -> None:
    gpu = ACCELERATORS["H100-80G"]
    assert check(Demand(max_images=0), gpu).encoder == 0
    video = check(Demand(max_images=0, max_videos=1), gpu).encoder
    assert video == check(Demand(max_videos=1), gpu).encoder == 3 * check(Demand(), gpu).encoder
    assert fit_of(media={"maxImages": 0, "maxVideos": 1}).encoder == video


@pytest.mark.parametrize(
    ("weights", "accelerator", "changes", "said"),
    [
        ("fp8", "B200-180G", {"count": 2}, "FlashInfer"),
        ("fp8", "B200-180G", {"count": 8}, "Triton W8A8, which alone"),
        ("fp8", "B200-180G", {"count": 8, "split_experts": False}, "FlashInfer"),
        ("fp8", "RTXPRO6000-96G", {}, "Triton or CUTLASS"),
        ("fp8", "H100-80G", {"count": 4}, "Triton W8A8, which alone"),
        ("fp8", "H100-80G", {"count": 4, "marlin": True}, "Marlin W8A16"),
        ("awq", "H100-80G", {"count": 2}, "Marlin W4A16"),
        ("awq", "H100-80G", {"count": 4}, "Moe WNA16"),
        ("gptq", "A10-24G", {"count": 8}, "Moe WNA16"),
        ("gptq", "A10-24G", {"count": 8, "split_experts": False}, "Marlin W4A16"),
    ],
)
def test_the_kernel_goes_by_what_a_gpu_has_of_an_expert(
    weights: str, accelerator: str, changes: dict[str, Any], said: str
) -> None:
    assert said in check(Demand(weights=weights, **changes), ACCELERATORS[accelerator]).kernel


def test_fp8_is_storage_alone_before_ada() -> None:
    assert "storage only" in kernel("fp8", 80, 768)
    assert "storage only" not in kernel("fp8", 89, 768)
    assert any(
        "storage only" in warning
        for warning in fit_of(accelerator={"model": "A10", "count": 2}, engine={"maxModelLen": 16384}).warnings
    )


@pytest.mark.parametrize(
    ("model", "product", "found"),
    [
        ("H100-80G", "", "H100-80G"),
        ("h100", "NVIDIA-A10", "H100-80G"),
        ("RTX 4090", "", "RTX4090-24G"),
        ("A100", "", None),
        ("", "NVIDIA-A100-80GB-PCIe", "A100-80G"),
        ("", "NVIDIA-A10", "A10-24G"),
        ("", "NVIDIA-H200-NVL", "H200-141G"),
        ("", "NVIDIA-A1000", None),
        ("", "", None),
    ],
)
def test_an_accelerator_by_its_name_or_by_the_nodes_label(model: str, product: str, found: str | None) -> None:
    gpu = find_accelerator(model, product)
    assert (gpu.name if gpu else None) == found


@pytest.mark.parametrize(
    ("label", "found"),
    [
        ("NVIDIA-A100-SXM4-40GB", "A100-40G"), ("NVIDIA-A100-SXM4-80GB", "A100-80G"), ("NVIDIA-L40S", "L40S-48G"),
        ("NVIDIA-H100-80GB-HBM3", "H100-80G"), ("NVIDIA-H100-PCIe", "H100-80G"), ("NVIDIA-H200", "H200-141G"),
        ("NVIDIA-B200", "B200-180G"), ("NVIDIA-A10G", "A10-24G"), ("NVIDIA-GeForce-RTX-4090", "RTX4090-24G"),
        ("NVIDIA-GeForce-RTX-5090", "RTX5090-32G"), ("NVIDIA-GeForce-RTX-3090-Ti", "RTX3090-24G"),
        ("NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition", "RTXPRO6000-96G"),
        ("NVIDIA-H100-80GB-HBM3-MIG-3g.40gb", "H100-80G (3g.40gb)"), ("NVIDIA-A10-SHARED", "A10-24G"),
        ("NVIDIA-A100-SXM4-40GB-MIG-1g.5gb-SHARED", "A100-40G (1g.5gb)"),
        ("NVIDIA-GeForce-RTX-4090-Laptop-GPU", None), ("NVIDIA-H100-NVL", None), ("NVIDIA-L40", None),
        ("NVIDIA-H100-SXM-64GB", None), ("NVIDIA-GB200", None), ("NVIDIA-RTX-6000-Ada-Generation", None),
    ],
)  # fmt: skip
def test_labels_as_the_feature_discovery_writes_them(label: str, found: str | None) -> None:
    for gpu in (find_accelerator("", label), find_accelerator(label, "")):
        assert (re.sub(r" \(.*", "", gpu.name) if gpu else None) == (found and found.partition(" ")[0])
    gpu = find_accelerator("", label)
    assert (gpu.name if gpu else None) == found


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("H100-80GB", "H100-80G"), ("H100 PCIe", "H100-80G"), ("h100_sxm5_80gb", "H100-80G"),
        ("nvidia-h100-80gb", "H100-80G"), ("H100 Tensor Core GPU", "H100-80G"), ("A100-80GB", "A100-80G"),
        ("A100-SXM4-80GB", "A100-80G"), ("A100 40GB PCIe", "A100-40G"), ("A10G", "A10-24G"),
        ("NVIDIA-A10", "A10-24G"), ("A10-24GB", "A10-24G"), ("l40s-48gb", "L40S-48G"), ("4090", "RTX4090-24G"),
        ("GeForce RTX 4090", "RTX4090-24G"),
        ("H200-NVL", "H200-141G"), ("RTX PRO 6000", "RTXPRO6000-96G"), ("rtxpro6000-96g", "RTXPRO6000-96G"),
        ("A100", None), ("nvidia-tesla-a100", None), ("A100-SXM4", None), ("H100-94GB", None), ("H100-NVL", None),
        ("L40", None), ("A1000", None), ("RTX 4090 Laptop", None), ("GPU", None), ("80GB", None), ("NVIDIA", None),
    ],
)  # fmt: skip
def test_an_accelerator_by_any_name_it_goes_by(name: str, found: str | None) -> None:
    gpu = find_accelerator(name, "")
    assert (gpu.name if gpu else None) == found


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA-GeForce-RTX-3080", "RTX 2080", "Tesla-T4", "Tesla-V100-SXM2-32GB", "RTX3090", "RTX 3090 Ti", "3090",
        "3090 Ti", "NVIDIA-GeForce-RTX-3090", "3080", "V100-32GB", "V100", "Tesla P40", "GTX 1080",
    ],
)  # fmt: skip
def test_a_3090_and_what_is_below_are_refused(name: str) -> None:
    fit = fit_of(accelerator={"model": name})
    assert not fit.fits
    assert "not supported" in fit.message


def test_a_slice_of_a_gpu_has_the_slices_memory() -> None:
    sliced = {"model": "H100", "resource": "nvidia.com/mig-3g.40gb"}
    fit = fit_of(accelerator=sliced)
    assert not fit.fits
    assert "H100-80G (3g.40gb)" in fit.message
    assert "of its 39.2 GiB" in fit_of(accelerator=sliced, model={"quantization": "none"}).message
    assert "hardware.accelerator.count" not in fit.message
    assert fit_of(accelerator=sliced, engine={"maxModelLen": 16384}).fits
    assert "one MIG slice only" in fit_of(accelerator={**sliced, "count": 2}, engine={"maxModelLen": 16384}).message


def test_a_slice_says_its_memory_whatever_the_whole_has() -> None:
    fit = fit_of(accelerator={"model": "A100", "resource": "nvidia.com/mig-3g.40gb"}, engine={"maxModelLen": 16384})
    assert fit.fits
    assert "1x A100 (3g.40gb)" in fit.message


@pytest.mark.parametrize(
    "fields",
    [
        {"accelerator": {"model": "H100", "resource": "nvidia.com/gpu.shared"}},
        {"accelerator": {}, "hardware": {"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3-SHARED"}}},
    ],
)
def test_a_shared_gpu_is_not_taken_for_a_whole_one(fields: dict[str, Any]) -> None:
    assert any("is shared" in warning for warning in fit_of(**fields).warnings)
    assert not fit_of().warnings


def test_without_what_it_needs_there_is_no_verdict() -> None:
    assert "says nothing of the GPU" in str(check_spec(spec(accelerator={})))
    assert "does not know Voodoo2" in str(check_spec(spec(accelerator={"model": "Voodoo2"})))
    assert "custom" in str(check_spec(spec(model={"preset": "custom"})))
    assert "custom" in str(check_spec(spec(accelerator={"resource": "cpu"})))
    labelled = {"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-A10"}}
    assert not fit_of(accelerator={}, hardware=labelled).fits


def test_other_vendors_gpus_are_not_checked() -> None:
    assert "amd.com/gpu" in str(check_spec(spec(accelerator={"model": "H100-80G", "resource": "amd.com/gpu"})))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--kv-cache-memory-bytes=1000"], "--kv-cache-memory-bytes"),
        (["--max_num_batched_tokens", "65536"], "--max-num-batched-tokens"),
        (["--cpu-offload-gb", "20"], "--cpu-offload-gb"),
        (["--seed", "1"], ""),
    ],
)
def test_arguments_that_are_not_counted_are_warned_of(given: list[str], named: str) -> None:
    warned = [warning for warning in fit_of(engine={"extraArgs": given}).warnings if "do not count" in warning]
    assert [named in warning for warning in warned] == ([True] if named else [])
    refused = fit_of(accelerator={"model": "A10"}, engine={"extraArgs": given})
    assert not refused.fits
    assert ("set model.preset to custom" in refused.message) == bool(named)


def test_no_cpu_serves_the_whole_model() -> None:
    fit = fit_of(model={"preset": "qwen3-vl-30b-a3b-thinking"}, accelerator={"resource": "cpu"})
    assert not fit.fits
    assert "preset to custom" in fit.message


def test_the_engines_report_stands_beside_the_prediction() -> None:
    report = EngineReport(kv_cache_tokens=450_000, attention_backend="FLASH_ATTN", cuda_graphs=True, compiled=True)
    said = derive_fit(spec(), report, None)
    assert said.engine_kv_cache_tokens == 450_000
    assert said.difference == "-0.2%"
    assert said.warnings == []
    assert derive_fit(spec(), None, said) == said, "what was read once is not forgotten"
    assert derive_fit(spec(), None, None).difference == ""


def test_lost_graphs_and_lost_room_are_seen() -> None:
    said = derive_fit(spec(), EngineReport(kv_cache_tokens=200_000), None)
    assert NO_GRAPHS in said.warnings
    assert any("much less room" in warning for warning in said.warnings)
    wanted = derive_fit(spec(engine={"cudaGraphs": False}), EngineReport(kv_cache_tokens=450_000), None)
    assert wanted.warnings == []


def test_lost_compilation_alone_is_slow_too() -> None:
    said = derive_fit(spec(), EngineReport(kv_cache_tokens=450_000, cuda_graphs=True, compiled=False), None)
    assert find_slowdown(spec(), said) == NOT_COMPILED
    assert find_slowdown(spec(engine={"cudaGraphs": False}), said) == ""


@pytest.mark.parametrize(
    ("model", "arguments", "reported", "warned"),
    [
        ("H100", [], "FLASH_ATTN", False),
        ("H100", [], "TRITON_ATTN", True),
        ("H100", ["--kv-cache-dtype=fp8"], "FLASH_ATTN", False),
        ("L40S", ["--kv-cache-dtype=fp8"], "FLASHINFER", False),
        ("L40S", [], "FLASHINFER", True),
        ("B200", [], "FLASHINFER", False),
        ("H100", ["--attention-backend", "TRITON_ATTN"], "TRITON_ATTN", False),
        ("H100", ["--attention-backend=FLASHINFER"], "TRITON_ATTN", True),
        ("Voodoo2", [], "TRITON_ATTN", False),
        ("H100", [], "", False),
    ],
)
def test_another_attention_back_end_than_expected_is_said(
    model: str, arguments: list[str], reported: str, warned: bool
) -> None:
    report = EngineReport(attention_backend=reported, cuda_graphs=True, compiled=True)
    said = derive_fit(spec(accelerator={"model": model}, engine={"extraArgs": arguments}), report, None)
    assert any("computes attention with" in warning for warning in said.warnings) == warned


def test_the_command_reads_resources(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fit", "-f", str(ROOT / "docs/examples/h100.yaml")]) == 0
    assert "reports: fits" in capsys.readouterr().out
    broken = yaml.safe_load((ROOT / "docs/examples/h100.yaml").read_text())
    broken["spec"]["hardware"]["accelerator"]["model"] = "A10-24G"
    file = tmp_path / "cr.yaml"
    file.write_text("---\n" + yaml.safe_dump(broken) + "---\nkind: Service\n")
    assert cli.main(["fit", "-f", str(file), "-o", "json"]) == 1
    (verdict,) = json.loads(capsys.readouterr().out)
    assert (verdict["fits"], verdict["kvCacheTokens"]) == (False, 0)
    file.write_text("kind: Service\n")
    assert cli.main(["fit", "-f", str(file)]) == 2
    assert cli.main(["fit", "-f", str(tmp_path / "none")]) == 2


def test_the_command_reads_lists_and_says_what_it_cannot_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = yaml.safe_load((ROOT / "docs/examples/h100.yaml").read_text())
    listed = yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": [resource, {"kind": "Service"}, resource]})
    monkeypatch.setattr("sys.stdin", io.StringIO(listed))
    assert cli.main(["fit", "-f", "-"]) == 0
    assert capsys.readouterr().out.count("reports: fits") == 2
    file = tmp_path / "cr.yaml"
    for text in (b"\xff\xfe", b"a: [", b"", b"a: 2026-13-45", b"[" * 5000 + b"]" * 5000):
        file.write_bytes(text)
        assert cli.main(["fit", "-f", str(file)]) == 2
        assert str(file) in capsys.readouterr().err
    for broken in ({"metadata": "x"}, {"metadata": None}, {"spec": 5}, {"spec": None}, {"apiVersion": "qwenvl.io/v1"}):
        file.write_text(yaml.safe_dump({**resource, **broken}))
        assert cli.main(["fit", "-f", str(file)]) == (0 if "metadata" in broken else 1), broken
    assert "apiVersion must be qwenvl.io/v1alpha1" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["Bad_Name_", "9lives", "a" * 53, "a.b", "2026-01-01"])
def test_a_name_that_the_api_server_refuses_does_not_fit(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resource = yaml.safe_load((ROOT / "docs/examples/h100.yaml").read_text())
    file = tmp_path / "cr.yaml"
    file.write_text(yaml.safe_dump({**resource, "metadata": {"name": name}}))
    assert cli.main(["fit", "-f", str(file)]) == 1
    assert "metadata.name must" in capsys.readouterr().out


def test_the_table_is_not_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fit", "--table", "-o", "json"]) == 2
    assert capsys.readouterr().out == ""


def test_the_table_in_the_documents_is_the_commands() -> None:
    page = (ROOT / "docs/fit.md").read_text()
    table = "\n".join(re.findall(r"^\|.*\|$", page.partition("qwenvl fit --table")[2], flags=re.MULTILINE))
    assert table == "\n".join(build_table()), "run `qwenvl fit --table`"
