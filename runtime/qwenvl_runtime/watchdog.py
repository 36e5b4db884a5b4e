"""Whether the engine still works, from what it shows of its progress: pure.

Its own word is not enough: vLLM's `/health` says 200 while its engine core hangs. That requests wait says nothing
either, for at saturation they wait as well. What counts is that something moves: a token, a block of the KV cache, a
byte. When nothing does, a canary is asked, which an engine that is merely idle answers at once: so silence alone tells,
busy or not.
"""

from __future__ import annotations

import re
from enum import IntEnum

from qwenvl_runtime.config import WatchdogConfig

LONGEST_GAP = 10.0
"""Seconds of silence that one look can add: a process that was itself stopped for an hour must not blame the engine."""

# What only the engine core moves, as vLLM 0.32 and 0.33 name it; a core that hangs leaves all of them as they are. A
# long prompt that is computed piece by piece gives no token for minutes, but takes KV cache with every step.
_MOVING = re.compile(
    rb"^vllm:(?:kv_cache_usage_perc|num_requests_running|num_requests_waiting|prompt_tokens_total|generation_tokens_total"
    rb"|request_success_total|num_preemptions_total|iteration_tokens_total_count)(?:\{[^}]*\})? \S+",
    re.MULTILINE,
)


class Alarm(IntEnum):
    """How bad the silence is; each goes on with what the ones before it do."""

    NONE = 0
    ASK = 1
    """A canary should be on its way."""
    CLOSE = 2
    """The canary had its time: nobody else should be sent here."""
    END = 3
    """Nothing has moved since: only a new process helps."""


class Watchdog:
    """Measures the silence of the engine. `signs` is anything that is another whenever the engine has moved."""

    def __init__(self, config: WatchdogConfig, now: float) -> None:
        self._config = config
        self._looked = now
        self._signs: object = None
        self.silence = 0.0
        """Seconds without progress."""

    def look(self, now: float, signs: object) -> Alarm:
        gap, self._looked = now - self._looked, now
        if signs != self._signs:
            self._signs, self.silence = signs, 0.0
        else:
            self.silence += min(gap, LONGEST_GAP)
        return self._judge()

    def _judge(self) -> Alarm:
        config = self._config
        close = config.quiet + config.answer
        limits = (config.quiet, close, close + config.recovery)
        return Alarm(sum(self.silence >= limit for limit in limits))


def read_counters(page: bytes) -> tuple[bytes, ...]:
    """The lines of the engine's page of metrics that are others when it has made progress.

    >>> read_counters(b'vllm:generation_tokens_total{engine="0"} 7.0\\nprocess_cpu_seconds_total 3.1\\n')
    (b'vllm:generation_tokens_total{engine="0"} 7.0',)
    """
    return tuple(_MOVING.findall(page))
