"""Tokens per second of a real vLLM on the CPU, asked directly and through the front: one engine, all arms by turns.

vLLM's processes wait for each other by spinning, so that two cores are never idle and who gets them is chance, which
makes a fifth of a round's time either way: hence very many short rounds.
"""

from __future__ import annotations

import math
import os
import random
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench import arms, clients
from bench.clients import Address, BadAnswerError
from bench.engine_port import sitecustomize
from bench.relay import build_chat
from bench.report import Goal, Part, render_table
from harness.ports import free_port
from harness.progress import step
from harness.vllm_process import CONFIG, START_S
from qwenvl_runtime.config import WarmupConfig

_ROUNDS = 500
_STREAMS = CONFIG.engine.max_num_seqs
_TOKENS = 16
_SOCKET = "direct, on its unix socket"
_USAGE = re.compile(rb'"completion_tokens": ?(\d+)')


def run_tokens() -> Part:
    patient = CONFIG.model_copy(update={"startup_budget": START_S, "warmup": WarmupConfig(budget=START_S)})
    port = free_port()
    path = os.pathsep.join([str(Path(sitecustomize.__file__).parent), *sys.path])
    with (
        tempfile.TemporaryDirectory() as name,
        arms.runtime(patient, Path(name), {"PYTHONPATH": path, sitecustomize.PORT: str(port)}) as behind,
        step(f"{_STREAMS} streams of {_TOKENS} tokens, {_ROUNDS} rounds", "6 min"),
    ):
        rates = measure({arms.DIRECT: ("127.0.0.1", port), _SOCKET: behind.engine, arms.OURS: behind.address})
    compared = {arm: compare(each, rates[arms.DIRECT]) for arm, each in rates.items() if arm != arms.DIRECT}
    said = {arm: f"{ratio:.3f} ± {error:.3f}" for arm, (ratio, error) in compared.items()}
    rows = [[arm, f"{statistics.median(each):,.0f}", said.get(arm, "")] for arm, each in rates.items()]
    title = f"{_STREAMS} streams of {_TOKENS} tokens each, {_ROUNDS} rounds"
    table = render_table(title, ["", "tokens a second", "times direct's"], rows)
    ratio, _ = compared[arms.OURS]
    return Part("tokens", [Goal("tokens a second in times of direct's", 0.98, ratio, "", least=True)], [table])


def measure(addresses: dict[str, Address]) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {name: [] for name in addresses}
    order = random.Random(1)
    for number in range(-1, _ROUNDS):
        for name in order.sample(list(addresses), len(addresses)):
            rate = ask(addresses[name])
            if number >= 0:  # before that the engine may still be compiling
                rates[name].append(rate)
    return rates


def compare(rates: list[float], base: list[float]) -> tuple[float, float]:
    """The geometric mean of the rounds' ratios, and its standard error."""
    logs = [math.log(one / other) for one, other in zip(rates, base, strict=True)]
    ratio = math.exp(statistics.mean(logs))
    return ratio, ratio * statistics.stdev(logs) / math.sqrt(len(logs))


def ask(address: Address) -> float:
    """Tokens per second of all streams together."""
    request = build_chat(
        "Which bar is highest?", model=CONFIG.engine.served_name, stream=True, stream_options={"include_usage": True},
        max_tokens=_TOKENS, ignore_eos=True, temperature=0,
    )  # fmt: skip
    began = time.perf_counter()
    streams = clients.run_streams(address, [request] * _STREAMS)
    seconds = time.perf_counter() - began
    counts = [int(count) for stream in streams for count in _USAGE.findall(stream.text)]
    if counts != [_TOKENS] * _STREAMS:
        raise BadAnswerError(f"the streams brought {counts} tokens: {streams[0].text[:300]!r}")
    return sum(counts) / seconds
