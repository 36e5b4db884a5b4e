"""The operator's own metrics, in the Prometheus format. Labels hold kinds and codes, never names of objects."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server

from qwenvl_operator.errors import StartError
from qwenvl_operator.objects import Kind

LAG_BUCKETS = (0.1, 0.5, 1, 5, 15, 60)
RECONCILE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """One set of metrics with a registry of its own, so that two of them can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._reconciles = Counter(
            "qwenvl_operator_reconciles", "Reconciles by result.", ["result"], registry=self.registry
        )
        self._reconcile_seconds = Histogram(
            "qwenvl_operator_reconcile_seconds",
            "How long one reconcile took.",
            buckets=RECONCILE_BUCKETS,
            registry=self.registry,
        )
        self._api_requests = Counter(
            "qwenvl_operator_api_requests",
            "Requests to the API server; code 0 is no answer. Watches are not counted.",
            ["verb", "resource", "code"],
            registry=self.registry,
        )
        self._watch_events = Counter(
            "qwenvl_operator_watch_events", "Events of the watches.", ["resource", "type"], registry=self.registry
        )
        self._queue_depth = Gauge(
            "qwenvl_operator_queue_depth",
            "QwenVLDeployments that are due and wait for a worker.",
            registry=self.registry,
        )
        self._resources = Gauge(
            "qwenvl_operator_resources", "QwenVLDeployments that are known.", registry=self.registry
        )
        self._leader = Gauge("qwenvl_operator_leader", "1 while this process holds the lease.", registry=self.registry)
        self._resynced = Gauge(
            "qwenvl_operator_last_resync_timestamp_seconds",
            "When the caches were last confirmed by lists of every kind.",
            registry=self.registry,
        )
        self._loop_lag = Histogram(
            "qwenvl_operator_loop_lag_seconds",
            "How late the event loop came to what was due, looked at once a second.",
            buckets=LAG_BUCKETS,
            registry=self.registry,
        )
        for result in ("success", "error"):
            self._reconciles.labels(result)

    def serve(self, port: int) -> None:
        """Answer on a port, from a thread, so that a blocked event loop can still be seen. Raises StartError."""
        try:
            start_http_server(port, registry=self.registry)
        except OSError as error:
            raise StartError(f"metrics cannot be served on port {port}: {error}") from error

    def reconciled(self, seconds: float, *, failed: bool) -> None:
        self._reconciles.labels("error" if failed else "success").inc()
        self._reconcile_seconds.observe(seconds)

    def requested(self, verb: str, kind: Kind, code: int) -> None:
        self._api_requests.labels(verb, kind.value.plural, str(code)).inc()

    def watched(self, kind: Kind, event: str) -> None:
        self._watch_events.labels(kind.value.plural, event).inc()

    def waiting(self, depth: int) -> None:
        self._queue_depth.set(depth)

    def lagged(self, seconds: float) -> None:
        self._loop_lag.observe(seconds)

    def leads(self, leader: bool) -> None:
        self._leader.set(leader)

    def resynced(self, when: float, resources: int) -> None:
        self._resynced.set(when)
        self._resources.set(resources)
