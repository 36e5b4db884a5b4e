"""CR in, manifests out: the whole output is read in review. `UPDATE_GOLDEN=1` writes it anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from qwenvl_operator.custom_resource import CustomResource
from qwenvl_operator.desired import Recorded, desired_children, render
from qwenvl_operator.objects import Kind
from qwenvl_operator.rollout import Strategy

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"


class Readable(yaml.SafeDumper):
    """Writes a text of several lines as such."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


Readable.add_representer(str, _text)
EXAMPLES = ("h100", "a10x2", "tiny-cpu")


def custom_resource(example: str) -> CustomResource:
    documents = yaml.safe_load_all((ROOT / "docs" / "examples" / f"{example}.yaml").read_text())
    manifest = next(item for item in documents if item["kind"] == "QwenVLDeployment")
    metadata = {"namespace": "default", "uid": "00000000-0000-0000-0000-000000000000", "generation": 1}
    return CustomResource.parse({**manifest, "metadata": {**metadata, **manifest["metadata"]}})


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_yields_its_children(example: str) -> None:
    cr = custom_resource(example)
    children = desired_children(cr, render(cr, "registry.local/qwenvl-runtime:1"), Strategy.RECREATE)
    text = yaml.dump_all(children, Dumper=Readable, sort_keys=False, width=120)
    path = GOLDEN / f"{example}.children.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def test_what_is_recorded_is_what_is_read_back() -> None:
    cr = custom_resource("h100")
    recorded = render(cr, "registry.local/qwenvl-runtime:1")
    config_map = desired_children(cr, recorded, Strategy.RECREATE)[1]
    assert config_map["kind"] == Kind.CONFIG_MAP.value.kind
    assert Recorded.of(config_map) == recorded
    assert Recorded.of({**config_map, "data": {"runtime.json": "{}"}}) is None


@pytest.mark.parametrize("template", ["", "{", "{}"])
def test_what_is_no_template_is_not_read_back(template: str) -> None:
    manifest = {"data": {"runtime.json": "{}", "pod-template.json": template}}
    assert Recorded.of(manifest) is None
