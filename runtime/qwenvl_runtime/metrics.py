"""The runtime's own Prometheus metrics, appended to the engine's page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from qwenvl_runtime.boot import Boot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "qwenvl_runtime"


class Metrics:
    """Counts requests; everything else is read from `boot` and `in_flight` when somebody asks."""

    def __init__(self, boot: Boot, in_flight: Callable[[], int], tokens: Callable[[], int]) -> None:
        self._boot = boot
        self._in_flight = in_flight
        self._tokens = tokens
        self._refused: Counter[str] = Counter()
        self._answered: Counter[tuple[str, int]] = Counter()
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def count(self, route: str, status: int) -> None:
        self._answered[route, status] += 1

    def refuse(self, code: str) -> None:
        self._refused[code] += 1

    def render(self) -> bytes:
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        boot = self._boot
        requests = CounterMetricFamily(
            f"{PREFIX}_requests",
            "Requests answered, by route and class of status; 499 stands for clients that left before their answer.",
            labels=("route", "status"),
        )
        classes: Counter[tuple[str, str]] = Counter()
        for (route, status), number in self._answered.items():
            classes[route, "499" if status == 499 else f"{status // 100}xx"] += number
        for labels, number in sorted(classes.items()):
            requests.add_metric(labels, number)
        yield requests
        refused = CounterMetricFamily(
            f"{PREFIX}_refused_requests", "Requests that the front refused, by the error's code.", labels=("code",)
        )
        for code, number in sorted(self._refused.items()):
            refused.add_metric((code,), number)
        yield refused
        info = GaugeMetricFamily(f"{PREFIX}_info", "Always 1: which process this is.", labels=("revision", "boot_id"))
        info.add_metric((boot.revision, boot.boot_id), 1)
        yield info
        yield GaugeMetricFamily(f"{PREFIX}_start_time_seconds", "Unix time of the start.", boot.started_at)
        yield GaugeMetricFamily(f"{PREFIX}_in_flight_requests", "Requests to the model under way.", self._in_flight())
        yield GaugeMetricFamily(
            f"{PREFIX}_in_flight_prompt_tokens", "About how many tokens their prompts have.", self._tokens()
        )
        yield GaugeMetricFamily(
            f"{PREFIX}_engine_silence_seconds",
            "How long the engine has shown no progress. Above 35 readiness is closed, at 45 the container ends.",
            boot.silence,
        )
        phase = GaugeMetricFamily(f"{PREFIX}_phase", "1 for the phase that the process is in.", labels=("phase",))
        for known in type(boot.phase):
            phase.add_metric((known,), known is boot.phase)
        yield phase
        stages = GaugeMetricFamily(f"{PREFIX}_start_stage_seconds", "Time per stage of the start.", labels=("stage",))
        for stage, seconds in boot.stages.items():
            stages.add_metric((stage,), seconds)
        yield stages
        warmup = GaugeMetricFamily(
            f"{PREFIX}_warmup_seconds", "Warm-up requests: the first of its kind, and the later ones' median.",
            labels=("shot", "asking"),
        )  # fmt: skip
        for shot in boot.shots:
            warmup.add_metric((shot.name, "first"), shot.first_seconds)
            warmup.add_metric((shot.name, "steady"), shot.steady_seconds)
        yield warmup
