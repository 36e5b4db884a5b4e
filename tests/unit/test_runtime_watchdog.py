"""When an engine counts as frozen: never while it works, however much there is to do, and soon once it does not."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenvl_runtime.config import WatchdogConfig
from qwenvl_runtime.watchdog import Alarm, Watchdog, read_counters

CONFIG = WatchdogConfig()
LOOK_AT_WORST = CONFIG.interval + 5.0
"""Seconds between two looks where nothing answers."""
PAGE = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:generation_tokens_total{engine="0",model_name="m"} 128.0
vllm:generation_tokens_created{engine="0",model_name="m"} 1.7957e+09
vllm:iteration_tokens_total_count{engine="0",model_name="m"} 40.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 2.0
vllm:mm_cache_queries_total{engine="0",model_name="m"} 9.0
process_cpu_seconds_total 31.4
"""


class Clock:
    """A watchdog and the moments at which it looks."""

    def __init__(self) -> None:
        self.now = 0.0
        self.watchdog = Watchdog(CONFIG, self.now)

    def look(self, signs: object, after: float = CONFIG.interval) -> Alarm:
        self.now += after
        return self.watchdog.look(self.now, signs)


def test_only_what_the_engine_core_moves_is_read() -> None:
    names = [line.split(b"{")[0] for line in read_counters(PAGE)]
    assert names == [
        b"vllm:num_requests_running",
        b"vllm:kv_cache_usage_perc",
        b"vllm:generation_tokens_total",
        b"vllm:iteration_tokens_total_count",
        b"vllm:request_success_total",
    ]
    assert read_counters(PAGE) == read_counters(PAGE.replace(b"31.4", b"31.5"))
    assert read_counters(PAGE) != read_counters(PAGE.replace(b"0.25", b"0.2504"))


def test_the_alarm_grows_with_the_silence_and_ends_with_it() -> None:
    clock = Clock()
    clock.look("a")
    alarms = [clock.look("a") for _ in range(24)]
    assert [later for earlier, later in pairwise(alarms) if later is not earlier] == [Alarm.ASK, Alarm.CLOSE, Alarm.END]
    assert clock.look("b") is Alarm.NONE
    assert clock.watchdog.silence == 0


def test_a_process_that_was_stopped_itself_does_not_blame_the_engine() -> None:
    clock = Clock()
    clock.look("a")
    assert clock.look("a", after=3600) is Alarm.NONE


@given(st.floats(0.1, LOOK_AT_WORST), st.integers(0, 200))
def test_an_engine_that_stops_is_out_of_rotation_within_a_minute(interval: float, looks: int) -> None:
    clock = Clock()
    for number in range(looks):
        clock.look(number, interval)
    stopped = clock.now
    while (alarm := clock.look("the last sign", interval)) < Alarm.CLOSE:
        pass
    # The readiness probe, every second, has to fail three times.
    assert clock.now - stopped + 4 < 60
    while alarm < Alarm.END:
        alarm = clock.look("the last sign", interval)
    assert clock.now - stopped < 65


@given(st.lists(st.floats(0, CONFIG.quiet + CONFIG.answer - LOOK_AT_WORST), max_size=50))
def test_steps_that_are_slow_close_nothing(steps: list[float]) -> None:
    clock = Clock()
    for number, seconds in enumerate(steps):
        ends = clock.now + seconds
        while clock.now < ends:
            assert clock.look(number) < Alarm.CLOSE
        clock.look(number + 1)


@pytest.mark.parametrize("seed", range(3))
def test_an_hour_of_saturation_is_no_alarm(seed: int) -> None:
    """More comes than can be done, so that no canary is ever answered; answers are not streamed, so no byte shows."""
    chance, clock, moved, busy_until = random.Random(seed), Clock(), 0, 0.0
    worst = Alarm.NONE
    while clock.now < 3600:
        while busy_until <= clock.now + CONFIG.interval:
            # A decode step, a piece of a long prompt, a batch of large pictures, a kernel that is compiled late.
            busy_until += chance.choices(
                (chance.uniform(0.01, 0.3), chance.uniform(0.3, 3), chance.uniform(2, 12), chance.uniform(10, 25)),
                weights=(1000, 100, 5, 0.3),
            )[0]
            moved += 1
        worst = max(worst, clock.look(moved))
    assert worst < Alarm.CLOSE
    assert clock.look(moved, after=0) < Alarm.CLOSE
