"""Resources to which nothing happens: what the operator asks for all the same. The API server's audit log tells."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import pytest

from cluster.installation import Installed
from cluster.operator_process import eventually, operator_process, rest
from cluster.resources import custom_resource
from cluster.stand_in import complete
from harness.cluster import Cluster
from qwenvl_operator.status import find_condition

REST_SECONDS = float(os.environ.get("REST_SECONDS", "300"))
RESYNC = 20
AT_REST = 20
CHILDREN = ("serviceaccount", "configmap", "service", "deployment", "poddisruptionbudget")
WATCHED = {f"{kind}s" for kind in (*CHILDREN, "pod", "qwenvldeployment")}


@pytest.mark.timeout(REST_SECONDS + 120)
def test_at_rest_nothing_is_asked_about_a_resource_and_nothing_is_written(cluster: Cluster, tmp_path: Path) -> None:
    installed = Installed(cluster, tmp_path)
    namespace = installed.watched
    cluster.apply(*(custom_resource(namespace, f"reports-{number}") for number in range(AT_REST)))
    with operator_process(installed.kubeconfig, tmp_path, **installed.settings, resync_seconds=str(RESYNC)) as process:
        process.wait_until_leading()
        eventually(lambda: len(cluster.get("deployment", f"-n={namespace}")["items"]) == AT_REST, "the children exist")
        complete(cluster, namespace)
        eventually(lambda: all_ready(cluster, namespace), "all resources are Ready")
        rest(lambda: len(installed.writes()), "the operator", span=1.0)
        before, since = len(installed.requests()), time.monotonic()
        time.sleep(REST_SECONDS)
        asked, rested = installed.requests()[before:], time.monotonic() - since
        assert all_ready(cluster, namespace)
    assert {event["verb"] for event in asked} <= {"list", "watch"}
    assert not [event for event in asked if "name" in event["objectRef"]]
    lists = Counter(event["objectRef"]["resource"] for event in asked if event["verb"] == "list")
    # One list of each kind for all resources together, as often as the caches are confirmed.
    assert set(lists) == WATCHED
    assert max(lists.values()) <= rested / (0.9 * RESYNC) + 1


def all_ready(cluster: Cluster, namespace: str) -> bool:
    conditions = [find_condition(item["status"], "Ready") for item in cluster.get("qvl", f"-n={namespace}")["items"]]
    return all(condition.get("status") == "True" for condition in conditions)  # none before the first look at it
