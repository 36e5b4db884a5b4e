"""The operator's own metrics."""

from __future__ import annotations

import socket
import urllib.request

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from harness.ports import free_port
from qwenvl_operator.errors import StartError
from qwenvl_operator.metrics import Metrics
from qwenvl_operator.objects import Kind


def test_what_was_counted_is_served() -> None:
    metrics = Metrics()
    metrics.reconciled(0.2, failed=False)
    metrics.reconciled(0.1, failed=True)
    metrics.requested("patch", Kind.DEPLOYMENT, 200)
    metrics.watched(Kind.POD, "MODIFIED")
    metrics.waiting(3)
    metrics.leads(True)
    metrics.resynced(1_800_000_000.0, 2)
    port = free_port()
    metrics.serve(port)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        page = answer.read().decode()
    values = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    assert values["qwenvl_operator_reconciles_total", ("result", "success")] == 1
    assert values["qwenvl_operator_reconciles_total", ("result", "error")] == 1
    assert values["qwenvl_operator_reconcile_seconds_count",] == 2
    requests = ("code", "200"), ("resource", "deployments"), ("verb", "patch")
    assert values["qwenvl_operator_api_requests_total", *requests] == 1
    assert values["qwenvl_operator_watch_events_total", ("resource", "pods"), ("type", "MODIFIED")] == 1
    assert values["qwenvl_operator_queue_depth",] == 3
    assert values["qwenvl_operator_leader",] == 1
    assert values["qwenvl_operator_last_resync_timestamp_seconds",] == 1_800_000_000.0
    assert values["qwenvl_operator_resources",] == 2


def test_both_results_are_there_before_the_first_reconcile() -> None:
    page = generate_latest(Metrics().registry).decode()
    assert 'qwenvl_operator_reconciles_total{result="error"} 0.0' in page


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"on port {port}: .*in use"):
            Metrics().serve(port)
