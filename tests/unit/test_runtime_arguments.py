"""Which engine arguments a user may add, and what the engine is started with."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from harness.runtime_process import build_config
from qwenvl_runtime.arguments import REFUSED, find_option, has_flag, refused_arguments
from qwenvl_runtime.engine import build_arguments, build_environment

SOCKET = Path("/tmp/x/engine.sock")
CUDA = {"device": "cuda", "gpu_count": 2, "gpu_memory_utilization": 0.9}


@pytest.mark.parametrize(
    "extra",
    [
        [],
        ["--seed", "1"],
        ["--quantization=fp8_per_block", "--kv-cache-dtype", "fp8"],
        ["--reasoning-parser", "qwen3", "--enable-auto-tool-choice", "--tool-call-parser=hermes"],
        ["--enable_expert_parallel", "-ep", "-O3", "-cc.mode=3", "-q", "awq"],
        ["--some-number", "-1", "--ratio", "-.5"],
        ["--compilation-config", '{"cudagraph_mm_encoder": true}'],
        ["--max-num-batched-tokens", "8192", "--max-num-queued-reqs", "64", "--model-impl", "auto"],
    ],
)
def test_tuning_is_allowed(extra: list[str]) -> None:
    assert refused_arguments(extra) == []


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        (["--trust-remote-code"], "--trust-remote-code"),
        (["--no-trust-remote-code"], "--no-trust-remote-code"),
        (["--trust_remote_code"], "--trust_remote_code"),
        (["--trust-rem"], "--trust-rem"),
        (["--TRUST-REMOTE-CODE"], "--TRUST-REMOTE-CODE"),
        (["--port=1"], "--port"),
        (["--port", "1"], "--port"),
        (["--po", "1"], "--po"),
        (["--max_model-len=9"], "--max_model-len"),
        (["--limit-mm-per-prompt.image", "99"], "--limit-mm-per-prompt"),
        (["--limit_mm_per_prompt.image=99"], "--limit_mm_per_prompt"),
        (["--mm-processor-kwargs.max_pixels+=9"], "--mm-processor-kwargs"),
        (["--data-parallel-size", "2"], "--data-parallel-size"),
        (["--data_parallel_anything=2"], "--data_parallel_anything"),
        (["-dp", "2"], "-dp"),
        (["-tp=2"], "-tp"),
        (["-asc", "4"], "-asc"),
        (["-n2"], "-n2"),
        (["--ssl-keyfile", "x"], "--ssl-keyfile"),
        (["--no-enforce-eager"], "--no-enforce-eager"),
        (["--seed", "1", "--", "x"], "--"),
        (["some/other/model"], "some/other/model"),
    ],
)
def test_refused_arguments_are_named_with_a_reason(extra: list[str], named: str) -> None:
    (refused,) = refused_arguments(extra)
    assert refused.startswith(f"{named} (")
    assert refused.endswith(")")


@pytest.mark.parametrize("flag", sorted(REFUSED))
def test_every_spelling_of_a_refused_flag_is_refused(flag: str) -> None:
    for spelling in (flag, f"{flag}=1", f"{flag}.a", flag.replace("-", "_").replace("__", "--", 1), f"--no-{flag[2:]}"):
        assert refused_arguments([spelling]), spelling


@pytest.mark.parametrize(
    ("given", "value"),
    [
        (["--kv-cache-dtype", "fp8"], "fp8"),
        (["--kv_cache_dtype=fp8"], "fp8"),
        (["--kv-cache_dtype", "fp8"], "fp8"),
        (["--kv-cache-dtype=auto", "--kv_cache_dtype", "fp8"], "fp8"),
        (["--kv-cache-dtype-skip-layers=1"], None),
        ([], None),
    ],
)
def test_an_option_is_read_as_the_engine_reads_it(given: list[str], value: str | None) -> None:
    assert find_option(given, "--kv-cache-dtype") == value


@pytest.mark.parametrize(
    ("given", "on"),
    [
        (["--enable-expert-parallel"], True),
        (["--enable_expert_parallel"], True),
        (["-ep"], True),
        (["--enable-expert-parallel", "--no-enable-expert-parallel"], False),
        (["--no_enable_expert_parallel", "-ep"], True),
        (["--enable-expert-parallel=true"], False),
        ([], False),
    ],
)
def test_a_flag_is_read_as_the_engine_reads_it(given: list[str], on: bool) -> None:
    assert has_flag(given, "--enable-expert-parallel", "-ep") == on


def test_the_runtime_sets_nothing_that_a_user_could_set_too() -> None:
    for config in (build_config(engine=CUDA | {"cuda_graphs": False}), build_config()):
        flags = [part for part in build_arguments(config, SOCKET) if part.startswith("--")]
        unguarded = [flag for flag in flags if not refused_arguments([flag])]
        # One GiB is a default for tiny models on the CPU; more is the user's right.
        assert unguarded in ([], ["--kv-cache-memory-bytes"])


def test_a_pod_with_two_gpus() -> None:
    arguments = build_arguments(build_config(engine=CUDA), SOCKET)
    pairs = dict(itertools.pairwise(arguments))
    assert pairs["--uds"] == "/tmp/x/engine.sock"
    assert pairs["--tensor-parallel-size"] == "2"
    assert pairs["--mm-encoder-tp-mode"] == "data"
    assert pairs["--gpu-memory-utilization"] == "0.9"
    assert json.loads(pairs["--limit-mm-per-prompt"]) == {"image": 4, "video": 0}
    assert json.loads(pairs["--mm-processor-kwargs"]) == {"max_pixels": 262144}
    assert int(pairs["--shutdown-timeout"]) >= 1
    assert pairs["--allowed-media-domains"].endswith(".invalid")
    assert "--enforce-eager" not in arguments


def test_a_pod_with_one_gpu_shares_nothing() -> None:
    arguments = build_arguments(build_config(engine=CUDA | {"gpu_count": 1}), SOCKET)
    assert "--mm-encoder-tp-mode" not in arguments


@pytest.mark.parametrize("engine", [CUDA | {"cuda_graphs": False}, {}])
def test_eager_mode_without_graphs_and_on_the_cpu(engine: dict[str, object]) -> None:
    assert "--enforce-eager" in build_arguments(build_config(engine=engine), SOCKET)


def test_nothing_about_gpus_is_said_on_the_cpu() -> None:
    arguments = build_arguments(build_config(), SOCKET)
    assert not {"--tensor-parallel-size", "--gpu-memory-utilization"} & set(arguments)


def test_extra_arguments_come_last() -> None:
    config = build_config(engine={"extra_args": ("--seed", "7")})
    assert build_arguments(config, SOCKET)[-2:] == ["--seed", "7"]


def test_the_environment_does_not_change_the_engine() -> None:
    inherited = {
        "PATH": "/bin", "LD_LIBRARY_PATH": "/cuda", "NVIDIA_VISIBLE_DEVICES": "0", "VLLM_TARGET_DEVICE": "cpu",
        "VLLM_PORT": "tcp://10.0.0.1:80", "VLLM_API_KEY": "k", "VLLM_LOGGING_LEVEL": "DEBUG", "VLLM_PLUGINS": "evil",
        "VLLM_SERVER_DEV_MODE": "1", "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://x", "PYTHONOPTIMIZE": "1",
        "HOME": "/root",
    }  # fmt: skip
    environment = build_environment(build_config(), inherited, Path("/cache"), Path("/scratch"))
    kept = {name: environment.get(name) for name in inherited}
    assert kept == {
        "PATH": "/bin", "LD_LIBRARY_PATH": "/cuda", "NVIDIA_VISIBLE_DEVICES": "0", "VLLM_TARGET_DEVICE": "cpu",
        "VLLM_PORT": None, "VLLM_API_KEY": None, "VLLM_LOGGING_LEVEL": None, "VLLM_PLUGINS": "",
        "VLLM_SERVER_DEV_MODE": None, "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": None, "PYTHONOPTIMIZE": None,
        "HOME": "/scratch",
    }  # fmt: skip


def test_whatever_the_engine_writes_has_its_place() -> None:
    environment = build_environment(build_config(engine=CUDA), {}, Path("/cache"), Path("/scratch"))
    paths = {name: value for name, value in environment.items() if value.startswith("/")}
    assert all(value.startswith(("/cache", "/scratch")) for value in paths.values())
    assert environment["VLLM_CACHE_ROOT"] == "/cache/vllm"
    assert environment["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize(("cores", "threads"), [(1, "1"), (2, "1"), (4, "3"), (64, "4")])
def test_on_the_cpu_a_core_is_left_to_the_scheduler(monkeypatch: pytest.MonkeyPatch, cores: int, threads: str) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(cores)))
    config = build_config(engine={**CUDA, "device": "cpu"})
    assert build_environment(config, {}, Path("/cache"), Path("/scratch"))["OMP_NUM_THREADS"] == threads
