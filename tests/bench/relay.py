"""What each relay adds to a request and to a chunk of a stream, the same engine behind all of them."""

from __future__ import annotations

import base64
import io
import json
import random
import re
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from bench import arms, clients, engine
from bench.arms import DIRECT, HAPROXY, LITELLM, MODEL, OURS, Arm
from bench.clients import BadAnswerError, Stream
from bench.engine import Pace
from bench.report import Goal, Part, render_table
from harness.progress import step

_ROUNDS = 9
_SECONDS = 0.7
_STREAM_ROUNDS = 5
_STREAMS = 200
_MANY_STREAMS = 1000
_BY_TURNS = Pace(chunks=40, interval_ms=50, spread=True)
_IN_STEP = Pace(chunks=40, interval_ms=50, spread=False)
_MANY = Pace(chunks=20, interval_ms=200, spread=True)
_SENT = re.compile(rb"sent:(\d{16,});")
_MICRO = 1e6


@dataclass
class Series:
    """One arm's rounds: median and 99th percentile of each, in microseconds."""

    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)

    def add(self, seconds: Sequence[float]) -> None:
        self.p50.append(statistics.median(seconds) * _MICRO)
        self.p99.append(statistics.quantiles(seconds, n=100)[98] * _MICRO)


Measured = dict[str, Series]


def added(measured: Measured, name: str) -> float:
    """The median over the rounds of what the arm's p50 is above the direct one's of the same round."""
    pairs = zip(measured[name].p50, measured[DIRECT].p50, strict=False)
    return statistics.median(through - alone for through, alone in pairs)


def run_relay() -> Part:
    with (
        tempfile.TemporaryDirectory() as name,
        engine.running(Path(name)) as behind,
        arms.running(Path(name), behind) as running,
    ):
        return measure(running)


def measure(running: list[Arm]) -> Part:
    with step(f"A chat of 1 KB, {_ROUNDS} rounds", "30 s"):
        small = measure_requests(running, build_chat("x" * 950))
    with step(f"A picture in a body of 1 MB, {_ROUNDS} rounds", "30 s"):
        large = measure_requests(running, build_picture_chat())
    with step(f"{_STREAMS} streams by turns, {_STREAM_ROUNDS} rounds", "45 s"):
        by_turns = measure_streams(running, _BY_TURNS)
    with step(f"{_STREAMS} streams in step, {_STREAM_ROUNDS} rounds", "30 s"):
        in_step = measure_streams([arm for arm in running if arm.name != LITELLM], _IN_STEP)
    with step(f"{_MANY_STREAMS} streams", "5 s"):
        ours = next(arm for arm in running if arm.name == OURS)
        broken = count_broken(ask_streams(ours, _MANY, _MANY_STREAMS), _MANY)
    haproxy, litellm, qwenvl = (added(small, name) for name in (HAPROXY, LITELLM, OURS))
    if haproxy <= 0:
        raise BadAnswerError("HAProxy was faster than no relay at all: the machine has too much else to do")
    goals = [
        Goal("1 KB chat, added at p50, in times of what HAProxy adds", 3, qwenvl / haproxy, ""),
        Goal("1 KB chat, added at p50, as a part of what LiteLLM adds", 1 / 50, qwenvl / litellm, ""),
        Goal("1 MB picture body, added at p50", 2000, added(large, OURS), "µs"),
        Goal(f"{_STREAMS} streams, added per chunk at p50", 60, added(by_turns, OURS), "µs"),
        Goal(f"{_MANY_STREAMS} streams, how many did not arrive whole", 0, broken, ""),
    ]
    pace = f"{_STREAMS * _BY_TURNS.rate:,.0f} chunks a second"
    tables = [
        render(f"A chat of 1 KB, one after the other on one connection, {_ROUNDS} rounds", small),
        render(f"The same with a picture in a body of 1 MB, {_ROUNDS} rounds", large),
        render(f"A chunk of one of {_STREAMS} streams, {pace}, evenly spread, {_STREAM_ROUNDS} rounds", by_turns),
        render("The same with all streams sending in the same moment, as an engine's steps make them", in_step),
    ]
    return Part("relay", goals, tables)


def build_chat(content: object, **fields: object) -> bytes:
    body = {"model": MODEL, "messages": [{"role": "user", "content": content}], **fields}
    return clients.build_post(json.dumps(body).encode())


def build_picture_chat() -> bytes:
    """Noise, because it does not compress: 768 KiB of pixels, 1 MiB as base64."""
    picture = Image.frombytes("RGB", (512, 512), random.Random(1).randbytes(512 * 512 * 3))
    png = io.BytesIO()
    picture.save(png, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
    return build_chat([{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is it?"}])


def interleave(running: list[Arm], rounds: int) -> Iterator[Arm]:
    """Each arm once a round, by turns the first."""
    for number in range(rounds):
        turn = number % len(running)
        yield from [*running[turn:], *running[:turn]]


def measure_requests(running: list[Arm], request: bytes) -> Measured:
    measured = {arm.name: Series() for arm in running}
    for arm in interleave(running, _ROUNDS):
        with clients.connect(arm.address) as connection:
            clients.time_requests(connection, request, _SECONDS / 10)
            measured[arm.name].add(clients.time_requests(connection, request, _SECONDS))
    return measured


def measure_streams(running: list[Arm], pace: Pace) -> Measured:
    measured = {arm.name: Series() for arm in running}
    for arm in interleave(running, _STREAM_ROUNDS):
        if arm.name == LITELLM and measured[arm.name].p50:
            continue  # it falls behind the pace at once, and one round of that is enough
        streams = ask_streams(arm, pace, _STREAMS)
        if broken := count_broken(streams, pace):
            raise BadAnswerError(f"{arm.name}: {broken} of {_STREAMS} streams did not arrive whole")
        measured[arm.name].add([seconds for stream in streams for seconds in read_delays(stream)])
    return measured


def ask_streams(arm: Arm, pace: Pace, number: int) -> list[Stream]:
    return clients.run_streams(arm.address, [build_chat(str(pace), stream=True)] * number)


def read_delays(stream: Stream) -> list[float]:
    """How long each chunk was on its way. One that a read cut in two is not looked at."""
    return [(at - int(sent)) / 1e9 for at, piece in stream.pieces for sent in _SENT.findall(piece)]


def count_broken(streams: list[Stream], pace: Pace) -> int:
    return sum(not (each.complete and len(_SENT.findall(each.text)) == pace.chunks) for each in streams)


def render(title: str, measured: Measured) -> str:
    rows = []
    for name, series in measured.items():
        p50, p99 = statistics.median(series.p50), statistics.median(series.p99)
        more = ["", ""] if name == DIRECT else [f"{added(measured, name):,.0f} µs", times(measured, name)]
        rows.append([name, f"{p50:,.0f} µs", f"{p99:,.0f} µs", *more])
    return render_table(title, ["", "p50", "p99", "added at p50", "times HAProxy's"], rows)


def times(measured: Measured, name: str) -> str:
    haproxy = added(measured, HAPROXY)
    return f"{added(measured, name) / haproxy:.1f}" if haproxy > 0 else "none"
