"""The revision changes with what matters to a pod, and with nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from samples import custom_resource

from qwenvl_operator.errors import InvalidSpec

BASE = custom_resource().revision


@pytest.mark.parametrize(
    "spec",
    [
        {"replicas": 5},
        {"suspend": True},
        {"rollout": {"strategy": "Recreate"}},
        {"warmup": {"maxFirstToSteady": "9"}},
        {"engine": {"maxModelLen": 65536}},
        {"media": {}},
    ],
    ids=str,
)
def test_it_stays(spec: dict[str, Any]) -> None:
    assert custom_resource(**spec).revision == BASE


@pytest.mark.parametrize(
    "spec",
    [
        {"engine": {"maxModelLen": 32768}},
        {"engine": {"extraArgs": ["--kv-cache-dtype=fp8"]}},
        {"runtime": {"image": "registry.local/runtime:2"}},
        {"runtime": {"resources": {"limits": {"memory": "64Gi"}}}},
        {"hardware": {"nodeSelector": {"gpu": "h100"}}},
        {"warmup": {"gatePolicy": "Fallback"}},
        {"startup": {"budget": "10m"}},
        {"drain": {"longestRequest": "10m"}},
        {"media": {"maxImages": 2}},
    ],
    ids=str,
)
def test_it_changes(spec: dict[str, Any]) -> None:
    assert custom_resource(**spec).revision != BASE


def test_an_argument_that_the_operator_owns_is_refused_by_name() -> None:
    with pytest.raises(InvalidSpec, match=r"spec\.engine\.extraArgs: remove --port"):
        custom_resource(engine={"extraArgs": ["--port=1"]})


def test_a_wrong_field_is_named() -> None:
    with pytest.raises(InvalidSpec, match=r"spec\.engine\.maxModelLen"):
        custom_resource(engine={"maxModelLen": 1})
