"""Tokens per second of a real vLLM on the CPU, asked directly and through the front: one engine, both arms by turns.

vLLM's processes wait for each other by spinning, so that two cores are never idle and who gets them is chance, which
makes a fifth of a round's time either way: hence many short rounds.
"""

from __future__ import annotations

import re
import statistics
import tempfile
import time
from pathlib import Path

from bench import arms, clients
from bench.clients import Address, BadAnswerError
from bench.relay import build_chat
from bench.report import Goal, Part, render_table
from harness.progress import step
from harness.vllm_process import CONFIG, START_S
from qwenvl_runtime.config import WarmupConfig

_ROUNDS = 60
_STREAMS = CONFIG.engine.max_num_seqs
_TOKENS = 64
_USAGE = re.compile(rb'"completion_tokens": ?(\d+)')


def run_tokens() -> Part:
    patient = CONFIG.model_copy(update={"startup_budget": START_S, "warmup": WarmupConfig(budget=START_S)})
    with (
        tempfile.TemporaryDirectory() as name,
        arms.runtime(patient, Path(name), {}) as behind,
        step(f"{_STREAMS} streams of {_TOKENS} tokens, {_ROUNDS} rounds", "4 min"),
    ):
        rates = measure({arms.DIRECT: behind.engine, arms.OURS: behind.address})
    ratios = [ours / direct for ours, direct in zip(rates[arms.OURS], rates[arms.DIRECT], strict=True)]
    low, ratio, high = statistics.quantiles(ratios, n=4)
    rows = [[name, f"{statistics.median(each):,.0f}"] for name, each in rates.items()]
    title = f"{_STREAMS} streams of {_TOKENS} tokens each, {_ROUNDS} rounds"
    table = render_table(title, ["", "tokens a second"], rows)
    spread = f"Half of the rounds' ratios lie between {low:.3f} and {high:.3f}."
    return Part("tokens", [Goal("tokens a second in times of direct's", 0.98, ratio, "", least=True)], [table, spread])


def measure(addresses: dict[str, Address]) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {name: [] for name in addresses}
    for number in range(-1, _ROUNDS):
        names = list(addresses)
        for name in names if number % 2 else reversed(names):
            rate = ask(addresses[name])
            if number >= 0:  # before that the engine may still be compiling
                rates[name].append(rate)
    return rates


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
