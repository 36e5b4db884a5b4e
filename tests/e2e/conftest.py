"""What end-to-end tests share."""

from collections.abc import Iterator

import pytest

from harness import images, vllm_process
from harness.installed import Installed, install
from harness.node import Node
from harness.vllm_process import VllmServer


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """A real vLLM with the tiny model, without the runtime around it; one for all tests that only ask questions."""
    with vllm_process.running(tmp_path_factory.mktemp("vllm")) as server:
        yield server


@pytest.fixture(scope="session")
def installed(node: Node) -> Installed:
    """The product on the node, with a simulated engine in its runtime's image."""
    images.ensure_on(node, images.OPERATOR, images.RUNTIME_FAKE)
    install(node, images.OPERATOR.name, images.RUNTIME_FAKE.name)
    return Installed(node)
