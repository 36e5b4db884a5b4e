"""What end-to-end tests share."""

from collections.abc import Iterator

import pytest

from harness import vllm_process
from harness.vllm_process import VllmServer


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """A real vLLM with the tiny model, without the runtime around it; one for all tests that only ask questions."""
    with vllm_process.running(tmp_path_factory.mktemp("vllm")) as server:
        yield server
