"""Pydantic models -> structural schemas, feature by feature."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from qwenvl_operator.api.schema import UnsupportedSchemaError, structural_schema


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Colour(StrEnum):
    RED = "Red"
    BLUE = "Blue"


class Leaf(Model):
    """A leaf."""

    size: Annotated[int, Field(ge=1, le=9)] = 3
    """Its size."""
    note: str = ""


class LeafWithoutDefault(Model):
    size: int


class Tree(Model):
    """The whole
    of it."""

    leaf: Leaf = Leaf()
    """This very leaf."""
    maybe: Leaf | None = None
    must: LeafWithoutDefault
    colour: Colour = Colour.RED
    one: Literal["only"] = "only"
    power: Literal[1, 2, 4] = 1
    labels: Annotated[dict[str, str], Field(max_length=4)] = {}
    leaves: Annotated[list[Leaf], Field(max_length=2)] = []
    keyed: Annotated[list[Leaf], Field(json_schema_extra={"x-kubernetes-list-type": "set"})] = []


LEAF: dict[str, Any] = {
    "description": "A leaf.",
    "type": "object",
    "properties": {
        "size": {"description": "Its size.", "type": "integer", "default": 3, "minimum": 1, "maximum": 9},
        "note": {"type": "string"},
    },
}


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("leaf", {**LEAF, "description": "This very leaf.", "default": {"size": 3}}),
        ("maybe", LEAF),
        ("must", {"type": "object", "properties": {"size": {"type": "integer"}}, "required": ["size"]}),
        ("colour", {"type": "string", "enum": ["Red", "Blue"], "default": "Red"}),
        ("one", {"type": "string", "enum": ["only"], "default": "only"}),
        ("power", {"type": "integer", "enum": [1, 2, 4], "default": 1}),
        ("labels", {"type": "object", "maxProperties": 4, "additionalProperties": {"type": "string"}}),
        ("leaves", {"type": "array", "maxItems": 2, "items": LEAF, "x-kubernetes-list-type": "atomic"}),
        ("keyed", {"type": "array", "items": LEAF, "x-kubernetes-list-type": "set"}),
    ],
)
def test_a_field_in_structural_form(field: str, expected: dict[str, Any]) -> None:
    assert structural_schema(Tree)["properties"][field] == expected


def test_a_description_is_one_line_and_required_fields_are_named() -> None:
    schema = structural_schema(Tree)
    assert schema["description"] == "The whole of it."
    assert schema["required"] == ["must"]


class WithTuple(Model):
    pair: tuple[int, int]


class WithUnion(Model):
    either: Leaf | Tree


class WithExclusiveBound(Model):
    share: Annotated[float, Field(gt=0)]


class WithAnything(Model):
    fragment: dict[str, Any]


class Recursive(Model):
    child: Recursive | None = None


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (WithTuple, r"WithTuple\.pair: a structural schema has no minItems, prefixItems"),
        (WithUnion, r"WithUnion\.either: a structural schema has no anyOf"),
        (WithExclusiveBound, r"WithExclusiveBound\.share: a structural schema has no exclusiveMinimum"),
        (WithAnything, r"WithAnything\.fragment: say what the object holds"),
        (Recursive, r"Recursive.*: Recursive contains itself"),
    ],
)
def test_what_a_structural_schema_cannot_say_is_refused_by_name(model: type[BaseModel], message: str) -> None:
    with pytest.raises(UnsupportedSchemaError, match=message):
        structural_schema(model)
