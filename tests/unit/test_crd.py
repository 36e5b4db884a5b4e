"""The CustomResourceDefinition, and its copies in the repository."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwenvl_operator.api import crd
from qwenvl_operator.api.v1alpha1 import QwenVLDeploymentSpec

ROOT = Path(__file__).parents[2]


@pytest.fixture(name="version", scope="module")
def _version() -> dict[str, Any]:
    (version,) = crd.custom_resource_definition()["spec"]["versions"]
    return dict(version)


def schemas(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema in a schema, with its path."""
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from schemas(child, f"{path}.{name}")
    for key, mark in (("items", "[]"), ("additionalProperties", ".*")):
        if key in node:
            yield from schemas(node[key], path + mark)


@pytest.mark.parametrize(("file", "text"), [(crd.PLAIN_FILE, crd.plain_text()), (crd.CHART_FILE, crd.chart_text())])
def test_the_copy_in_the_repository_is_what_the_models_say(file: Path, text: str) -> None:
    assert (ROOT / file).read_text() == text, "run `make generate`, and read the difference before you commit it"


def test_a_copy_is_small_enough_for_the_annotation_of_kubectl_apply() -> None:
    assert len(crd.plain_text()) < 60_000


def test_every_field_has_a_description(version: dict[str, Any]) -> None:
    root = version["schema"]["openAPIV3Schema"]
    missing = [
        path
        for path, schema in schemas(root, "")
        if "description" not in schema and path not in (".metadata",) and not path.endswith((".*", "[]"))
    ]
    assert not missing


def test_every_string_and_collection_that_a_user_writes_is_bounded(version: dict[str, Any]) -> None:
    """Without bounds the API server cannot tell what a rule costs, and stores whatever comes."""
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    unbounded = [
        path
        for path, schema in schemas(spec, "spec")
        if (schema.get("type") == "string" and not {"maxLength", "enum"} & schema.keys())
        or (schema.get("type") == "array" and "maxItems" not in schema)
        or ("additionalProperties" in schema and "maxProperties" not in schema)
    ]
    assert not unbounded


def test_the_schema_grows_the_same_defaults_as_the_model(version: dict[str, Any]) -> None:
    def grown(schema: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
        """What the API server stores: each default put in, from the outside to the inside."""
        result = dict(value)
        for name, child in schema.get("properties", {}).items():
            if name not in result and "default" in child:
                result[name] = child["default"]
            if isinstance(result.get(name), dict):
                result[name] = grown(child, result[name])
        return result

    written: dict[str, Any] = {"model": {"source": {"hostPath": {"path": "/data/model"}}}}
    stored = grown(version["schema"]["openAPIV3Schema"]["properties"]["spec"], written)
    assert stored["media"]["maxPixels"] == 4194304
    assert QwenVLDeploymentSpec.model_validate(stored) == QwenVLDeploymentSpec.model_validate(written)


def test_a_resource_that_no_operator_has_seen_never_looks_done(version: dict[str, Any]) -> None:
    assert version["schema"]["openAPIV3Schema"]["properties"]["status"]["default"] == {"observedGeneration": -1}
