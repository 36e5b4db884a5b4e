"""What end-to-end tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import images, vllm_process
from harness.installed import Installed, install
from harness.node import Node
from harness.vllm_process import VllmServer


@pytest.fixture(scope="session")
def engine_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one vLLM finds out about the model's class takes it a third of its start; the next ones read it here."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory: pytest.TempPathFactory, engine_cache: Path) -> Iterator[VllmServer]:
    """A real vLLM with the tiny model, without the runtime around it; one for all tests that only ask questions."""
    with vllm_process.running(tmp_path_factory.mktemp("vllm"), engine_cache) as server:
        yield server


@pytest.fixture(scope="session")
def installed(node: Node) -> Installed:
    """The product on the node, with a simulated engine in its runtime's image."""
    images.ensure_on(node, images.OPERATOR, images.RUNTIME_FAKE)
    install(node, images.OPERATOR.name, images.RUNTIME_FAKE.name)
    return Installed(node)
