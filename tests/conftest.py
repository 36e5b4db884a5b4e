"""Clusters that tests share: each is started by the first test that asks for it and ends with the test process."""

import os
from collections.abc import Iterator

import pytest

from harness import control_plane as local
from harness import node as nodes
from harness.cluster import Cluster
from harness.instance import Instance
from harness.node import Node
from harness.preflight import PreflightError


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What a test needs follows from its folder."""
    for item in items:
        for marker in {"cluster", "e2e"} & set(item.path.parts):
            item.add_marker(marker)


@pytest.fixture(scope="session")
def control_plane() -> Iterator[Cluster]:
    """A real etcd, kube-apiserver and garbage collector on loopback; nothing schedules or runs pods."""
    with local.running() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    """A real one-node Kubernetes. QWENVL_TEST_NODE names it, for test runs side by side."""
    try:
        with nodes.running(Instance(os.environ.get("QWENVL_TEST_NODE", "test"))) as started:
            yield started
    except PreflightError as error:
        pytest.fail(str(error), pytrace=False)
