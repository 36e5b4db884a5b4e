"""The contract between operator and runtime outlives a difference in their versions."""

from __future__ import annotations

import json
from typing import Any

from samples import custom_resource

from qwenvl_operator.desired import render
from qwenvl_runtime.config import EngineConfig, RuntimeConfig

MODEL = {"source": {"persistentVolumeClaim": {"claimName": "weights"}}}


def told(**spec: Any) -> dict[str, Any]:
    """What a runtime is told."""
    config: dict[str, Any] = json.loads(render(custom_resource(**spec), "registry.local/runtime:1").config)
    return config


def test_an_older_runtime_is_told_no_field_that_it_may_not_know_unless_it_is_used() -> None:
    required = {name for name, field in EngineConfig.model_fields.items() if field.is_required()}
    assert set(told()["engine"]) == required
    assert "snapshot" not in told()
    digest = "sha256:" + "a" * 64
    assert told(model=MODEL | {"manifestDigest": digest})["snapshot"] == {"manifest_digest": digest}
    assert told(engine={"cudaGraphs": False})["engine"]["cuda_graphs"] is False


def test_what_is_left_out_is_read_as_it_was_meant() -> None:
    config = RuntimeConfig.model_validate(told())
    assert RuntimeConfig.model_validate_json(config.dump()) == config
    assert config.engine.device == "cuda"
